//! The part of a request that is missing.

use crate::types::{EmbedInput, EmbedRequest};

/// The same request for the inputs at these positions only.
pub(super) fn only(request: &EmbedRequest, positions: impl Iterator<Item = usize>) -> EmbedRequest {
    let input = match &request.input {
        EmbedInput::Text(_) | EmbedInput::Tokens(_) => request.input.clone(),
        EmbedInput::Texts(texts) => EmbedInput::Texts(positions.map(|position| texts[position].clone()).collect()),
        EmbedInput::TokenLists(lists) => {
            EmbedInput::TokenLists(positions.map(|position| lists[position].clone()).collect())
        }
    };
    let EmbedRequest { model, input: _, dimensions, encoding_format, user, extra, extensions } = request;
    EmbedRequest {
        model: model.clone(),
        input,
        dimensions: *dimensions,
        encoding_format: encoding_format.clone(),
        user: user.clone(),
        extra: extra.clone(),
        extensions: extensions.clone(),
    }
}
