//! The patches: JSON (RFC 6902), merge (RFC 7386), strategic merge and server-side apply.
//! Reads a document and a patch, gives the patched document. [`parse`] reads the body, [`decode`] makes an object of
//! the outcome; both word their errors as upstream does, which differs from the wording for whole objects.
//! Not here: storing, retrying on conflict, admission (apiserver).
//! Upstream: apiserver `pkg/endpoints/handlers/patch.go`, evanphx/json-patch v4.

pub mod apply;
mod json;
pub mod strategic;

use api::{GroupKind, Status, field};
use serde_json::{Map, Value};

pub use self::json::{MAX_COPIED_BYTES, MAX_OPERATIONS, json_patch};
use crate::decode::{Decoded, FieldValidation, Findings, read_value};
use crate::json::Reader;
use crate::{Schema, decode as objects};

/// Parses the body of a patch. Fields given twice are refused or come back as warnings.
pub fn parse(body: &[u8], mode: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let mut findings = Findings::new(mode != FieldValidation::Ignore);
    let patch = read_value(&mut Reader::new(body), &mut findings)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let prefix = if patch.is_array() { "json patch " } else { "" };
    let found: Vec<String> =
        findings.into_found().into_iter().map(|finding| format!("{prefix}{finding}")).collect();
    if mode == FieldValidation::Strict && !found.is_empty() {
        return Err(refuse(&String::from_utf8_lossy(body), &found));
    }
    Ok((patch, found))
}

/// Makes an object of a patched document. What does not fit the schema is 422 `Invalid`, unlike in a whole object.
pub fn decode(patched: &Value, schema: &Schema, mode: FieldValidation) -> Result<Decoded, Status> {
    decode_showing(patched, schema, mode, |text| String::from_utf8_lossy(text).into_owned())
}

/// As [`decode`], of what a strategic merge patch left: its errors show the patch, and nothing of the object.
pub fn decode_strategic(
    patched: &Value,
    patch: &Value,
    schema: &Schema,
    mode: FieldValidation,
) -> Result<Decoded, Status> {
    decode_showing(patched, schema, mode, |_| {
        let mut shown = String::new();
        print_as_go(&mut shown, patch);
        shown
    })
}

fn decode_showing(
    patched: &Value,
    schema: &Schema,
    mode: FieldValidation,
    shown: impl Fn(&[u8]) -> String,
) -> Result<Decoded, Status> {
    let text = serde_json::to_vec(patched).map_err(Status::internal)?;
    match objects::read(&text, schema, mode != FieldValidation::Ignore) {
        Ok((_, found)) if mode == FieldValidation::Strict && !found.is_empty() => {
            Err(refuse(&shown(&text), &found))
        }
        Ok((value, warnings)) => Ok(Decoded { value, warnings }),
        Err(error) => Err(invalid(&shown(&text), error)),
    }
}

/// Prints a value as Go prints the maps and lists that it is there: `map[a:[1 b] c:<nil>]`. As deep as the patch, whose
/// nesting [`parse`] bounds.
fn print_as_go(out: &mut String, value: &Value) {
    let separate = |out: &mut String, at: usize| out.push_str(if at > 0 { " " } else { "" });
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(out, at);
                print_as_go(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push_str("map[");
            for (at, (name, field)) in fields.into_iter().enumerate() {
                separate(out, at);
                out.push_str(name);
                out.push(':');
                print_as_go(out, field);
            }
            out.push(']');
        }
    }
}

fn refuse(text: &str, found: &[String]) -> Status {
    invalid(text, format!("strict decoding error: {}", found.join(", ")))
}

/// 422: this is what the patch leaves, and it is none of the resource's objects.
pub fn unfit(patched: &Value, error: String) -> Status {
    invalid(&patched.to_string(), error)
}

fn invalid(text: &str, error: String) -> Status {
    Status::invalid(
        &GroupKind::new("", ""),
        "",
        vec![field::invalid(&field::Path::new("patch"), text, error)],
    )
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(document: Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("Invalid JSON Patch"));
    }
    let mut document = document;
    merge(&mut document, patch);
    Ok(document)
}

/// Bounded by the nesting of the patch, which [`parse`] bounds.
fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(object) = document else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests;
