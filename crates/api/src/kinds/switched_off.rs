//! Fields of features that v1.37 has off: who sets one is as if he had not, so that nobody believes in what nobody does.
//!
//! An update keeps such a field where the object before it has it (it was stored by a server that had the feature on).
//! Which fields these are is said in their descriptions ("alpha", "requires enabling the … feature gate"), read by hand;
//! of those said to be alpha, the ones that are on by now are not here. Three are off whose descriptions do not say so:
//! the protocol and mode of probes, and the scheduling group of pods (whose gate is beta, and off).
//! Not here: whole kinds and versions that are off (they are not served), values of fields that are off.
//! Upstream: the `dropDisabledFields` of the kinds' strategies, pkg/api/pod/util.go, pkg/api/persistentvolumeclaim/util.go.

use std::sync::LazyLock;

use serde_json::Value;

/// Below the spec of a pod. `*` stands for every element of a list or entry of a map.
const POD: &[&str] = &[
    // EvictionRequestAPI
    "evictionResponders",
    // GenericWorkload
    "schedulingGroup",
    // HTTPProbeProtocol
    "containers/*/livenessProbe/httpGet/protocol",
    "containers/*/readinessProbe/httpGet/protocol",
    "containers/*/startupProbe/httpGet/protocol",
    "initContainers/*/livenessProbe/httpGet/protocol",
    "initContainers/*/readinessProbe/httpGet/protocol",
    "initContainers/*/startupProbe/httpGet/protocol",
    // GRPCContainerProbeTLS
    "containers/*/livenessProbe/grpc/mode",
    "containers/*/readinessProbe/grpc/mode",
    "containers/*/startupProbe/grpc/mode",
    "initContainers/*/livenessProbe/grpc/mode",
    "initContainers/*/readinessProbe/grpc/mode",
    "initContainers/*/startupProbe/grpc/mode",
    // EmptyDirVolumeMode
    "volumes/*/emptyDir/mode",
    // VolumeBindMountOptions
    "containers/*/volumeMounts/*/bindMountOptions",
    "initContainers/*/volumeMounts/*/bindMountOptions",
    "ephemeralContainers/*/volumeMounts/*/bindMountOptions",
    // AtomicWriteVolumeUserFields
    "volumes/*/configMap/defaultUser",
    "volumes/*/configMap/items/*/user",
    "volumes/*/downwardAPI/defaultUser",
    "volumes/*/downwardAPI/items/*/user",
    "volumes/*/secret/defaultUser",
    "volumes/*/secret/items/*/user",
    "volumes/*/projected/defaultUser",
    "volumes/*/projected/sources/*/clusterTrustBundle/user",
    "volumes/*/projected/sources/*/configMap/items/*/user",
    "volumes/*/projected/sources/*/downwardAPI/items/*/user",
    "volumes/*/projected/sources/*/podCertificate/user",
    "volumes/*/projected/sources/*/secret/items/*/user",
    "volumes/*/projected/sources/*/serviceAccountToken/user",
];

/// Below the spec of a ResourceClaim. DRADerivedAttributes.
const CLAIM: &[&str] = &[
    "devices/requests/*/exactly/derivedAttributes",
    "devices/requests/*/firstAvailable/*/derivedAttributes",
];

/// DRAListTypeAttributes, DRADeviceCompatibilityGroups, DRANodeAllocatableResources, DRAOptionalNodeOperations.
const SLICE: &[&str] = &[
    "spec/devices/*/attributes/*/bools",
    "spec/devices/*/attributes/*/ints",
    "spec/devices/*/attributes/*/strings",
    "spec/devices/*/attributes/*/versions",
    "spec/devices/*/consumesCounters/*/compatibilityGroups",
    "spec/devices/*/nodeAllocatableResources",
    "spec/skipNodeOperations",
];

/// Groups of fields of a kind: what they lie below, and their paths from there.
type Fields = &'static [(&'static str, &'static [&'static str])];

const TABLE: &[(&str, &str, Fields)] = &[
    ("", "Pod", &[("spec", POD)]),
    ("", "PodTemplate", &[("template/spec", POD)]),
    ("", "ReplicationController", &[("spec/template/spec", POD)]),
    ("apps", "DaemonSet", &[("spec/template/spec", POD)]),
    ("apps", "Deployment", &[("spec/template/spec", POD)]),
    ("apps", "ReplicaSet", &[("spec/template/spec", POD)]),
    ("apps", "StatefulSet", &[("spec/template/spec", POD)]),
    // WorkloadWithJob
    ("batch", "Job", &[("spec/template/spec", POD), ("spec", &["scheduling"])]),
    (
        "batch",
        "CronJob",
        &[("spec/jobTemplate/spec/template/spec", POD), ("spec/jobTemplate/spec", &["scheduling"])],
    ),
    // InPlacePodVerticalScalingSchedulerPreemption
    ("", "Node", &[("spec", &["podPreemptionPolicy"])]),
    // CoordinatedLeaderElection
    ("coordination.k8s.io", "Lease", &[("spec", &["preferredHolder", "strategy"])]),
    ("resource.k8s.io", "ResourceClaim", &[("spec", CLAIM)]),
    ("resource.k8s.io", "ResourceClaimTemplate", &[("spec/spec", CLAIM)]),
    ("resource.k8s.io", "ResourceSlice", &[("", SLICE)]),
];

