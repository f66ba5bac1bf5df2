//! The APIServices of what this server serves itself.
//!
//! Built-in groups have theirs from the start; those of CustomResourceDefinitions come and go with them.
//! Upstream: pkg/controlplane/apiserver/aggregator.go, pkg/controlplane/controller/crdregistration,
//! kube-aggregator/pkg/controllers/autoregister.

use api::Object;
use serde_json::{Value, json};

const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// The place of a custom group, and of each of its versions.
pub const CUSTOM: (i64, i64) = (1000, 100);

/// Group, version, and their places: upstream's table. `apiregistration.k8s.io` is not in it.
const BUILT_IN: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("resource.k8s.io", "v1", 15_900, 20),
    ("storagemigration.k8s.io", "v1", 15_800, 15),
];

/// The place of a group that is served here.
pub fn group_priority(group: &str) -> i64 {
    match group {
        // The aggregator's own group comes before all others but core.
        "apiregistration.k8s.io" => 17_900,
        _ => BUILT_IN.iter().find(|row| row.0 == group).map_or(CUSTOM.0, |row| row.2),
    }
}

/// The place of a version that is served here within its group.
pub fn version_priority(group: &str, version: &str) -> i64 {
    BUILT_IN.iter().find(|row| (row.0, row.1) == (group, version)).map_or(CUSTOM.1, |row| row.3)
}

/// The APIServices of the built-in groups. `now` is the present as RFC 3339.
pub fn built_in(now: &str) -> Vec<Object> {
    let objects = BUILT_IN.iter().map(|(group, version, group_priority, version_priority)| {
        object(group, version, (*group_priority, *version_priority), "onstart", now)
    });
    objects.collect()
}

/// The APIService of a custom group and version.
pub fn custom(group: &str, version: &str, now: &str) -> Object {
    object(group, version, CUSTOM, "true", now)
}

/// Whether an APIService was made for a CustomResourceDefinition and is to go with it.
pub fn is_custom(object: &Object) -> bool {
    object.labels().get(AUTOMANAGED).is_some_and(|value| value == "true")
}

fn object(
    group: &str,
    version: &str,
    (group_priority, version_priority): (i64, i64),
    managed: &str,
    now: &str,
) -> Object {
    let mut spec = json!({
        "version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    Object(json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {AUTOMANAGED: managed}},
        "spec": spec,
        "status": {"conditions": [condition(now)]},
    }))
}

/// The condition of what is served here.
pub fn condition(now: &str) -> Value {
    json!({
        "type": "Available", "status": "True", "reason": "Local", "lastTransitionTime": now,
        "message": "Local APIServices are always available",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_has_a_valid_one() {
        let kinds = api::kinds::all();
        let descriptor = kinds.iter().find(|d| d.kind == "APIService").unwrap();
        let objects = built_in("2026-01-01T00:00:00Z");
        for object in &objects {
            assert_eq!(descriptor.hooks.validate(&object.0), [], "{}", object.name());
        }
        for kind in kinds.iter().filter(|kind| kind.group != "apiregistration.k8s.io") {
            let name = format!("{}.{}", kind.version, kind.group);
            assert!(objects.iter().any(|object| object.name() == name), "{name}");
        }
    }
}
