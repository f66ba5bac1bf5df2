//! JSON as values: by its structural schema, or as it comes.
//! Property names are escaped as upstream escapes those that are no CEL identifiers.
//! Upstream: apiserver `pkg/cel/common/values.go`, `pkg/cel/escaping.go`.

use base64::Engine as _;
use serde_json::{Map as Object, Value as Json};

use super::{Error, List, Map, Result, Value};
use crate::cel::escape::{escape, unescape};
use crate::cel::functions::time;
use crate::structural::{Node, Shape};

/// A JSON value without a schema.
pub fn from_json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Double(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::borrowed(text),
        Json::Array(list) => Value::List(List::Json(list, None)),
        Json::Object(object) => Value::Map(Map::Json(object, None)),
    }
}

/// A JSON value by its schema, where there is one.
pub(crate) fn from_node<'a>(json: &'a Json, node: Option<&'a Node>) -> Result<Value<'a>> {
    let Some(node) = node else { return Ok(from_json(json)) };
    Ok(match (json, node.shape()) {
        (Json::Null, _) => Value::Null,
        (Json::Object(object), _) => Value::Map(Map::Json(object, Some(node))),
        (Json::Array(list), _) => Value::List(List::Json(list, Some(node))),
        (Json::Number(number), Shape::Number) => Value::Double(number.as_f64().unwrap_or_default()),
        (Json::Number(number), Shape::Integer) if number.as_i64().is_none() => {
            // Upstream's decoder gives whole floats to fields of integers.
            Value::Int(number.as_f64().unwrap_or_default() as i64)
        }
        (Json::String(text), Shape::Bytes) => match base64(text) {
            Some(bytes) => Value::Bytes(bytes.into()),
            None => {
                return Err(Error::failed(format!(
                    "Failed to base64 decode byte formatted string field: {text}"
                )));
            }
        },
        (Json::String(text), Shape::Duration) => match time::parse_duration(text) {
            Some(duration) => Value::Duration(duration),
            None => return Err(Error::failed(format!("Invalid duration {text}"))),
        },
        (Json::String(text), Shape::Date) => match time::parse_timestamp(&format!("{text}T00:00:00Z")) {
            Some(moment) => Value::Timestamp(moment),
            None => return Err(Error::failed(format!("Invalid date formatted string {text}"))),
        },
        (Json::String(text), Shape::DateTime) => match time::parse_timestamp(text) {
            Some(moment) => Value::Timestamp(moment),
            None => return Err(Error::failed(format!("Invalid date-time formatted string {text}"))),
        },
        _ => from_json(json),
    })
}

fn base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// A member of an object. Fields of objects have escaped names, entries of maps their own.
pub(super) fn member<'a>(
    object: &'a Object<String, Json>,
    node: Option<&'a Node>,
    name: &str,
) -> Result<Option<Value<'a>>> {
    let Some(node) = node else { return Ok(object.get(name).map(from_json)) };
    if node.has_properties() || node.is_resource() {
        let property = unescape(name);
        let Some(value) = object.get(property.as_ref()) else { return Ok(None) };
        return match node.member(&property) {
            Some(schema) => from_node(value, Some(schema)).map(Some),
            None if node.is_resource() && matches!(&*property, "apiVersion" | "kind" | "metadata") => {
                Ok(Some(from_json(value)))
            }
            None => Ok(None),
        };
    }
    object.get(name).map(|value| from_node(value, node.member(name))).transpose()
}

/// The keys that [`member`] knows.
pub(super) fn keys<'a>(object: &'a Object<String, Json>, node: Option<&'a Node>) -> Vec<Value<'a>> {
    match node {
        Some(node) if node.has_properties() => object
            .keys()
            .filter(|name| node.member(name).is_some())
            .filter_map(|name| escape(name))
            .map(Value::text)
            .collect(),
        _ => object.keys().map(|name| Value::borrowed(name)).collect(),
    }
}
