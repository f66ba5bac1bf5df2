//! Which objects the pods of a node refer to.
//!
//! What the pods of each node refer to, out of the watch cache. A look that finds what it wants costs a few hash
//! lookups; one that does not goes through the pods of that one node, of which those whose buffer is the same are not
//! parsed again. No node waits for another.
//! Not here: what follows from a relation (`node`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::GroupResource;
use api::types::core::v1::{Container, LocalObjectReference, Pod, Volume};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::cluster::ClusterState;

/// What a mirror pod is annotated with.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The kinds of objects that pods refer to, and pods themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The pod itself.
    Pod,
    /// Volumes, environment, image pull secrets.
    Secret,
    /// Volumes, environment.
    ConfigMap,
    /// PersistentVolumeClaims, also those of ephemeral volumes.
    Claim,
    /// The pod's own.
    ServiceAccount,
    /// Claims for devices.
    ResourceClaim,
}

/// What one pod refers to.
struct Entry {
    /// Kept so that the buffer's address stays taken.
    source: Bytes,
    namespace: String,
    references: HashSet<(Kind, String)>,
}

/// The pods of a node, by the address of their buffer.
type Pods = HashMap<usize, Arc<Entry>>;

/// The relation of nodes to objects.
pub struct Graph {
    cluster: Arc<dyn ClusterState>,
    nodes: Mutex<HashMap<String, Arc<Pods>>>,
}

impl Graph {
    /// A graph over the pods of `cluster`; nothing is read before the first question.
    pub fn new(cluster: Arc<dyn ClusterState>) -> Self {
        Self { cluster, nodes: Mutex::default() }
    }

    /// Whether a pod of `node` refers to the object (or is it).
    pub async fn refers(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let wanted = (kind, name.to_owned());
        let found = |pods: &Pods| {
            let mut entries = pods.values();
            entries.find(|entry| entry.namespace == namespace && entry.references.contains(&wanted)).cloned()
        };
        let known = self.nodes.lock().get(node).cloned().unwrap_or_default();
        if let Some(entry) = found(&known) {
            // What is known may be old: the relation holds only if this very pod is still there unchanged.
            if self.still_there(&entry).await {
                return true;
            }
        }
        let pods = GroupResource::new("", "pods");
        let Ok(listing) = self.cluster.list_where(&pods, "spec.nodeName", node).await else { return false };
        let pods = Arc::new(next(&known, &listing.items));
        let mut nodes = self.nodes.lock();
        if pods.is_empty() {
            nodes.remove(node);
        } else {
            nodes.insert(node.to_owned(), pods.clone());
        }
        drop(nodes);
        found(&pods).is_some()
    }

    /// Namespace and name of every claim that a pod of `node` refers to, as they were when the node was last asked
    /// about: to be called after [`Self::refers`] has found nothing.
    pub fn claims(&self, node: &str) -> HashSet<(String, String)> {
        let known = self.nodes.lock().get(node).cloned().unwrap_or_default();
        let claims = |entry: &Arc<Entry>| {
            let claims = entry.references.iter().filter(|(kind, _)| *kind == Kind::Claim);
            claims.map(|(_, name)| (entry.namespace.clone(), name.clone())).collect::<Vec<_>>()
        };
        known.values().flat_map(claims).collect()
    }

    async fn still_there(&self, entry: &Entry) -> bool {
        let Some((_, name)) = entry.references.iter().find(|(kind, _)| *kind == Kind::Pod) else {
            return false;
        };
        let pods = GroupResource::new("", "pods");
        let now = self.cluster.cached(&pods, &entry.namespace, name).await;
        matches!(now, Ok(Some(bytes)) if bytes.as_ptr() == entry.source.as_ptr())
    }
}

fn next(old: &Pods, items: &[Bytes]) -> Pods {
    let entries = items.iter().filter_map(|item| {
        let address = item.as_ptr() as usize;
        let kept = old.get(&address).filter(|entry| entry.source.len() == item.len());
        Some((address, kept.cloned().or_else(|| parse(item).map(Arc::new))?))
    });
    entries.collect()
}

fn parse(bytes: &Bytes) -> Option<Entry> {
    let pod: Pod = api::json::read(bytes).ok()?;
    // A node makes its mirror pods itself. They must never give it anything but themselves, should admission let one
    // through that names something.
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
    let mut references = references(&pod);
    references.retain(|(kind, _)| !mirror || *kind == Kind::Pod);
    let namespace = pod.metadata.namespace.unwrap_or_default();
    Some(Entry { source: bytes.clone(), namespace, references })
}

/// Everything in the pod's namespace that the pod refers to by name, itself included.
pub fn references(pod: &Pod) -> HashSet<(Kind, String)> {
    let mut out = HashSet::new();
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.insert((kind, name.to_owned()));
        }
    };
    add(Kind::Pod, &pod_name);
    let Some(spec) = &pod.spec else { return out };
    add(Kind::ServiceAccount, spec.service_account_name.as_deref().unwrap_or_default());
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &secret.name);
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        container_references(container, &mut add);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        let sources = Container {
            env: container.env.clone(),
            env_from: container.env_from.clone(),
            ..Container::default()
        };
        container_references(&sources, &mut add);
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(secret) = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            add(Kind::Secret, secret);
        }
        if let Some(map) = &volume.config_map {
            add(Kind::ConfigMap, &map.name);
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            add(Kind::Claim, &claim.claim_name);
        }
        if volume.ephemeral.is_some() {
            add(Kind::Claim, &format!("{pod_name}-{}", volume.name));
        }
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources {
            if let Some(secret) = &source.secret {
                add(Kind::Secret, &secret.name);
            }
            if let Some(map) = &source.config_map {
                add(Kind::ConfigMap, &map.name);
            }
        }
        if let Some(file) = &volume.azure_file {
            add(Kind::Secret, &file.secret_name);
        }
        for secret in volume_secrets(volume).into_iter().flatten() {
            add(Kind::Secret, &secret.name);
        }
    }
    for claim in spec.resource_claims.iter().flatten() {
        add(Kind::ResourceClaim, claim.resource_claim_name.as_deref().unwrap_or_default());
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    for status in statuses {
        add(Kind::ResourceClaim, status.resource_claim_name.as_deref().unwrap_or_default());
    }
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    if let Some(status) = extended {
        add(Kind::ResourceClaim, &status.resource_claim_name);
    }
    out
}

/// The Secrets of a pod's volume that are named in the same way whatever the kind of volume.
fn volume_secrets(volume: &Volume) -> [Option<&LocalObjectReference>; 8] {
    [
        volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref()),
        volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|source| &source.secret_ref),
        volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref()),
    ]
}

fn container_references(container: &Container, add: &mut impl FnMut(Kind, &str)) {
    for env in container.env.iter().flatten() {
        let Some(source) = &env.value_from else { continue };
        if let Some(secret) = &source.secret_key_ref {
            add(Kind::Secret, &secret.name);
        }
        if let Some(map) = &source.config_map_key_ref {
            add(Kind::ConfigMap, &map.name);
        }
    }
    for source in container.env_from.iter().flatten() {
        if let Some(secret) = &source.secret_ref {
            add(Kind::Secret, &secret.name);
        }
        if let Some(map) = &source.config_map_ref {
            add(Kind::ConfigMap, &map.name);
        }
    }
}
