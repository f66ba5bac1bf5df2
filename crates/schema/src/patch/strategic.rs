//! Strategic merge patches: maps merge, lists merge or are replaced as the schema says, directives say the rest.
//! Directives: `$patch: replace|delete`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
//! Not here: making patches (clients do), custom resources (upstream offers them no strategic merge).
//! Upstream: apimachinery `pkg/util/strategicpatch`.

mod list;

use std::collections::BTreeSet;

use api::Status;
use serde_json::{Map, Value};

use super::json::unprocessable;
use crate::Schema;
use crate::table::{Merge, Type, table};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";

/// Why a patch cannot be applied; the wording is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Error {
    #[error("invalid JSON document")]
    BadDocument,
    #[error("invalid patch format of primitive list")]
    PrimitiveListFormat,
    #[error("invalid patch format of retainKeys")]
    RetainKeysFormat,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrderFormat,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("unknown patch type: {directive} in map: {map}")]
    PatchType { directive: String, map: String },
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("expected a {expected}, but received a {actual}")]
    ArgumentType { expected: &'static str, actual: &'static str },
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("cannot merge lists without merge key for type {0}")]
    UndeclaredMergeKey(&'static str),
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirective,
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { patch: String, order: String },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::BadDocument
            | Error::PrimitiveListFormat
            | Error::RetainKeysFormat
            | Error::SetElementOrderFormat => Status::bad_request(error.to_string()),
            Error::ListOfLists => unprocessable(),
            // Upstream has no class for the others, which makes them internal errors.
            _ => Status::internal(error),
        }
    }
}

/// Applies a strategic merge patch.
pub fn apply(document: Value, patch: &Value, schema: &Schema) -> Result<Value, Status> {
    let Schema::BuiltIn(definition) = schema else {
        return Err(Status::unsupported_media_type("strategic merge patch format is not supported"));
    };
    let (Value::Object(document), Value::Object(patch)) = (document, patch) else {
        return Err(Error::BadDocument.into());
    };
    let r#type = table().reference(definition.name).map(Type::Definition);
    Ok(Value::Object(merge_map(document, patch.clone(), r#type.as_ref())?))
}

/// What the schema says of a member: its type and how it merges. Maps lend their type to every member.
fn member<'a>(r#type: Option<&'a Type>, key: &str) -> (Option<&'a Type>, Option<&'a Merge>) {
    match r#type {
        Some(Type::Definition(reference)) => {
            let field = table().get(*reference).field(key);
            (field.map(|field| &field.r#type), field.map(|field| &field.merge))
        }
        Some(Type::Map(element)) => (Some(element), None),
        _ => (None, None),
    }
}

/// Recursion is bounded by the nesting of the patch, which `patch::parse` bounds.
fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    r#type: Option<&Type>,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(patch_type(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    list::merge_ordered(&mut original, &mut patch, r#type)?;
    for (key, value) in patch {
        let (name, delete) = match key.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
            Some(rest) => (rest.strip_prefix('/').ok_or(Error::PrimitiveListFormat)?.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let Some(current) = original.get_mut(&name).filter(|current| same_type(current, &value)) else {
            if !delete {
                match without_directives(without_nulls(value)) {
                    Some(value) => drop(original.insert(name, value)),
                    None => drop(original.remove(&name)),
                }
            }
            continue;
        };
        let (r#type, rules) = member(r#type, &name);
        match (current, value) {
            (Value::Object(current), Value::Object(value)) => {
                *current = if rules.is_some_and(|rules| rules.patch_replace) {
                    value
                } else {
                    merge_map(std::mem::take(current), value, r#type)?
                };
            }
            (Value::Array(current), Value::Array(value)) => {
                *current = list::merge(std::mem::take(current), value, r#type, rules, delete)?;
            }
            (current, value) => *current = value,
        }
    }
    Ok(original)
}

fn patch_type(directive: &Value, map: &Map<String, Value>) -> Error {
    Error::PatchType { directive: go_format(directive), map: go_format_map(map) }
}

/// `$retainKeys`: everything else goes, and the patch must not name anything else.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or(Error::RetainKeysFormat)?;
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (key, value) in patch.iter() {
        let parallel = key.starts_with(DELETE_FROM_PRIMITIVE_LIST) || key.starts_with(SET_ELEMENT_ORDER);
        if !value.is_null() && !parallel && !keys.contains(key.as_str()) {
            return Err(Error::RetainKeysFormat);
        }
    }
    original.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// The value without nulls in its maps. Nulls in lists stay.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The value without the maps that carry `$patch`: where there is nothing to merge with, they mean nothing.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) if object.contains_key(PATCH) => None,
        Value::Object(object) => Some(Value::Object(
            object.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?))).collect(),
        )),
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn same_type(left: &Value, right: &Value) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right)
}

/// What Go calls the type of a value that was read from JSON.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` prints it.
fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => go_format_list(list),
        Value::Object(map) => go_format_map(map),
        other => other.to_string(),
    }
}

fn go_format_list(list: &[Value]) -> String {
    format!("[{}]", list.iter().map(go_format).collect::<Vec<_>>().join(" "))
}

fn go_format_map(map: &Map<String, Value>) -> String {
    let mut entries: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}:{}", go_format(value))).collect();
    entries.sort();
    format!("map[{}]", entries.join(" "))
}

#[cfg(test)]
mod tests;
