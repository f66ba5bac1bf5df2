//! What the workload controllers ask of a pod, and how they make one from a template.
//!
//! Upstream: `pkg/api/v1/pod/util.go`, `pkg/controller/controller_utils.go`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use api::meta::{ObjectMeta, OwnerReference};
use api::types::core::v1::{Pod, PodCondition, PodTemplateSpec};
use jiff::Timestamp;

use crate::object;

/// The phase; empty before the kubelet has said one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether all containers have ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as a replica.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !object::deleting(pod)
}

/// The node the pod is on; empty while it has none.
pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// One condition of the pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether the pod is ready for requests.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod is ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// When a ready pod counts as available: ready for `min_ready_seconds`. `None` if it is not ready.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let since = ready_since(pod)?;
    if min_ready_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    Some(object::after(since, i64::from(min_ready_seconds)))
}

/// Whether the pod is available now.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

/// How often its containers were started again, at most.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    containers.iter().map(|container| container.restart_count).max().unwrap_or(0)
}

/// A pod from a template, for the server to name.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    parent: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(parent)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    }
}

/// `<parent>-`, without the dash where a name could not hold it.
pub(crate) fn generate_name(parent: &str) -> String {
    let prefix = format!("{parent}-");
    // The server cuts a prefix that is too long; a parent that ends in what no pod name can hold keeps no dash.
    if api::names::is_dns1123_subdomain(&format!("{prefix}a")).is_empty() || prefix.len() > 200 {
        prefix
    } else {
        parent.to_owned()
    }
}

/// The pods that a scale-down to `keep` deletes, the least useful first: not on a node, not running, not ready, cheap by
/// annotation, crowded on a node, ready for a short time, restarted often, young. `related` are all pods of the
/// application, for the crowding.
pub(crate) fn to_delete(
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> = pods.to_vec();
    if count < ranked.len() {
        ranked.sort_by(|a, b| deletion_order(a, b, |pod| on_node.get(node(pod)).copied().unwrap_or(0), now));
    }
    ranked.truncate(count);
    ranked
}

fn deletion_order(a: &Pod, b: &Pod, rank: impl Fn(&Pod) -> usize, now: Timestamp) -> Ordering {
    let phase_order = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        // The kubelet has not said anything yet.
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        object::annotation(pod, "controller.kubernetes.io/pod-deletion-cost")
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0)
    };
    // Times are compared by their magnitude (doubling buckets), so that the choice among pods of about the same age does
    // not always hit the same one (upstream's LogarithmicScaleDown).
    let bucket = |time: Option<Timestamp>| -> i64 {
        let Some(time) = time else { return -1 };
        let age = now.as_millisecond().saturating_sub(time.as_millisecond());
        if age <= 0 { 0 } else { i64::from(age.ilog2()) + 1 }
    };
    let (ready_a, ready_b) = (is_ready(a), is_ready(b));
    node(a)
        .is_empty()
        .cmp(&node(b).is_empty())
        .reverse()
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| ready_a.cmp(&ready_b))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| {
            if ready_a && ready_b {
                bucket(ready_since(a)).cmp(&bucket(ready_since(b)))
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| bucket(Some(object::created(a))).cmp(&bucket(Some(object::created(b)))))
        .then_with(|| object::uid(a).cmp(object::uid(b)))
}
