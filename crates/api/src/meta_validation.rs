//! Checks of the metadata every kind has. The engine runs them for each kind, beside the kind's own hooks.
//! Not here: what the server sets itself (uid, times, generation) and admission.
//! Upstream: apimachinery `pkg/api/validation/objectmeta.go`, `pkg/apis/meta/v1/validation`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::Descriptor;
use crate::kind::plain::PlainMetadata;
use crate::kinds::admissionregistration;
use crate::meta::{LabelSelector, ObjectMeta, OwnerReference};
use crate::names;

/// What an immutable field's error says.
pub const IMMUTABLE: &str = "field is immutable";
/// The most bytes keys and values of annotations may have together.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// The finalizers that need no domain in a built-in kind.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
/// How the OpenAPI definitions of the built-in kinds begin; custom resources may have any finalizer.
const BUILT_IN: &str = "io.k8s.api.";

/// All that is wrong with the metadata of an object to create. Its name is already generated.
pub fn validate_create(descriptor: &Descriptor, object: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let meta = match read(object) {
        Ok(meta) => meta,
        Err(errors) => return errors,
    };
    let mut errors = ErrorList::new();
    let rule = |text: &str, prefix| descriptor.name_rule.check(text, prefix);
    if let Some(generate_name) = meta.generate_name.as_deref().filter(|text| !text.is_empty()) {
        push_invalid(&mut errors, &path.child("generateName"), generate_name, rule(generate_name, true));
    }
    match meta.name.as_deref() {
        None | Some("") => {
            errors.push(field::required(&path.child("name"), "name or generateName is required"));
        }
        Some(name) => {
            push_invalid(&mut errors, &path.child("name"), name, rule(name, false));
            if descriptor.group == "admissionregistration.k8s.io" {
                errors.extend(admissionregistration::reserved_name(name, &path.child("name")));
            }
        }
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (descriptor.is_namespaced(), namespace.is_empty()) {
        (true, true) => errors.push(field::required(&path.child("namespace"), "")),
        (true, false) => {
            push_invalid(
                &mut errors,
                &path.child("namespace"),
                namespace,
                names::is_dns1123_label(namespace),
            );
        }
        (false, false) => errors.push(field::forbidden(&path.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    if let Some(generation) = meta.generation.filter(|&generation| generation < 0) {
        errors.push(field::invalid(&path.child("generation"), generation, NOT_NEGATIVE));
    }
    errors.extend(common(&meta, &path));
    errors.extend(managed_fields_errors(object, &path));
    if descriptor.schema.starts_with(BUILT_IN) {
        for (index, finalizer) in meta.finalizers.iter().flatten().enumerate() {
            if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&&**finalizer) {
                let message = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(field::invalid(&path.child("finalizers").index(index), &**finalizer, message));
            }
        }
    }
    errors
}

/// What is wrong with the metadata of an object inside of another one, at `path`. It need not have a name.
pub fn validate_embedded(metadata: &Value, path: &Path) -> ErrorList {
    let meta = match ObjectMeta::deserialize(PlainMetadata(metadata)) {
        Ok(meta) => meta,
        Err(error) => return vec![field::invalid(path, metadata.clone(), error.to_string())],
    };
    let mut errors = ErrorList::new();
    for (member, name) in [("generateName", &meta.generate_name), ("name", &meta.name)] {
        let name = name.as_deref().unwrap_or_default();
        push_invalid(&mut errors, &path.child(member), name, names::is_path_segment(name));
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        push_invalid(&mut errors, &path.child("namespace"), namespace, names::is_dns1123_label(namespace));
    }
    if let Some(generation) = meta.generation.filter(|&generation| generation < 0) {
        errors.push(field::invalid(&path.child("generation"), generation, NOT_NEGATIVE));
    }
    errors.extend(common(&meta, path));
    errors
}

/// All that is wrong with the metadata of an object to update, `old` being the stored one.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let sent = new;
    let (new, old) = match (read(new), read(old)) {
        (Ok(new), Ok(old)) => (new, old),
        (Err(errors), _) | (_, Err(errors)) => return errors,
    };
    let mut errors = ErrorList::new();
    if old.deletion_timestamp.is_some() {
        let had = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<_> =
            new.finalizers.iter().flatten().filter(|finalizer| !had.contains(finalizer)).cloned().collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            let quoted: Vec<_> = added.iter().map(|finalizer| field::quote(finalizer)).collect();
            errors.push(field::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{}}}",
                    quoted.join(", ")
                ),
            ));
        }
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.push(field::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        let generation = new.generation.unwrap_or(0);
        errors.push(field::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    immutable_text(&mut errors, &path.child("name"), &new.name, &old.name);
    immutable_text(&mut errors, &path.child("namespace"), &new.namespace, &old.namespace);
    immutable_text(&mut errors, &path.child("uid"), &new.uid, &old.uid);
    immutable(
        &mut errors,
        &path.child("creationTimestamp"),
        &new.creation_timestamp,
        &old.creation_timestamp,
    );
    immutable(
        &mut errors,
        &path.child("deletionTimestamp"),
        &new.deletion_timestamp,
        &old.deletion_timestamp,
    );
    immutable(
        &mut errors,
        &path.child("deletionGracePeriodSeconds"),
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    );
    errors.extend(common(&new, &path));
    errors.extend(managed_fields_errors(sent, &path));
    errors
}

/// What a negative number's error says.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

fn read(object: &Value) -> Result<ObjectMeta, ErrorList> {
    match object.get("metadata") {
        None => Ok(ObjectMeta::default()),
        Some(meta) => ObjectMeta::deserialize(PlainMetadata(meta)).map_err(|error| {
            vec![field::type_invalid(&Path::new("metadata"), Value::Null, error.to_string())]
        }),
    }
}

fn common(meta: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(labels) = &meta.labels {
        errors.extend(labels_errors(labels, &path.child("labels")));
    }
    if let Some(annotations) = &meta.annotations {
        errors.extend(annotations_errors(annotations, &path.child("annotations")));
    }
    errors.extend(owner_reference_errors(
        meta.owner_references.as_deref().unwrap_or_default(),
        &path.child("ownerReferences"),
    ));
    errors
        .extend(finalizer_errors(meta.finalizers.as_deref().unwrap_or_default(), &path.child("finalizers")));
    errors
}

/// What is wrong with the entries of an object's `managedFields`; [`read`] leaves them out.
fn managed_fields_errors(object: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        let path = path.child("managedFields").index(index);
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = text("operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(field::invalid(&path.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        let fields_type = text("fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(field::invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        if text("manager").len() > 128 {
            errors.push(field::too_long(&path.child("manager"), 128));
        }
        if text("subresource").len() > 256 {
            errors.push(field::too_long(&path.child("subresource"), 256));
        }
    }
    errors
}

/// Adds an "invalid value" for each message.
pub fn push_invalid(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|message| field::invalid(path, value, message)));
}

