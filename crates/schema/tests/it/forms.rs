//! Objects of every kind through every form: what is written is read as it was, and bytes that somebody has changed are
//! read or refused, nothing else.

use proptest::collection::vec;
use proptest::prelude::*;
use schema::{FieldValidation, Schema, cbor, decode, protobuf, yaml_to_json};
use serde_json::Value;

use crate::sample::{Source, kinds, object};

/// Enough to fill a few branches of the largest kinds.
const BYTES: usize = 600;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..BYTES)
}

/// Changes to a body: places, and what is put there.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

fn changed(mut body: Vec<u8>, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(body.len());
        body[at] = *byte;
    }
    body
}

#[test]
fn most_kinds_are_drawn() {
    assert!(kinds().len() > 60, "{}", kinds().len());
    let drawn: std::collections::BTreeSet<String> =
        (0..=u16::MAX).step_by(7).map(|n| object(&mut Source::new(&n.to_be_bytes())).0.kind().kind).collect();
    assert!(drawn.len() > 60, "{drawn:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_is_read_as_it_was_written(bytes in bytes()) {
        let (schema, object) = object(&mut Source::new(&bytes));
        let read = decode(object.to_string().as_bytes(), &schema, FieldValidation::Strict);
        prop_assert_eq!(read.map(|read| read.value), Ok(object));
    }

    #[test]
    fn json_is_yaml(bytes in bytes()) {
        let (_, object) = object(&mut Source::new(&bytes));
        // Go's reader refuses a NUL in YAML even where it is escaped.
        let text = object.to_string();
        prop_assume!(!text.contains("\\u0000"));
        let read = yaml_to_json(text.as_bytes()).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Value>(&read.json).unwrap(), object);
    }

    #[test]
    fn protobuf_is_read_as_it_was_written(bytes in bytes()) {
        let (schema, object) = object(&mut Source::new(&bytes));
        let written = protobuf::encode(&object, &schema).unwrap();
        let read = protobuf::decode(&written, &schema).unwrap();
        prop_assert_eq!(&read, &object);
        prop_assert_eq!(protobuf::encode(&read, &schema).unwrap(), written);
    }

    #[test]
    fn cbor_is_read_as_it_was_written(bytes in bytes()) {
        let (schema, object) = object(&mut Source::new(&bytes));
        for schema in [Some(&schema), None] {
            let written = cbor::encode(&object, schema);
            prop_assert_eq!(cbor::decode(&written), Ok(object.clone()));
        }
    }

    #[test]
    fn changed_bytes_are_read_or_refused(bytes in bytes(), changes in changes()) {
        let (schema, object) = object(&mut Source::new(&bytes));
        let changed = |body: Vec<u8>| changed(body, &changes);
        if let Ok(json) = protobuf::to_json(&changed(protobuf::encode(&object, &schema).unwrap()), &schema) {
            read_again(&json, &schema)?;
        }
        if let Ok(json) = cbor::to_json(&changed(cbor::encode(&object, Some(&schema)))) {
            read_again(&json, &schema)?;
        }
        if let Ok(yaml) = yaml_to_json(&changed(object.to_string().into_bytes())) {
            read_again(&yaml.json, &schema)?;
        }
        read_again(&changed(object.to_string().into_bytes()), &schema)?;
    }
}

/// A body either is refused, or gives an object that every form can hold.
fn read_again(body: &[u8], schema: &Schema) -> Result<(), TestCaseError> {
    if let Ok(read) = decode(body, schema, FieldValidation::Ignore) {
        let written = protobuf::encode(&read.value, schema);
        prop_assert!(written.is_ok(), "{:?} of {}", written, read.value);
        prop_assert!(cbor::decode(&cbor::encode(&read.value, Some(schema))).is_ok());
    }
    Ok(())
}
