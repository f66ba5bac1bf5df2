//! A kind of an OpenAPI v3 document as a CEL type: what is known of objects whose schema only the server has.
//! Not here: sizes (`declared` reads them from structural schemas), values.
//! Upstream: apiserver `pkg/cel/common/schemas.go`, `pkg/cel/openapi/resolver`.

use std::collections::BTreeMap;

use api::GroupVersionKind;
use serde_json::{Map, Value};

use super::escape::escape;
use super::types::Type;

/// Schemas refer to each other: a type of more parts than this is not read to its end. The largest built-in kinds have
/// a few thousand.
const MAX_PARTS: usize = 50_000;
/// References within references that are followed; anything may be below. Built-in kinds have less than ten.
const MAX_REFERENCES: usize = 16;

/// The type of a kind's objects, named like the kind; `None` if the document does not tell of it.
pub fn of_kind(document: &Value, kind: &GroupVersionKind) -> Option<Type> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let is_kind = |schema: &&Value| {
        let told = schema["x-kubernetes-group-version-kind"].as_array();
        told.is_some_and(|told| {
            told.iter().any(|told| {
                told["group"] == kind.group.as_str()
                    && told["version"] == kind.version.as_str()
                    && told["kind"] == kind.kind.as_str()
            })
        })
    };
    // Options of deletion belong to every group version, and no request has them as its object.
    let schema = schemas.values().find(is_kind)?;
    let mut reader = Reader { schemas, within: Vec::new(), parts: 0 };
    reader.read(schema, &kind.kind, true)
}

struct Reader<'a> {
    schemas: &'a Map<String, Value>,
    /// The references that are being followed: a schema that holds itself ends there.
    within: Vec<&'a str>,
    parts: usize,
}

/// The name that a schema refers to, be it alone or with words beside it.
fn reference(schema: &Value) -> Option<&str> {
    let one = match schema["allOf"].as_array().map(Vec::as_slice) {
        Some([one]) if schema.get("type").is_none() => one,
        _ => schema,
    };
    one["$ref"].as_str()?.rsplit('/').next()
}

impl<'a> Reader<'a> {
    /// `None` for what expressions cannot see.
    fn read(&mut self, schema: &'a Value, name: &str, resource: bool) -> Option<Type> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return None;
        }
        if let Some(target) = reference(schema) {
            let schemas = self.schemas;
            let schema = schemas.get(target)?;
            if self.within.contains(&target) {
                return None;
            }
            if self.within.len() == MAX_REFERENCES {
                return Some(Type::Dyn);
            }
            self.within.push(target);
            let found = self.read(schema, name, resource);
            self.within.pop();
            return found;
        }
        let flag = |extension: &str| schema[extension] == true;
        let format = schema["format"].as_str().unwrap_or_default();
        if format == "int-or-string" || flag("x-kubernetes-int-or-string") {
            return Some(Type::Dyn);
        }
        let resource = resource || flag("x-kubernetes-embedded-resource");
        match schema["type"].as_str() {
            Some("array") => {
                Some(Type::list(self.read(schema.get("items")?, &format!("{name}.@idx"), false)?))
            }
            Some("object") => match &schema["additionalProperties"] {
                values @ Value::Object(_) => {
                    let value = self.read(values, &format!("{name}.@elem"), false)?;
                    Some(Type::map(Type::String, value))
                }
                _ => Some(self.object(schema, name, resource)),
            },
            Some("string") => Some(match format {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String,
            }),
            Some("boolean") => Some(Type::Bool),
            Some("number") => Some(Type::Double),
            Some("integer") => Some(Type::Int),
            // Quantities are texts or numbers. To hide them would warn of expressions that hold when they are run.
            None if schema["oneOf"].is_array() => Some(Type::Dyn),
            _ => None,
        }
    }

    fn object(&mut self, schema: &'a Value, name: &str, resource: bool) -> Type {
        let mut fields = BTreeMap::new();
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            let Some(escaped) = escape(property) else { continue };
            if let Some(found) = self.read(schema, &format!("{name}.{escaped}"), false) {
                fields.insert(escaped, found);
            }
        }
        if resource {
            for known in ["apiVersion", "kind"] {
                fields.entry(known.to_owned()).or_insert(Type::String);
            }
            let named = |metadata: &Type| matches!(metadata, Type::Object(object) if object.fields.contains_key("generateName"));
            if !fields.get("metadata").is_some_and(named) {
                let texts = ["name", "generateName"].map(|field| (field.to_owned(), Type::String));
                let metadata = Type::object(format!("{name}.metadata"), texts.into_iter().collect());
                fields.insert("metadata".to_owned(), metadata);
            }
        }
        Type::object(name, fields)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cel::{Scope, compile};

    #[test]
    fn a_published_kind_is_a_type() {
        let document = json!({"components": {"schemas": {
            "Other": {"type": "object", "properties": {"again": {"$ref": "#/components/schemas/Other"},
                "text": {"type": "string"}}},
            "Amount": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            "Port": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
            "Wanted": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "Wanted"}],
                "properties": {
                    "count": {"type": "integer"},
                    "in": {"type": "boolean"},
                    "at": {"type": "string", "format": "date-time"},
                    "port": {"$ref": "#/components/schemas/Port"},
                    "other": {"allOf": [{"$ref": "#/components/schemas/Other"}], "description": "words"},
                    "limits": {"type": "object",
                        "additionalProperties": {"$ref": "#/components/schemas/Amount"}},
                    "names": {"type": "array", "items": {"type": "string"}},
                    "any": {},
                    "gone": {"$ref": "#/components/schemas/Gone"},
                },
            },
        }}});
        let kind = |kind: &str| GroupVersionKind {
            group: "g".to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
        };
        assert!(of_kind(&document, &kind("Nobody")).is_none());
        let mut scope = Scope::default();
        scope.variables.insert("object".to_owned(), of_kind(&document, &kind("Wanted")).unwrap());
        for (expression, wrong) in [
            ("object.count > 1", None),
            ("object.count > '1'", Some("found no matching overload for '_>_' applied to '(int, string)'")),
            ("object.missing", Some("undefined field 'missing'")),
            ("object.__in__", None),
            ("object.at.getFullYear() > 2000", None),
            ("object.port == 80 || object.port == 'http'", None),
            ("object.other.text.startsWith('a')", None),
            ("object.other.again", Some("undefined field 'again'")),
            ("quantity(object.limits['cpu']).isGreaterThan(quantity('1'))", None),
            ("object.names.all(name, name != '')", None),
            ("object.names.all(name, name > 1)", Some("'_>_' applied to '(string, int)'")),
            ("object.any", Some("undefined field 'any'")),
            ("object.gone", Some("undefined field 'gone'")),
            ("object.metadata.generateName + object.kind + object.apiVersion", None),
            ("object.metadata.labels", Some("undefined field 'labels'")),
        ] {
            match (compile(expression, &scope), wrong) {
                (Ok(_), None) => {}
                (Err(error), Some(wrong)) if error.0.contains(wrong) => {}
                (found, _) => panic!("{expression}: {found:?}"),
            }
        }
    }
}
