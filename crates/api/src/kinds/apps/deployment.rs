//! Deployment: declarative updates of ReplicaSets.
//! Upstream: pkg/registry/apps/deployment, pkg/apis/apps.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, ScalePaths, Scope, Subresources, Typed};
use crate::kinds::check::{at_most_hundred_percent, json as value_of, not_negative_if_set};
use crate::kinds::core::pod::defaults;
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::kinds::workload::{self, count_if_set, is_nothing, selector_and_template};
use crate::meta::IntOrString;
use crate::meta_validation::immutable;
use crate::types::apps::v1::{Deployment, DeploymentStrategy};

/// How it is served.
pub fn descriptor() -> Descriptor {
    let [containers, images] = row::container_columns();
    Descriptor {
        short_names: vec!["deploy".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        resets: &[("status", &["metadata.labels"])],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Ready", "string", "Number of the pod with ready state"),
            Column::new("Up-to-date", "string", "Number of pods made from the current template."),
            Column::new("Available", "string", "Number of pods that have been ready for minReadySeconds."),
            Column::age(),
            containers,
            images,
            Column::wide("Selector", "string", "Which pods belong to the deployment."),
        ],
        hooks: Arc::new(
            Typed::<Deployment>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .prepare_for_update(count_annotations)
                .prepare_for_status_update(|new, old| new.metadata.labels.clone_from(&old.metadata.labels))
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("apps", "v1", "Deployment", "deployments", Scope::Namespaced)
    }
}

fn default(deployment: &mut Deployment) {
    let spec = &mut deployment.spec;
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    spec.progress_deadline_seconds.get_or_insert(600);
    let strategy = spec.strategy.get_or_insert_default();
    default_text(&mut strategy.type_, "RollingUpdate");
    if text(&strategy.type_) == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_default();
        for bound in [&mut rolling.max_unavailable, &mut rolling.max_surge] {
            bound.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        }
    }
    defaults::template(&mut spec.template);
    deployment.status.get_or_insert_default();
}

/// A change of the annotations counts as a new generation too: the controller copies them to the ReplicaSets.
fn count_annotations(new: &mut Deployment, old: &Deployment) {
    // A change of the spec is counted by the server, and both together count once.
    if new.metadata.annotations != old.metadata.annotations && new.spec == old.spec {
        new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
    }
}

fn validate(deployment: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &deployment.spec;
    let path = Path::new("spec");
    not_negative_if_set(&mut errors, &path.child("replicas"), spec.replicas);
    selector_and_template(&mut errors, "ReplicaSet", &spec.selector, &spec.template, &path);
    strategy(&mut errors, spec.strategy.as_ref(), &path.child("strategy"));
    not_negative_if_set(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
    not_negative_if_set(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        not_negative_if_set(&mut errors, &path, Some(deadline));
        if deadline <= spec.min_ready_seconds.unwrap_or(0) {
            errors.push(field::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
    errors
}

fn strategy(errors: &mut ErrorList, strategy: Option<&DeploymentStrategy>, path: &Path) {
    let empty = DeploymentStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            let message = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(field::forbidden(&rolling_path, message));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.push(field::required(&rolling_path, "this should be defaulted and never be nil"));
        }
        ("RollingUpdate", Some(rolling)) => {
            let unavailable_path = rolling_path.child("maxUnavailable");
            count_if_set(errors, &unavailable_path, rolling.max_unavailable.as_ref());
            count_if_set(errors, &rolling_path.child("maxSurge"), rolling.max_surge.as_ref());
            let nothing = |bound: &Option<IntOrString>| bound.as_ref().is_none_or(is_nothing);
            if nothing(&rolling.max_unavailable) && nothing(&rolling.max_surge) {
                let value = value_of(&rolling.max_unavailable);
                errors.push(field::invalid(&unavailable_path, value, "may not be 0 when `maxSurge` is 0"));
            }
            if let Some(unavailable) = &rolling.max_unavailable {
                at_most_hundred_percent(errors, &unavailable_path, unavailable);
            }
        }
        (other, _) => {
            errors.push(field::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn validate_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &new.spec.selector, &old.spec.selector);
    errors
}

fn validate_status_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let Some(status) = &new.status else { return errors };
    let counts = [
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
    ];
    not_negative_if_set(&mut errors, &path.child("observedGeneration"), status.observed_generation);
    for (name, count) in counts {
        not_negative_if_set(&mut errors, &path.child(name), count);
    }
    let all = status.replicas.unwrap_or(0);
    for (name, count) in &counts[1..4] {
        let count = count.unwrap_or(0);
        if count > all {
            errors.push(field::invalid(&path.child(*name), count, "cannot be greater than status.replicas"));
        }
    }
    let available = status.available_replicas.unwrap_or(0);
    if available > status.ready_replicas.unwrap_or(0) {
        let path = path.child("availableReplicas");
        errors.push(field::invalid(&path, available, "cannot be greater than readyReplicas"));
    }
    let collisions =
        |deployment: &Deployment| deployment.status.as_ref().and_then(|status| status.collision_count);
    workload::collision_count(&mut errors, collisions(new), collisions(old));
    errors
}

fn warnings(deployment: &Deployment, old: Option<&Value>) -> Vec<String> {
    workload::warnings(&deployment.metadata, true, Some(&deployment.spec.template), old)
}

fn cells(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
    let spec = &deployment.spec;
    let status = deployment.status.clone().unwrap_or_default();
    let desired = spec.replicas.unwrap_or(0);
    let [containers, images] = row::containers(Some(&spec.template));
    vec![
        row::name(&deployment.metadata),
        format!("{}/{desired}", status.ready_replicas.unwrap_or(0)).into(),
        row::count(status.updated_replicas),
        row::count(status.available_replicas),
        row::age(&deployment.metadata, now),
        containers,
        images,
        row::selector(Some(&spec.selector)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Value);

    fn deployment(change: fn(&mut Value)) -> Deployment {
        let mut value = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }});
        change(&mut value);
        let mut deployment = serde_json::from_value(value).unwrap();
        default(&mut deployment);
        deployment
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn checks() {
        let table: [(Change, &[&str]); 6] = [
            (|_| {}, &[]),
            (
                |d| d["spec"]["selector"] = json!(null),
                &[
                    "spec.selector: Required value",
                    r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#,
                ],
            ),
            (
                |d| d["spec"]["replicas"] = json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                |d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
                &[
                    r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#,
                ],
            ),
            (
                |d| d["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}}),
                &[
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                |d| d["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
                &[
                    r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
                ],
            ),
        ];
        for (change, errors) in table {
            assert_eq!(texts(validate(&deployment(change))), errors);
        }
    }

    #[test]
    fn the_selector_is_immutable() {
        let new = deployment(|d| {
            d["spec"]["selector"]["matchLabels"] = json!({"app": "new"});
            d["spec"]["template"]["metadata"]["labels"] = json!({"app": "new"});
        });
        assert_eq!(
            texts(validate_update(&new, &deployment(|_| {}))),
            [r#"spec.selector: Invalid value: {"matchLabels":{"app":"new"}}: field is immutable"#]
        );
    }
}
