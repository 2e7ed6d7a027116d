//! Requests made up at random: equal bytes exactly when they are equal in normal form.

use super::*;
use crate::types::{ChatRequest, Extra, Stop};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

/// Few values of each kind, so that requests meet in all they can be mistaken for.
fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b", "ab", "a\0", "\u{1}", "user", "ä"]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = Value> {
    select(vec![json!(0.0), json!(-0.0), json!(0.5), json!(1.0), json!(1), json!(0), json!(-1)])
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        select(vec![json!(u64::MAX), json!(i64::MIN), json!(1e300)]),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object of some of these fields.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields = fields.into_iter().map(|(name, value)| {
        prop_oneof![2 => Just(None), 1 => value.prop_map(move |value| Some((name.to_owned(), value)))].boxed()
    });
    fields
        .collect::<Vec<_>>()
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>()))
        .boxed()
}

fn with(
    object: BoxedStrategy<Value>,
    name: &'static str,
    field: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Value> {
    (object, field)
        .prop_map(move |(mut object, field)| {
            object[name] = field;
            object
        })
        .boxed()
}

fn texts() -> BoxedStrategy<Value> {
    text().prop_map(Value::from).boxed()
}

fn list(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec(item, 0..3).prop_map(Value::from).boxed()
}

fn part() -> BoxedStrategy<Value> {
    let image = with(object(vec![("detail", texts()), ("x", value().boxed())]), "url", texts());
    let audio = with(with(object(vec![("x", value().boxed())]), "data", texts()), "format", texts());
    let extra = || object(vec![("cache_control", value().boxed())]);
    prop_oneof![
        with(with(extra(), "text", texts()), "type", Just(json!("text"))),
        with(with(extra(), "image_url", image), "type", Just(json!("image_url"))),
        with(with(extra(), "input_audio", audio), "type", Just(json!("input_audio"))),
        value(),
    ]
    .boxed()
}

fn message() -> BoxedStrategy<Value> {
    let role = select(vec!["system", "developer", "user", "assistant", "tool", "function", "critic"]);
    let function = object(vec![("name", texts()), ("arguments", texts()), ("x", value().boxed())]);
    let call = with(object(vec![("id", texts()), ("type", texts()), ("x", value().boxed())]), "function", function);
    let fields = object(vec![
        ("name", texts()),
        ("tool_calls", list(call)),
        ("tool_call_id", texts()),
        ("refusal", texts()),
        ("weight", value().boxed()),
    ]);
    let content = prop_oneof![3 => texts(), 1 => list(part()), 1 => Just(Value::Null)];
    let bare = with(with(object(vec![]), "content", content.clone()), "role", role.clone().prop_map(Value::from));
    prop_oneof![bare, with(with(fields, "content", content), "role", role.prop_map(Value::from))].boxed()
}

fn body() -> BoxedStrategy<Value> {
    let count = || select(vec![0, 1, 2]).prop_map(Value::from).boxed();
    let flag = || any::<bool>().prop_map(Value::from).boxed();
    let float = || number().boxed();
    let function = object(vec![
        ("description", texts()),
        ("parameters", value().boxed()),
        ("strict", flag()),
        ("x", value().boxed()),
    ]);
    let function = with(function, "name", texts());
    let tool = with(object(vec![("function", function), ("x", value().boxed())]), "type", texts());
    let bias = object(vec![("1", float()), ("2", float())]);
    let format = prop_oneof![
        select(vec![json!({"type": "text"}), json!({"type": "json_object"}), json!({"type": "x"}), json!("text")]),
        value().prop_map(|schema| json!({"type": "json_schema", "json_schema": schema})),
    ];
    let fields = object(vec![
        ("temperature", float()),
        ("top_p", float()),
        ("presence_penalty", float()),
        ("frequency_penalty", float()),
        ("n", count()),
        ("max_tokens", count()),
        ("max_completion_tokens", count()),
        ("top_logprobs", count()),
        ("logprobs", flag()),
        ("parallel_tool_calls", flag()),
        ("seed", count()),
        ("user", texts()),
        ("reasoning_effort", texts()),
        ("stop", prop_oneof![texts(), list(texts())].boxed()),
        ("logit_bias", bias),
        ("tools", list(tool)),
        ("tool_choice", value().boxed()),
        ("response_format", format.boxed()),
        ("metadata", value().boxed()),
        ("stream", flag()),
        ("stream_options", value().boxed()),
    ]);
    // Half of them as most requests are: model and messages alone.
    let plain = object(vec![("stream", flag())]);
    with(with(prop_oneof![plain, fields].boxed(), "messages", list(message())), "model", texts())
}

/// One place of the JSON changed, gone, or left as it is.
fn edit(wire: &mut Value, place: Index, with: Option<Value>) {
    let mut paths = Vec::new();
    collect(wire, String::new(), &mut paths);
    if paths.is_empty() {
        return;
    }
    let path = place.get(&paths);
    match with {
        Some(value) => *wire.pointer_mut(path).unwrap() = value,
        None => {
            let (parent, name) = path.rsplit_once('/').unwrap();
            match wire.pointer_mut(parent).unwrap() {
                Value::Object(map) => drop(map.remove(name)),
                Value::Array(items) => drop(items.remove(name.parse().unwrap())),
                _ => {}
            }
        }
    }
}

fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        // No name made up here has a character that a pointer must escape.
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            paths.push(format!("{path}/{name}"));
            collect(value, format!("{path}/{name}"), paths);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(place, value)| {
            paths.push(format!("{path}/{place}"));
            collect(value, format!("{path}/{place}"), paths);
        }),
        _ => {}
    }
}

