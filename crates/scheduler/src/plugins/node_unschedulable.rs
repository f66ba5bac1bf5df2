//! NodeUnschedulable: a cordoned node takes no pods but those that tolerate it.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeunschedulable.

use api::types::core::v1::{Node, Taint};

use super::taint_toleration::tolerates;
use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
};

/// The plugin.
pub struct NodeUnschedulable;

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        if !cordoned(&node.node) {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if tolerates(pod.spec(), &taint) {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) were unschedulable"))
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        match event {
            Event::NodeAdded(node) if !cordoned(node) => Hint::Queue,
            Event::NodeUpdated(old, new) if cordoned(old) && !cordoned(new) => Hint::Queue,
            Event::PodUpdated(..) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, node_with, pod_with};

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let cluster = cluster([node_with("n", json!({"unschedulable": true}), json!({}))]);
        let daemon =
            json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
        for (spec, expected) in
            [(json!({}), Err(vec!["node(s) were unschedulable".to_owned()])), (daemon, Ok(()))]
        {
            assert_eq!(filter(&NodeUnschedulable, &pod_with(spec), &cluster, "n"), expected);
        }
    }
}
