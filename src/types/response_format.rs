//! The form an answer must have.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The form the answer must have. One with fields beside those named here is kept whole, as [`Other`](Self::Other).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Free text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema: `{"name", "schema", "strict"}`.
    JsonSchema {
        /// The schema object.
        json_schema: Value,
    },
    /// A form this version does not know, kept whole.
    #[serde(untagged)]
    Other(Value),
}

impl<'de> Deserialize<'de> for ResponseFormat {
    // By hand: a derived one would silently drop `{"type": "json_object", "schema": …}`'s schema.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        Ok(match (value["type"].as_str(), fields) {
            (Some("text"), 1) => Self::Text,
            (Some("json_object"), 1) => Self::JsonObject,
            (Some("json_schema"), 2) if value.get("json_schema").is_some() => {
                Self::JsonSchema { json_schema: value["json_schema"].take() }
            }
            _ => Self::Other(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_format_loses_nothing() {
        for wire in [
            serde_json::json!({"type": "text"}),
            serde_json::json!({"type": "json_object"}),
            serde_json::json!({"type": "json_object", "schema": {"type": "object"}}),
            serde_json::json!({"type": "json_schema", "json_schema": {"name": "s"}}),
            serde_json::json!({"type": "json_schema", "json_schema": {"name": "s"}, "strict": true}),
            serde_json::json!({"type": "json_schema", "schema": {}}),
            serde_json::json!("json"),
        ] {
            let format: ResponseFormat = serde_json::from_value(wire.clone()).unwrap();
            assert_eq!(serde_json::to_value(&format).unwrap(), wire);
        }
        let plain = serde_json::from_value(serde_json::json!({"type": "json_object"}));
        assert_eq!(plain.ok(), Some(ResponseFormat::JsonObject));
    }
}
