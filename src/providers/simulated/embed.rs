//! Embeddings: what is checked, asked for and answered.

use twox_hash::XxHash3_64;

use super::builder::MAX_DIMENSIONS;
use super::call::Demand;
use super::{Simulated, errors, vectors};
use crate::error::Result;
use crate::types::{EmbedInput, EmbedRequest, EmbedResponse, Embedding, Extra, Usage, Vector};

impl Simulated {
    /// Vectors of texts.
    pub(super) async fn vectors(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let order = self.account.arrive();
        request.check().map_err(|error| error.with_status(400))?;
        let dimensions = request.dimensions.unwrap_or(self.account.settings.dimensions);
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(errors::invalid("dimensions", dimensions, "use 1 to 4096"));
        }
        let texts = texts(&request.input);
        let counter = self.account.env.counter();
        let input = match &request.input {
            EmbedInput::Tokens(tokens) => tokens.len() as u64,
            EmbedInput::TokenLists(lists) => lists.iter().map(|list| list.len() as u64).sum(),
            _ => texts.iter().map(|text| counter.text(&request.model, text)).sum(),
        };
        let dice = self.dice(&request).of_call(order);
        let demand = Demand { input, ..Demand::default() };
        let mut call = self.account.admit(&request.model, demand, &dice).await?;
        self.play_error(&mut call, &dice).await?;
        call.first_chunk().await;
        call.complete();
        let seed = self.account.settings.seed ^ XxHash3_64::oneshot(request.model.as_bytes());
        let as_text = request.encoding_format.as_deref() == Some("base64");
        let data = texts.iter().enumerate().map(|(index, text)| {
            let vector = vectors::embed(seed, text, dimensions as usize);
            let embedding = if as_text { Vector::Base64(vectors::base64(&vector)) } else { Vector::Floats(vector) };
            let extra = Extra::from_iter([("object".to_owned(), "embedding".into())]);
            Embedding { index, embedding, extra }
        });
        Ok(EmbedResponse {
            object: "list".to_owned(),
            data: data.collect(),
            model: request.model,
            usage: Some(Usage::new(input, 0)),
            ..EmbedResponse::default()
        })
    }
}

/// The texts to embed; token ids count as words.
fn texts(input: &EmbedInput) -> Vec<String> {
    let spell = |tokens: &Vec<u32>| tokens.iter().map(|token| format!("{token} ")).collect();
    match input {
        EmbedInput::Text(text) => vec![text.clone()],
        EmbedInput::Texts(texts) => texts.clone(),
        EmbedInput::Tokens(tokens) => vec![spell(tokens)],
        EmbedInput::TokenLists(lists) => lists.iter().map(spell).collect(),
    }
}
