//! ReplicationController: keeps a number of pods running; the ancestor of ReplicaSet.
//! Upstream: pkg/registry/core/replicationcontroller, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Dependents, Descriptor, ScalePaths, Scope, SelectableField, Subresources, Typed};
use crate::kinds::apps::replica_set;
use crate::kinds::check::{json as value_of, labels_match, not_negative_if_set};
use crate::kinds::core::pod::{defaults, validation};
use crate::kinds::row;
use crate::kinds::workload::{self, ReplicaCounts, runs_for_ever};
use crate::types::core::v1::{ReplicationController, ReplicationControllerSpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["rc".into()],
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
        dependents: Dependents::Kept(""),
        columns: replica_set::columns(),
        hooks: Arc::new(
            Typed::<ReplicationController>::new()
                .status(|| Some(json!({"replicas": 0})))
                .default_with(default)
                .validate(validate)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "ReplicationController", "replicationcontrollers", Scope::Namespaced)
    }
}

fn default(controller: &mut ReplicationController) {
    let spec = controller.spec.get_or_insert_default();
    let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
    if let Some(labels) = labels {
        if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
            spec.selector = Some(labels.clone());
        }
        if controller.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            controller.metadata.labels = Some(labels);
        }
    }
    spec.replicas.get_or_insert(1);
    if let Some(template) = &mut spec.template {
        defaults::template(template);
    }
    controller.status.get_or_insert_default();
}

fn validate(controller: &ReplicationController) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = ReplicationControllerSpec::default();
    let spec = controller.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    not_negative_if_set(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.push(field::required(&path.child("selector"), ""));
    }
    not_negative_if_set(&mut errors, &path.child("replicas"), spec.replicas);
    let path = path.child("template");
    let Some(template) = &spec.template else {
        errors.push(field::required(&path, ""));
        return errors;
    };
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    if !labels_match(&selector, labels.as_ref().unwrap_or(&Default::default())) {
        errors.push(field::invalid(
            &path.child("metadata").child("labels"),
            value_of(&labels),
            "`selector` does not match template `labels`",
        ));
    }
    validation::template(&mut errors, template, &path);
    runs_for_ever(&mut errors, "ReplicationController", template, &path);
    errors
}

fn validate_status_update(new: &ReplicationController, _: &ReplicationController) -> ErrorList {
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

fn warnings(controller: &ReplicationController, old: Option<&Value>) -> Vec<String> {
    workload::warnings(
        &controller.metadata,
        true,
        controller.spec.as_ref().and_then(|spec| spec.template.as_ref()),
        old,
    )
}

fn cells(controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
    let spec = controller.spec.as_ref();
    let status = controller.status.clone().unwrap_or_default();
    let [containers, images] = row::containers(spec.and_then(|spec| spec.template.as_ref()));
    vec![
        row::name(&controller.metadata),
        row::count(spec.and_then(|spec| spec.replicas)),
        status.replicas.into(),
        row::count(status.ready_replicas),
        row::age(&controller.metadata, now),
        containers,
        images,
        row::labels(spec.and_then(|spec| spec.selector.as_ref())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_and_labels_come_from_the_template() {
        let mut controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"template": {"metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
        .unwrap();
        default(&mut controller);
        assert_eq!(controller.metadata.labels, controller.spec.as_ref().unwrap().selector);
        assert_eq!(validate(&controller), []);
        controller.spec.as_mut().unwrap().selector = None;
        let texts: Vec<_> = validate(&controller).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.selector: Required value"]);
    }
}
