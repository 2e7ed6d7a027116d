//! What a batch may ask: chats, or embeddings.

use super::super::wire;
use crate::env::Operation;
use crate::error::Result;
use crate::types::{ChatRequest, ChatResponse, Cost, EmbedRequest, EmbedResponse, PriceTable, Trace, Usage};

/// A request that batches take: [`ChatRequest`] and [`EmbedRequest`]. Closed: the endpoint has no others that this crate
/// knows.
pub trait BatchRequest: sealed::Kind {
    /// What answers it.
    type Answer: Clone + std::fmt::Debug + Send + Sync + 'static;
}

impl BatchRequest for ChatRequest {
    type Answer = ChatResponse;
}

impl BatchRequest for EmbedRequest {
    type Answer = EmbedResponse;
}

pub(super) mod sealed {
    use super::*;

    pub trait Kind: Send + Sync + 'static {
        /// The endpoint, as the provider names it: whatever the base URL.
        const ENDPOINT: &'static str;
        /// What observers are told it is.
        const OPERATION: Operation;
        /// What counts against the provider's limit of embedding inputs.
        fn inputs(&self) -> usize;
        fn model(&self) -> &str;
        /// About how many bytes it has.
        fn weight(&self) -> usize;
        fn body(&self) -> Result<Vec<u8>>;
        /// `inputs` are those of the request, where it is known.
        fn answer(
            body: &[u8],
            inputs: Option<usize>,
            price: impl Fn(&str, &Usage) -> Option<Cost>,
        ) -> Result<Self::Answer>
        where
            Self: super::BatchRequest;
        /// Which model answered.
        fn model_of(answer: &Self::Answer) -> &str
        where
            Self: super::BatchRequest;
        fn billed(answer: &Self::Answer) -> (Option<&Usage>, &Trace)
        where
            Self: super::BatchRequest;
    }
}

impl sealed::Kind for ChatRequest {
    const ENDPOINT: &'static str = "/v1/chat/completions";
    const OPERATION: Operation = Operation::Chat;

    fn inputs(&self) -> usize {
        0
    }

    fn model(&self) -> &str {
        &self.body().model
    }

    fn weight(&self) -> usize {
        ChatRequest::body(self).weight()
    }

    fn body(&self) -> Result<Vec<u8>> {
        self.check()?;
        wire::chat(ChatRequest::body(self), false)
    }

    fn answer(body: &[u8], _: Option<usize>, price: impl Fn(&str, &Usage) -> Option<Cost>) -> Result<ChatResponse> {
        let mut answer = ChatResponse::new(wire::completion(body)?);
        answer.trace_mut().cost = answer.usage.as_ref().and_then(|usage| price(&answer.model, usage));
        Ok(answer)
    }

    fn model_of(answer: &ChatResponse) -> &str {
        &answer.model
    }

    fn billed(answer: &ChatResponse) -> (Option<&Usage>, &Trace) {
        (answer.usage.as_ref(), answer.trace())
    }
}

impl sealed::Kind for EmbedRequest {
    const ENDPOINT: &'static str = "/v1/embeddings";
    const OPERATION: Operation = Operation::Embed;

    fn inputs(&self) -> usize {
        self.input.len()
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn weight(&self) -> usize {
        EmbedRequest::weight(self)
    }

    fn body(&self) -> Result<Vec<u8>> {
        self.check()?;
        wire::embed(self)
    }

    fn answer(
        body: &[u8],
        inputs: Option<usize>,
        price: impl Fn(&str, &Usage) -> Option<Cost>,
    ) -> Result<EmbedResponse> {
        let mut answer = match inputs {
            Some(inputs) => wire::embeddings(body, inputs)?,
            None => wire::embeddings_of_any(body)?,
        };
        answer.trace.cost = answer.usage.as_ref().and_then(|usage| price(&answer.model, usage));
        Ok(answer)
    }

    fn model_of(answer: &EmbedResponse) -> &str {
        &answer.model
    }

    fn billed(answer: &EmbedResponse) -> (Option<&Usage>, &Trace) {
        (answer.usage.as_ref(), &answer.trace)
    }
}

/// At the price of batches, by the name that was asked for, or else by the one that answered.
pub(super) fn price<'a>(prices: &'a PriceTable, asked: Option<&'a str>) -> impl Fn(&str, &Usage) -> Option<Cost> + 'a {
    move |answered, usage| {
        asked.and_then(|asked| prices.batch_cost(asked, usage)).or_else(|| prices.batch_cost(answered, usage))
    }
}
