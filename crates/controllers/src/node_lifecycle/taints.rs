//! Which taints a node's conditions call for. Pure.
//!
//! Upstream: `pkg/controller/nodelifecycle/node_lifecycle_controller.go` (the two tables at its top).

use api::meta::Time;
use api::types::core::v1::{Node, Taint};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::networking::node_condition;
use crate::object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, the value of it that taints, and the taint.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Whether the taint is ours to give and take.
fn is_ours(taint: &Taint) -> bool {
    let by_condition = BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
    match taint.effect.as_str() {
        "NoSchedule" => by_condition,
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// The taints a node should have, if it has others; `evict` says whether NoExecute may be among them.
pub(super) fn wanted(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let have = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, value, key) in BY_CONDITION {
        if node_condition(node, kind).is_some_and(|condition| condition.status == *value) {
            wanted.push((key, "NoSchedule"));
        }
    }
    // A node that has not said anything yet is not ready.
    if node_condition(node, "Ready").is_none() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if evict {
        for key in [NOT_READY, UNREACHABLE] {
            // Only of a condition that the node has: a node that just registered is given time.
            let by_condition = BY_CONDITION.iter().any(|(kind, value, of)| {
                *of == key && node_condition(node, kind).is_some_and(|condition| condition.status == *value)
            });
            if by_condition {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    let mut taints: Vec<Taint> = have
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(object::seconds(now))),
            });
        }
    }
    (taints != have).then_some(taints)
}

/// Whether pods are being evicted from the node already.
pub(super) fn evicts(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.effect == "NoExecute" && is_ours(taint))
}

/// What the patch of the taints must find: the list is replaced as a whole, so the object must be as it was read.
pub(super) fn precondition(node: &Node) -> Value {
    json!({"uid": object::uid(node), "resourceVersion": node.metadata.resource_version})
}
