//! The EndpointSlices of the cluster DNS, one for each server: gone with their Nodes, and not ready while these are not.
//!
//! Each server gives its own slice its Node as owner, so that the garbage collector removes it with the Node; and marks the
//! slices of the *others* by whether their Nodes are Ready, because a server that has died does not mark its own. All do
//! so, and come to the same. Nothing is done while no Node changes.

use api::types::core::v1::Node;
use api::types::discovery::v1::EndpointSlice;
use client::{Client, Informer, Patch};
use serde_json::{Value, json};

use super::{NAME, NAMESPACE};

/// The slice of a node.
pub fn name_of(node: &str) -> String {
    format!("{NAME}-{node}")
}

/// Keeps the slices right until it is cancelled.
pub async fn keep(own: String, nodes: Informer<Node>, slices: Informer<EndpointSlice>, client: Client) {
    let mut changes = nodes.subscribe();
    loop {
        let change = changes.recv().await;
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let Some(node) = nodes.get(None, &name) else { continue };
        let known = slices.get(Some(NAMESPACE), &name_of(&name));
        // The own one is written before it is seen: what is missing of it is always said.
        let patch = match (name == own, known) {
            (true, known) => owned(&node, known.as_deref()),
            (false, Some(known)) => readiness(&node, &known),
            (false, None) => None,
        };
        let Some(patch) = patch else { continue };
        let patched =
            client.patch::<EndpointSlice>(Some(NAMESPACE), &name_of(&name), &Patch::Merge(patch)).await;
        match patched {
            // The next change of the Node tries again: its status is written every few minutes.
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, node = name, "the DNS of a node cannot be marked");
            }
            _ => {}
        }
    }
}

/// What makes a Node the owner of its slice, unless it is.
fn owned(node: &Node, known: Option<&EndpointSlice>) -> Option<Value> {
    let uid = node.metadata.uid.as_ref()?;
    let owners = known.and_then(|slice| slice.metadata.owner_references.as_ref());
    if owners.is_some_and(|owners| owners.iter().any(|owner| owner.uid == *uid)) {
        return None;
    }
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": uid});
    Some(json!({"metadata": {"ownerReferences": [owner]}}))
}

/// What marks a slice by whether its Node is Ready, unless it is so.
fn readiness(node: &Node, slice: &EndpointSlice) -> Option<Value> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    let ready = ready.next()?.status == "True";
    let endpoints = slice.endpoints.iter().flatten();
    let differs = endpoints.clone().any(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true) != ready
    });
    let marked = endpoints.map(|endpoint| {
        json!({"addresses": endpoint.addresses, "nodeName": endpoint.node_name, "conditions": {"ready": ready}})
    });
    differs.then(|| json!({"endpoints": marked.collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>) -> Node {
        let conditions: Vec<Value> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        api::json::typed(
            &json!({"metadata": {"name": "a", "uid": "u1"}, "status": {"conditions": conditions}}),
        )
        .unwrap()
    }

    fn slice(ready: Value, owner: Option<&str>) -> EndpointSlice {
        let owners: Vec<Value> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}))
            .collect();
        api::json::typed(&json!({
            "metadata": {"name": "kube-dns-a", "ownerReferences": owners}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "a", "conditions": {"ready": ready}}],
        }))
        .unwrap()
    }

    #[test]
    fn a_slice_is_as_ready_as_its_node() {
        for (status, known, expected) in [
            (Some("True"), json!(true), None),
            (Some("True"), Value::Null, None),
            (Some("True"), json!(false), Some(true)),
            (Some("Unknown"), json!(true), Some(false)),
            (Some("False"), json!(true), Some(false)),
            (Some("False"), json!(false), None),
            (None, json!(true), None),
        ] {
            let patch = readiness(&node(status), &slice(known.clone(), None));
            let marked = patch.as_ref().map(|patch| patch["endpoints"][0]["conditions"]["ready"] == true);
            assert_eq!(marked, expected, "{status:?} {known}");
            if let Some(patch) = patch {
                assert_eq!(patch["endpoints"][0]["addresses"][0], "10.0.0.1");
                assert_eq!(patch["endpoints"][0]["nodeName"], "a");
            }
        }
    }

    #[test]
    fn a_slice_goes_with_its_node() {
        let owned_by = |known: Option<&str>| {
            owned(&node(None), Some(&slice(json!(true), known)))
                .map(|patch| patch["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap().to_owned())
        };
        assert_eq!(owned_by(None).as_deref(), Some("u1"));
        assert_eq!(owned_by(Some("of-an-earlier-node")).as_deref(), Some("u1"));
        assert_eq!(owned_by(Some("u1")), None);
        assert!(owned(&node(None), None).is_some());
    }
}
