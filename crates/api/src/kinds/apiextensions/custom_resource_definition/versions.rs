//! The versions of a definition: names, columns, subresources, selectable fields, words of deprecation.
//!
//! Upstream's internal form keeps what all versions have alike once for the definition, and errors name that place:
//! `spec.subresources`, not `spec.versions[0].subresources`.
//! Not here: the schemas themselves (crate `schema`).
//! Upstream: apiextensions-apiserver `pkg/apis/apiextensions/{v1/conversion.go,validation/validation.go}`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{keeps_unknown, storage_version, text, versions};
use crate::field::{self, ErrorList, Path};
use crate::names::is_dns1035_label;

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_DEPRECATION_WARNING: usize = 256;

/// What is said once because all versions say it.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable_fields: bool,
}

impl Shared {
    fn of(object: &Value) -> Self {
        let versions = versions(object);
        // Nothing and an empty list are the same.
        let said = |version: &Value, name: &str| {
            version.get(name).filter(|value| value.as_array().is_none_or(|list| !list.is_empty())).cloned()
        };
        let alike = |name: &str| {
            let first = versions.first().and_then(|version| said(version, name));
            versions.iter().all(|version| said(version, name) == first)
        };
        let schema = alike("schema");
        Self {
            schema,
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable_fields: schema && alike("selectableFields"),
        }
    }
}

/// What is wrong with each version by itself, and with the list of them.
pub(super) fn validate(errors: &mut ErrorList, object: &Value, old: Option<&Value>, spec: &Path) {
    let path = spec.child("versions");
    let versions = versions(object);
    let without_schema =
        |version: &Value| version.pointer("/schema/openAPIV3Schema").is_none_or(Value::is_null);
    // A definition that did without schemas may go on, as long as it keeps what it does not know.
    let old_without = old.is_some_and(|old| super::versions(old).iter().any(without_schema));
    for (index, version) in versions.iter().enumerate().filter(|(_, version)| without_schema(version)) {
        let at = path.index(index).child("schema").child("openAPIV3Schema");
        if !old_without {
            errors.push(field::required(&at, "schemas are required"));
        } else if !keeps_unknown(object) && version.get("served") == Some(&Value::Bool(true)) {
            errors.push(field::required(&at, "because otherwise all fields are pruned"));
        }
    }
    let shared = Shared::of(object);
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = text(version, "/name");
        let wrong = is_dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(field::invalid(&path.child("name"), name, wrong.join(",")));
        }
        deprecation(errors, version, &path.child("deprecationWarning"));
        if !shared.subresources {
            scale(errors, version, &path);
        }
        if !shared.columns {
            columns(errors, version, &path);
        }
        if !shared.selectable_fields {
            selectable(errors, version, &path);
        }
    }
    let name = |version: &Value| text(version, "/name").to_owned();
    let unique: BTreeSet<String> = versions.iter().map(name).collect();
    if unique.len() != versions.len() {
        errors.push(field::invalid(&path, versions.to_vec(), "must contain unique version names"));
    }
    let stored = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if stored != 1 || storage_version(object).is_none() {
        let detail = "must have exactly one version marked as storage version";
        errors.push(field::invalid(&path, versions.to_vec(), detail));
    }
    // The internal form has the name of the first version a second time.
    let first = versions.first().map(name).unwrap_or_default();
    let wrong = is_dns1035_label(&first);
    if !first.is_empty() && !wrong.is_empty() {
        errors.push(field::invalid(&spec.child("version"), first, wrong.join(",")));
    }
}

/// What is wrong with what all versions have alike.
pub(super) fn validate_shared(errors: &mut ErrorList, object: &Value, spec: &Path) {
    let Some(first) = versions(object).first() else { return };
    let shared = Shared::of(object);
    if shared.subresources {
        scale(errors, first, spec);
    }
    if shared.columns {
        columns(errors, first, spec);
    }
    if shared.schema && shared.selectable_fields {
        selectable(errors, first, spec);
    }
}

fn deprecation(errors: &mut ErrorList, version: &Value, path: &Path) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut wrong = |detail: String| errors.push(field::invalid(path, warning, detail));
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        wrong("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > MAX_DEPRECATION_WARNING {
        wrong(format!("must be <= {MAX_DEPRECATION_WARNING} characters long"));
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    let printable = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| !printable(*c)) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// A path of the form that columns and scales use. Whether it is one.
fn simple_path(errors: &mut ErrorList, value: &str, path: &Path) -> bool {
    if value.starts_with('.') {
        return true;
    }
    errors.push(field::invalid(path, value, "must be a simple json path starting with ."));
    false
}

