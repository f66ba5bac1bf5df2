//! Label keys of affinity terms and spread constraints, written out as requirements of their selectors at creation.
//!
//! `matchLabelKeys` and `mismatchLabelKeys` stand for the values that the new pod has at these keys; whoever reads the
//! pod later (a scheduler, an autoscaler) finds them in `labelSelector.matchExpressions`. A later change of the pod's
//! labels changes nothing.
//! Upstream: pkg/registry/core/pod/strategy.go (mutatePodAffinity, mutateTopologySpreadConstraints).

use std::collections::BTreeMap;

use crate::kinds::optional::items;
use crate::meta::{LabelSelector, LabelSelectorRequirement};
use crate::types::core::v1::{Affinity, Pod, PodAffinityTerm, PodSpec};

/// The most keys that all terms and constraints of a pod may name together. Each becomes a requirement, many times as
/// large as the key: what fits a request would take hundreds of times its size. Validation refuses more.
pub(super) const MOST: usize = 10_000;

/// How many keys the terms and constraints of a pod name.
pub(super) fn count(spec: &PodSpec) -> usize {
    let of_terms = spec
        .affinity
        .iter()
        .flat_map(terms)
        .map(|term| items(&term.match_label_keys).len() + items(&term.mismatch_label_keys).len());
    let spread = items(&spec.topology_spread_constraints).iter();
    of_terms.sum::<usize>() + spread.map(|spread| items(&spread.match_label_keys).len()).sum::<usize>()
}

/// Every term about other pods.
fn terms(affinity: &Affinity) -> impl Iterator<Item = &PodAffinityTerm> {
    let together = affinity.pod_affinity.iter().map(|together| {
        (
            items(&together.required_during_scheduling_ignored_during_execution),
            items(&together.preferred_during_scheduling_ignored_during_execution),
        )
    });
    let apart = affinity.pod_anti_affinity.iter().map(|apart| {
        (
            items(&apart.required_during_scheduling_ignored_during_execution),
            items(&apart.preferred_during_scheduling_ignored_during_execution),
        )
    });
    together.chain(apart).flat_map(|(required, preferred)| {
        required.iter().chain(preferred.iter().map(|weighted| &weighted.pod_affinity_term))
    })
}

/// Whether a pod has any.
pub(super) fn are_given(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| count(spec) > 0)
}

/// Writes out the keys of all terms and constraints of a new pod, unless they are too many.
pub(super) fn merge(pod: &mut Pod) {
    let (Some(spec), Some(labels)) = (&mut pod.spec, &pod.metadata.labels) else { return };
    if count(spec) > MOST {
        return;
    }
    let mut terms: Vec<&mut PodAffinityTerm> = Vec::new();
    if let Some(affinity) = &mut spec.affinity {
        if let Some(together) = &mut affinity.pod_affinity {
            let preferred =
                together.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
            terms.extend(together.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        }
        if let Some(apart) = &mut affinity.pod_anti_affinity {
            let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
            terms.extend(apart.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        }
    }
    for term in terms {
        let (matching, mismatching) = (items(&term.match_label_keys), items(&term.mismatch_label_keys));
        require(term.label_selector.as_mut(), matching, "In", labels);
        require(term.label_selector.as_mut(), mismatching, "NotIn", labels);
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        require(constraint.label_selector.as_mut(), items(&constraint.match_label_keys), "In", labels);
    }
}

/// Adds what `keys` stand for. No selector selects nothing, and stays none.
fn require(
    selector: Option<&mut LabelSelector>,
    keys: &[String],
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    let Some(selector) = selector else { return };
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn too_many_keys_are_left_for_validation_to_refuse() {
        for (count, requirements) in [(MOST / 2, MOST / 2), (MOST / 2 + 1, 0)] {
            let keys = vec!["app"; count];
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"labels": {"app": "a"}},
                "spec": {
                    "containers": [],
                    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": keys},
                    ]}},
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {}, "matchLabelKeys": keys,
                    }],
                },
            }))
            .unwrap();
            merge(&mut pod);
            let pod = serde_json::to_value(&pod).unwrap();
            let selector = &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"];
            let made = selector["matchExpressions"].as_array().map_or(0, Vec::len);
            assert_eq!(made, requirements, "{count}");
        }
    }

    #[test]
    fn keys_become_requirements_of_the_values_that_the_pod_has() {
        let term = |selector: Value| {
            json!({
                "topologyKey": "zone", "labelSelector": selector,
                "matchLabelKeys": ["app", "absent"], "mismatchLabelKeys": ["tenant"],
            })
        };
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a", "tenant": "t"}},
            "spec": {
                "containers": [],
                "affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(json!({"matchLabels": {"x": "y"}}))]},
                    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "podAffinityTerm": term(json!({}))},
                        {"weight": 1, "podAffinityTerm": term(Value::Null)},
                    ]},
                },
                "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {}, "matchLabelKeys": ["app"],
                }],
            },
        }))
        .unwrap();
        merge(&mut pod);
        let pod = serde_json::to_value(&pod).unwrap();
        let selector = |at: &str| pod.pointer(at).unwrap_or(&Value::Null)["labelSelector"].clone();
        let app = json!({"key": "app", "operator": "In", "values": ["a"]});
        let tenant = json!({"key": "tenant", "operator": "NotIn", "values": ["t"]});
        let affinity = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0";
        assert_eq!(selector(affinity), json!({"matchLabels": {"x": "y"}, "matchExpressions": [app, tenant]}));
        let anti = |n: u8| {
            format!(
                "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/{n}/podAffinityTerm"
            )
        };
        assert_eq!(selector(&anti(0)), json!({"matchExpressions": [app, tenant]}));
        assert_eq!(selector(&anti(1)), Value::Null);
        assert_eq!(selector("/spec/topologySpreadConstraints/0"), json!({"matchExpressions": [app]}));
    }
}
