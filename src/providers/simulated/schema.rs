//! A small value that satisfies a JSON schema, for structured answers and tool arguments.

use serde_json::{Map, Value, json};

use super::text::bare_word;

/// Schemas come from callers and may be recursive: so deep and so many values, and no further.
const MAX_DEPTH: u32 = 8;
const MAX_VALUES: u32 = 256;

/// A value of this schema: types, `properties`, `items`, `enum`, `const`, `anyOf`, `oneOf` and local `$ref` are
/// honoured, bounds, patterns and formats are not. Without a schema, any small object.
pub(super) fn sample(schema: Option<&Value>, seed: u64) -> Value {
    let mut random = fastrand::Rng::with_seed(seed);
    match schema {
        Some(root) => Sampler { root, random, left: MAX_VALUES }.value(root, MAX_DEPTH),
        None => {
            let answer = format!("{} {}", bare_word(&mut random), bare_word(&mut random));
            json!({"answer": answer, "confidence": f64::from(random.u32(50..100)) / 100.0})
        }
    }
}

struct Sampler<'a> {
    root: &'a Value,
    random: fastrand::Rng,
    left: u32,
}

impl<'a> Sampler<'a> {
    fn value(&mut self, schema: &'a Value, depth: u32) -> Value {
        if depth == 0 || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(target) = self.redirect(schema) {
            return self.value(target, depth - 1);
        }
        if let Some(value) = schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
            return value.clone();
        }
        match kind(schema) {
            "object" => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let fields = properties.into_iter().flatten();
                let fields: Map<_, _> = fields.map(|(name, of)| (name.clone(), self.value(of, depth - 1))).collect();
                Value::Object(fields)
            }
            "array" => schema.get("items").map_or_else(|| json!([]), |items| json!([self.value(items, depth - 1)])),
            "integer" => json!(self.random.u32(1..100)),
            "number" => json!(f64::from(self.random.u32(0..1_000)) / 100.0),
            "boolean" => json!(self.random.bool()),
            "null" => Value::Null,
            _ => json!(bare_word(&mut self.random)),
        }
    }

    fn redirect(&self, schema: &'a Value) -> Option<&'a Value> {
        let local = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
        if let Some(path) = local {
            return self.root.pointer(path);
        }
        schema.get("anyOf").or_else(|| schema.get("oneOf"))?.get(0)
    }
}

/// The schema's type; of several the first that is not null.
fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("items").is_some() => "array",
        _ if schema.get("properties").is_some() => "object",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_schema() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius", "kelvin"]},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}, "note": {"type": ["null", "string"]}
            },
            "$defs": {"tag": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
        });
        let value = sample(Some(&schema), 5);
        assert!(value["city"].is_string() && value["days"].is_u64() && value["note"].is_string(), "{value}");
        assert_eq!(value["unit"], "celsius");
        assert!(value["tags"][0]["on"].is_boolean(), "{value}");
        assert_eq!(value, sample(Some(&schema), 5));
    }

    #[test]
    fn a_recursive_schema_ends() {
        let wide: Map<_, _> = (0..20).map(|i| (format!("p{i}"), json!({"$ref": "#"}))).collect();
        let schema = json!({"type": "object", "properties": wide});
        assert!(sample(Some(&schema), 1).to_string().len() < 10_000);
    }
}
