//! Refuses to give a pod on a node more than the node can ever have, or anything at all where nodes cannot do it.
//! Reads Nodes. Sees `pods/resize` of bound pods.
//! Not here: whether there is room beside the node's other pods, which the kubelet decides.
//! Upstream: plugin/pkg/admission/podresize.

use std::sync::Arc;

use api::kinds::core::pod::resources::pod_requests;
use api::quantity::Quantity;
use api::status::Cause;
use api::types::core::v1::{Node, Pod};
use api::{Object, Status};
use async_trait::async_trait;

use super::json::{find, text, typed};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

pub(super) struct PodResizeValidator;

/// Why the node cannot, and the cause's machine-readable name where it has one.
type Refusal = (String, Option<&'static str>);

fn check(pod: &Pod, name: &str, node: Option<&Node>) -> Result<(), Refusal> {
    let Some(node) = node else { return Err((format!("node {name:?} not found"), None)) };
    let os = node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if let Some(os) = os.filter(|os| *os != "linux") {
        let reason = format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
        return Err((reason, Some("UnsupportedPlatform")));
    }
    let requested = pod.spec.as_ref().map(pod_requests).unwrap_or_default();
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let zero = Quantity::default();
    let mut lacking = Vec::new();
    let shown: [(&str, fn(Quantity) -> i64); 2] =
        [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    for (resource, shown) in shown {
        let wanted = requested.get(resource).copied().unwrap_or(zero);
        let most =
            allocatable.and_then(|list| list.get(resource)).and_then(|most| Quantity::parse(&most.0).ok());
        let most = most.unwrap_or(zero);
        if wanted > most {
            lacking.push(format!("{resource}, requested: {}, allocatable: {}", shown(wanted), shown(most)));
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking = lacking.join("; ");
    Err((format!("node didn't have enough allocatable resources: {lacking}"), Some("NodeCapacity")))
}

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !request.is("", "pods", "resize") {
            return Ok(());
        }
        let (Some(object), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let spec = |object: &Object| object.0["spec"].clone();
        let name = text(&object.0, "/spec/nodeName");
        if name.is_empty() || spec(object) == spec(old) {
            return Ok(());
        }
        let node: Option<Node> = find(&**cluster, "", "nodes", "", name).await?;
        let Err((reason, cause)) = check(&typed(object)?, name, node.as_ref()) else { return Ok(()) };
        let mut status = request.forbidden(reason);
        if let Some(cause) = cause {
            let cause = Cause { reason: cause.to_owned(), ..Cause::default() };
            status.details.get_or_insert_default().causes.push(cause);
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn a_pod_grows_no_further_than_its_node() {
        let cluster = FakeCluster::new();
        let node = |name: &str, os: &str| {
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "kubernetes.io/os": os } },
                "status": { "allocatable": { "cpu": "2", "memory": "1Gi" } } })
        };
        cluster.put("nodes", node("n1", "linux"));
        cluster.put("nodes", node("w1", "windows"));
        let sized = |node: &str, cpu: &str, memory: &str| {
            pod(json!({ "nodeName": node, "containers": [
                { "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } },
                { "name": "d", "resources": { "requests": { "cpu": "500m" } } } ] }))
        };
        let resize = |node: &str, cpu: &str, memory: &str| {
            Write::update("pods/resize", "Pod", sized(node, "100m", "64Mi"), sized(node, cpu, memory))
        };
        let lacking = "pods \"p\" is forbidden: node didn't have enough allocatable resources: ";
        #[rustfmt::skip]
        let table: Vec<(Write, String, Value)> = vec![
            (resize("n1", "1500m", "1Gi"), String::new(), Value::Null),
            (resize("n1", "1600m", "1Gi"), format!("{lacking}cpu, requested: 2100, allocatable: 2000"), json!("NodeCapacity")),
            (resize("n1", "2", "2Gi"),
             format!("{lacking}cpu, requested: 2500, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"), json!("NodeCapacity")),
            (resize("w1", "200m", "64Mi"),
             "pods \"p\" is forbidden: pod resize is only supported on linux nodes, node \"w1\" is \"windows\"".into(), json!("UnsupportedPlatform")),
            (resize("gone", "200m", "64Mi"), "pods \"p\" is forbidden: node \"gone\" not found".into(), Value::Null),
            (resize("gone", "100m", "64Mi"), String::new(), Value::Null),
            (resize("", "16", "64Gi"), String::new(), Value::Null),
            (Write::update("pods", "Pod", sized("n1", "1", "1Gi"), sized("n1", "16", "1Gi")), String::new(), Value::Null),
        ];
        for (index, (write, want, cause)) in table.into_iter().enumerate() {
            match run(&PodResizeValidator, &cluster, write).await {
                Ok(_) => assert_eq!(want, "", "row {index}"),
                Err(status) => {
                    assert_eq!((status.code, status.message.as_str()), (403, want.as_str()), "row {index}");
                    let told = status.details.and_then(|details| details.causes.into_iter().next());
                    assert_eq!(told.map_or(Value::Null, |cause| cause.reason.into()), cause, "row {index}");
                }
            }
        }
    }
}
