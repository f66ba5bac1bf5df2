//! Namespace: the scope of names, quotas and permissions.
//! Upstream: pkg/registry/core/namespace, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::kinds::check::qualified_name;
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::names::NameRule;
use crate::types::core::v1::Namespace;

/// The label by which namespaces can be selected by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// What keeps a namespace until its contents are gone.
const FINALIZER: &str = "kubernetes";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ns".into()],
        verbs: Verbs::ALL.without(Verbs::DELETE_COLLECTION),
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("finalize", "", "v1", "Namespace", Verbs::UPDATE)],
            ..Subresources::default()
        },
        selectable_fields: vec![
            SelectableField::new("status.phase", "/status/phase"),
            SelectableField::new("name", "/metadata/name"),
        ],
        name_rule: NameRule::DnsLabel,
        columns: vec![
            Column::object_name(),
            Column::new("Status", "string", "The status of the namespace"),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<Namespace>::new()
                .status(|| Some(json!({"phase": "Active"})))
                .default_with(default)
                .prepare_for_create(prepare_for_create)
                .prepare_for_update(|new, old| new.spec.clone_from(&old.spec))
                .prepare_for_subresource_update(prepare_for_subresource_update)
                .validate(validate)
                .validate_update(|_, _| ErrorList::new())
                .validate_status_update(validate_status_update)
                .validate_subresource_update(|_, new, _| validate(new))
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "Namespace", "namespaces", Scope::Cluster)
    }
}

fn default(namespace: &mut Namespace) {
    let name = text(&namespace.metadata.name).to_owned();
    if !name.is_empty() {
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
    namespace.spec.get_or_insert_default();
    default_text(&mut namespace.status.get_or_insert_default().phase, "Active");
}

fn prepare_for_create(namespace: &mut Namespace) {
    let name = text(&namespace.metadata.name).to_owned();
    namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
}

/// `finalize` changes the finalizers in the spec and nothing else.
fn prepare_for_subresource_update(_: &str, new: &mut Namespace, old: &Namespace) {
    new.status.clone_from(&old.status);
}

fn validate(namespace: &Namespace) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("finalizers");
    for finalizer in namespace.spec.iter().flat_map(|spec| items(&spec.finalizers)) {
        let before = errors.len();
        qualified_name(&mut errors, &path, finalizer);
        let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(&&**finalizer);
        if errors.len() == before && !finalizer.contains('/') && !standard {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(field::invalid(&path, &**finalizer, message));
        }
    }
    errors
}

fn validate_status_update(new: &Namespace, _: &Namespace) -> ErrorList {
    let phase = new.status.as_ref().map_or("", |status| text(&status.phase));
    let path = Path::new("status").child("Phase");
    match (new.metadata.deletion_timestamp.is_some(), phase) {
        (false, "Active") | (true, "Terminating") => ErrorList::new(),
        (false, other) => {
            vec![field::invalid(&path, other, "may only be 'Active' if `deletionTimestamp` is empty")]
        }
        (true, other) => {
            vec![field::invalid(
                &path,
                other,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            )]
        }
    }
}

fn cells(namespace: &Namespace, now: Timestamp) -> Vec<Value> {
    let phase = namespace.status.as_ref().map_or("", |status| text(&status.phase));
    vec![row::name(&namespace.metadata), phase.into(), row::age(&namespace.metadata, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_labelled_and_kept() {
        let mut namespace = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        default(&mut namespace);
        prepare_for_create(&mut namespace);
        assert_eq!(
            serde_json::to_value(&namespace).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {NAME_LABEL: "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        assert_eq!(validate(&namespace), []);
    }

    #[test]
    fn the_phase_follows_deletion() {
        let namespace = |meta: Value, phase: &str| {
            serde_json::from_value::<Namespace>(json!({"metadata": meta, "status": {"phase": phase}}))
                .unwrap()
        };
        let deleted = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
        for (meta, phase, errors) in [
            (json!({}), "Active", 0),
            (json!({}), "Terminating", 1),
            (deleted.clone(), "Terminating", 0),
            (deleted, "Active", 1),
        ] {
            let new = namespace(meta, phase);
            assert_eq!(validate_status_update(&new, &new).len(), errors);
        }
    }
}
