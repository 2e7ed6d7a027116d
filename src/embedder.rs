//! Texts made into vectors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::client::LlmClient;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{EmbedRequest, Embedding, Vector};

/// Makes texts into vectors that are near one another when the texts are about the same.
///
/// [`ClientEmbedder`] is one over any [`LlmClient`]; a model that runs in the process is another.
///
/// Cancellation: dropping a returned future must abandon the work and free what it holds.
#[async_trait]
pub trait Embedder: fmt::Debug + Send + Sync + 'static {
    /// One vector for each text, in their order, all of one length. The same text must give the same vector.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>>;
}

/// What the trait's method returns once `async_trait` has rewritten it.
type Vectors<'f> = Pin<Box<dyn Future<Output = Result<Vec<Vec<f32>>>> + Send + 'f>>;

/// Pointers hand on the pointee's own future.
macro_rules! forward {
    ($pointer:ident) => {
        impl<E: Embedder + ?Sized> Embedder for $pointer<E> {
            fn embed<'a, 't, 'f>(&'a self, texts: &'t [String]) -> Vectors<'f>
            where
                'a: 'f,
                't: 'f,
                Self: 'f,
            {
                (**self).embed(texts)
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// An [`Embedder`] over a client and one of its embedding models.
///
/// Over an [`OptimizedClient`](crate::OptimizedClient) its vectors are cached, retried and counted like any other call.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{ClientEmbedder, Embedder, testing::Scripted};
/// let embedder = ClientEmbedder::new(Scripted::new(), "text-embedding-3-small");
/// let vectors = embedder.embed(&["Why is the sky blue?".to_owned(), "And the sea?".to_owned()]).await?;
/// assert_eq!(vectors.len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ClientEmbedder {
    client: Arc<dyn LlmClient>,
    model: String,
    dimensions: Option<u32>,
}

impl ClientEmbedder {
    /// Asks this client for vectors of this model.
    pub fn new(client: impl LlmClient, model: impl Into<String>) -> Self {
        Self { client: Arc::new(client), model: model.into(), dimensions: None }
    }

    /// Asks for vectors of so many dimensions, where the model lets one choose; the model's own number unless set.
    #[must_use]
    pub fn dimensions(mut self, dimensions: u32) -> Self {
        self.dimensions = Some(dimensions);
        self
    }
}

#[async_trait]
impl Embedder for ClientEmbedder {
    /// One call for all of them; none for none.
    ///
    /// # Errors
    /// What the client raises, and [`ErrorKind::Decode`] when the answer has not exactly one vector for each text, or they
    /// are empty or of different lengths.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let mut request = EmbedRequest::new(self.model.as_str(), texts.iter().map(String::as_str));
        request.dimensions = self.dimensions;
        let answer = self.client.embed(request).await?;
        in_order(answer.data, texts.len())
    }
}

/// The vectors by their index, one for each of so many texts.
fn in_order(data: Vec<Embedding>, count: usize) -> Result<Vec<Vec<f32>>> {
    let wrong = |what: String| Error::new(ErrorKind::Decode, "embedder", what);
    let came = data.len();
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; count];
    for Embedding { index, embedding, .. } in data {
        let place = vectors.get_mut(index).filter(|place| place.is_none());
        let Some(place) = place else {
            return Err(wrong(format!("of {count} texts, the vector of number {index} came unasked or twice")));
        };
        *place = Some(floats(embedding).ok_or_else(|| wrong(format!("vector {index} is not base64 of floats")))?);
    }
    let vectors: Option<Vec<_>> = vectors.into_iter().collect();
    let vectors = vectors.ok_or_else(|| wrong(format!("{came} vectors came for {count} texts")))?;
    let length = vectors.first().map_or(0, Vec::len);
    if length == 0 || vectors.iter().any(|vector| vector.len() != length) {
        return Err(wrong("the vectors are empty or of different lengths".to_owned()));
    }
    Ok(vectors)
}

fn floats(vector: Vector) -> Option<Vec<f32>> {
    match vector {
        Vector::Floats(floats) => Some(floats),
        Vector::Base64(text) => {
            let bytes = STANDARD.decode(text).ok()?;
            let (floats, rest) = bytes.as_chunks::<4>();
            rest.is_empty().then(|| floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Extra;

    fn of(index: usize, embedding: Vector) -> Embedding {
        Embedding { index, embedding, extra: Extra::new() }
    }

    fn numbers(numbers: &[f32]) -> Vector {
        Vector::Floats(numbers.to_vec())
    }

    #[test]
    fn vectors_come_in_the_order_of_the_texts_in_either_form() {
        let bytes: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        let data = vec![of(1, Vector::Base64(STANDARD.encode(bytes))), of(0, numbers(&[0.5, 0.25]))];
        assert_eq!(in_order(data, 2).unwrap(), [[0.5, 0.25], [1.5, -2.0]]);
    }

    #[test]
    fn anything_but_one_vector_for_each_is_an_error() {
        let one = || numbers(&[1.0]);
        let cases = [
            vec![of(0, one())],
            vec![of(0, one()), of(0, one())],
            vec![of(0, one()), of(2, one())],
            vec![of(0, one()), of(1, one()), of(1, one())],
            vec![of(0, one()), of(1, numbers(&[1.0, 2.0]))],
            vec![of(0, numbers(&[])), of(1, numbers(&[]))],
            vec![of(0, one()), of(1, Vector::Base64("AAAA".into()))],
            vec![of(0, one()), of(1, Vector::Base64("no".into()))],
        ];
        for data in cases {
            let error = in_order(data.clone(), 2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{data:?}");
        }
    }

    #[cfg(feature = "test-util")]
    #[tokio::test]
    async fn no_text_is_no_call() {
        let client = Arc::new(crate::testing::Scripted::new());
        let embedder: Box<dyn Embedder> = Box::new(ClientEmbedder::new(Arc::clone(&client), "m"));
        assert!(embedder.embed(&[]).await.unwrap().is_empty());
        assert_eq!(client.calls(), 0);
        let texts = ["a".to_owned(), "four".to_owned()];
        assert_eq!(Arc::new(embedder).embed(&texts).await.unwrap(), [[1.0, 0.0], [4.0, 1.0]]);
        assert_eq!(client.calls(), 1);
    }
}