/// All that is wrong with a set of labels.
pub fn labels_errors(labels: &BTreeMap<String, String>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels {
        push_invalid(&mut errors, path, key, names::is_qualified_name(key));
        push_invalid(&mut errors, path, value, names::is_label_value(value));
    }
    errors
}

/// All that is wrong with a set of annotations.
pub fn annotations_errors(annotations: &BTreeMap<String, String>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for key in annotations.keys() {
        push_invalid(&mut errors, path, key, names::is_qualified_name(&key.to_ascii_lowercase()));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_MAX {
        errors.push(field::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

/// All that is wrong with what a pod's author says to the signer of its certificates: annotations whose keys all have a
/// domain.
pub fn user_annotations_errors(annotations: &BTreeMap<String, String>, path: &Path) -> ErrorList {
    let mut errors = annotations_errors(annotations, path);
    for key in annotations.keys().filter(|key| names::is_qualified_name(&key.to_ascii_lowercase()).is_empty())
    {
        if !key.contains('/') {
            let message = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(field::invalid(path, key.to_ascii_lowercase(), message));
        }
    }
    errors
}

fn owner_reference_errors(references: &[OwnerReference], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<String> = None;
    for reference in references {
        let version = reference.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || reference.api_version.matches('/').count() > 1 {
            let path = path.child("apiVersion");
            errors.push(field::invalid(&path, &*reference.api_version, "version must not be empty"));
        }
        for (name, value) in [("kind", &reference.kind), ("name", &reference.name), ("uid", &reference.uid)] {
            if value.is_empty() {
                errors.push(field::invalid(&path.child(name), &**value, "must not be empty"));
            }
        }
        if reference.api_version == "v1" && reference.kind == "Event" {
            let value = serde_json::to_value(reference).unwrap_or(Value::Null);
            errors.push(field::invalid(path, value, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if reference.controller == Some(true) {
            let this = format!("{}/{}", reference.kind, reference.name);
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let value = serde_json::to_value(references).unwrap_or(Value::Null);
                    errors.push(field::invalid(
                        path,
                        value,
                        format!(
                            "Only one reference can have Controller set to true. Found \"true\" in references for \
                             {first} and {this}"
                        ),
                    ));
                }
            }
        }
    }
    errors
}

fn finalizer_errors(finalizers: &[String], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for finalizer in finalizers {
        push_invalid(&mut errors, path, finalizer, names::is_qualified_name(finalizer));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(FOREGROUND) && has(ORPHAN) {
        errors.push(field::invalid(
            path,
            finalizers.to_vec(),
            format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"),
        ));
    }
    errors
}

/// All that is wrong with a label selector in an object's spec.
pub fn label_selector_errors(selector: &LabelSelector, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(labels) = &selector.match_labels {
        errors.extend(labels_errors(labels, &path.child("matchLabels")));
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.push(field::required(
                        &path.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    ));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.push(field::forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
            }
            other => {
                errors.push(field::invalid(&path.child("operator"), other, "not a valid selector operator"))
            }
        }
        push_invalid(
            &mut errors,
            &path.child("key"),
            &expression.key,
            names::is_qualified_name(&expression.key),
        );
        for (index, value) in values.iter().enumerate() {
            let path = path.child("values").index(index);
            push_invalid(&mut errors, &path, value, names::is_label_value(value));
        }
    }
    errors
}

/// Whether a selector selects everything because it is empty.
pub fn selector_is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Adds the error of a field that changed and may not.
pub fn immutable<T: PartialEq + serde::Serialize>(errors: &mut ErrorList, path: &Path, new: &T, old: &T) {
    if new != old {
        let value = serde_json::to_value(new).unwrap_or(Value::Null);
        errors.push(field::invalid(path, value, IMMUTABLE));
    }
}

/// As [`immutable`], for a text whose absence is the empty text.
fn immutable_text(errors: &mut ErrorList, path: &Path, new: &Option<String>, old: &Option<String>) {
    immutable(errors, path, &new.as_deref().unwrap_or_default(), &old.as_deref().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Scope;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn create(scope: Scope, metadata: Value) -> Vec<String> {
        let descriptor = Descriptor::new("", "v1", "Thing", "things", scope);
        texts(validate_create(&descriptor, &json!({ "metadata": metadata })))
    }

    #[test]
    fn create_checks() {
        let none: [String; 0] = [];
        assert_eq!(create(Scope::Namespaced, json!({"name": "a", "namespace": "default"})), none);
        assert_eq!(
            create(Scope::Namespaced, json!({"namespace": "default"})),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(create(Scope::Namespaced, json!({"name": "a"})), ["metadata.namespace: Required value"]);
        assert_eq!(
            create(Scope::Cluster, json!({"name": "a", "namespace": "x"})),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let wrong = create(
            Scope::Cluster,
            json!({"name": "a", "labels": {"-": "a b"}, "annotations": {"A/B": "fine"},
                   "finalizers": ["orphan", "foregroundDeletion"],
                   "ownerReferences": [{"apiVersion": "v1", "kind": "", "name": "x", "uid": "u"}]}),
        );
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong[0].starts_with(r#"metadata.labels: Invalid value: "-": name part must consist"#));
        assert_eq!(wrong[2], r#"metadata.ownerReferences.kind: Invalid value: "": must not be empty"#);
    }

    #[test]
    fn update_checks() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2,
            "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        assert_eq!(validate_update(&new, &old), []);
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["generation"] = json!(1);
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        assert_eq!(
            texts(validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{\"c/d\"}",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }

    #[test]
    fn names_that_only_files_may_give_are_refused() {
        let all = crate::kinds::all();
        let own = all.iter().filter(|descriptor| descriptor.group == "admissionregistration.k8s.io");
        let mut count = 0;
        for descriptor in own {
            count += 1;
            for (name, errors) in [("a.static.k8s.io", 1), ("a.static.k8s.io.b", 0), ("static.k8s.io", 0)] {
                let found = validate_create(descriptor, &serde_json::json!({"metadata": {"name": name}}));
                assert_eq!(found.len(), errors, "{name}: {found:?}");
            }
        }
        assert_eq!(count, 6);
        let map = all.iter().find(|descriptor| descriptor.kind == "ConfigMap").unwrap();
        let named = serde_json::json!({"metadata": {"name": "a.static.k8s.io", "namespace": "n"}});
        assert!(validate_create(map, &named).is_empty());
    }
}
