//! Registers the node, keeps its status and renews its Lease.
//!
//! The status is written when it has changed and every five minutes; the Lease every ten seconds for forty.
//! Upstream: `pkg/kubelet/kubelet_node_status.go`, `component-helpers/apimachinery/lease`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::meta::{MicroTime, ObjectMeta, OwnerReference};
use api::types::coordination::v1::{Lease, LeaseSpec};
use api::types::core::v1::{ContainerImage, Node as NodeObject, NodeStatus, ObjectReference};
use client::{EventType, Patch};
use cri::v1;
use foundation::Tasks;
use serde_json::json;
use tokio::sync::watch;

use super::Node;
use super::object::{self, Facts};

const LEASE_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
/// First and longest wait before a runtime that is not ready is asked again: some become so without telling anybody.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// First and longest wait before a failed request is made again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How many images the status names, the largest first.
const MOST_IMAGES: usize = 50;
const LEASES: &str = "kube-node-lease";

/// Runs the node's own reporting.
pub fn run(node: Arc<Node>, address: Option<SocketAddr>, ready: watch::Sender<bool>, tasks: &Tasks) {
    let heartbeat = tasks.clone();
    tasks.spawn_until_cancelled("kubelet", async move {
        let mut known = register(&node, address).await;
        // The Lease belongs to the Node, so it comes after it.
        let lease = node.clone();
        heartbeat.spawn_until_cancelled("heartbeat", async move { renew(&lease).await });
        let about = reference(&node, known.metadata.uid.as_deref());
        node.recorder.event_about(about.clone(), EventType::Normal, "Starting", "Starting kubelet.");
        let mut was_ready = false;
        let mut written = node.clock.monotonic();
        let mut look = LOOK.0;
        loop {
            let facts = facts(&node, address).await;
            let unready = facts.unready.clone();
            let old = known.status.clone().unwrap_or_default();
            let new = object::status(&facts, &old);
            let due = node.clock.monotonic().saturating_sub(written) >= REPORT;
            let mut failed = false;
            if due || !object::same(&old, &new) {
                match write(&node, &new).await {
                    Ok(object) => {
                        known = object;
                        written = node.clock.monotonic();
                    }
                    Err(error) if error.is_not_found() => known = register(&node, address).await,
                    Err(error) => {
                        failed = true;
                        tracing::warn!(%error, "the node's status was not written");
                    }
                }
            }
            if !failed && unready.is_none() && !was_ready {
                let text = format!("Node {} status is now: NodeReady", node.options.node_name);
                node.recorder.event_about(about.clone(), EventType::Normal, "NodeReady", text);
                ready.send_replace(true);
            }
            if !failed && was_ready && unready.is_some() {
                let text = format!("Node {} status is now: NodeNotReady", node.options.node_name);
                node.recorder.event_about(about.clone(), EventType::Normal, "NodeNotReady", text);
                ready.send_replace(false);
            }
            was_ready = !failed && unready.is_none();
            // A runtime that is not ready yet is asked again soon, a ready one at the heartbeat's rhythm.
            let wait = if was_ready { RENEW } else { look };
            look = if was_ready { LOOK.0 } else { (look * 2).min(LOOK.1) };
            tokio::select! {
                () = node.clock.sleep(wait) => {}
                () = node.options.network_changed.notified() => {}
            }
        }
    });
}

fn reference(node: &Node, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.options.node_name.clone()),
        // Upstream: events about nodes carry the name as UID, by which `kubectl describe node` finds them.
        uid: Some(uid.map_or_else(|| node.options.node_name.clone(), |_| node.options.node_name.clone())),
        ..ObjectReference::default()
    }
}

