//! PodDisruptionBudget: how many pods may be missing at once by choice.
//! Upstream: pkg/registry/policy/poddisruptionbudget, pkg/apis/policy.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{
    at_most_hundred_percent, conditions, count_or_percent, json as value_of, not_negative_if_set,
    one_of_if_set,
};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta::IntOrString;
use crate::meta_validation::label_selector_errors;
use crate::types::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pdb".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Min Available", "string", "The minimum number of pods that must be available."),
            Column::new("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
            Column::new(
                "Allowed Disruptions",
                "integer",
                "Calculated number of pods that may be disrupted at this time.",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<PodDisruptionBudget>::new()
                .status(|| {
                    Some(json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}))
                })
                .validate(validate)
                .validate_status_update(validate_status_update)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", Scope::Namespaced)
    }
}

fn validate(budget: &PodDisruptionBudget) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = PodDisruptionBudgetSpec::default();
    let spec = budget.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let message = "minAvailable and maxUnavailable cannot be both set";
        errors.push(field::invalid(&path, value_of(spec), message));
    }
    for (name, bound) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(bound) = bound {
            count_or_percent(&mut errors, &path.child(name), bound);
            at_most_hundred_percent(&mut errors, &path.child(name), bound);
        }
    }
    if let Some(selector) = &spec.selector {
        errors.extend(label_selector_errors(selector, &path.child("selector")));
    }
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    let policy_path = path.child("unhealthyPodEvictionPolicy");
    one_of_if_set(&mut errors, &policy_path, &spec.unhealthy_pod_eviction_policy, &policies);
    errors
}

fn validate_status_update(new: &PodDisruptionBudget, _: &PodDisruptionBudget) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(status) = &new.status {
        let path = Path::new("status");
        for (name, count) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            not_negative_if_set(&mut errors, &path.child(name), count);
        }
        conditions(&mut errors, &path.child("conditions"), items(&status.conditions));
    }
    errors
}

fn cells(budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
    let empty = PodDisruptionBudgetSpec::default();
    let spec = budget.spec.as_ref().unwrap_or(&empty);
    let bound = |bound: &Option<IntOrString>| match bound {
        None => "N/A".into(),
        Some(IntOrString::Int(number)) => number.to_string().into(),
        Some(IntOrString::String(text)) => text.clone().into(),
    };
    vec![
        row::name(&budget.metadata),
        bound(&spec.min_available),
        bound(&spec.max_unavailable),
        row::count(budget.status.as_ref().and_then(|status| status.disruptions_allowed)),
        row::age(&budget.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_the_status_are_checked() {
        let with = |conditions: Value| -> PodDisruptionBudget {
            serde_json::from_value(json!({"status": {"conditions": conditions, "currentHealthy": 0,
                "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}}))
            .unwrap()
        };
        let right = json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut wrong = right.clone();
        wrong["reason"] = json!("");
        let old = with(json!([]));
        assert_eq!(validate_status_update(&with(json!([right])), &old), []);
        assert_eq!(
            validate_status_update(&with(json!([wrong])), &old)[0].to_string(),
            "status.conditions[0].reason: Required value: must be set"
        );
    }

    #[test]
    fn checks() {
        for (spec, errors) in [
            (json!({"minAvailable": 1}), 0),
            (json!({"minAvailable": "50%"}), 0),
            (json!({"minAvailable": "101%"}), 1),
            (json!({"minAvailable": -1}), 1),
            (json!({"minAvailable": 1, "maxUnavailable": 1}), 1),
            (json!({"unhealthyPodEvictionPolicy": "x"}), 1),
        ] {
            let budget: PodDisruptionBudget = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(validate(&budget).len(), errors, "{spec}");
        }
    }
}
