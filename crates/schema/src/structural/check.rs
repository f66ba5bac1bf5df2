//! Whether a schema may be that of a version of a CustomResourceDefinition, told as upstream tells it.
//!
//! Reads the `openAPIV3Schema` as it was written, at its path in the definition; gives every error, in three parts:
//! its structure ([`structure`]), its keywords ([`keywords`]) and its defaults ([`defaults`]). What a stored definition
//! already does may be done again ([`Tolerated`]), or no such definition could be changed any more.
//! Not here: the rules (`x-kubernetes-validations`), which `rules::checks` looks at once a schema is good.
//! Upstream: apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`.

mod defaults;
mod keywords;
mod structure;

use api::GroupVersionKind;
use api::field::{self, ErrorList, Path};
use serde_json::{Map, Value};

use super::Structural;

/// What may stand at the root of a schema whose status is written apart, as JSON spells it and as messages do.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Errors that are collected of one part of a check: schemas are as large as clients make them, and each error has its path.
const MOST_ERRORS: usize = 1000;

/// What is accepted of a new schema because a stored one of the same definition does it already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerated {
    /// Schemas that are not structural (a definition that keeps unknown fields may have such).
    pub non_structural: bool,
    /// Defaults with fields that the schema does not have.
    unpruned_defaults: bool,
    /// Sets whose elements merge.
    granular_sets: bool,
    /// Keys of lists that may be missing or null.
    optional_keys: bool,
    /// Types that OpenAPI does not have.
    types: bool,
}

impl Tolerated {
    /// What the schemas of a stored definition do. `keeps`: it keeps unknown fields, so that a schema need not be
    /// structural.
    pub fn by<'a>(schemas: impl Iterator<Item = &'a Value>, keeps: bool) -> Self {
        let mut tolerated = Self::default();
        for schema in schemas {
            let broken = structure::convertible(schema).is_err()
                || !structure::errors(schema, &Path::root()).is_empty();
            tolerated.non_structural |= keeps && broken;
            tolerated.granular_sets |= keywords::any(schema, &keywords::is_granular_set);
            tolerated.optional_keys |= keywords::any(schema, &keywords::has_optional_keys);
            tolerated.types |= keywords::any(schema, &keywords::is_of_unknown_type);
            if !broken && let Ok(parsed) = Structural::parse(GroupVersionKind::new("", "", ""), schema) {
                tolerated.unpruned_defaults |= defaults::any_unpruned(parsed.root());
            }
        }
        tolerated
    }
}

/// Everything that is wrong with a schema at `path` (which ends in `openAPIV3Schema`). `status`: the status is written
/// apart, so that the root may say little.
pub fn check(schema: &Value, path: &Path, status: bool, tolerated: Tolerated) -> ErrorList {
    let mut errors = ErrorList::new();
    if status {
        root_with_status(schema, path, &mut errors);
    }
    if flag(schema, "nullable") {
        errors.push(field::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let must_be_structural = !tolerated.non_structural || keywords::any(schema, &keywords::needs_structure);
    let mut unreadable = None;
    if must_be_structural {
        match structure::convertible(schema) {
            Err(message) => unreadable = Some(message),
            Ok(()) => {
                let found = structure::errors(schema, path);
                if found.is_empty() {
                    match Structural::parse(GroupVersionKind::new("", "", ""), schema) {
                        Ok(parsed) => {
                            errors.extend(defaults::errors(
                                parsed.root(),
                                path,
                                !tolerated.unpruned_defaults,
                            ));
                        }
                        Err(error) => errors.push(field::invalid(path, "", error.to_string())),
                    }
                }
                errors.extend(found);
            }
        }
    }
    keywords::check(schema, path, tolerated, &mut errors);
    // What makes a schema unreadable is mostly told better by its keywords.
    if let (true, Some(message)) = (errors.is_empty(), unreadable) {
        errors.push(field::invalid(path, "", message));
    }
    errors
}

/// Why a stored schema is not structural; an error if it cannot even be read as one.
pub fn violations(schema: &Value, path: &Path) -> Result<ErrorList, &'static str> {
    structure::convertible(schema)?;
    Ok(structure::errors(schema, path))
}

/// Whether a default is given anywhere in a schema.
pub fn has_default(schema: &Value) -> bool {
    keywords::any(schema, &|schema| member(schema, "default").is_some())
}

fn root_with_status(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = text(schema, "type");
    if !matches!(kind, "" | "object") {
        // The backslashes are upstream's.
        let detail = r#"only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled"#;
        errors.push(field::invalid(&path.child("type"), kind, detail));
        return;
    }
    let known = |name: &str| AT_ROOT.iter().any(|(json, _)| *json == name);
    let members = schema.as_object().into_iter().flatten();
    if members.into_iter().any(|(name, value)| !is_zero(value) && !known(name)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(field::invalid(path, schema.clone(), detail));
    }
}

/// A keyword that is given.
fn member<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).filter(|value| !value.is_null())
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn elements<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The one schema of all elements of a list.
fn items(schema: &Value) -> Option<&Value> {
    member(schema, "items").filter(|items| items.is_object())
}

/// The schema of the values of a map.
fn values(schema: &Value) -> Option<&Value> {
    member(schema, "additionalProperties").filter(|values| values.is_object())
}

/// Whether a keyword says as much as if it were not there.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests;
