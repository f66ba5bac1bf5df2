//! Which objects a quota with scopes is about.
//! Pure.
//! Not here: what the objects use (`usage`).
//! Upstream: pkg/quota/v1/evaluator/core (`podMatchesScopeFunc`), apiserver/pkg/quota/v1/generic.

use serde_json::Value;

use super::usage::{is_pod, items, text};
use crate::types::core::v1 as core;
use crate::{GroupResource, Object};

/// Whether the object is within all scopes of the quota. A scope that means nothing for its kind excludes it.
pub fn matches(quota: &core::ResourceQuota, resource: &GroupResource, object: &Object) -> bool {
    scopes(quota).all(|(scope, operator, values)| within(scope, operator, values, resource, object))
}

/// The scopes of a quota: their names, operators and values.
pub fn scopes(quota: &core::ResourceQuota) -> impl Iterator<Item = (&str, &str, &[String])> {
    let spec = quota.spec.as_ref();
    let plain = spec.and_then(|spec| spec.scopes.as_ref()).into_iter().flatten();
    let plain = plain.map(|scope| (scope.as_str(), "Exists", &[][..]));
    let selector = spec.and_then(|spec| spec.scope_selector.as_ref());
    let selected = selector.and_then(|selector| selector.match_expressions.as_ref()).into_iter().flatten();
    let selected = selected.map(|requirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        (requirement.scope_name.as_str(), requirement.operator.as_str(), values)
    });
    plain.chain(selected)
}

/// Whether the object is within a scope. A scope that means nothing for its kind has none of its objects.
pub fn within(
    scope: &str,
    operator: &str,
    values: &[String],
    resource: &GroupResource,
    object: &Object,
) -> bool {
    let named = |name: &str| match operator {
        "In" => values.iter().any(|value| value == name),
        "NotIn" => !values.iter().any(|value| value == name),
        "DoesNotExist" => name.is_empty(),
        _ => !name.is_empty(),
    };
    if scope == "VolumeAttributesClass" {
        let claim = resource.group.is_empty() && resource.resource == "persistentvolumeclaims";
        return claim && named(text(&object.0, "/spec/volumeAttributesClassName"));
    }
    if !is_pod(resource) {
        return false;
    }
    let spec = &object.0["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "PriorityClass" => named(text(spec, "/priorityClassName")),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

/// Whether nothing in the pod asks for processor or memory.
fn is_best_effort(spec: &Value) -> bool {
    let asks = |holder: &Value| {
        ["requests", "limits"].iter().any(|list| {
            ["cpu", "memory"]
                .iter()
                .any(|name| !matches!(text(&holder["resources"][list], &format!("/{name}")), "" | "0"))
        })
    };
    let containers = items(spec, "/containers").chain(items(spec, "/initContainers"));
    !asks(spec) && !containers.into_iter().any(asks)
}

/// Whether affinity terms of the pod look at pods of other namespaces.
fn crosses_namespaces(spec: &Value) -> bool {
    let far =
        |term: &Value| items(term, "/namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][kind];
        items(affinity, "/requiredDuringSchedulingIgnoredDuringExecution").any(far)
            || items(affinity, "/preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| far(&weighted["podAffinityTerm"]))
    })
}
