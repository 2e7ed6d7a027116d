use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use futures_util::FutureExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cache::{Labels, Payload, Selector, StoredValue, StoredVector};
use crate::client::ClientInfo;
use crate::types::{ChatChunk, ChatCompletion, ChatRequest, Choice, Cost, Embedding, Extra, Usage, Vector};

/// A clock that is set by hand; monotonic time stands still.
#[derive(Debug)]
struct Hand(Instant, Mutex<SystemTime>);

impl Clock for Hand {
    fn now(&self) -> Instant {
        self.0
    }

    fn wall(&self) -> SystemTime {
        *self.1.lock()
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Wherever it is done, it is this that is done.
impl Envelopes {
    fn encode_here(&self, probe: &Probe, entry: &Entry) -> Result<Vec<u8>, Refused> {
        self.sealing(probe, entry)?.seal()
    }

    fn decode_here(&self, bytes: &[u8], probe: &Probe) -> Result<Entry, Refused> {
        self.opening(bytes, probe)?.0.open(bytes)?.entry(probe)
    }
}

struct Setup {
    clock: Arc<Hand>,
    probe: Probe,
}

const TTL: Duration = Duration::from_secs(60);

impl Setup {
    fn new() -> Self {
        let now = crate::Env::new().now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let probe = Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("hi"), now);
        Self { clock: Arc::new(Hand(now, Mutex::new(wall))), probe }
    }

    fn other(&self) -> Probe {
        Probe::chat(&ClientInfo::new("p"), &ChatRequest::new("m").user("ho"), self.clock.0)
    }

    fn plain(&self) -> Envelopes {
        Envelopes::new(self.clock.clone(), None, TaskTracker::new())
    }

    fn keyed(&self, key: MacKey) -> Envelopes {
        Envelopes::new(self.clock.clone(), Some(key), TaskTracker::new())
    }

    fn advance(&self, seconds: i64) {
        let mut wall = self.clock.1.lock();
        let step = Duration::from_secs(seconds.unsigned_abs());
        *wall = if seconds < 0 { *wall - step } else { *wall + step };
    }

    fn entry(&self, text: &str, chunks: usize) -> Entry {
        let mut completion = ChatCompletion::text("m", text);
        completion.usage = Some(Usage::new(3, 2));
        completion.extra.insert("citations".into(), json!([{"url": "u"}, 0.1, -1e-300, 1.7976931348623157e308]));
        completion.choices[0].logprobs =
            Some(json!({"content": [{"token": "a", "logprob": -0.000_012_345_678_901_234_5}]}));
        let chunks = (0..chunks).map(|n| Arc::new(ChatChunk::text_delta("m", format!("{n} "))));
        let (completion, chunks) = (Arc::new(completion), chunks.collect());
        Entry::new(&self.probe, completion, chunks, self.clock.0, TTL, Some(Cost::from_picos(u64::MAX)))
            .with_labels(Labels::new("m").tags(["a", "b"]))
            .with_took(Duration::from_millis(1_234))
    }
}

fn same(left: &Entry, right: &Entry) -> bool {
    left.completion() == right.completion()
        && left.chunks() == right.chunks()
        && left.cost() == right.cost()
        && left.key() == right.key()
        && left.labels() == right.labels()
        && left.took() == right.took()
}

/// A short and a long answer, plain and signed.
fn corpus(setup: &Setup) -> Vec<(Envelopes, Vec<u8>, Entry)> {
    let key = || MacKey::new(7, [9; 32]);
    let mut all = Vec::new();
    for (envelopes, chunks) in
        [(setup.plain(), 0), (setup.plain(), 30), (setup.keyed(key()), 0), (setup.keyed(key()), 30)]
    {
        let entry = setup.entry("Rayleigh scattering.", chunks);
        all.push((envelopes.clone(), envelopes.encode_here(&setup.probe, &entry).unwrap(), entry));
    }
    all
}

/// `bytes` with another checksum, as an attacker or a writer of another version would give it.
fn resealed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - CHECKSUM);
    change(&mut bytes);
    let checksum = XxHash3_64::oneshot(&bytes).to_le_bytes();
    bytes.extend_from_slice(&checksum);
    bytes
}

/// An envelope around any JSON.
fn around(setup: &Setup, json: &[u8]) -> Vec<u8> {
    let bytes = setup.plain().encode_here(&setup.probe, &setup.entry("", 0)).unwrap();
    resealed(bytes, |bytes| {
        let labels = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        bytes.truncate(HEADER + labels);
        bytes[5] = 0;
        for at in [12, 16] {
            bytes[at..at + 4].copy_from_slice(&(json.len() as u32).to_le_bytes());
        }
        bytes.extend_from_slice(json);
    })
}

