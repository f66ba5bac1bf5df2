//! What a pod says about where it may run: affinity, tolerations, spread. Also the taints of nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, dns_subdomain, json, one_of_if_set, qualified_name};
use crate::kinds::optional::{items, text};
use crate::meta::LabelSelector;
use crate::meta_validation::{label_selector_errors, push_invalid};
use crate::names::is_label_value;
use crate::types::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Taint, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_AN_OPERATOR: &str = "not a valid selector operator";

pub(super) fn affinity(errors: &mut ErrorList, affinity: &Affinity, path: &Path) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(errors, required, &path.child(REQUIRED));
        }
        for (index, term) in
            items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate()
        {
            let path = path.child(PREFERRED).index(index);
            weight(errors, term.weight, &path.child("weight"));
            // A label value that cannot match is allowed in a preference.
            node_selector_term(errors, &term.preference, false, &path.child("preference"));
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        pod_terms(
            errors,
            items(&pods.required_during_scheduling_ignored_during_execution),
            &path.child(REQUIRED),
        );
        weighted(
            errors,
            items(&pods.preferred_during_scheduling_ignored_during_execution),
            &path.child(PREFERRED),
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        pod_terms(
            errors,
            items(&pods.required_during_scheduling_ignored_during_execution),
            &path.child(REQUIRED),
        );
        weighted(
            errors,
            items(&pods.preferred_during_scheduling_ignored_during_execution),
            &path.child(PREFERRED),
        );
    }
}

/// A node selector of a pod, a volume or a class of resources.
pub(crate) fn node_selector(errors: &mut ErrorList, selector: &NodeSelector, path: &Path) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(field::required(&path, "must have at least one node selector term"));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, term, true, &path.index(index));
    }
}

fn node_selector_term(errors: &mut ErrorList, term: &NodeSelectorTerm, check_values: bool, path: &Path) {
    for (index, requirement) in items(&term.match_expressions).iter().enumerate() {
        node_label(errors, requirement, check_values, &path.child("matchExpressions").index(index));
    }
    for (index, requirement) in items(&term.match_fields).iter().enumerate() {
        node_field(errors, requirement, &path.child("matchFields").index(index));
    }
}

