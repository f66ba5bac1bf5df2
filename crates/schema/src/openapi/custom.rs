//! Custom resources as OpenAPI schemas: their structural schemas, with what every resource has.
//! v2 cannot say all that v3 can: what its readers trip over is left out, as upstream does.
//! Upstream: apiextensions-apiserver `pkg/controller/openapi/builder`, `pkg/apiserver/schema/kubernetes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::kind::Descriptor;
use serde_json::{Map, Value, json};

use super::definition::{Dialect, group_version_kind};
use crate::structural::Structural;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The structural schemas of custom resources, by the names of their definitions.
pub type Published = BTreeMap<String, Arc<Structural>>;

/// Keywords that v2 does not have, or whose meaning its readers get wrong.
const NOT_IN_V2: [&str; 7] =
    ["allOf", "anyOf", "oneOf", "not", "nullable", "default", "x-kubernetes-validations"];

/// What upstream says of the fields that every resource has.
const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
    convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
    this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More \
    info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The definition of a custom resource or of its list, and the definitions it refers to.
pub(super) fn definition(
    name: &str,
    kinds: &[Arc<Descriptor>],
    published: &Published,
    dialect: Dialect,
) -> (Value, Vec<String>) {
    if let Some(descriptor) = kinds.iter().find(|descriptor| descriptor.schema == name) {
        let meta = format!("{META}.ObjectMeta");
        let mut schema = match published.get(name) {
            Some(structural) => structural.document().clone(),
            None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        };
        if dialect == Dialect::V2 {
            simplify(&mut schema);
        }
        resource(&mut schema, dialect);
        embedded(&mut schema, dialect);
        schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(descriptor)]);
        return (schema, vec![meta]);
    }
    let of = kinds.iter().find(|descriptor| list_name(descriptor) == name);
    let Some(descriptor) = of else {
        return (json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), Vec::new());
    };
    let meta = format!("{META}.ListMeta");
    let mut kind = group_version_kind(descriptor);
    kind["kind"] = descriptor.list_kind.to_string().into();
    let schema = json!({
        "type": "object", "required": ["items"], "x-kubernetes-group-version-kind": [kind],
        "description": format!("{} is a list of {}", descriptor.list_kind, descriptor.kind),
        "properties": {
            "apiVersion": described_text(API_VERSION), "kind": described_text(KIND),
            "items": {
                "type": "array", "items": dialect.reference(&descriptor.schema),
                "description": format!("List of {}. More info: {CONVENTIONS}", descriptor.plural),
            },
            "metadata": described(dialect, "ListMeta", LIST_METADATA),
        },
    });
    (schema, vec![meta, descriptor.schema.to_string()])
}

fn list_name(descriptor: &Descriptor) -> String {
    let own = &*descriptor.schema;
    format!("{}{}", own.strip_suffix(&*descriptor.kind).unwrap_or(own), descriptor.list_kind)
}

/// Every resource has these, whatever its schema says.
fn resource(schema: &mut Value, dialect: Dialect) {
    let Some(object) = schema.as_object_mut() else { return };
    if dialect == Dialect::V2
        && object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
    {
        // Readers of v2 refuse unknown fields wherever they see properties.
        object.remove("properties");
        return;
    }
    set(object, "apiVersion", described_text(API_VERSION));
    set(object, "kind", described_text(KIND));
    set(object, "metadata", described(dialect, "ObjectMeta", METADATA));
}

/// Resources inside resources have the same, and must.
fn embedded(schema: &mut Value, dialect: Dialect) {
    let Some(object) = schema.as_object_mut() else { return };
    for inner in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        embedded(inner.1, dialect);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(name) {
            embedded(inner, dialect);
        }
    }
    let is = |name: &str| object.get(name) == Some(&Value::Bool(true));
    let open = dialect == Dialect::V2 && is("x-kubernetes-preserve-unknown-fields");
    if open || !is("x-kubernetes-embedded-resource") {
        return;
    }
    set(object, "apiVersion", described_text(EMBEDDED_API_VERSION));
    set(object, "kind", described_text(EMBEDDED_KIND));
    set(object, "metadata", described(dialect, "ObjectMeta", METADATA));
    let required = object.entry("required").or_insert_with(|| json!([]));
    let Some(required) = required.as_array_mut() else { return };
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|known| known == name) {
            required.push(name.into());
        }
    }
}

fn set(object: &mut Map<String, Value>, name: &str, schema: Value) {
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(name.to_owned(), schema);
    }
}

fn described_text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// Metadata, with what it is here beside what it is everywhere.
fn described(dialect: Dialect, metadata: &str, description: &str) -> Value {
    let mut reference = dialect.reference(&format!("{META}.{metadata}"));
    match dialect {
        Dialect::V2 => {
            reference["description"] = description.into();
            reference
        }
        // Nothing may stand beside a reference.
        Dialect::V3 => json!({"allOf": [reference], "description": description}),
    }
}

/// Leaves out what v2 cannot say.
fn simplify(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("nullable") == Some(&Value::Bool(true)) {
        // v2 has no null: the value may be anything.
        for name in ["type", "items", "properties"] {
            object.remove(name);
        }
    }
    if object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        object.remove("type");
    }
    if object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        object.remove("items");
        object.remove("properties");
    }
    NOT_IN_V2.iter().for_each(|name| {
        object.remove(*name);
    });
    below(object).into_iter().for_each(simplify);
}

/// The schemas directly inside one.
fn below(object: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut found = Vec::new();
    for (name, value) in object.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => found.extend(properties.values_mut()),
            ("items" | "additionalProperties", value) if value.is_object() => found.push(value),
            _ => {}
        }
    }
    found
}