/// What is known of the node now.
async fn facts(node: &Node, address: Option<SocketAddr>) -> Facts<'_> {
    let mut runtime = node.runtime.raw();
    let (unready, handlers) = match runtime.status(v1::StatusRequest { verbose: false }).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
            let bad = conditions.iter().find(|condition| !condition.status);
            let unready = bad.map(|condition| match condition.r#type.as_str() {
                "NetworkReady" => format!(
                    "container runtime network not ready: NetworkReady=false reason:{} message:{}",
                    condition.reason, condition.message
                ),
                kind => format!(
                    "container runtime not ready: {kind}=false reason:{} message:{}",
                    condition.reason, condition.message
                ),
            });
            node.handlers.replace(&answer.runtime_handlers);
            (unready, answer.runtime_handlers)
        }
        Err(status) => (Some(format!("container runtime is down: {}", status.message())), Vec::new()),
    };
    Facts {
        name: &node.options.node_name,
        ips: &node.ips,
        labels: &node.options.labels,
        machine: &node.machine,
        capacity: &node.allocatable,
        runtime: format!("{}://{}", node.version.name, node.version.version),
        version: &node.options.version,
        port: address.map(|address| address.port()),
        images: images(node).await,
        handlers,
        unready,
        now: node.clock.now(),
    }
}

async fn images(node: &Node) -> Vec<ContainerImage> {
    let Ok(answer) = node.runtime.images().list_images(v1::ListImagesRequest::default()).await else {
        return Vec::new();
    };
    let mut images = answer.into_inner().images;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let named = images.into_iter().take(MOST_IMAGES).map(|image| ContainerImage {
        size_bytes: i64::try_from(image.size).ok(),
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
    });
    named.collect()
}

/// Makes the node's object, or takes over the one that is there.
async fn register(node: &Node, address: Option<SocketAddr>) -> NodeObject {
    let mut wait = RETRY.0;
    loop {
        let wanted = object::object(&facts(node, address).await);
        match node.client.create::<NodeObject>(None, &wanted).await {
            Ok(object) => return object,
            Err(error) if error.is_already_exists() => {
                let labels: BTreeMap<String, String> = wanted.metadata.labels.unwrap_or_default();
                let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
                match node.client.patch::<NodeObject>(None, &node.options.node_name, &patch).await {
                    Ok(object) => return object,
                    Err(error) => tracing::warn!(%error, "the node's object was not taken over"),
                }
            }
            Err(error) => tracing::warn!(%error, "the node was not registered"),
        }
        node.clock.sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn write(node: &Node, status: &NodeStatus) -> Result<NodeObject, client::Error> {
    let mut status = serde_json::to_value(status)
        .map_err(|source| client::Error::Decode { what: "NodeStatus".into(), source })?;
    // Addresses merge by type on the server; a changed address must replace the one of its type.
    if let Some(addresses) = status.get_mut("addresses").and_then(|a| a.as_array_mut()) {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    let patch = Patch::Strategic(json!({"status": status}));
    node.client.patch_status::<NodeObject>(None, &node.options.node_name, &patch).await
}

/// Renews the node's Lease.
async fn renew(node: &Node) {
    let name = &node.options.node_name;
    let mut known: Option<Lease> = None;
    let mut again = RETRY.0;
    loop {
        let now = MicroTime(node.clock.now());
        let result = match known.take() {
            Some(mut lease) => {
                if let Some(spec) = &mut lease.spec {
                    spec.renew_time = Some(now);
                }
                node.client.update::<Lease>(Some(LEASES), &lease).await
            }
            None => match node.client.get::<Lease>(Some(LEASES), name).await {
                Ok(mut lease) => {
                    let spec = lease.spec.get_or_insert_default();
                    spec.holder_identity = Some(name.clone());
                    spec.lease_duration_seconds = Some(LEASE_SECONDS);
                    spec.renew_time = Some(now);
                    node.client.update::<Lease>(Some(LEASES), &lease).await
                }
                Err(error) if error.is_not_found() => create(node, now).await,
                Err(error) => Err(error),
            },
        };
        let wait = match result {
            Ok(lease) => {
                known = Some(lease);
                again = RETRY.0;
                RENEW
            }
            Err(error) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                let wait = again;
                again = (again * 2).min(RETRY.1);
                wait
            }
        };
        node.clock.sleep(wait).await;
    }
}

async fn create(node: &Node, now: MicroTime) -> Result<Lease, client::Error> {
    let name = node.options.node_name.clone();
    // The Lease goes with the Node, so it is made only once there is one.
    let owner = node.client.get::<NodeObject>(None, &name).await?;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: owner.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    node.client.create::<Lease>(Some(LEASES), &lease).await
}
