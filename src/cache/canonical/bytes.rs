//! The parts every canonical form is written with: tags, numbers, length-prefixed texts and lists, JSON.

use serde_json::Value;

use crate::types::Extra;

pub(super) struct Canonical<'a>(pub(super) &'a mut Vec<u8>);

impl Canonical<'_> {
    pub(super) fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    pub(super) fn len(&mut self, len: usize) {
        self.0.extend_from_slice(&(len as u64).to_le_bytes());
    }

    pub(super) fn str(&mut self, text: &str) {
        self.len(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn i64(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn f64(&mut self, number: f64) {
        // Adding zero turns -0.0 into 0.0.
        self.0.extend_from_slice(&(number + 0.0).to_bits().to_le_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.tag(0),
            Some(value) => {
                self.tag(1);
                write(self, value);
            }
        }
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.len(items.len());
        for item in items {
            write(self, item);
        }
    }

    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(0),
            Value::Bool(flag) => {
                self.tag(1);
                self.tag(u8::from(*flag));
            }
            Value::Number(number) => {
                if let Some(number) = number.as_i64() {
                    self.tag(2);
                    self.i64(number);
                } else if let Some(number) = number.as_u64() {
                    self.tag(3);
                    self.0.extend_from_slice(&number.to_le_bytes());
                } else {
                    // Beyond i64 and u64 only a float is left, or a number kept as text by `arbitrary_precision`.
                    self.tag(4);
                    let text = number.to_string();
                    self.str(if text == "-0.0" { "0.0" } else { &text });
                }
            }
            Value::String(text) => {
                self.tag(5);
                self.str(text);
            }
            Value::Array(items) => {
                self.tag(6);
                self.list(items, Self::value);
            }
            Value::Object(map) => {
                self.tag(7);
                self.extra(map);
            }
        }
    }

    pub(super) fn extra(&mut self, map: &Extra) {
        self.extra_without(map, &[]);
    }

    pub(super) fn extra_without(&mut self, map: &Extra, left_out: &[&str]) {
        if map.is_empty() {
            return self.len(0);
        }
        let mut fields: Vec<_> = map.iter().filter(|(name, _)| !left_out.contains(&name.as_str())).collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        self.list(&fields, |out, (name, value)| {
            out.str(name);
            out.value(value);
        });
    }
}
