//! Whole resources inside of custom resources: `x-kubernetes-embedded-resource`.
//! Not here: the metadata of the custom resource itself, which the engine checks as every kind's.
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema/objectmeta/validation.go`.

use api::field::{self, ErrorList, Path};
use api::{meta_validation, names};
use serde_json::{Map, Value};

use super::Node;

/// What is wrong with the type and the metadata of the resources below the root.
pub(super) fn validate(root: &Node, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if root.embeds() {
        below(root, value, &Path::root(), &mut errors);
    }
    errors
}

/// What is wrong with the type and the metadata of a value, where it is a resource itself, and of the resources in it.
pub(super) fn within(node: &Node, value: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(node, value, path, &mut errors);
    errors
}

/// Recursion is bounded by the nesting of the value, which decoding bounds.
fn below(node: &Node, value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                let Some(schema) = node.member(name) else { continue };
                let path = if node.names(name) { path.child(name.clone()) } else { path.key(name.clone()) };
                walk(schema, member, &path, errors);
            }
        }
        Value::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                if let Some(items) = node.items() {
                    walk(items, element, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn walk(node: &Node, value: &Value, path: &Path, errors: &mut ErrorList) {
    if !node.embeds() {
        return;
    }
    if let (true, Value::Object(object)) = (node.is_resource(), value) {
        resource(object, path, errors);
    }
    below(node, value, path, errors);
}

fn resource(object: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    let mut text = |name: &str, check: &dyn Fn(&str) -> Option<String>| {
        let path = path.child(name.to_owned());
        match object.get(name) {
            None => errors.push(field::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => errors.push(field::required(&path, "")),
            Some(Value::String(text)) => {
                errors.extend(check(text).map(|detail| field::invalid(&path, text.as_str(), detail)));
            }
            Some(other) => errors.push(field::invalid(&path, other.clone(), "must be a string")),
        }
    };
    text("apiVersion", &|version| {
        (version.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {version}"))
    });
    text("kind", &|kind| {
        let problems = names::is_dns1035_label(&kind.to_lowercase());
        (!problems.is_empty())
            .then(|| format!("may have mixed case, but should otherwise match: {}", problems.join(",")))
    });
    if let Some(metadata) = object.get("metadata") {
        errors.extend(meta_validation::validate_embedded(metadata, &path.child("metadata")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Structural;
    use super::*;

    #[test]
    fn a_resource_in_a_resource_is_one() {
        let kind = api::GroupVersionKind::new("example.com", "v1", "Box");
        let schema = json!({"type": "object", "properties": {"templates": {"type": "array", "items": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}});
        let schema = Structural::parse(kind, &schema).unwrap();
        let texts = |template: Value| -> Vec<String> {
            let value = json!({"apiVersion": "example.com/v1", "kind": "Box", "templates": [template]});
            schema.validate(&value).iter().map(ToString::to_string).collect()
        };
        assert!(
            texts(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}})).is_empty()
        );
        assert!(texts(json!({"apiVersion": "v1", "kind": "Pod"})).is_empty(), "metadata may be missing");
        for (template, expected) in [
            (
                json!({}),
                vec![
                    "templates[0].apiVersion: Required value".to_owned(),
                    "templates[0].kind: Required value".to_owned(),
                ],
            ),
            (
                json!({"apiVersion": "a/b/c", "kind": "Pod"}),
                vec![
                    r#"templates[0].apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#.to_owned(),
                ],
            ),
            (
                json!({"apiVersion": 1, "kind": "Pod"}),
                vec!["templates[0].apiVersion: Invalid value: 1: must be a string".to_owned()],
            ),
        ] {
            assert_eq!(texts(template), expected);
        }
        let kind = texts(json!({"apiVersion": "v1", "kind": "_"}));
        assert!(kind[0].starts_with(
            r#"templates[0].kind: Invalid value: "_": may have mixed case, but should otherwise match: a DNS-1035"#
        ));
        let labels = texts(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b", "labels": {"?": "b"}}}),
        );
        assert!(
            labels[0].starts_with(r#"templates[0].metadata.name: Invalid value: "a/b": may not contain '/'"#)
        );
        assert!(
            labels[1].starts_with(r#"templates[0].metadata.labels: Invalid value: "?": name part"#),
            "{labels:?}"
        );
    }
}