/// The paths of the rows of [`TABLE`], those that begin alike together.
static TREES: LazyLock<Vec<Tree>> = LazyLock::new(|| {
    let tree = |fields: Fields| {
        let mut tree = Tree::default();
        for (root, paths) in fields {
            for path in *paths {
                tree.add(root.split('/').chain(path.split('/')).filter(|step| !step.is_empty()));
            }
        }
        tree
    };
    TABLE.iter().map(|(_, _, fields)| tree(fields)).collect()
});

/// Fields by their first steps; one without further steps is a field that is off.
#[derive(Default)]
struct Tree(Vec<(&'static str, Tree)>);

impl Tree {
    fn add(&mut self, steps: impl Iterator<Item = &'static str>) {
        steps.fold(self, |tree, step| {
            let at = tree.0.iter().position(|(known, _)| *known == step).unwrap_or_else(|| {
                tree.0.push((step, Self::default()));
                tree.0.len() - 1
            });
            &mut tree.0[at].1
        });
    }

    /// Whether a value has any of the fields.
    fn is_in(&self, value: &Value) -> bool {
        if self.0.is_empty() {
            return !value.is_null();
        }
        self.0.iter().any(|(step, below)| match (*step, value) {
            ("*", Value::Array(items)) => items.iter().any(|item| below.is_in(item)),
            ("*", Value::Object(entries)) => entries.values().any(|entry| below.is_in(entry)),
            (step, Value::Object(fields)) => fields.get(step).is_some_and(|field| below.is_in(field)),
            _ => false,
        })
    }
}

/// Takes out of a new object of a built-in kind, or of one that an update makes of `old`, what is switched off.
pub fn drop_fields(group: &str, kind: &str, new: &mut Value, old: Option<&Value>) {
    if (group, kind) == ("", "PersistentVolumeClaim") {
        return other_namespaces(new, old);
    }
    let Some(at) = TABLE.iter().position(|(of, name, _)| (*of, *name) == (group, kind)) else { return };
    // Most objects have none of them, and this is asked of every object that is written.
    if !TREES[at].is_in(new) {
        return;
    }
    for (root, paths) in TABLE[at].2 {
        let steps = || root.split('/').filter(|step| !step.is_empty());
        let Some(below) = steps().try_fold(&mut *new, |value, step| value.get_mut(step)) else { continue };
        let before = old.and_then(|old| steps().try_fold(old, |value, step| value.get(step)));
        for path in *paths {
            if has(below, path) && !before.is_some_and(|before| has(before, path)) {
                remove(below, path);
            }
        }
    }
}

/// CrossNamespaceVolumeDataSource: a claim would else name what belongs to another.
fn other_namespaces(new: &mut Value, old: Option<&Value>) {
    let names_another = new
        .pointer("/spec/dataSourceRef/namespace")
        .and_then(Value::as_str)
        .is_some_and(|namespace| !namespace.is_empty());
    let had_one =
        old.is_some_and(|old| old.pointer("/spec/dataSourceRef").is_some_and(|source| !source.is_null()));
    if names_another
        && !had_one
        && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("dataSourceRef");
    }
}

/// The first step of a path, and the rest where there is one.
fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(step, rest)| (step, Some(rest)))
}

fn has(value: &Value, path: &str) -> bool {
    match (split(path), value) {
        (("*", Some(rest)), Value::Array(items)) => items.iter().any(|item| has(item, rest)),
        (("*", Some(rest)), Value::Object(entries)) => entries.values().any(|entry| has(entry, rest)),
        ((step, Some(rest)), Value::Object(fields)) => fields.get(step).is_some_and(|field| has(field, rest)),
        ((step, None), Value::Object(fields)) => fields.get(step).is_some_and(|field| !field.is_null()),
        _ => false,
    }
}