fn node_label(
    errors: &mut ErrorList,
    requirement: &NodeSelectorRequirement,
    check_values: bool,
    path: &Path,
) {
    let values = items(&requirement.values);
    let at = path.child("values");
    match &*requirement.operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(field::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(field::forbidden(
                &at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors
                .push(field::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(field::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    qualified_name(errors, &path.child("key"), &requirement.key);
    if check_values {
        for (index, value) in values.iter().enumerate() {
            push_invalid(errors, &at.index(index), value, is_label_value(value));
        }
    }
}

fn node_field(errors: &mut ErrorList, requirement: &NodeSelectorRequirement, path: &Path) {
    let values = items(&requirement.values);
    match &*requirement.operator {
        "In" | "NotIn" if values.len() != 1 => errors.push(field::required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        )),
        "In" | "NotIn" => {}
        other => errors.push(field::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    if requirement.key == "metadata.name" {
        for (index, value) in values.iter().enumerate() {
            dns_subdomain(errors, &path.child("values").index(index), value);
        }
    } else {
        errors.push(field::invalid(&path.child("key"), &*requirement.key, "not a valid field selector key"));
    }
}

fn weight(errors: &mut ErrorList, weight: i32, path: &Path) {
    if !(1..=100).contains(&weight) {
        errors.push(field::invalid(path, weight, "must be in the range 1-100"));
    }
}

fn weighted(errors: &mut ErrorList, terms: &[WeightedPodAffinityTerm], path: &Path) {
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        weight(errors, term.weight, &path.child("weight"));
        pod_term(errors, &term.pod_affinity_term, &path.child("podAffinityTerm"));
    }
}

fn pod_terms(errors: &mut ErrorList, terms: &[PodAffinityTerm], path: &Path) {
    for (index, term) in terms.iter().enumerate() {
        pod_term(errors, term, &path.index(index));
    }
}

fn pod_term(errors: &mut ErrorList, term: &PodAffinityTerm, path: &Path) {
    for (name, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            errors.extend(label_selector_errors(selector, &path.child(name)));
        }
    }
    for namespace in items(&term.namespaces) {
        dns_label(errors, &path.child("namespace"), namespace);
    }
    let (matching, mismatching) = (items(&term.match_label_keys), items(&term.mismatch_label_keys));
    for (name, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        label_keys(errors, keys, term.label_selector.as_ref(), &path.child(name));
    }
    selected_twice(errors, matching, term.label_selector.as_ref(), path);
    let mismatching: BTreeSet<&String> = mismatching.iter().collect();
    for (index, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        let message = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(field::invalid(&path.child("matchLabelKeys").index(index), &**key, message));
    }
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(field::required(&at, "can not be empty"));
    }
    qualified_name(errors, &at, &term.topology_key);
}

fn label_keys(errors: &mut ErrorList, keys: &[String], selector: Option<&LabelSelector>, path: &Path) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        errors.push(field::forbidden(path, "must not be specified when labelSelector is not set"));
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        qualified_name(errors, &path.index(index), key);
    }
}

/// A key of `matchLabelKeys` is a requirement of the selector by now: one more of the same key was there before.
fn selected_twice(errors: &mut ErrorList, keys: &[String], selector: Option<&LabelSelector>, path: &Path) {
    let Some(selector) = selector else { return };
    let mut seen: BTreeSet<&str> = selector.match_labels.iter().flatten().map(|(key, _)| &**key).collect();
    // The last place of each.
    let places: BTreeMap<&str, usize> = keys.iter().enumerate().map(|(index, key)| (&**key, index)).collect();
    for expression in items(&selector.match_expressions) {
        let key = &*expression.key;
        if let (false, Some(index)) = (seen.insert(key), places.get(key).copied()) {
            let message = "exists in both matchLabelKeys and labelSelector";
            errors.push(field::invalid(&path.index(index), key, message));
        }
    }
}

pub(crate) fn tolerations(errors: &mut ErrorList, tolerations: &[Toleration], path: &Path) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, effect) = (text(&toleration.key), text(&toleration.effect));
        let (operator, value) = (text(&toleration.operator), text(&toleration.value));
        let operator_path = path.child("operator");
        if !key.is_empty() {
            qualified_name(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            errors.push(field::invalid(
                &operator_path,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.push(field::invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "" | "Equal" => {
                let messages = is_label_value(value);
                if !messages.is_empty() {
                    errors.push(field::invalid(&operator_path, value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let message = "value must be empty when `operator` is 'Exists'";
                errors.push(field::invalid(&operator_path, value, message));
            }
            "Exists" => {}
            other => errors.push(field::not_supported(&operator_path, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(field::not_supported(&path.child("effect"), effect, &EFFECTS));
        }
    }
}

/// The taints of a node.
pub(crate) fn taints(errors: &mut ErrorList, taints: &[Taint], path: &Path) {
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        qualified_name(errors, &path.child("key"), &taint.key);
        let value = text(&taint.value);
        let messages = is_label_value(value);
        if !messages.is_empty() {
            errors.push(field::invalid(&path.child("value"), value, messages.join(";")));
        }
        if taint.effect.is_empty() {
            errors.push(field::required(&path.child("effect"), ""));
        } else if !EFFECTS.contains(&&*taint.effect) {
            errors.push(field::not_supported(&path.child("effect"), &*taint.effect, &EFFECTS));
        }
        if !seen.entry(&taint.effect).or_default().insert(&taint.key) {
            let mut error = field::duplicate(&path, json(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

pub(super) fn topology_spread(errors: &mut ErrorList, constraints: &[TopologySpreadConstraint], path: &Path) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    const POSITIVE: &str = "must be greater than zero";
    // Where each pair stands for the last time: those before it are repeated.
    let last: BTreeMap<(&str, &str), usize> = (constraints.iter().enumerate())
        .map(|(index, constraint)| ((&*constraint.topology_key, &*constraint.when_unsatisfiable), index))
        .collect();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let action = &*constraint.when_unsatisfiable;
        if constraint.max_skew <= 0 {
            errors.push(field::invalid(&path.child("maxSkew"), constraint.max_skew, POSITIVE));
        }
        if constraint.topology_key.is_empty() {
            errors.push(field::required(&path.child("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&action) {
            errors.push(field::not_supported(&path.child("whenUnsatisfiable"), action, &ACTIONS));
        }
        if last.get(&(&*constraint.topology_key, action)).is_some_and(|last| *last > index) {
            errors.push(field::duplicate(
                &path.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{}, {action}}}", constraint.topology_key),
            ));
        }
        if let Some(domains) = constraint.min_domains {
            let at = path.child("minDomains");
            if domains <= 0 {
                errors.push(field::invalid(&at, domains, POSITIVE));
            }
            if action != "DoNotSchedule" {
                let message =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(field::invalid(&at, domains, message));
            }
        }
        let policies = ["Honor", "Ignore"];
        one_of_if_set(errors, &path.child("nodeAffinityPolicy"), &constraint.node_affinity_policy, &policies);
        one_of_if_set(errors, &path.child("nodeTaintsPolicy"), &constraint.node_taints_policy, &policies);
        label_keys(
            errors,
            items(&constraint.match_label_keys),
            constraint.label_selector.as_ref(),
            &path.child("matchLabelKeys"),
        );
        selected_twice(
            errors,
            items(&constraint.match_label_keys),
            constraint.label_selector.as_ref(),
            &path.child("matchLabelKeys"),
        );
        if let Some(selector) = &constraint.label_selector {
            errors.extend(label_selector_errors(selector, &path.child("labelSelector")));
        }
    }
}
