//! NodeResourcesFit: a node has what the pod requests; the emptier node is better.
//!
//! Upstream: pkg/scheduler/framework/plugins/noderesources (fit.go, least_allocated.go).

use api::types::core::v1::Node;

use crate::{
    cluster::{Amount, Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, MAX_SCORE, Plugin, Rejection},
};

/// The plugin.
pub struct NodeResourcesFit;

/// What the pod requests and the node does not have.
fn lacking(pod: &PodInfo, node: &NodeInfo) -> Rejection {
    let mut reasons = Vec::new();
    let mut unresolvable = false;
    if node.pods.len() as i64 + 1 > node.allowed_pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, request: Amount, allocatable: Amount, used: Amount| {
        if request > 0 && request > allocatable - used {
            reasons.push(format!("Insufficient {name}"));
            // More than the node has at all: other pods are not in the way.
            unresolvable |= request > allocatable;
        }
    };
    let (wanted, all, used) = (&pod.requests, &node.allocatable, &node.requested);
    check("cpu", wanted.milli_cpu, all.milli_cpu, used.milli_cpu);
    check("memory", wanted.memory, all.memory, used.memory);
    check("ephemeral-storage", wanted.ephemeral_storage, all.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &wanted.scalar {
        let of =
            |resources: &crate::cluster::Resources| resources.scalar.get(name).copied().unwrap_or_default();
        check(name, *amount, of(all), of(used));
    }
    Rejection { plugin: "NodeResourcesFit", reasons, unresolvable }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        let lacking = lacking(pod, node);
        if lacking.reasons.is_empty() { Ok(()) } else { Err(lacking) }
    }

    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, _: &[&NodeInfo], _: &Cluster) -> bool {
        true
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let free = |request: Amount, used: Amount, all: Amount| {
            if all == 0 || request + used > all {
                0
            } else {
                (all - request - used) * Amount::from(MAX_SCORE) / all
            }
        };
        let cpu = free(pod.scored.milli_cpu, node.scored.milli_cpu, node.allocatable.milli_cpu);
        let memory = free(pod.scored.memory, node.scored.memory, node.allocatable.memory);
        i64::try_from((cpu + memory) / 2).unwrap_or_default()
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        match event {
            Event::NodeAdded(_) | Event::AssignedPodGone(_) => Hint::Queue,
            Event::NodeUpdated(old, new) if allocatable(old) != allocatable(new) => Hint::Queue,
            Event::AssignedPodUpdated(old, new) | Event::PodUpdated(old, new)
                if old.requests != new.requests =>
            {
                Hint::Queue
            }
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, node, node_with, pod_with, scores};

    fn requests(requests: serde_json::Value) -> PodInfo {
        pod_with(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn what_is_lacking_is_told() {
        let small =
            json!({"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "0", "example.com/gpu": "1"}});
        let cluster = cluster([node("n", "1", "1Gi"), node_with("full", json!({}), small)]);
        let cases = [
            ("n", json!({"cpu": "1", "memory": "1Gi"}), vec![]),
            ("n", json!({"cpu": "1001m"}), vec!["Insufficient cpu"]),
            ("n", json!({"memory": "2Gi", "cpu": "2"}), vec!["Insufficient cpu", "Insufficient memory"]),
            ("n", json!({"ephemeral-storage": "1"}), vec!["Insufficient ephemeral-storage"]),
            ("full", json!({}), vec!["Too many pods"]),
            ("full", json!({"example.com/gpu": "2"}), vec!["Too many pods", "Insufficient example.com/gpu"]),
        ];
        for (node, wanted, reasons) in cases {
            let name = format!("{node} {wanted}");
            let found =
                filter(&NodeResourcesFit, &requests(wanted), &cluster, node).err().unwrap_or_default();
            assert_eq!(found, reasons, "{name}");
        }
    }

    #[test]
    fn a_node_that_is_over_full_has_no_room() {
        let mut cluster = cluster([node("n", "1", "1Gi")]);
        for uid in ["1", "2"] {
            let mut huge = requests(json!({"memory": "5Ei"}));
            std::sync::Arc::make_mut(&mut huge.pod).metadata.uid = Some(uid.into());
            cluster.set_pod(huge, "n");
        }
        let small = requests(json!({"memory": "1Mi"}));
        assert_eq!(filter(&NodeResourcesFit, &small, &cluster, "n").unwrap_err(), ["Insufficient memory"]);
        assert_eq!(scores(&NodeResourcesFit, &small, &cluster), [35], "only its CPU is free");
    }

    #[test]
    fn the_emptier_node_is_better() {
        let cluster = cluster([node("a", "1", "1000Mi"), node("b", "4", "4000Mi")]);
        let scores =
            scores(&NodeResourcesFit, &requests(json!({"cpu": "500m", "memory": "500Mi"})), &cluster);
        assert_eq!(scores, [50, 87]);
    }
}
