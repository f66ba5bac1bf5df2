//! Structurality: types are said outside of `allOf`, `anyOf`, `oneOf` and `not`, once for every field.
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema/{convert,validation,complete}.go`.

use api::field::{self, ErrorList, Path};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{MOST_ERRORS, elements, flag, is_zero, items, member, members, text, values};

/// Where in a schema a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Whether a schema uses nothing that a structural one has no place for; else what it is.
pub(super) fn convertible(schema: &Value) -> Result<(), &'static str> {
    for (key, message) in [
        ("id", "OpenAPIV3Schema 'id' is not supported"),
        ("$schema", "OpenAPIV3Schema 'schema' is not supported"),
        ("$ref", "OpenAPIV3Schema '$ref' is not supported"),
        ("patternProperties", "OpenAPIV3Schema 'patternProperties' is not supported"),
        ("dependencies", "OpenAPIV3Schema 'dependencies' is not supported"),
        ("definitions", "OpenAPIV3Schema 'definitions' is not supported"),
    ] {
        if schema.get(key).is_some_and(|value| !is_zero(value)) {
            return Err(message);
        }
    }
    if member(schema, "additionalItems").is_some() {
        return Err("OpenAPIV3Schema 'additionalItems' is not supported");
    }
    if let Some(not) = member(schema, "not") {
        convertible(not)?;
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        elements(schema, key).iter().try_for_each(convertible)?;
    }
    values(schema).map_or(Ok(()), convertible)?;
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Err("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined");
    }
    if !elements(schema, "items").is_empty() {
        return Err("OpenAPIV3Schema 'items' must be a schema, but is an array");
    }
    items(schema).map_or(Ok(()), convertible)?;
    members(schema, "properties").try_for_each(|(_, property)| convertible(property))
}

/// Why a convertible schema is not structural, sorted by text.
pub(super) fn errors(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// Recursion is bounded by the nesting of the definition, which decoding bounds.
fn invariants(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    if errors.len() >= MOST_ERRORS {
        return;
    }
    let kind = text(schema, "type");
    if kind == "array" && items(schema).is_none() {
        errors.push(field::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = items(schema) {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in members(schema, "properties") {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    if member(schema, "additionalProperties").is_some() {
        let path = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(field::forbidden(&path, "must not be used at the root"));
        }
        if let Some(values) = values(schema) {
            invariants(values, Level::Field, &path, errors);
        }
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if int_or_string && flag(schema, key) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.push(field::invalid(&path.child(key), true, detail));
        }
    }
    let any = is_int_or_string(schema);
    let first = elements(schema, "allOf").first().is_some_and(is_int_or_string);
    validations(schema, any, first, path, errors);
    resource(schema, level, path, errors);

    let at = path.child("type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => field::required(&at, detail),
            kind => field::invalid(&at, kind, detail),
        });
    } else if kind.is_empty() && !int_or_string && !preserves {
        errors.push(field::required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ));
    }
    if embedded && member(schema, "additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(field::forbidden(&path.child("additionalProperties"), detail));
    }
    if level == Level::Root && !matches!(kind, "" | "object") {
        errors.push(field::invalid(&at, kind, "must be object at the root"));
    }
    if embedded && !preserves && members(schema, "properties").next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(field::required(&path.child("properties"), detail));
    }
}

/// The fields that every resource has, where they are named.
fn resource(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    let is_resource = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    for (name, kind, detail) in [
        ("kind", "string", "must be string"),
        ("apiVersion", "string", "must be string"),
        ("metadata", "object", "must be object"),
    ] {
        let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) else {
            continue;
        };
        let at = path.child("properties").key(name);
        if is_resource && text(property, "type") != kind {
            errors.push(field::invalid(&at.child("type"), text(property, "type"), detail));
        }
        if name == "metadata" && level == Level::Root && restricts_more_than_names(property) {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(field::forbidden(&at, detail));
        }
    }
}

/// Whether the schema of metadata says more than its type, a default (refused elsewhere) and how names look.
fn restricts_more_than_names(metadata: &Value) -> bool {
    let empty = Map::new();
    let said = metadata.as_object().unwrap_or(&empty);
    said.iter().any(|(key, value)| match key.as_str() {
        "type" | "default" | "externalDocs" | "example" => false,
        "properties" => {
            members(metadata, "properties").any(|(name, _)| !matches!(name.as_str(), "name" | "generateName"))
        }
        _ => !is_zero(value),
    })
}

/// `anyOf` an integer or a string and nothing else, the one place where types may be nested.
fn is_int_or_string(schema: &Value) -> bool {
    schema.get("anyOf") == Some(&json!([{"type": "integer"}, {"type": "string"}]))
}

/// What only bounds values: the keywords under which structure may not be repeated. `any`, `first`: whether `anyOf`, or
/// that of the first of `allOf`, is [`is_int_or_string`].
fn validations(schema: &Value, any: bool, first: bool, path: &Path, errors: &mut ErrorList) {
    if errors.len() >= MOST_ERRORS {
        return;
    }
    if !any {
        for (index, one) in elements(schema, "anyOf").iter().enumerate() {
            nested(one, false, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, one) in elements(schema, "allOf").iter().enumerate() {
        nested(one, first && index == 0, &path.child("allOf").index(index), errors);
    }
    for (index, one) in elements(schema, "oneOf").iter().enumerate() {
        nested(one, false, &path.child("oneOf").index(index), errors);
    }
    if let Some(not) = member(schema, "not") {
        nested(not, false, &path.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if let Err(error) = Regex::new(pattern) {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let detail = format!("must be a valid regular expression, but isn't: error parsing regexp: {reason}");
        errors.push(field::invalid(&path.child("pattern"), pattern, detail));
    }
}

fn nested(schema: &Value, any: bool, path: &Path, errors: &mut ErrorList) {
    validations(schema, any, false, path, errors);
    if let Some(items) = items(schema) {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in members(schema, "properties") {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let (empty, undefined, unset) = (
        "must be empty to be structural",
        "must be undefined to be structural",
        "must be false to be structural",
    );
    for (key, detail) in [
        ("type", empty),
        ("additionalProperties", undefined),
        ("default", undefined),
        ("title", empty),
        ("description", empty),
        ("nullable", unset),
        ("x-kubernetes-preserve-unknown-fields", unset),
        ("x-kubernetes-embedded-resource", unset),
        ("x-kubernetes-int-or-string", unset),
        ("x-kubernetes-list-map-keys", empty),
        ("x-kubernetes-list-type", undefined),
        ("x-kubernetes-map-type", undefined),
        ("x-kubernetes-validations", empty),
    ] {
        let said = match detail == undefined {
            true => member(schema, key).is_some(),
            false => schema.get(key).is_some_and(|value| !is_zero(value)),
        };
        if said {
            errors.push(field::forbidden(&path.child(key), detail));
        }
    }
    if members(schema, "properties").any(|(name, _)| name == "metadata") {
        let detail = "must not be specified in a nested context";
        errors.push(field::forbidden(&path.child("properties").key("metadata"), detail));
    }
}

/// Whether every field that is bounded at the root of a schema is also described there.
fn complete(bounds: &Value, described: Option<&Value>, at: &Path, path: &Path, errors: &mut ErrorList) {
    if errors.len() >= MOST_ERRORS {
        return;
    }
    if let Some(not) = member(bounds, "not") {
        complete_nested(not, described, at, &path.child("not"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in elements(bounds, key).iter().enumerate() {
            complete_nested(one, described, at, &path.child(key).index(index), errors);
        }
    }
}

fn complete_nested(
    bounds: &Value,
    described: Option<&Value>,
    at: &Path,
    path: &Path,
    errors: &mut ErrorList,
) {
    let Some(schema) = described else {
        errors.push(field::required(at, format!("because it is defined in {path}")));
        return;
    };
    complete(bounds, described, at, path, errors);
    if let Some(inner) = items(bounds) {
        complete_nested(inner, items(schema), &at.child("items"), &path.child("items"), errors);
    }
    for (name, inner) in members(bounds, "properties") {
        let described = schema.get("properties").and_then(|properties| properties.get(name));
        let (at, path) = (at.child("properties").key(name), path.child("properties").key(name));
        complete_nested(inner, described, &at, &path, errors);
    }
}
