//! Rules that the workloads share: how selector and template belong together, counts and percentages of updates.
//! Upstream: pkg/apis/apps/validation.

use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{count_or_percent, json, not_negative_if_set};
use crate::kinds::core::pod::{self, validation};
use crate::kinds::optional::text;
use crate::kinds::warn;
use crate::meta::{IntOrString, LabelSelector, ObjectMeta};
use crate::meta_validation::{label_selector_errors, selector_is_empty};
use crate::selector::labels::Selector;
use crate::types::core::v1::PodTemplateSpec;

/// Warnings of a workload whose template is at `spec.template`; `named` when its pods are named after it.
pub(crate) fn warnings(
    meta: &ObjectMeta,
    named: bool,
    template: Option<&PodTemplateSpec>,
    old: Option<&Value>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if named && old.is_none() {
        warn::name_of_pods(&mut warnings, meta);
    }
    if let Some(template) = template
        && warn::is_new_generation(meta, old)
    {
        pod::warnings::template(&mut warnings, &Path::new("spec").child("template"), template);
    }
    warnings
}

const MISMATCH: &str = "`selector` does not match template `labels`";

/// Checks selector and template of a workload whose pods run for ever. The wire type cannot tell an absent selector
/// from an empty one; both are reported as absent.
pub(crate) fn selector_and_template(
    errors: &mut ErrorList,
    kind: &str,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) {
    let selector_path = path.child("selector");
    if selector_is_empty(selector) {
        errors.push(field::required(&selector_path, ""));
    } else {
        errors.extend(label_selector_errors(selector, &selector_path));
    }
    let path = path.child("template");
    template_labels(errors, selector, template, &path);
    validation::template(errors, template, &path);
    runs_for_ever(errors, kind, template, &path);
}

/// Refuses a template whose pods the selector would not select. An absent selector selects nothing.
pub(crate) fn template_labels(
    errors: &mut ErrorList,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let selects = !selector_is_empty(selector)
        && Selector::from_label_selector(Some(selector))
            .is_ok_and(|selector| selector.matches(labels.as_ref().unwrap_or(&Default::default())));
    if !selects {
        errors.push(field::invalid(&path.child("metadata").child("labels"), json(&labels), MISMATCH));
    }
}

/// Refuses a template whose pods would end.
pub(crate) fn runs_for_ever(errors: &mut ErrorList, kind: &str, template: &PodTemplateSpec, path: &Path) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    if text(&spec.restart_policy) != "Always" {
        let path = path.child("restartPolicy");
        errors.push(field::not_supported(&path, text(&spec.restart_policy), &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(field::forbidden(&path.child("activeDeadlineSeconds"), message));
    }
}

/// Whether a count or percentage is nothing.
pub(crate) fn is_nothing(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(text) => text.trim_end_matches('%').parse() == Ok(0),
    }
}

/// Refuses what is neither a count nor a percentage, where one is given.
pub(crate) fn count_if_set(errors: &mut ErrorList, path: &Path, value: Option<&IntOrString>) {
    if let Some(value) = value {
        count_or_percent(errors, path, value);
    }
}

/// Refuses a count of collisions that is negative or goes down.
pub(crate) fn collision_count(errors: &mut ErrorList, new: Option<i32>, old: Option<i32>) {
    let path = Path::new("status").child("collisionCount");
    not_negative_if_set(errors, &path, new);
    let count = new.unwrap_or(0);
    if old.is_some_and(|old| count < old) {
        errors.push(field::invalid(&path, count, "cannot be decremented"));
    }
}

/// The counts in the status of a ReplicaSet or ReplicationController.
pub(crate) struct ReplicaCounts {
    /// All pods.
    pub(crate) replicas: i32,
    /// Those whose labels match the template's.
    pub(crate) fully_labeled: Option<i32>,
    /// Those that are ready.
    pub(crate) ready: Option<i32>,
    /// Those that are available.
    pub(crate) available: Option<i32>,
}

impl ReplicaCounts {
    /// Refuses counts that contradict each other.
    pub(crate) fn validate(&self, errors: &mut ErrorList, observed_generation: Option<i64>) {
        const MORE: &str = "cannot be greater than status.replicas";
        let path = Path::new("status");
        let counts = [
            ("fullyLabeledReplicas", self.fully_labeled),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
        ];
        not_negative_if_set(errors, &path.child("replicas"), Some(self.replicas));
        for (name, count) in counts {
            not_negative_if_set(errors, &path.child(name), count);
        }
        not_negative_if_set(errors, &path.child("observedGeneration"), observed_generation);
        for (name, count) in counts {
            let count = count.unwrap_or(0);
            if count > self.replicas {
                errors.push(field::invalid(&path.child(name), count, MORE));
            }
        }
        let available = self.available.unwrap_or(0);
        if available > self.ready.unwrap_or(0) {
            let path = path.child("availableReplicas");
            errors.push(field::invalid(&path, available, "cannot be greater than readyReplicas"));
        }
    }
}