fn remove(value: &mut Value, path: &str) {
    match (split(path), value) {
        (("*", Some(rest)), Value::Array(items)) => items.iter_mut().for_each(|item| remove(item, rest)),
        (("*", Some(rest)), Value::Object(entries)) => {
            entries.values_mut().for_each(|entry| remove(entry, rest));
        }
        ((step, Some(rest)), Value::Object(fields)) => {
            if let Some(field) = fields.get_mut(step) {
                remove(field, rest);
            }
        }
        ((step, None), Value::Object(fields)) => {
            fields.remove(step);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"evictionResponders": [{"name": "a"}], "schedulingGroup": {"podGroupName": "g"},
            "initContainers": [{"name": "i", "startupProbe": {"httpGet": {"port": 80, "protocol": "HTTP1"}}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "bindMountOptions": ["noexec"]}],
                "livenessProbe": {"httpGet": {"port": 80, "protocol": "HTTP2"}},
                "readinessProbe": {"grpc": {"port": 81, "service": "s", "mode": "TLS"}}}],
            "volumes": [{"name": "v", "emptyDir": {"mode": 511, "medium": ""}},
                {"name": "w", "projected": {"defaultUser": 7, "sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p", "user": 5}]}}]}}]})
    }

    fn plain_pod() -> Value {
        json!({"initContainers": [{"name": "i", "startupProbe": {"httpGet": {"port": 80}}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"grpc": {"port": 81, "service": "s"}}}],
            "volumes": [{"name": "v", "emptyDir": {"medium": ""}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}]}}]})
    }

    #[test]
    fn pods_and_their_templates_lose_what_is_off() {
        let place = |kind: &str, pod: Value| match kind {
            "Pod" => json!({"spec": pod}),
            "PodTemplate" => json!({"template": {"spec": pod}}),
            "CronJob" => json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}),
            _ => json!({"spec": {"template": {"spec": pod}}}),
        };
        let rows = TABLE.iter().filter(|(_, _, fields)| fields.iter().any(|(_, paths)| *paths == POD));
        let mut count = 0;
        for (group, kind, _) in rows {
            let mut new = place(kind, pod());
            drop_fields(group, kind, &mut new, None);
            assert_eq!(new, place(kind, plain_pod()), "{kind}");
            count += 1;
        }
        assert_eq!(count, 9);
    }

    #[test]
    fn no_field_that_is_off_lies_below_another() {
        for (_, kind, fields) in TABLE {
            let paths: Vec<String> = fields
                .iter()
                .flat_map(|(root, paths)| paths.iter().map(move |path| format!("{root}/{path}/")))
                .collect();
            for path in &paths {
                let beginnings = paths.iter().filter(|other| path.starts_with(*other)).count();
                assert_eq!(beginnings, 1, "{kind}: {path}");
            }
        }
    }

    #[test]
    fn an_update_keeps_what_the_object_has() {
        let old = json!({"spec": {"volumes": [{"emptyDir": {"mode": 1}}]}});
        let mut new = json!({"spec": {"volumes": [{"emptyDir": {"mode": 2}}], "evictionResponders": []}});
        drop_fields("", "Pod", &mut new, Some(&old));
        assert_eq!(new, json!({"spec": {"volumes": [{"emptyDir": {"mode": 2}}]}}));
    }

    #[test]
    fn other_kinds() {
        for (group, kind, old, mut new, kept) in [
            (
                "coordination.k8s.io",
                "Lease",
                None,
                json!({"spec": {"holderIdentity": "a", "strategy": "OldestEmulationVersion", "preferredHolder": "b"}}),
                json!({"spec": {"holderIdentity": "a"}}),
            ),
            (
                "resource.k8s.io",
                "ResourceSlice",
                None,
                json!({"spec": {"devices": [{"attributes": {"a": {"ints": [1]}, "b": {"int": 1}}}]}}),
                json!({"spec": {"devices": [{"attributes": {"a": {}, "b": {"int": 1}}}]}}),
            ),
            (
                "",
                "PersistentVolumeClaim",
                None,
                json!({"spec": {"volumeName": "v", "dataSourceRef": {"kind": "K", "name": "n", "namespace": "theirs"}}}),
                json!({"spec": {"volumeName": "v"}}),
            ),
            (
                "",
                "PersistentVolumeClaim",
                None,
                json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n"}}}),
                json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n"}}}),
            ),
            (
                "",
                "PersistentVolumeClaim",
                Some(json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n", "namespace": "theirs"}}})),
                json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n", "namespace": "theirs"}}}),
                json!({"spec": {"dataSourceRef": {"kind": "K", "name": "n", "namespace": "theirs"}}}),
            ),
            // A kind of that name in a group of its own.
            (
                "example.com",
                "Pod",
                None,
                json!({"spec": {"evictionResponders": 1}}),
                json!({"spec": {"evictionResponders": 1}}),
            ),
        ] {
            drop_fields(group, kind, &mut new, old.as_ref());
            assert_eq!(new, kept, "{kind}");
        }
    }
}
