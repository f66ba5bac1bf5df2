//! The FlowSchemas and PriorityLevelConfigurations that every cluster has, and how stored ones are kept so.
//!
//! The mandatory ones are always as they are here. The suggested ones follow this version until somebody sets
//! `apf.kubernetes.io/autoupdate-spec` to `false`.
//! Upstream: apiserver/pkg/apis/flowcontrol/bootstrap/default.go, pkg/registry/flowcontrol/ensurer.

use api::Object;
use serde_json::{Value, json};

const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const GROUP: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Names that are mandatory, for schemas and levels alike.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Queues, hand size and shares of the suggested levels: name, shares, lendable percent, queues, hand.
const LEVELS: &[(&str, i32, i32, i32, i32)] = &[
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// The levels.
pub fn levels() -> Vec<Object> {
    let level = |name: &str, spec: Value| {
        Object(json!({
            "apiVersion": GROUP, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec,
            "status": {},
        }))
    };
    let mut levels = vec![
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
    ];
    levels.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        level(
            name,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {
                    "type": "Queue",
                    "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50},
                },
            }}),
        )
    }));
    levels
}

/// The schemas. `now` is the present as RFC 3339: their levels are known to exist since then.
pub fn schemas(now: &str) -> Vec<Object> {
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let account = |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}});
    let everyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let manager = || user("system:kube-controller-manager");
    let scheduler = || user("system:kube-scheduler");
    let election = ["get", "create", "update"];
    let leases = rule(&election, "coordination.k8s.io", &["leases"]);

    let all = |name, level, precedence, by, subjects: Vec<Value>| {
        let resources = json!([{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
        }]);
        let rules = json!([{
            "subjects": subjects, "resourceRules": resources,
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }]);
        schema(name, level, precedence, by, rules, now)
    };
    let some = |name, level, precedence, subjects: Vec<Value>, resources: Vec<Value>| {
        let rules = json!([{"subjects": subjects, "resourceRules": resources}]);
        schema(name, level, precedence, "ByUser", rules, now)
    };
    let mut whole_nodes = rule(&["*"], "", &["nodes", "nodes/status"]);
    whole_nodes["clusterScope"] = true.into();
    vec![
        all("exempt", "exempt", 1, "", vec![group("system:masters")]),
        all("catch-all", "catch-all", 10_000, "ByUser", everyone()),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!([{"subjects": everyone(), "nonResourceRules": [
                {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]},
            ]}]),
            now,
        ),
        some(
            "system-leader-election",
            "leader-election",
            100,
            vec![manager(), scheduler(), account("*")],
            vec![leases.clone()],
        ),
        some(
            "endpoint-controller",
            "workload-high",
            150,
            vec![manager(), account("endpoint-controller"), account("endpointslicemirroring-controller")],
            vec![rule(&election, "", &["endpoints"])],
        ),
        some(
            "workload-leader-election",
            "leader-election",
            200,
            vec![account("*")],
            vec![rule(&election, "", &["endpoints", "configmaps"]), leases],
        ),
        some(
            "system-node-high",
            "node-high",
            400,
            vec![group("system:nodes")],
            vec![whole_nodes, rule(&["*"], "coordination.k8s.io", &["leases"])],
        ),
        all("system-nodes", "system", 500, "ByUser", vec![group("system:nodes")]),
        all("kube-controller-manager", "workload-high", 800, "ByNamespace", vec![manager()]),
        all("kube-scheduler", "workload-high", 800, "ByNamespace", vec![scheduler()]),
        all("kube-system-service-accounts", "workload-high", 900, "ByNamespace", vec![account("*")]),
        all("service-accounts", "workload-low", 9000, "ByUser", vec![group("system:serviceaccounts")]),
        all("global-default", "global-default", 9900, "ByUser", everyone()),
    ]
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTOUPDATE: "true"}})
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]})
}

fn schema(name: &str, level: &str, precedence: i32, by: &str, rules: Value, now: &str) -> Object {
    let mut object = json!({
        "apiVersion": GROUP, "kind": "FlowSchema", "metadata": metadata(name),
        "spec": {
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
        },
        "status": {"conditions": [dangling(level, true, now)]},
    });
    if !by.is_empty() {
        object["spec"]["distinguisherMethod"] = json!({"type": by});
    }
    Object(object)
}

/// The condition that says whether a schema's level exists.
pub(super) fn dangling(level: &str, exists: bool, now: &str) -> Value {
    let (status, reason, what) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": now,
        "message": format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}"
        ),
    })
}

/// Whether schemas and levels of this name must be as they are here.
pub fn is_mandatory(name: &str) -> bool {
    MANDATORY.contains(&name)
}

/// What a stored object is to become, where that differs. `wanted` carries its defaults.
pub fn reconcile(stored: &Object, wanted: &Object) -> Option<Object> {
    let follows = match stored.annotation(AUTOUPDATE) {
        Some("true") => true,
        Some("false") => false,
        // Written before there was the annotation: ours as long as nobody has changed it.
        _ => stored.generation() <= 1,
    };
    let mandatory = is_mandatory(wanted.name());
    let mut next = stored.clone();
    if mandatory || follows {
        next.0["spec"] = wanted.0["spec"].clone();
    }
    let says = if mandatory || follows { "true" } else { "false" };
    if !next.0["metadata"]["annotations"].is_object() {
        next.0["metadata"]["annotations"] = json!({});
    }
    next.0["metadata"]["annotations"][AUTOUPDATE] = says.into();
    if next.0["spec"] != stored.0["spec"] && next.generation() > 0 {
        let generation = next.generation() + 1;
        next.metadata_mut().insert("generation".into(), generation.into());
    }
    (next != *stored).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn every_schema_has_its_level_and_is_valid() {
        let kinds = api::kinds::all();
        let levels = levels();
        for object in levels.iter().cloned().chain(schemas(NOW)) {
            let kind = kinds.iter().find(|d| d.kind == object.kind()).unwrap();
            assert!(kind.hooks.validate(&object.0).is_empty(), "{}", object.name());
            let mut defaulted = object.clone();
            kind.hooks.default(&mut defaulted.0);
            assert_eq!(defaulted.0["spec"], object.0["spec"], "{} leaves nothing to defaults", object.name());
            if let Some(level) = object.0["spec"]["priorityLevelConfiguration"]["name"].as_str() {
                assert!(levels.iter().any(|l| l.name() == level), "{} needs {level}", object.name());
            }
        }
    }

    #[test]
    fn stored_objects_follow_this_version_until_told_otherwise() {
        let wanted = levels().into_iter().find(|level| level.name() == "system").unwrap();
        assert_eq!(reconcile(&wanted, &wanted), None);
        let mut changed = wanted.clone();
        changed.0["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
        changed.0["metadata"]["generation"] = 2.into();
        let next = reconcile(&changed, &wanted).unwrap();
        assert_eq!((&next.0["spec"], next.generation()), (&wanted.0["spec"], 3));
        changed.0["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(&changed, &wanted), None);
        changed.0["metadata"].as_object_mut().unwrap().remove("annotations");
        let kept = reconcile(&changed, &wanted).unwrap();
        assert_eq!(kept.0["spec"], changed.0["spec"]);
        assert_eq!(kept.annotation(AUTOUPDATE), Some("false"));

        let catch_all = levels().into_iter().find(|level| level.name() == "catch-all").unwrap();
        let mut changed = catch_all.clone();
        changed.0["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        changed.0["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
        assert_eq!(reconcile(&changed, &catch_all).unwrap().0["spec"], catch_all.0["spec"]);
    }
}