fn scale(errors: &mut ErrorList, version: &Value, path: &Path) {
    let Some(scale) = version.pointer("/subresources/scale").filter(|scale| scale.is_object()) else {
        return;
    };
    let path = path.child("subresources").child("scale");
    for (name, below, detail) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let at = path.child(name);
        let value = scale.get(name).and_then(Value::as_str).unwrap_or_default();
        if value.is_empty() {
            if name != "labelSelectorPath" {
                errors.push(field::required(&at, ""));
            }
        } else if simple_path(errors, value, &at) && !below.iter().any(|below| value.starts_with(below)) {
            errors.push(field::invalid(&at, value, detail));
        }
    }
}

fn columns(errors: &mut ErrorList, version: &Value, path: &Path) {
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let path = path.child("additionalPrinterColumns");
    for (index, column) in columns.into_iter().flatten().enumerate() {
        let path = path.index(index);
        let one_of = |list: &str, value: &str| list.split(',').any(|known| known == value);
        if text(column, "/name").is_empty() {
            errors.push(field::required(&path.child("name"), ""));
        }
        let (kind, at) = (text(column, "/type"), path.child("type"));
        if kind.is_empty() {
            errors.push(field::required(&at, format!("must be one of {COLUMN_TYPES}")));
        } else if !one_of(COLUMN_TYPES, kind) {
            errors.push(field::invalid(&at, kind, format!("must be one of {COLUMN_TYPES}")));
        }
        let format = text(column, "/format");
        if !format.is_empty() && !one_of(COLUMN_FORMATS, format) {
            let detail = format!("must be one of {COLUMN_FORMATS}");
            errors.push(field::invalid(&path.child("format"), format, detail));
        }
        let (json_path, at) = (text(column, "/jsonPath"), path.child("JSONPath"));
        if json_path.is_empty() {
            errors.push(field::required(&at, ""));
        } else {
            simple_path(errors, json_path, &at);
        }
    }
}

