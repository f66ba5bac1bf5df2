//! NodePorts: a port of the host serves one pod.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeports.

use crate::{
    cluster::{Cluster, HostPort, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
};

/// The plugin.
pub struct NodePorts;

const ALL: &str = "0.0.0.0";

fn conflict(one: &HostPort, other: &HostPort) -> bool {
    one.1 == other.1 && one.2 == other.2 && (one.0 == other.0 || one.0 == ALL || other.0 == ALL)
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        let taken = |port: &HostPort| node.host_ports.iter().any(|used| conflict(port, used));
        if pod.host_ports.iter().any(taken) {
            return Err(Rejection::new(
                self.name(),
                "node(s) didn't have free ports for the requested pod ports",
            ));
        }
        Ok(())
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        match event {
            Event::NodeAdded(_) => Hint::Queue,
            Event::AssignedPodGone(gone) if !gone.host_ports.is_empty() => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, node, pod_with};

    #[test]
    fn ports_conflict_by_address_protocol_and_number() {
        let with_port =
            |port: serde_json::Value| pod_with(json!({"containers": [{"name": "c", "ports": [port]}]}));
        let mut cluster = cluster([node("n", "1", "1Gi")]);
        cluster.set_pod(with_port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"})), "n");
        let cases = [
            (json!({"containerPort": 1, "hostPort": 80}), false),
            (json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}), false),
            (json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"}), true),
            (json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), true),
            (json!({"containerPort": 1, "hostPort": 81}), true),
            (json!({"containerPort": 80}), true),
        ];
        for (port, fits) in cases {
            let name = port.to_string();
            assert_eq!(filter(&NodePorts, &with_port(port), &cluster, "n").is_ok(), fits, "{name}");
        }
    }
}
