//! OpenAPI v2 in the protobuf form that clients ask for.
//! Reads the JSON document that [`super::v2`] makes and writes the messages of gnostic's `openapi.v2`, as far as such
//! documents need them. Vendor extensions hold their value as YAML, of which JSON is a part.
//! Upstream: gnostic-models `openapiv2/OpenAPIv2.proto`, from which the field numbers are.

use serde_json::{Map, Value};

/// The bytes of one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u64, flag: bool) {
        if flag {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

/// An OpenAPI v2 document in gnostic's protobuf form
/// (`application/com.github.proto-openapi.spec.v2.v1.0+protobuf`).
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, text(document, "swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Message::default();
        message.text(1, text(info, "title"));
        message.text(2, text(info, "version"));
        out.message(2, &message);
    }
    let mut paths = Message::default();
    for (path, item) in members(document, "paths") {
        paths.message(2, &named(path, &path_item(item)));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in members(document, "definitions") {
        definitions.message(1, &named(name, &schema(definition)));
    }
    out.message(9, &definitions);
    let mut parameters = Message::default();
    for (name, shared) in members(document, "parameters") {
        parameters.message(1, &named(name, &parameter(shared)));
    }
    out.message(10, &parameters);
    out.0
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn members<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn elements<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn texts<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    elements(value, key).filter_map(Value::as_str)
}

/// Maps are lists of names and values.
fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.text(1, name);
    message.message(2, value);
    message
}

/// Members that begin with `x-`, as `NamedAny` in this field.
fn extensions(out: &mut Message, field: u64, value: &Value) {
    let Some(object) = value.as_object() else { return };
    for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Message::default();
        any.text(2, &value.to_string());
        out.message(field, &named(name, &any));
    }
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(found) = item.get(method) {
            message.message(field, &operation(found));
        }
    }
    for given in elements(item, "parameters") {
        message.message(9, &parameters_item(given));
    }
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    for tag in texts(operation, "tags") {
        message.text(1, tag);
    }
    message.text(5, text(operation, "operationId"));
    for media in texts(operation, "produces") {
        message.text(6, media);
    }
    for media in texts(operation, "consumes") {
        message.text(7, media);
    }
    for given in elements(operation, "parameters") {
        message.message(8, &parameters_item(given));
    }
    let mut responses = Message::default();
    for (code, response) in members(operation, "responses") {
        let mut inner = Message::default();
        inner.text(1, text(response, "description"));
        if let Some(found) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(found));
            inner.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &inner);
        responses.message(1, &named(code, &value));
    }
    message.message(9, &responses);
    for scheme in texts(operation, "schemes") {
        message.text(10, scheme);
    }
    extensions(&mut message, 13, operation);
    message
}

fn parameters_item(given: &Value) -> Message {
    let mut message = Message::default();
    match given.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let mut inner = Message::default();
            inner.text(1, reference);
            message.message(2, &inner);
        }
        None => message.message(1, &parameter(given)),
    }
    message
}

fn parameter(given: &Value) -> Message {
    let mut message = Message::default();
    let place = text(given, "in");
    if place == "body" {
        let mut body = Message::default();
        body.text(2, text(given, "name"));
        body.text(3, place);
        body.flag(4, flag(given, "required"));
        if let Some(found) = given.get("schema") {
            body.message(5, &schema(found));
        }
        message.message(1, &body);
        return message;
    }
    // The two sub-schemas differ by one field in the middle, which shifts the later numbers.
    let (kind, shift) = if place == "path" { (4, 0) } else { (3, 1) };
    let mut inner = Message::default();
    inner.flag(1, flag(given, "required"));
    inner.text(2, place);
    inner.text(4, text(given, "name"));
    inner.text(5 + shift, text(given, "type"));
    inner.flag(19 + shift, flag(given, "uniqueItems"));
    let mut other = Message::default();
    other.message(kind, &inner);
    message.message(2, &other);
    message
}

/// Recursion is bounded: definitions refer to each other by name.
fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, text(value, "$ref"));
    message.text(2, text(value, "format"));
    message.text(4, text(value, "description"));
    for name in texts(value, "required") {
        message.text(19, name);
    }
    if let Some(inner) = value.get("additionalProperties") {
        let mut item = Message::default();
        match inner.as_bool() {
            Some(allowed) => item.flag(2, allowed),
            None => item.message(1, &schema(inner)),
        }
        message.message(21, &item);
    }
    if let Some(name) = value.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.text(1, name);
        message.message(22, &item);
    }
    if let Some(inner) = value.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        message.message(23, &item);
    }
    if value.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, property) in members(value, "properties") {
            properties.message(1, &named(name, &schema(property)));
        }
        message.message(25, &properties);
    }
    extensions(&mut message, 31, value);
    message
}
