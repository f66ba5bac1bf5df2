//! Request bodies: JSON, YAML, protobuf and CBOR of every kind. The first two bytes choose the kind.

use schema::{FieldValidation, Schema, cbor, decode, decode_yaml, protobuf, yaml_to_json};
use serde_json::Value;

use crate::sample::{Source, kinds, object};

fn schema_and_body(data: &[u8]) -> Option<(Schema, &[u8])> {
    let (choice, body) = data.split_at_checked(2)?;
    let definition = kinds()[usize::from(u16::from_be_bytes([choice[0], choice[1]])) % kinds().len()];
    Some((Schema::BuiltIn(definition), body))
}

/// What is read has one form: it is read again as it is, and every other form can hold it.
fn is_canonical(body: &[u8], schema: &Schema) {
    let Ok(read) = decode(body, schema, FieldValidation::Ignore) else { return };
    let again = decode(read.value.to_string().as_bytes(), schema, FieldValidation::Strict);
    assert_eq!(again.map(|again| again.value), Ok(read.value.clone()));
    protobuf::encode(&read.value, schema).expect("what was read can be written");
    cbor::decode(&cbor::encode(&read.value, Some(schema))).expect("what was written can be read");
}

/// JSON, with and without strict validation.
pub fn json(data: &[u8]) {
    let Some((schema, body)) = schema_and_body(data) else { return };
    let ignored = decode(body, &schema, FieldValidation::Ignore);
    let warned = decode(body, &schema, FieldValidation::Warn);
    let strict = decode(body, &schema, FieldValidation::Strict);
    match (ignored, warned) {
        (Ok(ignored), Ok(warned)) => {
            assert_eq!(ignored.value, warned.value);
            assert_eq!(strict.is_ok(), warned.warnings.is_empty());
        }
        (ignored, warned) => assert_eq!(ignored.is_err(), warned.is_err()),
    }
    is_canonical(body, &schema);
}

/// YAML, with its aliases, merge keys and scalars.
pub fn yaml(data: &[u8]) {
    let Some((schema, body)) = schema_and_body(data) else { return };
    if let Ok(converted) = yaml_to_json(body) {
        serde_json::from_slice::<serde::de::IgnoredAny>(&converted.json).expect("what YAML becomes is JSON");
        let _ = decode_yaml(&converted, body, &schema, FieldValidation::Strict);
        is_canonical(&converted.json, &schema);
    }
}

/// Protobuf in its envelope.
pub fn protobuf(data: &[u8]) {
    let Some((schema, body)) = schema_and_body(data) else { return };
    if let Ok(json) = protobuf::to_json(body, &schema) {
        is_canonical(&json, &schema);
    }
}

/// CBOR.
pub fn cbor(data: &[u8]) {
    let Some((schema, body)) = schema_and_body(data) else { return };
    if let Ok(json) = cbor::to_json(body) {
        is_canonical(&json, &schema);
    }
}

/// Whether `back` is `object` again. A port that is 0 or "" may be missing: upstream's types have no pointer there, so that
/// protobuf has it also where there is none, and it is read as none.
fn is_again(back: &Value, object: &Value) -> bool {
    match (back, object) {
        (Value::Object(back), Value::Object(object)) => {
            let unset = |name: &str, value: &Value| {
                matches!(name, "port" | "targetPort") && (*value == 0 || *value == "")
            };
            back.keys().all(|name| object.contains_key(name))
                && object.iter().all(|(name, value)| match back.get(name) {
                    Some(back) => is_again(back, value),
                    None => unset(name, value),
                })
        }
        (Value::Array(back), Value::Array(object)) => {
            back.len() == object.len() && back.iter().zip(object).all(|(back, object)| is_again(back, object))
        }
        _ => back == object,
    }
}

/// Whole objects, which every form gives back as they were.
pub fn forms(data: &[u8]) {
    let (schema, object) = object(&mut Source::new(data));
    let written = protobuf::encode(&object, &schema).expect("an object can be written");
    let decoded = protobuf::decode(&written, &schema).expect("what was written can be read");
    assert!(is_again(&decoded, &object), "{decoded} of {object}");
    let again = protobuf::encode(&decoded, &schema).expect("what was read can be written");
    assert_eq!(protobuf::decode(&again, &schema).as_ref(), Ok(&decoded));
    assert_eq!(cbor::decode(&cbor::encode(&object, Some(&schema))).as_ref(), Ok(&object));
    let yaml = yaml_to_json(object.to_string().replace("\\u0000", "").as_bytes());
    yaml.expect("JSON is YAML");
}
