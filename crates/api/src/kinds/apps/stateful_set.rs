//! StatefulSet: pods with identities and storage of their own.
//! Upstream: pkg/registry/apps/statefulset, pkg/apis/apps.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, ScalePaths, Scope, Subresources, Typed};
use crate::kinds::check::{dns_label, json as value_of, not_negative_if_set, one_of_if_set};
use crate::kinds::core::persistent_volume_claim;
use crate::kinds::core::pod::{defaults, validation};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::kinds::workload::{self, count_if_set, is_nothing, runs_for_ever, template_labels};
use crate::meta::IntOrString;
use crate::meta_validation::{annotations_errors, label_selector_errors, labels_errors, selector_is_empty};
use crate::names::NameRule;
use crate::types::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use crate::types::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};

/// How it is served.
pub fn descriptor() -> Descriptor {
    let [containers, images] = row::container_columns();
    Descriptor {
        short_names: vec!["sts".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        generation: true,
        name_rule: NameRule::DnsLabel,
        columns: vec![
            Column::object_name(),
            Column::new("Ready", "string", "Number of the pod with ready state"),
            Column::age(),
            containers,
            images,
        ],
        hooks: Arc::new(
            Typed::<StatefulSet>::new()
                .status(|| Some(json!({"replicas": 0, "availableReplicas": 0})))
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("apps", "v1", "StatefulSet", "statefulsets", Scope::Namespaced)
    }
}

fn default(set: &mut StatefulSet) {
    let spec = &mut set.spec;
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    default_text(&mut spec.pod_management_policy, "OrderedReady");
    let strategy = spec.update_strategy.get_or_insert_default();
    if text(&strategy.type_).is_empty() {
        default_text(&mut strategy.type_, "RollingUpdate");
        strategy.rolling_update.get_or_insert_default();
    }
    if text(&strategy.type_) == "RollingUpdate"
        && let Some(rolling) = &mut strategy.rolling_update
    {
        rolling.partition.get_or_insert(0);
        // On by default since v1.35.
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
    }
    let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
    default_text(&mut retention.when_deleted, "Retain");
    default_text(&mut retention.when_scaled, "Retain");
    for claim in items_mut(&mut spec.volume_claim_templates) {
        persistent_volume_claim::default(claim);
    }
    spec.service_name.get_or_insert_default();
    defaults::template(&mut spec.template);
    set.status.get_or_insert_default().available_replicas.get_or_insert(0);
}

fn validate(set: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let service = text(&set.spec.service_name);
    if !service.is_empty() {
        dns_label(&mut errors, &path.child("serviceName"), service);
    }
    for (index, claim) in items(&set.spec.volume_claim_templates).iter().enumerate() {
        let spec = claim.spec.clone().unwrap_or_default();
        persistent_volume_claim::validate_spec(
            &mut errors,
            &spec,
            &path.child("volumeClaimTemplates").index(index),
        );
    }
    errors.extend(validate_rest(set));
    errors.extend(template(&set.spec, &path.child("template")));
    errors
}

/// The pod template, whose mounts may name the claims that are made per pod: each is a volume of the claim's name, in
/// place of one that the template has under that name.
fn template(spec: &StatefulSetSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let claims = items(&spec.volume_claim_templates);
    if claims.is_empty() {
        validation::template(&mut errors, &spec.template, path);
        return errors;
    }
    let mut volumes: Vec<Volume> = Vec::new();
    for name in claims.iter().map(|claim| text(&claim.metadata.name)) {
        if !volumes.iter().any(|volume| volume.name == name) {
            let source =
                PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), ..Default::default() };
            volumes.push(Volume {
                name: name.to_owned(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            });
        }
    }
    let mut pod = spec.template.spec.clone().unwrap_or_default();
    let own = pod.volumes.take().unwrap_or_default();
    let rest: Vec<Volume> =
        own.into_iter().filter(|own| !volumes.iter().any(|made| made.name == own.name)).collect();
    volumes.extend(rest);
    pod.volumes = Some(volumes);
    let merged = PodTemplateSpec { metadata: spec.template.metadata.clone(), spec: Some(pod) };
    validation::template(&mut errors, &merged, path);
    errors
}

/// What was always checked: all but the name of the Service, the claims and the pod of the template.
fn validate_rest(set: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &set.spec;
    let path = Path::new("spec");
    let policy_path = path.child("podManagementPolicy");
    match text(&spec.pod_management_policy) {
        "" => errors.push(field::required(&policy_path, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(field::invalid(&policy_path, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    update_strategy(&mut errors, spec.update_strategy.as_ref(), &path.child("updateStrategy"));
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        let supported = ["Retain", "Delete"];
        one_of_if_set(&mut errors, &path.child("whenDeleted"), &retention.when_deleted, &supported);
        one_of_if_set(&mut errors, &path.child("whenScaled"), &retention.when_scaled, &supported);
    }
    not_negative_if_set(&mut errors, &path.child("replicas"), spec.replicas);
    not_negative_if_set(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    not_negative_if_set(&mut errors, &path.child("ordinals").child("start"), start);
    let selector_path = path.child("selector");
    if selector_is_empty(&spec.selector) {
        errors.push(field::required(&selector_path, ""));
    } else {
        errors.extend(label_selector_errors(&spec.selector, &selector_path));
    }
    let path = path.child("template");
    template_labels(&mut errors, &spec.selector, &spec.template, &path);
    runs_for_ever(&mut errors, "StatefulSet", &spec.template, &path);
    errors
}

fn update_strategy(errors: &mut ErrorList, strategy: Option<&StatefulSetUpdateStrategy>, path: &Path) {
    let empty = StatefulSetUpdateStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.push(field::required(path, "")),
        ("OnDelete", Some(rolling)) => {
            let message = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(field::invalid(&rolling_path, value_of(rolling), message));
        }
        ("RollingUpdate", Some(rolling)) => {
            not_negative_if_set(errors, &rolling_path.child("partition"), rolling.partition);
            let path = rolling_path.child("maxUnavailable");
            count_if_set(errors, &path, rolling.max_unavailable.as_ref());
            if let Some(bound) = rolling.max_unavailable.as_ref().filter(|bound| is_nothing(bound)) {
                errors.push(field::invalid(&path, value_of(bound), "cannot be 0"));
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            errors.push(field::invalid(path, value_of(strategy), "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
}

/// The name of the Service and the claims cannot change, and were not always checked: only that they stay is. Nor was
/// the template: who has a wrong one may write it again.
fn validate_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
    let mut errors = validate_rest(new);
    let (new, old) = (&new.spec, &old.spec);
    let path = Path::new("spec").child("template");
    if template(old, &path).is_empty() {
        errors.extend(template(new, &path));
    } else if let Some(meta) = &new.template.metadata {
        errors.extend(meta.labels.iter().flat_map(|labels| labels_errors(labels, &path.child("labels"))));
        let annotations = meta.annotations.iter();
        errors.extend(
            annotations.flat_map(|annotations| annotations_errors(annotations, &path.child("annotations"))),
        );
    }
    let rest = StatefulSetSpec {
        replicas: old.replicas,
        ordinals: old.ordinals.clone(),
        template: old.template.clone(),
        update_strategy: old.update_strategy.clone(),
        revision_history_limit: old.revision_history_limit,
        min_ready_seconds: old.min_ready_seconds,
        persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
        ..new.clone()
    };
    if rest != *old {
        errors.push(field::forbidden(
            &Path::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        ));
    }
    errors
}

fn validate_status_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let collisions = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.collision_count);
    workload::collision_count(&mut errors, collisions(new), collisions(old));
    let Some(status) = &new.status else { return errors };
    let path = Path::new("status");
    let counts = [
        ("readyReplicas", status.ready_replicas),
        ("currentReplicas", status.current_replicas),
        ("updatedReplicas", status.updated_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    not_negative_if_set(&mut errors, &path.child("replicas"), Some(status.replicas));
    for (name, count) in counts {
        not_negative_if_set(&mut errors, &path.child(name), count);
        let count = count.unwrap_or(0);
        if count > status.replicas {
            errors.push(field::invalid(&path.child(name), count, "cannot be greater than status.replicas"));
        }
    }
    not_negative_if_set(&mut errors, &path.child("observedGeneration"), status.observed_generation);
    let available = status.available_replicas.unwrap_or(0);
    if available > status.ready_replicas.unwrap_or(0) {
        let path = path.child("availableReplicas");
        errors.push(field::invalid(&path, available, "cannot be greater than status.readyReplicas"));
    }
    errors
}

fn warnings(set: &StatefulSet, old: Option<&Value>) -> Vec<String> {
    let spec = &set.spec;
    let mut warnings = workload::warnings(&set.metadata, false, Some(&spec.template), old);
    let path = Path::new("spec").child("volumeClaimTemplates");
    for (index, claim) in items(&spec.volume_claim_templates).iter().enumerate() {
        if let Some(spec) = &claim.spec {
            persistent_volume_claim::spec_warnings(&mut warnings, &path.index(index), spec);
        }
    }
    if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
        let message = "a negative value retains all historical revisions; a value >= 0 is recommended";
        warnings.push(format!("spec.revisionHistoryLimit: {message}"));
    }
    warnings
}

fn cells(set: &StatefulSet, now: Timestamp) -> Vec<Value> {
    let spec = &set.spec;
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let [containers, images] = row::containers(Some(&spec.template));
    vec![
        row::name(&set.metadata),
        format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
        row::age(&set.metadata, now),
        containers,
        images,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(change: fn(&mut Value)) -> StatefulSet {
        let mut value = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }});
        change(&mut value);
        let mut set = serde_json::from_value(value).unwrap();
        default(&mut set);
        set
    }

    #[test]
    fn the_pods_and_claims_to_be_are_checked() {
        type Change = fn(&mut Value);
        let claims: Change = |set| {
            set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
            set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "data", "mountPath": "/data"}]);
        };
        assert_eq!(validate(&set(claims)), []);
        let wrong: [(Change, &str); 5] = [
            (|set| set["spec"]["serviceName"] = json!("Not_A_Label"), "spec.serviceName: Invalid value"),
            (
                |set| set["spec"]["template"]["spec"]["containers"][0]["name"] = json!("A_B"),
                "spec.template.spec.containers[0].name: Invalid value",
            ),
            (
                |set| {
                    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                        json!([{"name": "data", "mountPath": "/data"}]);
                },
                "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
            ),
            (
                |set| {
                    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"},
                        "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]);
                },
                "spec.volumeClaimTemplates[0].accessModes: Required value",
            ),
            (
                |set| {
                    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "Data"}, "spec": {
                        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
                },
                "spec.template.spec.volumes[0].name: Invalid value",
            ),
        ];
        for (change, expected) in wrong {
            let wrong = set(change);
            let errors = validate(&wrong);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].to_string().starts_with(expected), "{}", errors[0]);
            // What is there stays, and can be written again.
            let mut again = wrong.clone();
            again.spec.replicas = Some(7);
            assert_eq!(validate_update(&again, &wrong), []);
        }
    }

    #[test]
    fn a_right_template_stays_right() {
        let errors = validate_update(
            &set(|set| set["spec"]["template"]["spec"]["containers"] = json!([])),
            &set(|_| {}),
        );
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.template.spec.containers: Required value"]
        );
    }

    #[test]
    fn collisions_are_counted_up() {
        let with = |count: i32| {
            let mut set = set(|_| {});
            set.status.get_or_insert_default().collision_count = Some(count);
            set
        };
        assert_eq!(validate_status_update(&with(2), &with(1)), []);
        assert_eq!(
            validate_status_update(&with(1), &with(2))[0].to_string(),
            "status.collisionCount: Invalid value: 1: cannot be decremented"
        );
    }

    #[test]
    fn what_an_update_may_change() {
        let old = set(|_| {});
        assert_eq!(validate_update(&set(|set| set["spec"]["replicas"] = json!(5)), &old), []);
        let errors = validate_update(&set(|set| set["spec"]["serviceName"] = json!("other")), &old);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0]
                .to_string()
                .starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
        );
    }
}
