//! Taints a new Node as not ready, so that nothing lands on it before the node says that it is.
//! Not here: taking the taint away (the node lifecycle controller).
//! Upstream: plugin/pkg/admission/nodetaint.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request, json as reach};
use crate::cluster::ClusterState;

const TAINT: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "nodes", "") {
            return Ok(());
        }
        let Some(node) = request.object.as_deref_mut() else { return Ok(()) };
        if !node.0["spec"].is_object() {
            node.0["spec"] = json!({});
        }
        let taints = reach::array_mut(&mut node.0["spec"], "taints");
        if !taints.iter().any(|taint| taint["key"] == TAINT && taint["effect"] == "NoSchedule") {
            taints.push(json!({ "key": TAINT, "effect": "NoSchedule" }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn a_new_node_is_tainted_once() {
        let cluster = FakeCluster::new();
        for (spec, want) in [
            (json!({}), 1),
            (json!({ "taints": [{ "key": "x", "effect": "NoExecute" }] }), 2),
            (json!({ "taints": [{ "key": TAINT, "effect": "NoSchedule" }] }), 1),
        ] {
            let node =
                json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" }, "spec": spec });
            let (node, _) =
                run(&TaintNodesByCondition, &cluster, Write::create("nodes", "Node", node)).await.unwrap();
            assert_eq!(node["spec"]["taints"].as_array().unwrap().len(), want);
        }
    }
}
