//! NodeResourcesBalancedAllocation: CPU and memory of a node fill up together.
//!
//! Upstream: pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go.

use crate::{
    cluster::{Amount, Cluster, NodeInfo, PodInfo},
    framework::{CycleState, MAX_SCORE, Plugin},
};

/// The plugin.
pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], _: &Cluster) -> bool {
        // A pod that requests nothing changes no balance.
        pod.requests.milli_cpu > 0 || pod.requests.memory > 0
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let share = |request: Amount, used: Amount, all: Amount| {
            if all == 0 { 1.0 } else { ((request + used) as f64 / all as f64).min(1.0) }
        };
        let cpu = share(pod.requests.milli_cpu, node.requested.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(pod.requests.memory, node.requested.memory, node.allocatable.memory);
        // The standard deviation of two numbers is half their distance.
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, node, pod_with, scores};

    #[test]
    fn balance_is_better() {
        let requests = json!({"requests": {"cpu": "500m", "memory": "500Mi"}});
        let pod = pod_with(json!({"containers": [{"name": "c", "resources": requests}]}));
        let cluster = cluster([node("a", "1", "1000Mi"), node("b", "1", "5000Mi")]);
        assert_eq!(scores(&NodeResourcesBalancedAllocation, &pod, &cluster), [100, 80]);
        assert!(scores(&NodeResourcesBalancedAllocation, &pod_with(json!({})), &cluster).is_empty());
    }
}
