//! A web server that only serves, as a CDN does, over a real socket and in real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use sluicegate::cache::tier::Objects;
use sluicegate::cache::tier::object::ObjectsBuilder;
use sluicegate::cache::tier::object::object_store::http::HttpBuilder;
use sluicegate::cache::tier::object::object_store::memory::InMemory;
use sluicegate::cache::tier::object::object_store::path::Path;
use sluicegate::cache::tier::object::object_store::{ClientOptions, ObjectStoreExt, RetryConfig};
use sluicegate::cache::{Cache, CacheLayer, CacheTier, Selector};
use sluicegate::testing::Scripted;
use sluicegate::types::{ChatRequest, Source};
use sluicegate::{ErrorKind, OptimizedClient};

use super::{name, question, store, tier};

/// What takes longer than this has hung.
const HANG: Duration = Duration::from_secs(30);

struct Web {
    url: String,
    /// Requests that are no reads.
    refused: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Web {
    /// Serves what is in this store and takes nothing.
    async fn serve(store: Arc<InMemory>) -> Self {
        let refused = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&refused);
        let serve = move |method: Method, uri: Uri| {
            let (store, counter) = (Arc::clone(&store), Arc::clone(&counter));
            async move {
                if method != Method::GET {
                    counter.fetch_add(1, Ordering::SeqCst);
                    return (StatusCode::FORBIDDEN, Vec::new());
                }
                match store.get(&Path::from_url_path(uri.path()).unwrap()).await {
                    Ok(found) => (StatusCode::OK, found.bytes().await.unwrap().to_vec()),
                    Err(_) => (StatusCode::NOT_FOUND, Vec::new()),
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(serve);
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, refused, serving }
    }

    fn tier(&self) -> ObjectsBuilder {
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let options = ClientOptions::new().with_allow_http(true);
        let http = HttpBuilder::new().with_url(&self.url).with_client_options(options).with_retry(once);
        Objects::builder(http.build().unwrap()).get_timeout(HANG).put_timeout(HANG)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

#[tokio::test]
async fn others_write_and_we_read() {
    let store = store();
    let upstream = Arc::new(Scripted::new());
    let writer = OptimizedClient::builder(Arc::clone(&upstream)).cache(Cache::on(tier(&store))).build().unwrap();
    writer.chat(ask("a")).await.unwrap();
    let web = Web::serve(Arc::clone(&store)).await;
    let objects = Arc::new(web.tier().read_only().build().unwrap());
    let layer = CacheLayer::from(Cache::on(Arc::clone(&objects)).tier_timeout(HANG));
    let reader = OptimizedClient::builder(Arc::clone(&upstream)).cache(layer.clone()).build().unwrap();
    assert_eq!(reader.chat(ask("a")).await.unwrap().trace().source, Source::Cache("objects"));
    assert_eq!(reader.chat(ask("b")).await.unwrap().trace().source, Source::Upstream);
    // Damage is a miss and stays: it is not ours to remove.
    let damaged = question("damaged");
    store.put(&name(&damaged), "not an entry".into()).await.unwrap();
    assert!(objects.get(&damaged).await.unwrap().is_none());
    assert_eq!((objects.stats().refused, objects.stats().errors), (1, 0));
    assert_eq!(objects.remove(&Selector::All).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!((layer.tier_errors(), web.refused.load(Ordering::SeqCst)), (0, 0), "nothing but reads was tried");
}

#[tokio::test]
async fn a_refused_write_is_no_callers_error() {
    let web = Web::serve(store()).await;
    let objects = Arc::new(web.tier().build().unwrap());
    let layer = CacheLayer::from(Cache::on(Arc::clone(&objects)).tier_timeout(HANG));
    let client = OptimizedClient::builder(Scripted::new()).cache(layer.clone()).build().unwrap();
    assert_eq!(client.chat(ask("a")).await.unwrap().text(), "ok");
    assert_eq!((layer.tier_errors(), objects.stats().errors), (1, 1));
    assert_eq!(web.refused.load(Ordering::SeqCst), 1);
    drop(web);
    assert_eq!(client.chat(ask("b")).await.unwrap().text(), "ok", "the server is gone");
}
