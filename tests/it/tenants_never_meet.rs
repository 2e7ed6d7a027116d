//! Whatever is asked, wherever it is kept: a tenant is told what was answered to that tenant, or what all who asked for
//! it agreed to share.
//!
//! A matrix of places (memory, tiers), ways to ask (call, stream) and tenants, odd ones among them. To add a place, add
//! it to [`places`]; to add a way to ask, add a [`Way`].

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use sluicegate::cache::tier::Memory;
use sluicegate::cache::{Cache, CacheKey, CacheLayer, CacheTier, Entry, Probe, Selector};
use sluicegate::types::{
    CacheControl, ChatChunk, ChatCompletion, ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse,
    Embedding, Extra, Finish, FinishReason, Scope, Source, StreamEvent, Tenant, Vector,
};
use sluicegate::{ClientInfo, Env, LlmClient, OptimizedClient, Result};
use tokio::sync::Semaphore;

/// What takes longer than this has hung.
const HANG: Duration = Duration::from_secs(60);

/// Where answers are kept.
struct Place {
    name: &'static str,
    in_memory: bool,
    outer: Option<Arc<dyn CacheTier>>,
    /// What the tier lives on: a server, a folder.
    _ground: Box<dyn Any>,
}

/// Every place, alone and behind memory.
async fn places() -> Vec<Place> {
    let place = |name, in_memory, outer: Option<Arc<dyn CacheTier>>, ground: Box<dyn Any>| Place {
        name,
        in_memory,
        outer,
        _ground: ground,
    };
    let mut places = vec![
        place("memory", true, None, Box::new(())),
        place("own tier", false, Some(Recording::new()), Box::new(())),
        place("memory > own tier", true, Some(Recording::new()), Box::new(())),
    ];
    #[cfg(feature = "disk")]
    for (name, in_memory) in [("disk", false), ("memory > disk", true)] {
        use sluicegate::cache::tier::Disk;
        let folder = crate::disk::folder();
        places.push(place(
            name,
            in_memory,
            Some(Arc::new(Disk::open(folder.path()).build().unwrap())),
            Box::new(folder),
        ));
    }
    #[cfg(feature = "redis")]
    for (name, in_memory) in [("redis", false), ("memory > redis", true)] {
        let server = crate::redis::server::Server::start(&[]).await;
        let tier = crate::redis::patient(server.url()).build().unwrap();
        crate::redis::joined(&tier).await;
        places.push(place(name, in_memory, Some(Arc::new(tier)), Box::new(server)));
    }
    places
}

impl Place {
    /// A process that keeps its answers here.
    fn process(&self, upstream: &Arc<Teller>) -> (OptimizedClient, CacheLayer) {
        let cache = match (&self.outer, self.in_memory) {
            (None, _) => Cache::memory(1_000),
            (Some(tier), true) => Cache::memory(1_000).tier(Arc::clone(tier)),
            (Some(tier), false) => Cache::on(Arc::clone(tier)),
        };
        let layer = CacheLayer::from(cache.tier_timeout(HANG));
        (OptimizedClient::builder(Arc::clone(upstream)).cache(layer.clone()).build().unwrap(), layer)
    }
}

/// A tier that writes down what it is given, as one of a user's own might keep it.
#[derive(Debug)]
struct Recording {
    memory: Memory,
    kept: parking_lot::Mutex<Vec<(CacheKey, Vec<u8>, String)>>,
}

impl Recording {
    fn new() -> Arc<Self> {
        Arc::new(Self { memory: Memory::new(1_000, 256 << 20).unwrap(), kept: parking_lot::Mutex::default() })
    }
}

#[async_trait]
impl CacheTier for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }

    async fn get(&self, probe: &Probe) -> Result<Option<Arc<Entry>>> {
        self.memory.get(probe).await
    }

    async fn put(&self, probe: &Probe, entry: Arc<Entry>) -> Result<()> {
        let text = entry.completion().unwrap().choices[0].message.text();
        self.kept.lock().push((probe.key(), probe.bytes().to_vec(), text));
        self.memory.put(probe, entry).await
    }

    async fn remove(&self, selector: &Selector) -> Result<u64> {
        self.memory.remove(selector).await
    }
}

/// An upstream that answers whose call it was, and whether it may be told to others.
#[derive(Debug)]
struct Teller {
    info: ClientInfo,
    calls: AtomicUsize,
    /// Answers end when it is closed.
    gate: Arc<Semaphore>,
}

impl Teller {
    fn new() -> Arc<Self> {
        let this = Self::waiting();
        this.gate.close();
        this
    }

