//! ResourceQuota: what a namespace may use in all.
//! Upstream: pkg/registry/core/resourcequota, pkg/apis/core.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{json as value_of, quantity};
use crate::kinds::core::pod::defaults::round_up_to_milli;
use crate::kinds::core::pod::resources::{is_quota_resource, validate_amount, validate_name};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta::Quantity;
use crate::types::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["quota".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new(
                "Request",
                "string",
                "Request represents a minimum amount of cpu/memory that a container may consume.",
            ),
            Column::new(
                "Limit",
                "string",
                "Limits control the maximum amount of cpu/memory that a container may use independent of contention \
                 on the node.",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ResourceQuota>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "ResourceQuota", "resourcequotas", Scope::Namespaced)
    }
}

fn default(quota: &mut ResourceQuota) {
    quota.spec.get_or_insert_default().hard.iter_mut().for_each(round_up_to_milli);
    quota.status.get_or_insert_default();
}

fn amounts(errors: &mut ErrorList, list: &Option<BTreeMap<String, Quantity>>, path: &Path) {
    for (name, amount) in list.iter().flatten() {
        let path = path.key(name);
        validate_name(errors, name, &path);
        if !name.contains('/') && !is_quota_resource(name) {
            errors.push(field::invalid(&path, &**name, "must be a standard resource for quota"));
        }
        validate_amount(errors, name, amount, &path);
    }
}

fn validate(quota: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = ResourceQuotaSpec::default();
    let spec = quota.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    amounts(&mut errors, &spec.hard, &path.child("hard"));
    let scopes = items(&spec.scopes);
    let scopes_path = path.child("scopes");
    for scope in scopes {
        if !SCOPES.contains(&&**scope) {
            errors.push(field::invalid(&scopes_path, value_of(&scopes), "unsupported scope"));
        }
        unfit(&mut errors, scope, spec, value_of(&scopes), &scopes_path);
    }
    conflicts(
        &mut errors,
        |scope| scopes.iter().any(|given| given == scope),
        value_of(&scopes),
        &scopes_path,
    );
    if let Some(selector) = &spec.scope_selector {
        let path = path.child("scopeSelector").child("matchExpressions");
        let expressions = items(&selector.match_expressions);
        for expression in expressions {
            let scope = &*expression.scope_name;
            if !SCOPES.contains(&scope) {
                errors.push(field::invalid(&path.child("scopeName"), scope, "unsupported scope"));
            }
            unfit(&mut errors, scope, spec, value_of(selector), &path);
            let valued = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
            if SCOPES.contains(&scope) && !valued && expression.operator != "Exists" {
                errors.push(field::invalid(
                    &path.child("operator"),
                    &*expression.operator,
                    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                     ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                     ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                ));
            }
            let values = items(&expression.values);
            match &*expression.operator {
                "In" | "NotIn" if values.is_empty() => errors.push(field::required(
                    &path.child("values"),
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                )),
                "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(field::invalid(
                    &path.child("values"),
                    value_of(&values),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                )),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => {
                    errors.push(field::invalid(
                        &path.child("operator"),
                        other,
                        "not a valid selector operator",
                    ));
                }
            }
        }
        let given = |scope: &str| expressions.iter().any(|expression| expression.scope_name == scope);
        conflicts(&mut errors, given, value_of(&scopes), &path);
    }
    errors
}

/// Refuses a scope of pods for what is no resource of pods.
fn unfit(errors: &mut ErrorList, scope: &str, spec: &ResourceQuotaSpec, shown: Value, path: &Path) {
    let fits = |resource: &str| match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => {
            matches!(
                resource,
                "pods"
                    | "cpu"
                    | "memory"
                    | "requests.cpu"
                    | "requests.memory"
                    | "limits.cpu"
                    | "limits.memory"
            )
        }
        "BestEffort" => resource == "pods",
        _ => true,
    };
    for resource in spec.hard.iter().flatten().map(|(name, _)| name) {
        if is_quota_resource(resource) && !fits(resource) {
            errors.push(field::invalid(path, shown.clone(), "unsupported scope applied to resource"));
        }
    }
}

fn conflicts(errors: &mut ErrorList, given: impl Fn(&str) -> bool, shown: Value, path: &Path) {
    for pair in CONFLICTS {
        if pair.into_iter().all(&given) {
            errors.push(field::invalid(path, shown.clone(), "conflicting scopes"));
        }
    }
}

fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
    let mut errors = validate(new);
    let scopes = |quota: &ResourceQuota| {
        let mut scopes = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    if scopes(new) != scopes(old) {
        let path = Path::new("spec").child("scopes");
        errors.push(field::invalid(&path, value_of(&scopes(new)), crate::meta_validation::IMMUTABLE));
    }
    errors
}

fn validate_status_update(new: &ResourceQuota, _: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(ResourceQuotaStatus { hard, used }) = &new.status {
        amounts(&mut errors, hard, &Path::new("status").child("hard"));
        amounts(&mut errors, used, &Path::new("status").child("used"));
    }
    errors
}

fn cells(quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
    let status = quota.status.clone().unwrap_or_default();
    let used = status.used.unwrap_or_default();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in status.hard.iter().flatten() {
        let used = used.get(name).map(quantity).unwrap_or_default();
        let text = format!("{name}: {used}/{}", quantity(hard));
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![
        row::name(&quota.metadata),
        requests.join(", ").into(),
        limits.join(", ").into(),
        row::age(&quota.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(spec: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap()
    }

    #[test]
    fn checks() {
        for (spec, errors) in [
            (json!({"hard": {"pods": "1", "requests.cpu": "1", "count/jobs.batch": "2"}}), 0),
            (json!({"hard": {"storage": "1"}}), 1),
            (json!({"hard": {"pods": "500m"}}), 1),
            (json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}), 1),
            (json!({"hard": {"secrets": "1"}, "scopes": ["BestEffort"]}), 1),
            (
                json!({"hard": {"limits.memory": "1", "requests.example.com/gpu": "1"}, "scopes": ["NotBestEffort"]}),
                0,
            ),
            (
                json!({"hard": {"ephemeral-storage": "1", "limits.ephemeral-storage": "1", "requests.ephemeral-storage": "1"},
                       "scopes": ["Terminating"]}),
                3,
            ),
            (
                json!({"hard": {"requests.ephemeral-storage": "1"}, "scopeSelector": {"matchExpressions": [
                    {"scopeName": "PriorityClass", "operator": "Exists"}]}}),
                1,
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                1,
            ),
        ] {
            assert_eq!(validate(&quota(spec.clone())).len(), errors, "{spec}");
        }
        assert_eq!(validate_update(&quota(json!({"scopes": ["BestEffort"]})), &quota(json!({}))).len(), 1);
    }

    #[test]
    fn rows_tell_used_of_hard() {
        let mut quota = quota(json!({}));
        quota.status = serde_json::from_value(
            json!({"hard": {"pods": "2", "limits.cpu": "1"}, "used": {"pods": "1", "limits.cpu": "500m"}}),
        )
        .unwrap();
        let cells = cells(&quota, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!("pods: 1/2"), json!("limits.cpu: 500m/1")]);
    }
}
