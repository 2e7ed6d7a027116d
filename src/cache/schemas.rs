//! Answers held against the schemas they were asked for with, on jsonschema.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use quick_cache::sync::Cache;
use serde_json::Value;

use super::structured::SchemaCheck;
use super::{CacheKey, canonical};

/// How many schemas stay compiled: a service asks with a few, and one takes some KiB.
const KEPT: usize = 64;

/// How many steps back a pattern may take: a hundredth of what the engine allows itself, because patterns come with
/// requests and texts from models, and somebody waits.
const BACKTRACK: usize = 10_000;

/// Compiled schemas, by their canonical bytes. `None` is one that does not compile.
pub(super) struct Schemas(Cache<CacheKey, Option<Arc<Validator>>>);

impl Schemas {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    fn compiled(&self, schema: &Value) -> Option<Arc<Validator>> {
        let mut bytes = Vec::new();
        canonical::write_json(&mut bytes, schema);
        let key = CacheKey::of(&bytes);
        if let Some(known) = self.0.get(&key) {
            return known;
        }
        // Outside the cache's lock: two that meet here both compile.
        let validator = compile(schema);
        self.0.insert(key, validator.clone());
        validator
    }
}

fn compile(schema: &Value) -> Option<Arc<Validator>> {
    let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK);
    let options = jsonschema::options().offline().with_pattern_options(patterns);
    options.build(schema).ok().map(Arc::new)
}

impl SchemaCheck for Schemas {
    fn fits(&self, schema: &Value, json: &str) -> bool {
        let Ok(answer) = serde_json::from_str(json) else { return false };
        // Schemas are foreign, and a cache never fails a call: whatever happens in there, the answer is passed on.
        let check = || self.compiled(schema).is_some_and(|validator| validator.is_valid(&answer));
        catch_unwind(AssertUnwindSafe(check)).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_must_be_of_its_schema() {
        let schemas = Schemas::new();
        let person = json!({"type": "object", "properties": {"age": {"$ref": "#/$defs/age"}}, "required": ["age"],
            "additionalProperties": false, "$defs": {"age": {"type": "integer", "minimum": 0}}});
        for (json, fits) in [
            (r#"{"age": 3}"#, true),
            (r#"{"age": -3}"#, false),
            (r#"{"age": "3"}"#, false),
            (r#"{"age": 3, "b": 1}"#, false),
            ("{}", false),
            (r#"{"age": 3"#, false),
        ] {
            assert_eq!(schemas.fits(&person, json), fits, "{json}");
        }
        assert_eq!(schemas.0.len(), 1, "compiled once");
        assert!(schemas.fits(&json!({"type": "string"}), "\"a\""), "each schema is its own");
    }

    #[test]
    fn what_cannot_be_checked_does_not_fit() {
        let schemas = Schemas::new();
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for (schema, json) in [
            (json!({"type": 7}), "7".to_owned()),
            (json!({"$ref": "https://example.com/schema.json"}), "{}".to_owned()),
            (json!({"$ref": "file:///etc/passwd"}), "{}".to_owned()),
            (json!({"type": "string", "pattern": "("}), "\"a\"".to_owned()),
            // A pattern that would take for ever.
            (json!({"pattern": r"^(?=(a+)+$)(\w+)\1b$"}), format!("\"{}!\"", "a".repeat(100))),
            (json!({}), nested(100_000)),
        ] {
            assert!(!schemas.fits(&schema, &json), "{schema}");
        }
    }

    #[test]
    fn only_so_many_schemas_are_remembered() {
        let schemas = Schemas::new();
        for number in 0..1_000 {
            assert!(schemas.fits(&json!({"const": number}), &number.to_string()));
        }
        assert!(schemas.0.len() <= KEPT, "{}", schemas.0.len());
    }
}
