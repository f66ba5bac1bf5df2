//! The canonical bytes of an object, and the few facts that are read back out of them.
//!
//! An object is stored as JSON with sorted keys in which `metadata.resourceVersion` is a hole that the
//! store fills with the revision of the write ([`Encoded`]); those very bytes are cached, listed and
//! watched. [`Extractor`] reads labels and selectable fields without building a tree of the object.
//! Not here: decoding of what clients send (`schema`), other encodings (`output`).

mod extract;

use bytes::{BufMut, Bytes, BytesMut};
use schema::json;
use serde_json::Value;
use store::PutValue;

pub use extract::{Extractor, Facts};

/// An object's canonical JSON around the decimal of its resourceVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Everything up to and including the opening quote of the resourceVersion.
    pub head: Bytes,
    /// The closing quote and the rest.
    pub tail: Bytes,
}

impl Encoded {
    /// Encodes `object`, leaving out whatever resourceVersion it carries.
    pub fn new(object: &Value) -> Self {
        let mut out = Vec::with_capacity(1024);
        let mut hole = 0;
        let empty = serde_json::Map::new();
        let members = object.as_object().unwrap_or(&empty);
        out.push(b'{');
        let mut first = true;
        let mut seen = false;
        for (key, value) in members {
            separate(&mut out, &mut first);
            json::write_string(&mut out, key);
            out.push(b':');
            if key == "metadata" {
                seen = true;
                hole = metadata(&mut out, value);
            } else {
                json::write(&mut out, value);
            }
        }
        if !seen {
            separate(&mut out, &mut first);
            out.extend_from_slice(b"\"metadata\":");
            hole = metadata(&mut out, &Value::Null);
        }
        out.push(b'}');
        let mut head = Bytes::from(out);
        let tail = head.split_off(hole);
        Self { head, tail }
    }

    /// The form in which the store fills in the revision itself.
    pub fn into_put(self) -> PutValue {
        PutValue::Stamped { head: self.head, tail: self.tail }
    }

    /// The bytes with `revision` filled in: what the store holds after a write at that revision.
    pub fn stamp(&self, revision: u64) -> Bytes {
        let digits = revision.to_string();
        let mut out = BytesMut::with_capacity(self.head.len() + digits.len() + self.tail.len());
        out.put(self.head.as_ref());
        out.put(digits.as_bytes());
        out.put(self.tail.as_ref());
        out.freeze()
    }
}

/// The JSON of `object` with `revision` as its resourceVersion.
pub fn with_revision(object: &[u8], revision: u64) -> Bytes {
    match serde_json::from_slice::<Value>(object) {
        Ok(value) => Encoded::new(&value).stamp(revision),
        // What does not parse was not written by us; it is passed on as it is.
        Err(_) => Bytes::copy_from_slice(object),
    }
}

/// Whether JSON, if that is what the bytes are, is an object: no text, number, list or null.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

/// Compact JSON of a value.
pub fn to_json(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(256);
    json::write(&mut out, value);
    out.into()
}

fn metadata(out: &mut Vec<u8>, value: &Value) -> usize {
    const KEY: &str = "resourceVersion";
    let empty = serde_json::Map::new();
    let members = value.as_object().unwrap_or(&empty);
    let mut hole = None;
    let mut first = true;
    out.push(b'{');
    for (key, value) in members {
        if key == KEY {
            continue;
        }
        if hole.is_none() && key.as_str() > KEY {
            hole = Some(resource_version(out, &mut first));
        }
        separate(out, &mut first);
        json::write_string(out, key);
        out.push(b':');
        json::write(out, value);
    }
    let hole = hole.unwrap_or_else(|| resource_version(out, &mut first));
    out.push(b'}');
    hole
}

fn resource_version(out: &mut Vec<u8>, first: &mut bool) -> usize {
    separate(out, first);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let hole = out.len();
    out.push(b'"');
    hole
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_is_filled_into_its_sorted_place() {
        let table = [
            (json!({"kind": "A"}), r#"{"kind":"A","metadata":{"resourceVersion":"7"}}"#),
            (
                json!({"kind": "A", "metadata": {"name": "n", "uid": "u", "resourceVersion": "3"}, "spec": {}}),
                r#"{"kind":"A","metadata":{"name":"n","resourceVersion":"7","uid":"u"},"spec":{}}"#,
            ),
            (json!({"metadata": {"uid": "u"}}), r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#),
        ];
        for (object, want) in table {
            assert_eq!(Encoded::new(&object).stamp(7), want);
        }
    }

    #[test]
    fn restamping_keeps_everything_else() {
        let bytes =
            Encoded::new(&json!({"data": {"resourceVersion": "7"}, "metadata": {"name": "n"}})).stamp(7);
        let again = with_revision(&bytes, 9);
        assert_eq!(
            again,
            r#"{"data":{"resourceVersion":"7"},"metadata":{"name":"n","resourceVersion":"9"}}"#
        );
    }
}
