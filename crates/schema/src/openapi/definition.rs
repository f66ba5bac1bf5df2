//! Definitions of the table as OpenAPI schemas.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::kind::Descriptor;
use serde_json::{Map, Value, json};

use super::custom::{self, Published};
use super::defaults;
use super::descriptions::{self, Descriptions, Words};
use crate::table::{Definition, Field, ListType, SchemaOr, Type, table};

/// Which OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// These definitions and all that they refer to.
pub(super) fn closure(
    roots: &BTreeSet<String>,
    kinds: &[Arc<Descriptor>],
    published: &Published,
    dialect: Dialect,
) -> Map<String, Value> {
    let mut schemas = Map::new();
    let descriptions = Descriptions::unpack();
    let mut pending: Vec<String> = roots.iter().cloned().collect();
    while let Some(name) = pending.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        let words = descriptions.of(&name);
        let schema = match (special(&name, dialect), table().definition(&name)) {
            (Some(mut schema), _) => {
                describe(&mut schema, words.own());
                schema
            }
            (None, Some(definition)) => {
                for field in &definition.fields {
                    referenced(&field.r#type, &mut pending);
                }
                write(definition, &words, dialect)
            }
            (None, None) => {
                let (schema, names) = custom::definition(&name, kinds, published, dialect);
                pending.extend(names);
                schema
            }
        };
        schemas.insert(name, schema);
    }
    schemas
}

/// Definitions with a wire form of their own.
fn special(name: &str, dialect: Dialect) -> Option<Value> {
    let schema = match (name, dialect) {
        (QUANTITY, Dialect::V2) => json!({"type": "string"}),
        (QUANTITY, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (INT_OR_STRING, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (INT_OR_STRING, Dialect::V3) => {
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
        }
        _ => match name.strip_prefix(META)? {
            ".Time" | ".MicroTime" => json!({"type": "string", "format": "date-time"}),
            _ => return None,
        },
    };
    Some(schema)
}

/// A descriptor's kind as extensions spell it.
pub(super) fn group_version_kind(descriptor: &Descriptor) -> Value {
    json!({"group": descriptor.group, "version": descriptor.version, "kind": descriptor.kind})
}

fn referenced(r#type: &Type, names: &mut Vec<String>) {
    match r#type {
        Type::Array(element) | Type::Map(element) => referenced(element, names),
        other => names.extend(definition_name(other)),
    }
}

/// The definition a type refers to.
fn definition_name(r#type: &Type) -> Option<String> {
    Some(match r#type {
        Type::Definition(reference) | Type::Object(Some(reference)) => table().name(*reference).to_owned(),
        Type::Quantity => QUANTITY.into(),
        Type::IntOrString => INT_OR_STRING.into(),
        Type::Time => format!("{META}.Time"),
        Type::MicroTime => format!("{META}.MicroTime"),
        Type::Any => format!("{EXTENSIONS}.JSON"),
        Type::SchemaOr(SchemaOr::Bool) => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
        Type::SchemaOr(SchemaOr::Array) => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
        Type::SchemaOr(SchemaOr::StringArray) => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

/// Adds a description, if there is one.
fn describe(schema: &mut Value, words: Option<String>) {
    if let Some(words) = words {
        schema["description"] = words.into();
    }
}

fn write(definition: &Definition, words: &Words<'_>, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    if let Some(words) = words.own() {
        schema.insert("description".into(), words.into());
    }
    // JSON itself has no type.
    if !definition.name.starts_with(&format!("{EXTENSIONS}.JSON")) || !definition.fields.is_empty() {
        schema.insert("type".into(), "object".into());
    }
    if !definition.fields.is_empty() {
        let properties: Map<String, Value> = definition
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), property(definition.name, field, words, dialect)))
            .collect();
        schema.insert("properties".into(), Value::Object(properties));
    }
    let required: Vec<&str> =
        definition.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    if definition.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if !definition.kinds.is_empty() {
        let kinds: Vec<Value> = definition
            .kinds
            .iter()
            .map(|kind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind}))
            .collect();
        schema.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
    }
    Value::Object(schema)
}

fn property(definition: &str, field: &Field, words: &Words<'_>, dialect: Dialect) -> Value {
    let mut schema = type_schema(&field.r#type, dialect);
    let words = words.field(field.name);
    let default = match dialect {
        Dialect::V2 => None,
        Dialect::V3 => defaults::of_field(definition, field),
    };
    if dialect == Dialect::V3 && (words.is_some() || default.is_some()) {
        apart(&mut schema);
    }
    describe(&mut schema, words);
    if let Some(default) = default {
        schema["default"] = default;
    }
    if let Some(values) = descriptions::values(definition, field.name) {
        let place = if matches!(field.r#type, Type::Array(_)) { &mut schema["items"] } else { &mut schema };
        place["enum"] = json!(values);
    }
    let merge = &field.merge;
    let list = match &merge.list {
        None => None,
        Some(ListType::Atomic) => Some("atomic"),
        Some(ListType::Set) => Some("set"),
        Some(ListType::Map(keys)) => {
            schema["x-kubernetes-list-map-keys"] = json!(keys);
            Some("map")
        }
    };
    if let Some(list) = list {
        schema["x-kubernetes-list-type"] = list.into();
    }
    if merge.atomic_map {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategies: Vec<&str> = [
        (merge.patch_merge, "merge"),
        (merge.patch_retain_keys, "retainKeys"),
        (merge.patch_replace, "replace"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    if !strategies.is_empty() {
        schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(key) = merge.patch_merge_key {
        schema["x-kubernetes-patch-merge-key"] = key.into();
    }
    schema
}

/// In version 3 nothing may stand beside a reference.
fn apart(schema: &mut Value) {
    if schema.get("$ref").is_some() {
        *schema = json!({"allOf": [schema.take()]});
    }
}

/// The schema of what a list or map holds.
fn element_schema(r#type: &Type, dialect: Dialect) -> Value {
    let mut schema = type_schema(r#type, dialect);
    if dialect == Dialect::V3
        && let Some(default) = defaults::of_element(r#type)
    {
        apart(&mut schema);
        schema["default"] = default;
    }
    schema
}

fn type_schema(r#type: &Type, dialect: Dialect) -> Value {
    if let Some(name) = definition_name(r#type) {
        return dialect.reference(&name);
    }
    match r#type {
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Number => json!({"type": "number", "format": "double"}),
        Type::Boolean => json!({"type": "boolean"}),
        Type::Array(element) => json!({"type": "array", "items": element_schema(element, dialect)}),
        Type::Map(element) => {
            json!({"type": "object", "additionalProperties": element_schema(element, dialect)})
        }
        Type::Object(_) => json!({"type": "object"}),
        _ => json!({"type": "string"}),
    }
}
