//! CustomResourceDefinition: a kind made by the user.
//! Not here: structural schemas (crate `schema`), serving the kind, the conditions of its status (the API server);
//! in files of their own: what its versions say but for their schemas ([`versions`]), and who may use the groups of
//! the community ([`approval`]).
//! Upstream: apiextensions-apiserver pkg/registry/customresourcedefinition, pkg/apis/apiextensions.

pub mod approval;
mod versions;

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Hooks, Scope, Subresources};
use crate::kinds::admissionregistration::matching;
use crate::meta_validation::push_invalid;
use crate::names::{is_dns1035_label, is_dns1123_subdomain};
use crate::types::admissionregistration::v1::WebhookClientConfig;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["crd".into(), "crds".into()],
        categories: vec!["api-extensions".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        resets: &[("status", &["metadata"])],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Group", "string", "API group"),
            Column::new("Scope", "string", "Cluster/Namespaced"),
            Column::new("Versions", "string", "Served versions"),
            Column::new("Created At", "date", "When the definition was made."),
        ],
        hooks: Arc::new(DefinitionHooks),
        unconditional_update: false,
        ..Descriptor::new(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            Scope::Cluster,
        )
    }
}

/// On the untyped form: the schemas inside are large, and nothing here looks at them.
struct DefinitionHooks;

fn fields<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn versions(object: &Value) -> &[Value] {
    object.pointer("/spec/versions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn storage_version(object: &Value) -> Option<&str> {
    versions(object)
        .iter()
        .find(|version| version.get("storage") == Some(&Value::Bool(true)))
        .and_then(|version| version.get("name")?.as_str())
}

impl Hooks for DefinitionHooks {
    fn default(&self, object: &mut Value) {
        let Some(spec) = fields(object, "spec") else { return };
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (name, default) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
                let slot = names.entry(name).or_insert(Value::Null);
                if slot.as_str().is_none_or(str::is_empty) {
                    *slot = default.into();
                }
            }
        }
        let port = spec
            .get_mut("conversion")
            .and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig/service"))
            .and_then(Value::as_object_mut);
        if let Some(service) = port {
            service.entry("port").or_insert_with(|| 443.into());
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        let stored: Vec<Value> = storage_version(object).into_iter().map(Value::from).collect();
        if let Some(fields) = object.as_object_mut() {
            let status = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""},
                "storedVersions": stored});
            fields.insert("status".to_owned(), status);
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        let storage = storage_version(new).map(str::to_owned);
        let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
        if let (Some(version), Some(stored)) =
            (storage, status.get_mut("storedVersions").and_then(Value::as_array_mut))
            && !stored.iter().any(|known| *known == version.as_str())
        {
            stored.push(version.into());
        }
        if let Some(fields) = new.as_object_mut() {
            fields.insert("status".to_owned(), status);
        }
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        if let (Some(fields), Some(spec)) = (new.as_object_mut(), old.get("spec")) {
            fields.insert("spec".to_owned(), spec.clone());
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        validate(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(new, Some(old));
        let established =
            old.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().any(
                |condition| text(condition, "/type") == "Established" && text(condition, "/status") == "True",
            );
        for (name, only_established) in
            [("scope", true), ("names/kind", true), ("group", false), ("names/plural", false)]
        {
            let pointer = format!("/spec/{name}");
            let (new, old) = (text(new, &pointer), text(old, &pointer));
            if new != old && (established || !only_established) {
                let path = name.split('/').fold(Path::new("spec"), |path, step| path.child(step.to_owned()));
                errors.push(field::invalid(&path, new, crate::meta_validation::IMMUTABLE));
            }
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        names(&mut errors, new, "/status/acceptedNames", &Path::new("status").child("acceptedNames"));
        errors
    }

    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        // Of all versions, though the column says that they are served: upstream's.
        let mut names: Vec<&str> = versions(object).iter().map(|version| text(version, "/name")).collect();
        names.sort_unstable();
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/spec/group").into(),
            text(object, "/spec/scope").into(),
            names.join(",").into(),
            text(object, "/metadata/creationTimestamp").into(),
        ]
    }
}

/// Whether a definition keeps fields that its schema does not know; only old ones do.
fn keeps_unknown(object: &Value) -> bool {
    object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true))
}

