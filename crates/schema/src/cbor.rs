//! Objects as CBOR: `application/cbor`, both ways.
//!
//! Written deterministically: definite lengths, keys in bytewise order, floats as short as they can be, texts as byte
//! strings, and byte fields as byte strings under tag 22 (base64 is meant), all behind the tag that says «this is CBOR».
//! Not here: what is asked for (apiserver's `negotiation`), the sequences of watches (each event is one such item).
//! Upstream: apimachinery `pkg/runtime/serializer/cbor`; RFC 8949.

mod read;
mod write;

use api::Status;
use serde_json::Value;

use crate::Schema;

/// The media type.
pub const MEDIA_TYPE: &str = "application/cbor";

/// The media type of a watch: one item after the other.
pub const WATCH_MEDIA_TYPE: &str = "application/cbor-seq";

/// Tag 55799, which means nothing but that CBOR follows.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// Items nest no deeper (upstream's MaxNestedLevels).
const DEPTH: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The body ends inside an item.
    #[error("unexpected EOF")]
    End,
    /// Something follows the item.
    #[error("cbor: {0} bytes of extraneous data starting at index {1}")]
    Extra(usize, usize),
    /// Nested too deeply.
    #[error("cbor: exceeded max nested level {DEPTH}")]
    Depth,
    /// Lengths must be given beforehand.
    #[error("cbor: indefinite-length items are not allowed")]
    Indefinite,
    /// A text is not UTF-8.
    #[error("cbor: invalid UTF-8 string")]
    Text,
    /// A key occurs twice.
    #[error("cbor: found duplicate map key {0:?}")]
    Duplicate(String),
    /// A key is no text.
    #[error("cbor: map keys must be strings")]
    Key,
    /// An item that JSON has no counterpart of.
    #[error("cbor: unsupported item 0x{0:02x}")]
    Item(u8),
    /// A tag that is not understood, or not around what it belongs to.
    #[error("cbor: unsupported tag {0}")]
    Tag(u64),
    /// A whole number of more than 63 bits, or a number that is none.
    #[error("cbor: number cannot be represented")]
    Number,
}

/// The value as one item. A schema tells which texts are bytes.
pub fn encode(value: &Value, schema: Option<&Schema>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&SELF_DESCRIBED);
    let definition = match schema {
        Some(Schema::BuiltIn(definition)) => Some(*definition),
        _ => None,
    };
    write::object(&mut out, value, definition);
    out
}

/// One event of a watch.
pub fn watch_event(event: &str, object: &Value, schema: Option<&Schema>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&SELF_DESCRIBED);
    write::event(&mut out, event, &encode(object, schema));
    out
}

/// The one value in a body.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    read::whole(body)
}

/// The JSON of a request's body.
pub fn to_json(body: &[u8]) -> Result<Vec<u8>, Status> {
    let value = decode(body).map_err(|error| Status::bad_request(error.to_string()))?;
    serde_json::to_vec(&value).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn values_have_one_form() {
        #[rustfmt::skip]
        let table = [
            (json!(null), "f6"), (json!(true), "f5"), (json!(false), "f4"),
            (json!(0), "00"), (json!(23), "17"), (json!(24), "1818"), (json!(256), "190100"), (json!(-1), "20"),
            (json!(-257), "390100"), (json!(4_294_967_296_i64), "1b0000000100000000"),
            (json!(1.5), "f93e00"), (json!(100_000.5), "fa47c35040"), (json!(1.1), "fb3ff199999999999a"),
            (json!(5.960_464_477_539_063e-8), "f90001"), (json!(65_504.0), "f97bff"), (json!(65_536.0), "fa47800000"),
            (json!(""), "40"), (json!("abc"), "43616263"),
            (json!([1, [2]]), "82018102"),
            // The shorter key comes first: its head is the smaller.
            (json!({"bb": 1, "c": 2, "a": 3}), "a341610341630242626201"),
        ];
        for (value, expected) in table {
            let encoded = encode(&value, None);
            assert_eq!(hex(&encoded), format!("d9d9f7{expected}"), "{value}");
            assert_eq!(decode(&encoded), Ok(value));
        }
    }

    #[test]
    fn byte_fields_are_bytes() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "AP8="}});
        let schema = Schema::built_in("io.k8s.api.core.v1.Secret").unwrap();
        let encoded = encode(&secret, Some(&schema));
        assert!(hex(&encoded).contains("416bd64200ff"), "{}", hex(&encoded));
        assert_eq!(decode(&encoded), Ok(secret));
    }

    #[test]
    fn other_forms_are_read_or_refused() {
        let item = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        #[rustfmt::skip]
        let good = [
            ("63616263", json!("abc")), ("d9d9f763616263", json!("abc")), ("a1616101", json!({"a": 1})),
            ("c074323030362d30312d30325430333a30343a30355a", json!("2006-01-02T03:04:05Z")),
            ("c100", json!("1970-01-01T00:00:00Z")), ("d54100", json!("AA")), ("d741ff", json!("FF")),
        ];
        for (text, value) in good {
            assert_eq!(decode(&item(text)), Ok(value), "{text}");
        }
        #[rustfmt::skip]
        let bad = [
            ("", Error::End), ("18", Error::End), ("43", Error::End), ("9b7fffffffffffffff", Error::End),
            ("0000", Error::Extra(1, 1)), ("9fff", Error::Indefinite), ("7fff", Error::Indefinite),
            ("61ff", Error::Text), ("a2410100410100", Error::Duplicate("\u{1}".into())), ("a10000", Error::Key),
            ("f7", Error::Item(0xf7)), ("1c", Error::Item(0x1c)), ("c24101", Error::Tag(2)),
            ("1bffffffffffffffff", Error::Number), ("f97c00", Error::Number),
        ];
        for (text, error) in bad {
            assert_eq!(decode(&item(text)), Err(error), "{text}");
        }
        assert_eq!(decode(&vec![0x81; 1_000_000]), Err(Error::Depth));
        assert_eq!(decode(&vec![0xc6; 1_000_000]), Err(Error::Tag(6)));
    }

    #[test]
    fn events_hold_their_object_whole() {
        let event = watch_event("ADDED", &json!({"a": 1}), None);
        assert_eq!(decode(&event), Ok(json!({"type": "ADDED", "object": {"a": 1}})));
    }
}
