//! ReplicaSet: keeps a number of pods running.
//! Upstream: pkg/registry/apps/replicaset, pkg/apis/apps.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, ScalePaths, Scope, SelectableField, Subresources, Typed};
use crate::kinds::check::not_negative_if_set;
use crate::kinds::core::pod::defaults;
use crate::kinds::row;
use crate::kinds::workload::{self, ReplicaCounts, selector_and_template};
use crate::meta_validation::immutable;
use crate::types::apps::v1::ReplicaSet;
use crate::types::core::v1::PodTemplateSpec;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField {
            absent: "0",
            ..SelectableField::new("status.replicas", "/status/replicas")
        }],
        generation: true,
        columns: columns(),
        hooks: Arc::new(
            Typed::<ReplicaSet>::new()
                .status(|| Some(json!({"replicas": 0})))
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("apps", "v1", "ReplicaSet", "replicasets", Scope::Namespaced)
    }
}

/// The columns of ReplicaSets and ReplicationControllers.
pub(crate) fn columns() -> Vec<Column> {
    let [containers, images] = row::container_columns();
    vec![
        Column::object_name(),
        Column::new("Desired", "integer", "Number of pods wanted."),
        Column::new("Current", "integer", "Number of pods there are."),
        Column::new("Ready", "integer", "Number of pods that are ready."),
        Column::age(),
        containers,
        images,
        Column::wide("Selector", "string", "Which pods belong to it."),
    ]
}

fn default(set: &mut ReplicaSet) {
    let spec = &mut set.spec;
    spec.replicas.get_or_insert(1);
    defaults::template(spec.template.get_or_insert_default());
    set.status.get_or_insert_default();
}

fn validate(set: &ReplicaSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let no_template = PodTemplateSpec::default();
    let spec = &set.spec;
    let path = Path::new("spec");
    not_negative_if_set(&mut errors, &path.child("replicas"), spec.replicas);
    not_negative_if_set(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
    let template = spec.template.as_ref().unwrap_or(&no_template);
    selector_and_template(&mut errors, "ReplicaSet", &spec.selector, template, &path);
    errors
}

fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &new.spec.selector, &old.spec.selector);
    errors
}

fn validate_status_update(new: &ReplicaSet, _: &ReplicaSet) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(status) = &new.status {
        ReplicaCounts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
        }
        .validate(&mut errors, status.observed_generation);
    }
    errors
}

fn warnings(set: &ReplicaSet, old: Option<&Value>) -> Vec<String> {
    workload::warnings(&set.metadata, true, set.spec.template.as_ref(), old)
}

fn cells(set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
    let spec = &set.spec;
    let status = set.status.clone().unwrap_or_default();
    let [containers, images] = row::containers(spec.template.as_ref());
    vec![
        row::name(&set.metadata),
        row::count(spec.replicas),
        status.replicas.into(),
        row::count(status.ready_replicas),
        row::age(&set.metadata, now),
        containers,
        images,
        row::selector(Some(&spec.selector)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_the_status_agree() {
        let set = |status: Value| {
            serde_json::from_value::<ReplicaSet>(json!({"metadata": {"name": "a"}, "status": status}))
                .unwrap()
        };
        for (status, errors) in [
            (json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}), 0),
            (json!({"replicas": 1, "readyReplicas": 2}), 1),
            (json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2}), 1),
            (json!({"replicas": -1}), 4),
        ] {
            let new = set(status.clone());
            assert_eq!(validate_status_update(&new, &new).len(), errors, "{status}");
        }
    }
}
