//! The keywords of a schema: which may be used, with which values, and how those of lists and maps go together.
//! Upstream: apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`
//! (ValidateCustomResourceDefinitionOpenAPISchema).

use std::collections::HashSet;

use api::field::{self, ErrorList, Path};
use serde_json::Value;

use super::{MOST_ERRORS, Tolerated, elements, flag, is_zero, items, member, members, text, values};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const META_FIELDS: [&str; 3] = ["metadata", "kind", "apiVersion"];

/// What holds for a node because of where it stands.
#[derive(Clone)]
struct Place {
    /// Why there may be no default.
    no_default: Option<String>,
    /// Whether this is the metadata of a resource.
    in_metadata: bool,
    is_root: bool,
    tolerated: Tolerated,
}

/// Everything that is wrong with the keywords of a schema.
pub(super) fn check(schema: &Value, path: &Path, tolerated: Tolerated, errors: &mut ErrorList) {
    let place = Place { no_default: None, in_metadata: false, is_root: true, tolerated };
    node(schema, path, &place, errors);
}

/// Recursion is bounded by the nesting of the definition, which decoding bounds.
fn node(schema: &Value, path: &Path, place: &Place, errors: &mut ErrorList) {
    if errors.len() >= MOST_ERRORS {
        return;
    }
    supported(schema, path, place, errors);
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(field::forbidden(&path.child("uniqueItems"), detail));
    }
    below(schema, path, place, errors);
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(field::invalid(&at, false, "must be true or undefined"));
    }
    map(schema, path, errors);
    list(schema, path, place, errors);
}

