//! Labels pods with the zone and the region of the node that they are bound to, so that programs in them can read
//! both through the downward API.
//! Reads Nodes. Changes Bindings (whose labels the pod takes over) and pods that are made on a node; what the
//! node says takes the place of what a client claims. A node that does not exist gives no labels.
//! Upstream: plugin/pkg/admission/podtopologylabels.

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::json::text;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

const COPIED: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels;

/// The labels that are copied, of those that a node has.
fn topology(node: &Bytes) -> Vec<(&'static str, String)> {
    // Every pod passes here, and the largest part of a node is no label: one without these is not parsed.
    let named = std::str::from_utf8(node).is_ok_and(|text| text.contains("topology.kubernetes.io/"));
    let parsed = named.then(|| serde_json::from_slice(node).ok().map(Object)).flatten();
    let labels = parsed.map(|node| node.labels()).unwrap_or_default();
    COPIED.iter().filter_map(|key| Some((*key, labels.get(*key)?.clone()))).collect()
}

/// The node that the object of the request is put on.
fn node_of<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let object = &request.object.as_deref()?.0;
    let node = if request.is("", "pods", "binding") && text(object, "/target/kind") == "Node" {
        text(object, "/target/name")
    } else if request.is("", "pods", "") {
        text(object, "/spec/nodeName")
    } else {
        ""
    };
    (!node.is_empty()).then_some(node)
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let Some(node) = node_of(request) else { return Ok(()) };
        let found = cluster.cached(&GroupResource::new("", "nodes"), "", node).await?;
        let labels = found.as_ref().map(topology).unwrap_or_default();
        let Some(object) = request.object.as_deref_mut().filter(|_| !labels.is_empty()) else {
            return Ok(());
        };
        let present = object.metadata_mut().entry("labels").or_insert(Value::Null);
        if present.is_null() {
            *present = json!({});
        }
        if let Some(present) = present.as_object_mut() {
            for (key, value) in labels {
                present.insert(key.to_owned(), value.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn pods_get_the_place_of_their_node() {
        let cluster = FakeCluster::new();
        let node = |name: &str, labels: Value| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
        let (zone, region) = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region");
        cluster.put("nodes", node("n1", json!({ zone: "z", region: "r", "kubernetes.io/hostname": "n1" })));
        cluster.put("nodes", node("bare", json!({})));
        let bind = |kind: &str, node: &str, labels: Value| {
            let binding = json!({ "metadata": { "name": "p", "namespace": "a", "labels": labels },
                "target": { "kind": kind, "name": node } });
            Write::create("pods/binding", "Binding", binding)
        };
        let create =
            |path, node: &str| Write::create(path, "Pod", pod(json!({ "nodeName": node, "containers": [] })));
        #[rustfmt::skip]
        let table = [
            (bind("Node", "n1", Value::Null), json!({ zone: "z", region: "r" })),
            (bind("Node", "n1", json!({ zone: "own", "x": "y" })), json!({ zone: "z", region: "r", "x": "y" })),
            (bind("Machine", "n1", Value::Null), Value::Null),
            (bind("Node", "bare", Value::Null), Value::Null),
            (bind("Node", "missing", Value::Null), Value::Null),
            (create("pods", "n1"), json!({ zone: "z", region: "r" })),
            (create("pods", ""), Value::Null),
            (create("pods/eviction", "n1"), Value::Null),
        ];
        for (index, (write, want)) in table.into_iter().enumerate() {
            let (object, _) = run(&PodTopologyLabels, &cluster, write).await.unwrap();
            assert_eq!(object["metadata"]["labels"], want, "row {index}");
        }
    }
}