/// What is wrong with a definition apart from its schemas, given what it was before.
fn validate(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let (group, plural) = (text(object, "/spec/group"), text(object, "/spec/names/plural"));
    if text(object, "/metadata/name") != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(field::invalid(
            &Path::new("metadata").child("name"),
            text(object, "/metadata/name"),
            detail,
        ));
    }
    let at = path.child("group");
    let wrong = is_dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(field::required(&at, ""));
    } else if !wrong.is_empty() {
        errors.push(field::invalid(&at, group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(field::invalid(&at, group, "should be a domain with at least one dot"));
    }
    match text(object, "/spec/scope") {
        "" => errors.push(field::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(field::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    versions::validate(&mut errors, object, old, &path);
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(object, &format!("/spec/names/{name}")).is_empty() {
            errors.push(field::required(&path.child("names").child(name), ""));
        }
    }
    names(&mut errors, object, "/spec/names", &path.child("names"));
    versions::validate_shared(&mut errors, object, &path);
    conversion(&mut errors, object, &path.child("conversion"));
    names(&mut errors, object, "/status/acceptedNames", &Path::new("status").child("acceptedNames"));
    stored_versions(&mut errors, object);
    approval::validate(&mut errors, object, old);
    if keeps_unknown(object) && !old.is_some_and(keeps_unknown) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(field::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    errors
}

/// Every version in which objects may be stored must be there to read them.
fn stored_versions(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("status").child("storedVersions");
    let stored = object.pointer("/status/storedVersions").and_then(Value::as_array);
    let stored = stored.map_or(&[][..], Vec::as_slice);
    if stored.is_empty() {
        errors.push(field::invalid(&path, Value::Null, "must have at least one stored version"));
        return;
    }
    if let Some(storage) = storage_version(object).filter(|name| !stored.iter().any(|known| known == name)) {
        let detail = format!("must have the storage version {storage}");
        errors.push(field::invalid(&path, stored.to_vec(), detail));
    }
    for (index, version) in stored.iter().enumerate() {
        if !versions(object).iter().any(|known| known.get("name") == Some(version)) {
            let name = version.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.push(field::invalid(&path.index(index), version.clone(), detail));
        }
    }
}

/// How objects of one version become those of another. The paths in errors are those of upstream's internal version.
fn conversion(errors: &mut ErrorList, object: &Value, path: &Path) {
    let strategy = text(object, "/spec/conversion/strategy");
    let part = |name: &str| {
        object.pointer(&format!("/spec/conversion/webhook/{name}")).filter(|value| !value.is_null())
    };
    let (client, reviews) = (part("clientConfig"), part("conversionReviewVersions"));
    let reviews = reviews.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (client_path, reviews_path) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if !matches!(strategy, "" | "None")
        && object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true))
    {
        let message = "must be None if spec.preserveUnknownFields is true";
        errors.push(field::invalid(&path.child("strategy"), strategy, message));
    }
    match strategy {
        "Webhook" => {}
        "None" | "" => {
            let message = "should not be set when strategy is not set to Webhook";
            if client.is_some() {
                errors.push(field::forbidden(&client_path, message));
            }
            if !reviews.is_empty() {
                errors.push(field::forbidden(&reviews_path, message));
            }
            return;
        }
        other => {
            errors.push(field::not_supported(&path.child("strategy"), other, &["None", "Webhook"]));
            return;
        }
    }
    match client.map(WebhookClientConfig::deserialize) {
        None => errors.push(field::required(&client_path, "required when strategy is set to Webhook")),
        Some(Ok(client)) => matching::client(errors, &client, &client_path),
        Some(Err(error)) => errors.push(field::invalid(&client_path, "", error.to_string())),
    }
    if reviews.is_empty() {
        errors.push(field::required(&reviews_path, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (index, review) in reviews.iter().enumerate() {
        let (path, name) = (reviews_path.index(index), review.as_str().unwrap_or_default());
        if !seen.insert(name) {
            errors.push(field::invalid(&path, name, "duplicate version"));
        } else {
            push_invalid(errors, &path, name, is_dns1035_label(name));
        }
    }
    if !reviews.iter().any(|review| review == "v1" || review == "v1beta1") {
        let message = "must include at least one of v1, v1beta1";
        errors.push(field::invalid(&reviews_path, reviews.to_vec(), message));
    }
}

/// The form of names that are given at `pointer`.
fn names(errors: &mut ErrorList, object: &Value, pointer: &str, path: &Path) {
    let given = |name: &str| text(object, &format!("{pointer}/{name}"));
    for (name, may_be_mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let value = given(name);
        let wrong =
            if may_be_mixed { is_dns1035_label(&value.to_lowercase()) } else { is_dns1035_label(value) };
        if !value.is_empty() && !wrong.is_empty() {
            let but = if may_be_mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(field::invalid(&path.child(name), value, format!("{but}{}", wrong.join(","))));
        }
    }
    let list = |errors: &mut ErrorList, list: &'static str| {
        let values = object.pointer(&format!("{pointer}/{list}")).and_then(Value::as_array);
        for (index, value) in values.into_iter().flatten().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let wrong = is_dns1035_label(value);
            if !wrong.is_empty() {
                errors.push(field::invalid(&path.child(list).index(index), value, wrong.join(",")));
            }
        }
    };
    list(errors, "shortNames");
    let kind = given("kind");
    if !kind.is_empty() && kind == given("listKind") {
        errors.push(field::invalid(&path.child("listKind"), kind, "kind and listKind may not be the same"));
    }
    list(errors, "categories");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Value);

    fn definition(change: fn(&mut Value)) -> Value {
        let mut definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {}}}]}});
        change(&mut definition);
        DefinitionHooks.default(&mut definition);
        DefinitionHooks.prepare_for_create(&mut definition);
        definition
    }

    #[test]
    fn the_row_names_all_versions() {
        let definition = definition(|d| {
            d["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
            let first = d["spec"]["versions"][0].clone();
            let mut older = first.clone();
            (older["name"], older["served"], older["storage"]) =
                (json!("v1alpha1"), json!(false), json!(false));
            d["spec"]["versions"] = json!([older, first]);
        });
        assert_eq!(
            DefinitionHooks.cells(&definition, Timestamp::UNIX_EPOCH),
            ["widgets.example.com", "example.com", "Namespaced", "v1,v1alpha1", "2026-01-02T03:04:05Z"]
        );
    }

    #[test]
    fn checks() {
        let right = definition(|_| {});
        assert_eq!(right["spec"]["names"]["listKind"], "WidgetList");
        assert_eq!(right["status"]["storedVersions"], json!(["v1"]));
        let table: [(Change, usize); 5] = [
            (|_| {}, 0),
            (|d| d["metadata"]["name"] = json!("x.example.com"), 1),
            // Then there is no stored version either.
            (|d| d["spec"]["versions"][0]["storage"] = json!(false), 2),
            (|d| d["spec"]["versions"][0]["schema"] = json!({}), 1),
            (|d| d["spec"]["scope"] = json!("Galaxy"), 1),
        ];
        for (change, errors) in table {
            let definition = definition(change);
            assert_eq!(DefinitionHooks.validate(&definition).len(), errors, "{definition}");
        }
    }

    #[test]
    fn a_conversion_is_none_or_a_webhook_that_can_be_called() {
        let service = json!({"name": "s", "namespace": "n"});
        let webhook = |client: Value, reviews: Value| json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": reviews}});
        let table = [
            (json!({"strategy": "None"}), ""),
            (webhook(json!({"service": service}), json!(["v1"])), ""),
            (webhook(json!({"url": "https://h/p"}), json!(["v7", "v1beta1"])), ""),
            (json!({"strategy": "Magic"}), "spec.conversion.strategy: Unsupported value: \"Magic\""),
            (json!({"strategy": "Webhook"}), "spec.conversion.webhookClientConfig: Required value"),
            (webhook(json!({}), json!(["v1"])), "exactly one of url or service is required"),
            (webhook(json!({"url": "http://h"}), json!(["v1"])), "spec.conversion.webhookClientConfig.url"),
            (webhook(json!({"service": service}), json!([])), "conversionReviewVersions: Required value"),
            (webhook(json!({"service": service}), json!(["v7"])), "must include at least one of v1, v1beta1"),
            (webhook(json!({"service": service}), json!(["v1", "v1"])), "duplicate version"),
            (
                json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
                "should not be set",
            ),
        ];
        for (conversion, wanted) in table {
            let mut definition = definition(|_| {});
            definition["spec"]["conversion"] = conversion;
            DefinitionHooks.default(&mut definition);
            let errors: Vec<_> =
                DefinitionHooks.validate(&definition).iter().map(ToString::to_string).collect();
            assert_eq!(errors.is_empty(), wanted.is_empty(), "{errors:?}");
            assert!(wanted.is_empty() || errors.iter().any(|error| error.contains(wanted)), "{errors:?}");
        }
        let mut keeping = definition(|_| {});
        keeping["spec"]["preserveUnknownFields"] = json!(true);
        keeping["spec"]["conversion"] = webhook(json!({"service": service}), json!(["v1"]));
        let errors = DefinitionHooks.validate(&keeping);
        assert!(errors.iter().any(|error| error.to_string().contains("must be None if")), "{errors:?}");
        let refused = "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set \
                       x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        assert!(errors.iter().any(|error| error.to_string() == refused), "{errors:?}");
        // What already keeps them may go on.
        keeping["spec"]["conversion"] = json!({"strategy": "None"});
        assert_eq!(DefinitionHooks.validate_update(&keeping, &keeping), []);
    }

    #[test]
    fn a_stored_version_cannot_vanish() {
        let old = definition(|_| {});
        let mut new = definition(|d| d["spec"]["versions"][0]["name"] = json!("v2"));
        DefinitionHooks.prepare_for_update(&mut new, &old);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(DefinitionHooks.validate_update(&new, &old).len(), 1);
    }

    fn said(change: Change) -> Vec<String> {
        DefinitionHooks.validate(&definition(change)).iter().map(ToString::to_string).collect()
    }

    const LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                         alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
                         regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

    #[test]
    fn names_are_labels() {
        let mixed = "may have mixed case, but should otherwise match: ";
        // The other names are made of the kind.
        assert_eq!(
            said(|d| d["spec"]["names"]["kind"] = json!("My_Kind")),
            [
                format!("spec.names.singular: Invalid value: \"my_kind\": {LABEL}"),
                format!("spec.names.kind: Invalid value: \"My_Kind\": {mixed}{LABEL}"),
                format!("spec.names.listKind: Invalid value: \"My_KindList\": {mixed}{LABEL}"),
            ]
        );
        assert_eq!(
            said(|d| d["spec"]["names"]["shortNames"] = json!(["ok", "Not"])),
            [format!("spec.names.shortNames[1]: Invalid value: \"Not\": {LABEL}")]
        );
    }
}