#[test]
fn what_goes_in_comes_out() {
    let setup = Setup::new();
    for (envelopes, bytes, entry) in corpus(&setup) {
        let found = envelopes.decode_here(&bytes, &setup.probe).unwrap();
        assert!(same(&found, &entry));
        assert_eq!(found.expires(), entry.expires());
    }
    let long = setup.entry(&"blue sky ".repeat(10_000), 3_000);
    let bytes = setup.plain().encode_here(&setup.probe, &long).unwrap();
    assert!(bytes.len() < 90_000, "{} bytes: not pressed", bytes.len());
    assert!(same(&setup.plain().decode_here(&bytes, &setup.probe).unwrap(), &long));
}

#[test]
fn vectors_and_values_come_out_to_the_bit() {
    let setup = Setup::new();
    let vector = |embedding: Vector| {
        let embedding = Embedding { index: 0, embedding, extra: Extra::from_iter([("x".into(), json!(1))]) };
        let extra = Extra::from_iter([("object".into(), json!("list"))]);
        Payload::Vector(Arc::new(StoredVector { embedding, model: "m".into(), tokens: 7, extra }))
    };
    let floats: Vec<f32> = (0..2_000).map(|_| f32::from_bits(fastrand::u32(..))).filter(|f| !f.is_nan()).collect();
    for payload in [vector(Vector::Floats(floats)), vector(Vector::Base64("AAAA".into()))] {
        let Payload::Vector(stored) = &payload else { unreachable!() };
        let entry = Entry::of(&setup.probe, payload.clone(), setup.clock.0, TTL);
        let bytes = setup.plain().encode_here(&setup.probe, &entry).unwrap();
        let found = setup.plain().decode_here(&bytes, &setup.probe).unwrap();
        assert!(matches!(found.payload(), Payload::Vector(found) if found == stored));
    }
    let value = Arc::new(vec![(0.1_f64, "text".to_owned()), (f64::MIN_POSITIVE, "\u{0}".to_owned())]);
    let stored = StoredValue::new(&value).unwrap();
    let entry = Entry::of(&setup.probe, Payload::Value(Arc::new(stored)), setup.clock.0, TTL);
    let bytes = setup.plain().encode_here(&setup.probe, &entry).unwrap();
    let found = setup.plain().decode_here(&bytes, &setup.probe).unwrap();
    let Payload::Value(found) = found.payload() else { panic!("{found:?}") };
    assert_eq!(found.get::<Vec<(f64, String)>>(), Some(value));
    assert_eq!(found.get::<u8>(), None, "another type");
    let failure = Payload::Failure(crate::Error::new(crate::ErrorKind::Other, "test", "failed"));
    let entry = Entry::of(&setup.probe, failure, setup.clock.0, TTL);
    assert!(setup.plain().encode_here(&setup.probe, &entry).is_err(), "failures stay in the process");
}

/// Long texts leave the thread, at whose first poll short ones are done.
#[tokio::test]
async fn what_is_large_is_written_and_read_elsewhere() {
    let setup = Setup::new();
    let envelopes = setup.keyed(MacKey::new(1, [1; 32]));
    let small = setup.entry("blue sky", 0);
    let bytes = envelopes.encode(&setup.probe, &small).now_or_never().unwrap().unwrap();
    assert!(same(&envelopes.decode(bytes, &setup.probe).now_or_never().unwrap().unwrap(), &small));
    let entry = setup.entry(&"blue sky ".repeat(1_700_000), 0);
    let mut encoding = std::pin::pin!(envelopes.encode(&setup.probe, &entry));
    assert!(futures_util::poll!(&mut encoding).is_pending());
    let bytes = encoding.await.unwrap();
    assert_eq!(bytes, envelopes.encode_here(&setup.probe, &entry).unwrap());
    let mut decoding = std::pin::pin!(envelopes.decode(bytes, &setup.probe));
    assert!(futures_util::poll!(&mut decoding).is_pending());
    assert!(same(&decoding.await.unwrap(), &entry));
}

#[test]
fn the_head_tells_who_is_selected() {
    let setup = Setup::new();
    let entry = setup.entry("hi", 0);
    let bytes = setup.plain().encode_here(&setup.probe, &entry).unwrap();
    let head = |length: usize, selector: Selector| label::head(&bytes[..length], &selector);
    let Head::Needs(length) = head(HEADER, Selector::Tag("a".into())) else { panic!("the labels follow") };
    for (selector, taken) in [
        (Selector::Tag("a".into()), true),
        (Selector::Tag("c".into()), false),
        (Selector::Pattern("responses/m".into()), true),
        (Selector::Namespace("responses".into()), true),
        (Selector::Namespace("other".into()), false),
        (Selector::Key(entry.key()), true),
        (Selector::Key(setup.other().key()), false),
        (Selector::All, true),
    ] {
        assert_eq!(head(length, selector.clone()), Head::Taken(taken), "{selector:?}");
    }
    let foreign = |selector: &Selector| label::head(&[0; 200], selector);
    assert_eq!(foreign(&Selector::Namespace("responses".into())), Head::Taken(false));
    assert_eq!(foreign(&Selector::All), Head::Taken(true));
}