/// The schemas inside a schema.
fn below(schema: &Value, path: &Path, place: &Place, errors: &mut ErrorList) {
    let inner = Place { is_root: false, ..place.clone() };
    if let Some(additional) = member(schema, "additionalProperties") {
        let path = path.child("additionalProperties");
        if members(schema, "properties").next().is_some() && *additional != Value::Bool(true) {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.push(field::forbidden(&path, detail));
        }
        if let Some(values) = values(schema) {
            let mut inner = inner.clone();
            if place.in_metadata {
                inner.no_default = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            node(values, &path, &inner, errors);
        }
    }
    for (name, property) in members(schema, "properties") {
        let mut inner = inner.clone();
        let is_resource = place.is_root || flag(schema, "x-kubernetes-embedded-resource");
        if is_resource && META_FIELDS.contains(&name.as_str()) {
            inner.in_metadata = true;
            if place.is_root {
                inner.no_default = Some(format!("in top-level {name}"));
            }
        }
        node(property, &path.child("properties").key(name), &inner, errors);
    }
    if let Some(not) = member(schema, "not") {
        node(not, &path.child("not"), &inner, errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (index, one) in elements(schema, key).iter().enumerate() {
            node(one, &path.child(key).index(index), &inner, errors);
        }
    }
    for (name, definition) in members(schema, "definitions") {
        node(definition, &path.child("definitions").key(name), &inner, errors);
    }
    if let Some(items) = items(schema) {
        node(items, &path.child("items"), &inner, errors);
    }
    for (index, one) in elements(schema, "items").iter().enumerate() {
        node(one, &path.child("items").index(index), &inner, errors);
    }
    for (name, dependency) in members(schema, "dependencies").filter(|(_, value)| value.is_object()) {
        node(dependency, &path.child("dependencies").key(name), &inner, errors);
    }
}

/// The keywords that exist in OpenAPI, or in JSON schemas, but not in definitions.
fn supported(schema: &Value, path: &Path, place: &Place, errors: &mut ErrorList) {
    let kind = text(schema, "type");
    if !place.tolerated.types && is_of_unknown_type(schema) {
        errors.push(field::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let (Some(reason), true) = (&place.no_default, member(schema, "default").is_some()) {
        errors.push(field::forbidden(&path.child("default"), format!("must not be set {reason}")));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        // Some are told by being there at all, the others by saying something.
        let said = match key {
            "additionalItems" | "dependencies" | "$ref" => member(schema, key).is_some(),
            _ => schema.get(key).is_some_and(|value| !is_zero(value)),
        };
        if said {
            errors.push(field::forbidden(&path.child(key), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(field::forbidden(&path.child("type"), detail));
    }
    if !elements(schema, "items").is_empty() {
        let detail = "items must be a schema object and not an array";
        errors.push(field::forbidden(&path.child("items"), detail));
    }
    if place.in_metadata && flag(schema, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        errors.push(field::forbidden(&path.child("x-kubernetes-embedded-resource"), detail));
    }
}

/// That a keyword which only one type has is used with it.
fn of_type(schema: &Value, wanted: &str, detail: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let kind = text(schema, "type");
    if kind == wanted {
        return true;
    }
    let at = path.child("type");
    errors.push(match kind {
        "" => field::required(&at, detail),
        kind => field::invalid(&at, kind, detail),
    });
    false
}

fn map(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(map_type) = member(schema, MAP_TYPE).and_then(Value::as_str) else { return };
    of_type(schema, "object", "must be object if x-kubernetes-map-type is specified", path, errors);
    let known = ["atomic", "granular"];
    if !known.contains(&map_type) {
        errors.push(field::not_supported(&path.child(MAP_TYPE), map_type, &known));
    }
}

fn list(schema: &Value, path: &Path, place: &Place, errors: &mut ErrorList) {
    let list_type = member(schema, LIST_TYPE).and_then(Value::as_str);
    let keys = elements(schema, LIST_KEYS);
    let at = path.child(LIST_TYPE);
    if list_type.is_some() {
        let detail = "must be array if x-kubernetes-list-type is specified";
        if of_type(schema, "array", detail, path, errors)
            && !place.tolerated.granular_sets
            && is_granular_set(schema)
        {
            let key = if items(schema).is_some_and(|items| text(items, "type") == "array") {
                LIST_TYPE
            } else {
                MAP_TYPE
            };
            // For maps, too, the value that upstream shows is that of the list type.
            let value = items(schema).and_then(|items| items.get(LIST_TYPE)).cloned().unwrap_or_default();
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            errors.push(field::invalid(&path.child("items").child(key), value, detail));
        }
    }
    if let Some(list_type) = list_type.filter(|list_type| !matches!(*list_type, "atomic" | "set" | "map")) {
        errors.push(field::not_supported(&at, list_type, &["atomic", "set", "map"]));
    }
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => field::required(&at, detail),
            Some(list_type) => field::invalid(&at, list_type, detail),
        });
    }
    if list_type == Some("map") {
        keyed(schema, keys, path, errors);
    }
    if !place.tolerated.optional_keys {
        whole_keys(schema, path, errors);
    }
}

/// A list whose elements are told apart by some of their fields.
fn keyed(schema: &Value, keys: &[Value], path: &Path, errors: &mut ErrorList) {
    let (at, items_path) = (path.child(LIST_KEYS), path.child("items"));
    if keys.is_empty() {
        errors.push(field::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = items(schema) else {
        errors.push(match member(schema, "items") {
            None => field::required(&items_path, "must have a schema if x-kubernetes-list-type is map"),
            Some(many) => {
                let detail = "must only have a single schema if x-kubernetes-list-type is map";
                field::invalid(&items_path, many.clone(), detail)
            }
        });
        return;
    };
    let kind = text(items, "type");
    if kind != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(field::invalid(&items_path.child("type"), kind, detail));
        return;
    }
    // Each error shows all keys, so that there is one of a sort: lists are as long as clients make them.
    let (mut seen, mut strange, mut repeated) = (HashSet::with_capacity(keys.len()), false, false);
    for key in keys {
        let name = key.as_str().unwrap_or_default();
        match items.get("properties").and_then(|properties| properties.get(name)) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                // The value that upstream shows is the type of the element.
                let at = items_path.child("properties").key(name).child("type");
                errors.push(field::invalid(&at, kind, detail));
            }
            Some(_) => {}
            None => strange = true,
        }
        repeated |= !seen.insert(name);
    }
    if strange {
        errors.push(field::invalid(&at, keys.to_vec(), "entries must all be names of item properties"));
    }
    if repeated {
        errors.push(field::invalid(&at, keys.to_vec(), "must not contain duplicate entries"));
    }
}

/// That every element of a set or map has what it is told apart by.
fn whole_keys(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let list_type = text(schema, LIST_TYPE);
    let (true, Some(items)) = (matches!(list_type, "set" | "map"), items(schema)) else { return };
    let path = path.child("items");
    if flag(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(field::forbidden(&path.child("nullable"), detail));
    }
    if list_type == "set" {
        return;
    }
    let required: HashSet<&str> = elements(items, "required").iter().filter_map(Value::as_str).collect();
    for key in elements(schema, LIST_KEYS).iter().filter_map(Value::as_str) {
        let Some(property) = items.get("properties").and_then(|properties| properties.get(key)) else {
            continue;
        };
        let path = path.child("properties").key(key);
        if !required.contains(key) && member(property, "default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(field::required(&path.child("default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(field::forbidden(&path.child("nullable"), detail));
        }
    }
}

/// Whether something holds for a schema or one inside.
pub(super) fn any(schema: &Value, holds: &dyn Fn(&Value) -> bool) -> bool {
    let in_members = |key: &str| members(schema, key).any(|(_, inner)| any(inner, holds));
    let in_elements = |key: &str| elements(schema, key).iter().any(|inner| any(inner, holds));
    let in_one = |key: &str| schema.get(key).is_some_and(|inner| inner.is_object() && any(inner, holds));
    holds(schema)
        || ["items", "not", "additionalProperties", "additionalItems"].into_iter().any(in_one)
        || ["items", "allOf", "anyOf", "oneOf"].into_iter().any(in_elements)
        || ["properties", "patternProperties", "definitions", "dependencies"].into_iter().any(in_members)
}

/// A type that OpenAPI does not have.
pub(super) fn is_of_unknown_type(schema: &Value) -> bool {
    let kind = text(schema, "type");
    !kind.is_empty() && !TYPES.contains(&kind)
}

/// A set of elements that are not owned and replaced as a whole.
pub(super) fn is_granular_set(schema: &Value) -> bool {
    let (true, Some(items)) = (text(schema, LIST_TYPE) == "set", items(schema)) else { return false };
    match text(items, "type") {
        "array" => !matches!(text(items, LIST_TYPE), "" | "atomic"),
        "object" => text(items, MAP_TYPE) != "atomic",
        _ => false,
    }
}

/// A list of type set or map whose elements may lack what tells them apart.
pub(super) fn has_optional_keys(schema: &Value) -> bool {
    let mut errors = ErrorList::new();
    whole_keys(schema, &Path::root(), &mut errors);
    !errors.is_empty()
}

/// A keyword that means something only in a structural schema.
pub(super) fn needs_structure(schema: &Value) -> bool {
    let said = |key: &&str| schema.get(*key).is_some_and(|value| !is_zero(value));
    let given = ["default", "x-kubernetes-preserve-unknown-fields", LIST_TYPE];
    let used = [
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        LIST_KEYS,
        "x-kubernetes-validations",
    ];
    given.into_iter().any(|key| member(schema, key).is_some()) || used.iter().any(said)
}
