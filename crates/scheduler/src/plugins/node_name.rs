//! NodeName: a pod that names its node goes nowhere else.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodename.

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection},
};

/// The plugin.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        match pod.spec().node_name.as_deref() {
            Some(name) if !name.is_empty() && name != node.name() => {
                Err(Rejection::unresolvable(self.name(), "node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        if matches!(event, Event::NodeAdded(_)) { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, node, pod_with};

    #[test]
    fn only_the_named_node_fits() {
        let cluster = cluster([node("a", "1", "1Gi"), node("b", "1", "1Gi")]);
        let pod = pod_with(json!({"nodeName": "a"}));
        assert_eq!(filter(&NodeName, &pod, &cluster, "a"), Ok(()));
        let refused = filter(&NodeName, &pod, &cluster, "b").unwrap_err();
        assert_eq!(refused, ["node(s) didn't match the requested node name"]);
    }
}