#[test]
fn life_after_freshness_is_kept() {
    let setup = Setup::new();
    let entry = setup.entry("hi", 0).with_grace(TTL);
    let bytes = setup.plain().encode_here(&setup.probe, &entry).unwrap();
    setup.advance(90);
    let found = setup.plain().decode_here(&bytes, &setup.probe).unwrap();
    assert!(found.fresh_until() <= setup.clock.0, "stale");
    assert_eq!(found.expires(), setup.clock.0 + Duration::from_secs(30));
}

#[test]
fn every_bit_flip_and_every_cut_is_refused() {
    let setup = Setup::new();
    for (envelopes, bytes, _) in corpus(&setup) {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(envelopes.decode_here(&flipped, &setup.probe).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(envelopes.decode_here(&bytes[..length], &setup.probe).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(envelopes.decode_here(&longer, &setup.probe).unwrap_err(), Refused::Checksum);
    }
}

#[test]
fn each_fault_has_its_reason() {
    let setup = Setup::new();
    let (envelopes, bytes, entry) = corpus(&setup).swap_remove(0);
    let decode = |bytes: &[u8]| envelopes.decode_here(bytes, &setup.probe).unwrap_err();
    assert_eq!(decode(b""), Refused::NotOurs);
    assert_eq!(decode(b"{\"completion\":{}}"), Refused::NotOurs);
    assert_eq!(decode(&resealed(bytes.clone(), |bytes| bytes[4] = 1)), Refused::Version);
    assert_eq!(decode(&resealed(bytes.clone(), |bytes| bytes[5] |= 128)), Refused::Version);
    assert_eq!(decode(&vec![0; MAX_ENVELOPE + 1]), Refused::TooLarge);
    assert_eq!(decode(&resealed(bytes.clone(), |bytes| bytes[12..16].fill(0xff))), Refused::TooLarge);
    let bomb = |bytes: &mut Vec<u8>| {
        bytes[5] = LZ4;
        bytes[16..20].fill(0xff);
    };
    assert_eq!(decode(&resealed(bytes.clone(), bomb)), Refused::TooLarge);
    assert_eq!(decode(&resealed(bytes.clone(), |bytes| bytes[5] = LZ4)), Refused::Payload);
    assert_eq!(decode(&around(&setup, b"{\"completion\": 7}")), Refused::Payload);
    assert_eq!(decode(&around(&setup, b"{\"completion\":{},\"more\":1}")), Refused::Payload);
    assert_eq!(envelopes.decode_here(&bytes, &setup.other()).unwrap_err(), Refused::WrongKey);
    assert_eq!(envelopes.encode_here(&setup.other(), &entry).unwrap_err(), Refused::WrongKey);
}

#[test]
fn deep_nesting_is_refused_both_ways() {
    let setup = Setup::new();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for place in ["{\"completion\":{\"x\":@}}", "{\"completion\":{},\"chunks\":[{\"x\":@}]}"] {
        for depth in [10_000, 200, 128] {
            let json = place.replace('@', &nested(depth));
            let refused = setup.plain().decode_here(&around(&setup, json.as_bytes()), &setup.probe).unwrap_err();
            assert_eq!(refused, Refused::TooDeep, "{depth}");
        }
        let shallow = place.replace('@', &nested(100));
        assert!(setup.plain().decode_here(&around(&setup, shallow.as_bytes()), &setup.probe).is_ok());
    }
    // Whatever can be written can be read again, to the level.
    for depth in 100..128 {
        let mut completion = ChatCompletion::text("m", "[[[[[[[");
        let value: Value = serde_json::from_str(&nested(depth)).unwrap_or_default();
        completion.extra.insert("x".into(), value);
        let entry = Entry::new(&setup.probe, Arc::new(completion), Arc::from([]), setup.clock.0, TTL, None);
        match setup.plain().encode_here(&setup.probe, &entry) {
            Ok(bytes) => assert!(setup.plain().decode_here(&bytes, &setup.probe).is_ok(), "{depth}"),
            Err(reason) => assert!(reason == Refused::TooDeep && depth > 120, "{depth}: {reason}"),
        }
    }
}

#[test]
fn too_much_is_not_even_written() {
    let setup = Setup::new();
    let noise: String = (0..5 << 20).map(|_| fastrand::alphanumeric()).collect();
    for text in [noise, "a".repeat(17 << 20)] {
        let completion = ChatCompletion { choices: vec![Choice::text(text)], ..ChatCompletion::default() };
        let entry = Entry::new(&setup.probe, Arc::new(completion), Arc::from([]), setup.clock.0, TTL, None);
        assert_eq!(setup.plain().encode_here(&setup.probe, &entry).unwrap_err(), Refused::TooLarge);
    }
}

#[test]
fn only_the_holder_of_the_secret_can_write() {
    let setup = Setup::new();
    let (old, new) = ([1; 32], [2; 32]);
    let signed = setup.keyed(MacKey::new(1, old)).encode_here(&setup.probe, &setup.entry("hi", 0)).unwrap();
    let plain = setup.plain().encode_here(&setup.probe, &setup.entry("hi", 0)).unwrap();
    let reads = |key: MacKey, bytes: &[u8]| setup.keyed(key).decode_here(bytes, &setup.probe).map(drop);
    assert_eq!(reads(MacKey::new(1, old), &signed), Ok(()));
    assert_eq!(reads(MacKey::new(2, new).accepting(1, old), &signed), Ok(()));
    assert_eq!(reads(MacKey::new(2, new), &signed), Err(Refused::Mac));
    assert_eq!(reads(MacKey::new(1, new), &signed), Err(Refused::Mac));
    assert_eq!(reads(MacKey::new(1, new).accepting(1, old), &signed), Err(Refused::Mac));
    assert_eq!(reads(MacKey::new(1, old), &plain), Err(Refused::Mac));
    // An attacker who gives another's answer our key, or an old one new life, mends the checksum but not the code.
    for at in [20, 28, 36, 44, HEADER + 5] {
        assert_eq!(reads(MacKey::new(1, old), &resealed(signed.clone(), |bytes| bytes[at] ^= 1)), Err(Refused::Mac));
    }
    assert!(!format!("{:?}", MacKey::new(1, [77; 32])).contains("77"));
}

#[test]
fn life_ends_in_time_whatever_the_clocks_say() {
    let setup = Setup::new();
    let envelopes = setup.plain();
    let bytes = envelopes.encode_here(&setup.probe, &setup.entry("hi", 0)).unwrap();
    setup.advance(45);
    let found = envelopes.decode_here(&bytes, &setup.probe).unwrap();
    assert_eq!(found.expires(), setup.clock.0 + Duration::from_secs(15));
    setup.advance(15);
    assert_eq!(envelopes.decode_here(&bytes, &setup.probe).unwrap_err(), Refused::Expired);
    // Our clock falls back by years: it was made in the future, and lives no longer than it was meant to.
    setup.advance(-100_000_000);
    let found = envelopes.decode_here(&bytes, &setup.probe).unwrap();
    assert!(found.expires() <= setup.clock.0 + TTL);
    setup.advance(500_000_000);
    assert_eq!(envelopes.decode_here(&bytes, &setup.probe).unwrap_err(), Refused::Expired);
    // Times that cannot be.
    for (created, expires) in [(0_u64, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX)] {
        let odd = resealed(bytes.clone(), |bytes| {
            bytes[20..28].copy_from_slice(&created.to_le_bytes());
            bytes[28..36].copy_from_slice(&expires.to_le_bytes());
            bytes[36..44].copy_from_slice(&expires.to_le_bytes());
        });
        let _ = envelopes.decode_here(&odd, &setup.probe);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), flags in 0_u8..4, reseal: bool) {
        let setup = Setup::new();
        prop_assert!(setup.plain().decode_here(&bytes, &setup.probe).is_err());
        // The same behind a good header and a good checksum.
        let mut wrapped = around(&setup, &bytes);
        if reseal {
            wrapped = resealed(wrapped, |wrapped| wrapped[5] = flags);
        }
        let _ = setup.plain().decode_here(&wrapped, &setup.probe);
    }

    #[test]
    fn any_answer_comes_out_as_it_went_in(
        texts in prop::collection::vec(".{0,80}", 0..20),
        numbers in prop::collection::vec(any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()), 0..20),
        keyed: bool,
    ) {
        let setup = Setup::new();
        let mut completion = ChatCompletion::text("m", texts.concat());
        completion.extra.insert("numbers".into(), json!(numbers));
        let chunks = texts.iter().map(|text| Arc::new(ChatChunk::text_delta("m", text.clone()))).collect();
        let entry = Entry::new(&setup.probe, Arc::new(completion), chunks, setup.clock.0, TTL, None);
        let envelopes = if keyed { setup.keyed(MacKey::new(3, [5; 32])) } else { setup.plain() };
        let bytes = envelopes.encode_here(&setup.probe, &entry).unwrap();
        prop_assert!(same(&envelopes.decode_here(&bytes, &setup.probe).unwrap(), &entry));
    }
}