    fn waiting() -> Arc<Self> {
        Arc::new(Self { info: client(), calls: AtomicUsize::new(0), gate: Arc::new(Semaphore::new(0)) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn client() -> ClientInfo {
    ClientInfo::new("teller")
}

/// The answer to this request.
fn told(request: &ChatRequest) -> String {
    let mut hasher = DefaultHasher::new();
    request.extensions.get::<Tenant>().hash(&mut hasher);
    let who = if request.extensions.get() == Some(&shared()) { "everybody" } else { "one tenant" };
    format!("for {who}, asked by {:x}", hasher.finish())
}

/// The vector of each text of this request: whose it is.
fn told_vector(request: &EmbedRequest) -> Vec<f32> {
    let mut hasher = DefaultHasher::new();
    request.extensions.get::<Tenant>().hash(&mut hasher);
    hasher.finish().to_le_bytes().map(f32::from).into()
}

fn texts(tenant: Option<&str>) -> EmbedRequest {
    let request = EmbedRequest::new("m", ["one", "two"].map(String::from));
    match tenant {
        Some(tenant) => request.with(Tenant(tenant.to_owned())),
        None => request,
    }
}

fn shared() -> CacheControl {
    CacheControl::new().scope(Scope::Public)
}

#[async_trait]
impl LlmClient for Teller {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _ = self.gate.acquire().await;
        Ok(ChatCompletion::text("m", told(&request)).into())
    }

    /// The first half comes at once, the rest when the gate is open.
    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (text, gate) = (told(&request), Arc::clone(&self.gate));
        let (one, two) = text.split_at(text.len() / 2);
        let (one, mut two) = (ChatChunk::text_delta("m", one), ChatChunk::text_delta("m", two));
        two.choices[0].finish_reason = Some(FinishReason::Stop);
        let rest = stream::once(async move {
            let _ = gate.acquire().await;
            stream::iter([Ok(StreamEvent::Chunk(Arc::new(two))), Ok(StreamEvent::Finish(Box::<Finish>::default()))])
        });
        let first = stream::iter([Ok(StreamEvent::Chunk(Arc::new(one)))]);
        Ok(ChatStream::new(first.chain(rest.flatten())))
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _ = self.gate.acquire().await;
        let vector = told_vector(&request);
        let data = (0..request.input.items().len()).map(|index| {
            let (embedding, extra) = (Vector::Floats(vector.clone()), Extra::default());
            Embedding { index, embedding, extra }
        });
        Ok(EmbedResponse { data: data.collect(), model: "m".into(), ..EmbedResponse::default() })
    }
}

/// A way to ask.
#[derive(Debug, Clone, Copy)]
enum Way {
    Call,
    Stream,
}

impl Way {
    const ALL: [Self; 2] = [Self::Call, Self::Stream];

    async fn ask(self, client: &OptimizedClient, request: ChatRequest) -> (String, Source) {
        let answer = match self {
            Self::Call => client.chat(request).await.unwrap(),
            Self::Stream => client.chat_stream(request).await.unwrap().collect().await.unwrap(),
        };
        (answer.text().to_owned(), answer.trace().source)
    }
}

fn question(text: &str, tenant: Option<&str>) -> ChatRequest {
    let request = ChatRequest::new("m").user(text);
    match tenant {
        Some(tenant) => request.with(Tenant(tenant.to_owned())),
        None => request,
    }
}

/// None, plain ones, and those that a key made by joining texts, or by cutting, folding or parsing them, would confuse.
fn tenants() -> Vec<Option<String>> {
    let mut tenants = vec![None];
    let plain = ["", "a", "b", "A", "a ", " a", "ä", "a\u{308}", "none", "null", "None", "public", "Public", "default"];
    let separators = ["\0", "a\0", "\0a", "a\0b", "a:b", "a/b", "a|b", "a,b", "a\nb", "../a", "*", "a*", "{a}", "%00"];
    tenants.extend(plain.into_iter().chain(separators).map(|tenant| Some(tenant.to_owned())));
    let mebibyte = "x".repeat(1 << 20);
    tenants.extend([format!("{}y", &mebibyte[1..]), mebibyte[1..].to_owned(), mebibyte].map(Some));
    // Canonical forms, whole and from the place of the tenant on, of equal prompts of none, of a tenant, of everybody.
    for request in [question("q", None), question("q", Some("a")), question("q", None).with(shared())] {
        let probe = Probe::chat(&client(), &request, Env::new().now());
        let whole = String::from_utf8(probe.bytes().to_vec()).expect("short lengths are text");
        let before_tenant = 2 + 8 + probe.namespace().len();
        let of_tenant = whole[before_tenant..].to_owned();
        let client = of_tenant[1..].to_owned();
        tenants.extend([whole, of_tenant, client, probe.key().to_hex()].map(Some));
    }
    let mut known = HashSet::new();
    tenants.retain(|tenant| known.insert(tenant.clone()));
    tenants
}

/// Its beginning, to name it by.
fn short(tenant: &Option<String>) -> String {
    format!("{:?}", tenant.as_ref().map(|tenant| tenant.chars().take(20).collect::<String>()))
}

/// Polls until it holds; only a hang reaches the deadline.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One after the other, in two processes that share the outer tier.
#[tokio::test]
async fn where_answers_are_kept() {
    let tenants = tenants();
    for place in places().await {
        for first in Way::ALL {
            let upstream = Teller::new();
            let processes = [place.process(&upstream).0, place.process(&upstream).0];
            let ask = |tenant: &Option<String>| question(&format!("first as {first:?}"), tenant.as_deref());
            for tenant in &tenants {
                let (text, source) = first.ask(&processes[0], ask(tenant)).await;
                assert_eq!((text, source), (told(&ask(tenant)), Source::Upstream), "{}: {}", place.name, short(tenant));
            }
            for (process, way) in processes.iter().flat_map(|process| Way::ALL.map(|way| (process, way))) {
                for tenant in &tenants {
                    let (text, _) = way.ask(process, ask(tenant)).await;
                    assert_eq!(text, told(&ask(tenant)), "{} {way:?}: {}", place.name, short(tenant));
                }
            }
            let memories = if place.outer.is_some() { 1 } else { 2 };
            assert_eq!(upstream.calls(), memories * tenants.len(), "{}: each has an answer of its own", place.name);
        }
    }
}

/// What a tier of the user's own is handed: keys and bytes of their own for each tenant.
#[tokio::test]
async fn what_a_tier_is_given() {
    let tier = Recording::new();
    let place = Place { name: "own tier", in_memory: true, outer: Some(Arc::clone(&tier) as _), _ground: Box::new(()) };
    let upstream = Teller::new();
    let (client, _) = place.process(&upstream);
    let tenants = tenants();
    for (tenant, way) in tenants.iter().flat_map(|tenant| Way::ALL.map(|way| (tenant, way))) {
        way.ask(&client, question("q", tenant.as_deref())).await;
        way.ask(&client, question("q", tenant.as_deref()).with(shared())).await;
    }
    let kept = tier.kept.lock();
    let (mut keys, mut forms) = (HashMap::new(), HashMap::new());
    for (key, bytes, text) in &*kept {
        assert_eq!(keys.insert(*key, text), None, "one key, kept twice");
        assert_eq!(forms.insert(bytes, text), None, "one form, kept twice");
    }
    let answers: HashSet<_> = keys.values().collect();
    assert_eq!((kept.len(), answers.len()), (tenants.len() + 1, tenants.len() + 1), "and one for everybody");
}

/// All at the same time, calls and streams: a flight for each tenant.
#[tokio::test]
async fn in_the_air() {
    let tenants = tenants();
    for place in places().await {
        let upstream = Teller::waiting();
        let (client, layer) = place.process(&upstream);
        let mut callers = Vec::new();
        for (tenant, way) in tenants.iter().flat_map(|tenant| Way::ALL.map(|way| (tenant.clone(), way))) {
            let (client, request) = (client.clone(), question("q", tenant.as_deref()));
            callers.push(tokio::spawn(async move { (way.ask(&client, request.clone()).await.0, told(&request)) }));
        }
        let all = tenants.len();
        until(place.name, || upstream.calls() == all && layer.open_flights() == all).await;
        upstream.gate.close();
        for caller in callers {
            let (text, own) = caller.await.unwrap();
            assert_eq!(text, own, "{}", place.name);
        }
        assert_eq!((upstream.calls(), layer.open_flights()), (all, 0), "{}: one for each tenant", place.name);
    }
}

/// Vectors of equal texts: in the air, and kept, in two processes that share the outer tier.
#[tokio::test]
async fn vectors() {
    let tenants = tenants();
    let asks = |client: &OptimizedClient, tenant: &Option<String>| {
        let (client, request) = (client.clone(), texts(tenant.as_deref()));
        tokio::spawn(async move {
            let own = told_vector(&request);
            let answer = client.embed(request).await.unwrap();
            assert_eq!(answer.data.len(), 2);
            answer.data.iter().all(|one| one.embedding == Vector::Floats(own.clone()))
        })
    };
    // A tier that writes down answers takes no vectors.
    for place in places().await.into_iter().filter(|place| !place.name.ends_with("own tier")) {
        let upstream = Teller::waiting();
        let processes = [place.process(&upstream), place.process(&upstream)];
        let (client, layer) = &processes[0];
        let callers: Vec<_> = tenants.iter().map(|tenant| asks(client, tenant)).collect();
        let all = tenants.len();
        until(place.name, || upstream.calls() == all && layer.open_flights() == all).await;
        upstream.gate.close();
        for (caller, tenant) in callers.into_iter().zip(&tenants) {
            assert!(caller.await.unwrap(), "{}: {}", place.name, short(tenant));
        }
        for (process, tenant) in processes.iter().flat_map(|process| tenants.iter().map(move |one| (process, one))) {
            assert!(asks(&process.0, tenant).await.unwrap(), "{}: {}", place.name, short(tenant));
        }
        let memories = if place.outer.is_some() { 1 } else { 2 };
        assert_eq!(upstream.calls(), memories * all, "{}: each has vectors of its own", place.name);
    }
}

/// All at the same time in two processes of a fleet: a lease for each tenant, and nobody waits for another's.
#[cfg(feature = "redis")]
#[tokio::test]
async fn in_the_leases_of_a_fleet() {
    let server = crate::redis::server::Server::start(&[]).await;
    let upstream = Teller::waiting();
    let mut processes = Vec::new();
    for _ in 0..2 {
        let tier = crate::redis::patient(server.url()).build().unwrap();
        crate::redis::joined(&tier).await;
        let layer = CacheLayer::from(Cache::memory(1_000).fleet(tier).lease_term(HANG).tier_timeout(HANG));
        processes.push(OptimizedClient::builder(Arc::clone(&upstream)).cache(layer).build().unwrap());
    }
    let tenants = tenants();
    let mut callers = Vec::new();
    for (client, tenant) in processes.iter().flat_map(|client| tenants.iter().map(move |tenant| (client, tenant))) {
        let (client, request) = (client.clone(), question("q", tenant.as_deref()));
        callers.push(tokio::spawn(async move { (Way::Call.ask(&client, request.clone()).await.0, told(&request)) }));
    }
    // As long as nobody is answered, a tenant that waited for another's lease would not ask.
    until("each asks", || upstream.calls() == tenants.len()).await;
    upstream.gate.close();
    for caller in callers {
        let (text, own) = caller.await.unwrap();
        assert_eq!(text, own);
    }
    assert_eq!(upstream.calls(), tenants.len(), "one for each tenant");
}

/// All who say that they share do, stored and in the air, and nobody else is told.
#[tokio::test]
async fn but_those_who_share_do() {
    let tenants = tenants();
    for place in places().await {
        let upstream = Teller::waiting();
        let (client, layer) = place.process(&upstream);
        let ask = |tenant: &Option<String>, public: bool| {
            let (client, request) = (client.clone(), question("q", tenant.as_deref()));
            let request = if public { request.with(shared()) } else { request };
            tokio::spawn(async move { (Way::Call.ask(&client, request.clone()).await.0, told(&request)) })
        };
        let own: Vec<_> = tenants.iter().map(|tenant| ask(tenant, false)).collect();
        let public: Vec<_> = tenants.iter().map(|tenant| ask(tenant, true)).collect();
        let all = tenants.len() + 1;
        until(place.name, || upstream.calls() == all && layer.open_flights() == all).await;
        upstream.gate.close();
        let mut told_to_all = HashSet::new();
        for caller in public {
            told_to_all.insert(caller.await.unwrap().0);
        }
        for caller in own {
            let (text, own) = caller.await.unwrap();
            assert_eq!(text, own, "{}", place.name);
        }
        let (second, _) = place.process(&upstream);
        for (tenant, way) in tenants.iter().flat_map(|tenant| Way::ALL.map(|way| (tenant, way))) {
            let request = question("q", tenant.as_deref());
            assert_eq!(way.ask(&client, request.clone()).await.0, told(&request), "{}", place.name);
            told_to_all.insert(way.ask(&client, request.clone().with(shared())).await.0);
            if place.outer.is_some() {
                assert_eq!(way.ask(&second, request.clone()).await.0, told(&request), "{}", place.name);
                told_to_all.insert(way.ask(&second, request.with(shared())).await.0);
            }
        }
        let only = told_to_all.into_iter().collect::<Vec<_>>();
        assert!(matches!(&only[..], [text] if text.starts_with("for everybody")), "{}: {only:?}", place.name);
        assert_eq!(upstream.calls(), all, "{}", place.name);
    }
}
