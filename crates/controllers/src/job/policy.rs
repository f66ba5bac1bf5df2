//! What a failed pod means to its Job, and whether the succeeded indexes are enough. Pure.
//!
//! Upstream: `pkg/controller/job/pod_failure_policy.go`, `success_policy.go`.

use std::collections::BTreeSet;

use api::types::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use api::types::core::v1::{ContainerStatus, Pod};

use super::indexes;
use crate::object;

/// What the rule that matches a failed pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It counts towards the back-off limit.
    Counts,
    /// It does not count.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The Job has failed, for this reason.
    FailsJob(String),
}

/// What the failure of `pod` means.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Failure {
    let Some(policy) = &spec.pod_failure_policy else { return Failure::Counts };
    for (index, rule) in policy.rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Failure::Ignored,
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Failure::FailsIndex,
            "FailJob" => Failure::FailsJob(format!("{why} matching FailJob rule at index {index}")),
            _ => Failure::Counts,
        };
    }
    Failure::Counts
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", object::namespace(pod), object::name(pod));
    let status = pod.status.as_ref()?;
    if let Some(requirement) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().flatten();
        let mut all = containers.chain(status.init_container_statuses.iter().flatten());
        return all.find_map(|container| {
            let code = exit_code(container, requirement)?;
            Some(format!("Container {} for pod {name} failed with exit code {code}", container.name))
        });
    }
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        let found = status.conditions.iter().flatten();
        let mut found =
            found.filter(|condition| condition.type_ == pattern.type_ && condition.status == wanted);
        found.next().map(|condition| format!("Pod {name} has condition {}", condition.type_))
    })
}

fn exit_code(
    container: &ContainerStatus,
    requirement: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<i32> {
    if requirement.container_name.as_ref().is_some_and(|name| *name != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = requirement.values.contains(&code);
    (code != 0 && listed == (requirement.operator == "In")).then_some(code)
}

/// Why the succeeded indexes are enough, if a success policy says that they are.
pub(super) fn is_enough(spec: &JobSpec, succeeded: &BTreeSet<i32>) -> Option<String> {
    let policy = spec.success_policy.as_ref()?;
    let completions = spec.completions.unwrap_or(0);
    for (index, rule) in policy.rules.iter().enumerate() {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| indexes::count(text, completions, succeeded));
        let have = wanted.map_or(succeeded.len(), |(_, have)| have);
        let needed = match (rule.succeeded_count, wanted) {
            (Some(count), _) => count as usize,
            (None, Some((all, _))) => all,
            (None, None) => continue,
        };
        if have >= needed {
            return Some(format!("Matched rules at index {index}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(extra: Value) -> JobSpec {
        let mut spec = json!({"template": {}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn failed(code: i32, conditions: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a"},
            "status": {
                "phase": "Failed",
                "conditions": conditions,
                "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}},
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let spec = spec(json!({"podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]}}));
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let message = "Container c for pod a/p failed with exit code 42 matching FailJob rule at index 0";
        for (code, conditions, expected) in [
            (42, json!([]), Failure::FailsJob(message.to_owned())),
            (1, disrupted.clone(), Failure::Ignored),
            (1, json!([]), Failure::Counts),
            (7, disrupted, Failure::Ignored),
        ] {
            assert_eq!(judge(&spec, &failed(code, conditions.clone())), expected, "{code} {conditions}");
        }
    }

    #[test]
    fn success_policies() {
        let set = |all: &[i32]| all.iter().copied().collect::<BTreeSet<_>>();
        let of = |rules: Value| spec(json!({"completions": 10, "successPolicy": {"rules": rules}}));
        for (rules, succeeded, enough) in [
            (json!([{"succeededIndexes": "0,2-3"}]), set(&[0, 2]), false),
            (json!([{"succeededIndexes": "0,2-3"}]), set(&[0, 2, 3]), true),
            (json!([{"succeededIndexes": "0,2-3", "succeededCount": 1}]), set(&[3]), true),
            (json!([{"succeededCount": 2}]), set(&[7]), false),
            (json!([{"succeededCount": 2}]), set(&[7, 8]), true),
        ] {
            assert_eq!(is_enough(&of(rules.clone()), &succeeded).is_some(), enough, "{rules}");
        }
        assert_eq!(is_enough(&spec(json!({})), &set(&[0])), None);
    }
}
