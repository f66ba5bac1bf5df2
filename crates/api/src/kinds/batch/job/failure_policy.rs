//! The rules by which a job treats pods that fail.

use std::collections::BTreeSet;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{json, not_negative_if_set, qualified_name};
use crate::kinds::optional::{items, text};
use crate::types::batch::v1::{JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement};

pub(super) fn validate(errors: &mut ErrorList, policy: &PodFailurePolicy, spec: &JobSpec, path: &Path) {
    const MAX_RULES: usize = 20;
    let path = path.child("rules");
    if policy.rules.len() > MAX_RULES {
        errors.push(field::too_many(&path, policy.rules.len(), MAX_RULES));
    }
    let containers: BTreeSet<&str> = spec
        .template
        .spec
        .iter()
        .flat_map(|pod| pod.containers.iter().chain(items(&pod.init_containers)))
        .map(|container| &*container.name)
        .collect();
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = path.index(index);
        let actions: &[&str] = if spec.backoff_limit_per_index.is_some() {
            &["Count", "FailIndex", "FailJob", "Ignore"]
        } else {
            &["Count", "FailJob", "Ignore"]
        };
        let action = path.child("action");
        match &*rule.action {
            "" => errors.push(field::required(&action, format!("valid values: {actions:?}"))),
            "FailIndex" if spec.backoff_limit_per_index.is_none() => {
                let message = "requires the backoffLimitPerIndex to be set";
                errors.push(field::invalid(&action, "FailIndex", message));
            }
            other if !actions.contains(&other) => errors.push(field::not_supported(&action, other, actions)),
            _ => {}
        }
        let conditions = items(&rule.on_pod_conditions);
        match (&rule.on_exit_codes, conditions.is_empty()) {
            (Some(_), false) => errors.push(field::invalid(
                &path,
                json(rule),
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            (None, true) => errors.push(field::invalid(
                &path,
                json(rule),
                "specifying one of OnExitCodes and OnPodConditions is required",
            )),
            _ => {}
        }
        if let Some(codes) = &rule.on_exit_codes {
            exit_codes(errors, codes, &containers, &path.child("onExitCodes"));
        }
        for (index, pattern) in conditions.iter().enumerate() {
            let path = path.child("onPodConditions").index(index);
            qualified_name(errors, &path.child("type"), &pattern.type_);
            let statuses = ["False", "True", "Unknown"];
            let status = text(&pattern.status);
            if !statuses.contains(&status) {
                errors.push(field::not_supported(&path.child("status"), status, &statuses));
            }
        }
    }
}

fn exit_codes(
    errors: &mut ErrorList,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    containers: &BTreeSet<&str>,
    path: &Path,
) {
    const MAX_CODES: usize = 255;
    let operator = path.child("operator");
    match &*codes.operator {
        "" => errors.push(field::required(&operator, "valid values: [\"In\" \"NotIn\"]")),
        "In" | "NotIn" => {}
        other => errors.push(field::not_supported(&operator, other, &["In", "NotIn"])),
    }
    if let Some(name) = codes.container_name.as_deref().filter(|name| !containers.contains(name)) {
        errors.push(field::invalid(
            &path.child("containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let path = path.child("values");
    if codes.values.is_empty() {
        errors.push(field::invalid(&path, json(&codes.values), "at least one value is required"));
    } else if codes.values.len() > MAX_CODES {
        errors.push(field::too_many(&path, codes.values.len(), MAX_CODES));
    }
    let (mut seen, mut sorted) = (BTreeSet::new(), true);
    for (index, value) in codes.values.iter().enumerate() {
        not_negative_if_set(errors, &path.index(index), Some(*value));
        if codes.operator == "In" && *value == 0 {
            errors.push(field::invalid(&path.index(index), 0, "must not be 0 for the In operator"));
        }
        sorted &= index == 0 || codes.values[index - 1] <= *value;
        if !seen.insert(value) {
            errors.push(field::duplicate(&path.index(index), *value));
        }
    }
    if !sorted {
        errors.push(field::invalid(&path, json(&codes.values), "must be ordered"));
    }
}