fn selectable(errors: &mut ErrorList, version: &Value, path: &Path) {
    let fields = version.get("selectableFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { return };
    let path = path.child("selectableFields");
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (written, at) = (text(field, "/jsonPath"), path.index(index).child("jsonPath"));
        if written.is_empty() {
            errors.push(field::required(&at, ""));
            continue;
        }
        let (names, kind) = match resolve(schema, written) {
            Ok(found) => found,
            Err(reason) => {
                errors.push(field::invalid(&at, written, format!("is an invalid path: {reason}")));
                continue;
            }
        };
        if names.first() == Some(&"metadata") {
            errors.push(field::invalid(&at, written, "must not point to fields in metadata"));
        }
        if !matches!(kind, "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            errors.push(field::invalid(&at, written, detail));
        }
        if !seen.insert(names.join(".")) {
            errors.push(field::duplicate(&at, written));
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.push(field::too_many(&path, seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

/// The names on a path and the type of what it points to in a schema.
fn resolve<'a>(schema: &'a Value, path: &'a str) -> Result<(Vec<&'a str>, &'a str), String> {
    let (mut at, mut names, mut rest) = (schema, Vec::new(), path);
    while let Some(first) = rest.chars().next() {
        if first == '[' {
            return Err("array notation is not allowed".to_owned());
        }
        let Some(after) = rest.strip_prefix('.') else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(format!("expected [ or . but got: {}", &rest[..end]));
        };
        if after.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        let end = after.find(['.', '[', ']']).unwrap_or(after.len()).max(1);
        let name = &after[..end];
        let properties = at.get("properties").filter(|properties| !properties.is_null());
        let next = match properties {
            Some(properties) => properties.get(name),
            None => at.get("additionalProperties").filter(|schema| schema.is_object()),
        };
        at = next.ok_or("does not refer to a valid field")?;
        names.push(name);
        rest = &after[end..];
    }
    Ok((names, text(at, "/type")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(versions: Value) -> Value {
        json!({"spec": {"versions": versions}})
    }

    /// One version with `more`.
    fn said(more: Value) -> Vec<String> {
        let mut version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "list": {"type": "array"}}},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
        }}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            version[key] = value.clone();
        }
        errors(&definition(json!([version])))
    }

    fn errors(definition: &Value) -> Vec<String> {
        let (mut errors, spec) = (ErrorList::new(), Path::new("spec"));
        validate(&mut errors, definition, None, &spec);
        validate_shared(&mut errors, definition, &spec);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_have_a_name_a_type_and_a_path() {
        for (column, wanted) in [
            (json!({"name": "A", "type": "date", "format": "date-time", "jsonPath": ".a"}), vec![]),
            (
                json!({}),
                vec![
                    "name: Required value",
                    "type: Required value: must be one of boolean,date,integer,number,string",
                    "JSONPath: Required value",
                ],
            ),
            (
                json!({"name": "A", "type": "object", "format": "int8", "jsonPath": "a"}),
                vec![
                    "type: Invalid value: \"object\": must be one of boolean,date,integer,number,string",
                    "format: Invalid value: \"int8\": must be one of \
                     byte,date,date-time,double,float,int32,int64,password",
                    "JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
                ],
            ),
        ] {
            let wanted: Vec<_> =
                wanted.iter().map(|text| format!("spec.additionalPrinterColumns[0].{text}")).collect();
            assert_eq!(said(json!({"additionalPrinterColumns": [column]})), wanted);
        }
    }

    #[test]
    fn a_scale_lies_in_spec_and_status() {
        for (scale, wanted) in [
            (json!({"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}), vec![]),
            (json!({}), vec!["specReplicasPath: Required value", "statusReplicasPath: Required value"]),
            (
                json!({"specReplicasPath": ".status.n", "statusReplicasPath": "status.n", "labelSelectorPath": ".a"}),
                vec![
                    "specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
                    "statusReplicasPath: Invalid value: \"status.n\": must be a simple json path starting with .",
                    "labelSelectorPath: Invalid value: \".a\": should be a json path under either .spec or .status",
                ],
            ),
        ] {
            let wanted: Vec<_> =
                wanted.iter().map(|text| format!("spec.subresources.scale.{text}")).collect();
            assert_eq!(said(json!({"subresources": {"scale": scale}})), wanted);
        }
    }

    #[test]
    fn selectable_fields_are_scalars_of_the_schema() {
        for (path, wanted) in [
            (".spec.size", None),
            ("", Some("Required value")),
            (
                "spec.size",
                Some("Invalid value: \"spec.size\": is an invalid path: expected [ or . but got: spec"),
            ),
            (
                ".spec['size']",
                Some("Invalid value: \".spec['size']\": is an invalid path: array notation is not allowed"),
            ),
            (".spec.", Some("Invalid value: \".spec.\": is an invalid path: unexpected end of JSON path")),
            (
                ".spec.no",
                Some("Invalid value: \".spec.no\": is an invalid path: does not refer to a valid field"),
            ),
            (
                ".metadata.name",
                Some("Invalid value: \".metadata.name\": must not point to fields in metadata"),
            ),
            (
                ".spec.list",
                Some(
                    "Invalid value: \".spec.list\": must point to a field of type string, boolean or integer. Enum string \
                     fields and strings with formats are allowed.",
                ),
            ),
        ] {
            let wanted: Vec<String> =
                wanted.into_iter().map(|text| format!("spec.selectableFields[0].jsonPath: {text}")).collect();
            assert_eq!(said(json!({"selectableFields": [{"jsonPath": path}]})), wanted);
        }
        let twice = json!([{"jsonPath": ".spec.size"}, {"jsonPath": ".spec.size"}]);
        assert_eq!(
            said(json!({"selectableFields": twice})),
            ["spec.selectableFields[1].jsonPath: Duplicate value: \".spec.size\""]
        );
    }

    #[test]
    fn only_deprecated_versions_warn_and_in_printable_words() {
        let of = |deprecated: bool, text: &str| {
            said(json!({"deprecated": deprecated, "deprecationWarning": text}))
        };
        let path = "spec.versions[0].deprecationWarning: Invalid value:";
        assert_eq!(of(true, "use v2"), [""; 0]);
        assert_eq!(of(false, "x"), [format!("{path} \"x\": can only be set for deprecated versions")]);
        assert_eq!(of(true, ""), [format!("{path} \"\": must not be an empty string")]);
        assert_eq!(
            of(true, "a\u{7}"),
            [format!(
                "{path} \"a\\a\": must only contain printable UTF-8 characters; non-printable character found at index 1"
            )]
        );
    }

    #[test]
    fn what_differs_is_named_where_it_stands() {
        let version = |name: &str, storage: bool, format: &str| {
            json!({"name": name, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}},
                "additionalPrinterColumns": [{"name": "A", "type": "date", "format": format, "jsonPath": ".a"}]})
        };
        let of = |second: &str| {
            errors(&definition(json!([version("v1", true, "x"), version(second, false, "y")])))
        };
        let wrong = |at: &str, value: &str| {
            format!(
                "spec.versions[{at}].additionalPrinterColumns[0].format: Invalid value: {value:?}: must be one of {COLUMN_FORMATS}"
            )
        };
        assert_eq!(of("v2"), [wrong("0", "x"), wrong("1", "y")]);
        let same = of("v1");
        assert!(
            same.last().is_some_and(|error| error.ends_with("must contain unique version names")),
            "{same:?}"
        );
        let none = errors(&definition(json!([version("v1", false, "date")])));
        assert!(none[0].ends_with("must have exactly one version marked as storage version"), "{none:?}");
    }
}
