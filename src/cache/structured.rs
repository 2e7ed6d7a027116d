//! Structured output: the form an answer was asked for in, and whether it has it.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::types::{Message, ResponseFormat};

/// The form a request asks for.
#[derive(Clone, Copy)]
pub(super) enum Form<'a> {
    Any,
    /// JSON, of this schema where there is one.
    Json(Option<&'a Value>),
}

/// Holds answers against schemas.
pub(super) trait SchemaCheck: Send + Sync {
    /// Whether this is JSON of this schema.
    fn fits(&self, schema: &Value, json: &str) -> bool;
}

impl<'a> Form<'a> {
    pub(super) fn asked(format: Option<&'a ResponseFormat>) -> Self {
        match format {
            None | Some(ResponseFormat::Text) => Self::Any,
            Some(ResponseFormat::JsonObject) => Self::Json(None),
            Some(ResponseFormat::JsonSchema { json_schema }) => Self::Json(json_schema.get("schema")),
            // One of these with fields beside those of OpenAI, such as `{"type": "json_object", "schema": …}`.
            Some(ResponseFormat::Other(other)) => match other["type"].as_str() {
                Some("json_object") => Self::Json(other.get("schema")),
                Some("json_schema") => Self::Json(other["json_schema"].get("schema").or_else(|| other.get("schema"))),
                _ => Self::Any,
            },
        }
    }

    /// Whether the message's text has this form; without a check, no schema is looked at.
    pub(super) fn is_met(self, message: &Message, check: Option<&dyn SchemaCheck>) -> bool {
        let Self::Json(schema) = self else { return true };
        let text = message.text();
        match (schema, check) {
            (Some(schema), Some(check)) => check.fits(schema, &text),
            _ => serde_json::from_str::<IgnoredAny>(&text).is_ok(),
        }
    }
}