/// The same with every zero that is a float of the other sign.
fn negate_zeros(wire: &mut Value) {
    match wire {
        Value::Object(map) => map.values_mut().for_each(negate_zeros),
        Value::Array(items) => items.iter_mut().for_each(negate_zeros),
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => {
            *wire = json!(-number.as_f64().unwrap());
        }
        _ => {}
    }
}

/// The request itself, without what does not change the answer: how it travels, the sign of zero (equal by `==`), and
/// whether one stop text stands alone or in a list.
fn normal(mut body: ChatBody) -> ChatBody {
    body.extra.remove("stream");
    body.extra.remove("stream_options");
    if let Some(Stop::One(text)) = body.stop {
        body.stop = Some(Stop::Many(vec![text]));
    }
    body
}

fn bytes(body: &ChatBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    let place = ("responses", Sharing::Tenant(None));
    write_chat(&mut bytes, place, (&ClientInfo::new("p"), ""), &ChatRequest::from(body.clone()));
    bytes
}

fn parse(wire: &Value) -> Option<ChatBody> {
    serde_json::from_value(wire.clone()).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn bytes_are_equal_exactly_when_requests_are(
        wire in body(),
        other in body(),
        place in any::<Index>(),
        new in prop::option::of(prop_oneof![value(), texts()]),
    ) {
        let mut edited = wire.clone();
        edit(&mut edited, place, new);
        let mut negated = wire.clone();
        negate_zeros(&mut negated);
        let bodies: Vec<_> = [&wire, &edited, &negated, &other].into_iter().filter_map(parse).collect();
        prop_assert!(parse(&wire).is_some(), "{wire}");
        for one in &bodies {
            for other in &bodies {
                let equal = normal(one.clone()) == normal(other.clone());
                prop_assert_eq!(bytes(one) == bytes(other), equal, "{:?}\n{:?}", one, other);
            }
        }
    }

    #[test]
    fn the_order_of_fields_does_not_count(fields in prop::collection::btree_map("[a-z]{1,3}", value(), 0..5)) {
        let extra = |fields: &mut dyn Iterator<Item = (String, Value)>| ChatBody {
            model: "m".into(),
            extra: fields.collect::<Extra>(),
            ..ChatBody::default()
        };
        let (one, other) = (extra(&mut fields.clone().into_iter()), extra(&mut fields.into_iter().rev()));
        prop_assert_eq!(bytes(&one), bytes(&other));
    }
}

/// The client checks requests before they come here, but a cache may be used without it: JSON would say `null` for each
/// of these, the key must not.
#[test]
fn numbers_that_json_cannot_carry_have_their_own_keys_and_are_refused() {
    let set: [fn(&mut ChatBody, f64); 5] = [
        |body, number| body.temperature = Some(number),
        |body, number| body.top_p = Some(number),
        |body, number| body.presence_penalty = Some(number),
        |body, number| body.frequency_penalty = Some(number),
        |body, number| body.logit_bias = Some([("1".to_owned(), number)].into()),
    ];
    let plain = || ChatRequest::new("m").user("hi").body().clone();
    let mut seen = std::collections::HashSet::from([bytes(&plain())]);
    for set in set {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, f64::MAX] {
            let mut body = plain();
            set(&mut body, number);
            assert!(seen.insert(bytes(&body)), "{body:?}");
            assert_eq!(body.check().is_err(), !number.is_finite(), "{body:?}");
        }
        let (mut zero, mut negative) = (plain(), plain());
        set(&mut zero, 0.0);
        set(&mut negative, -0.0);
        assert_eq!(bytes(&zero), bytes(&negative));
    }
}
