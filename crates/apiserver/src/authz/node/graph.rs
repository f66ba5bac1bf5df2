//! Which objects the pods of a node refer to.
//!
//! An index over the pods of the watch cache. A look that finds what it wants costs a few hash lookups; one that
//! does not, and pods have changed since, renews the index: pods whose buffer is the same are not parsed again.
//! Not here: what follows from a relation (`node`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::GroupResource;
use api::types::core::v1::{Container, Pod};
use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Mutex, watch};

use crate::cluster::ClusterState;

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
    node: String,
    namespace: String,
    references: HashSet<(Kind, String)>,
}

#[derive(Default)]
struct Index {
    pods: HashMap<usize, Arc<Entry>>,
    by_node: HashMap<String, Vec<Arc<Entry>>>,
}

/// The relation of nodes to objects.
pub struct Graph {
    cluster: Arc<dyn ClusterState>,
    index: ArcSwap<Index>,
    changes: Mutex<Option<watch::Receiver<u64>>>,
}

impl Graph {
    /// A graph over the pods of `cluster`; nothing is read before the first question.
    pub fn new(cluster: Arc<dyn ClusterState>) -> Self {
        Self { cluster, index: ArcSwap::default(), changes: Mutex::new(None) }
    }

    /// Whether a pod of `node` refers to the object (or is it).
    pub async fn refers(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let wanted = (kind, name.to_owned());
        let found = |entry: &Entry| entry.namespace == namespace && entry.references.contains(&wanted);
        if let Some(entry) = find(&self.index.load(), node, found) {
            // The index may be old: the relation holds only if this very pod is still there unchanged.
            if self.still_there(&entry).await {
                return true;
            }
        }
        self.renew().await;
        find(&self.index.load(), node, found).is_some()
    }

    async fn still_there(&self, entry: &Entry) -> bool {
        let Some((_, name)) = entry.references.iter().find(|(kind, _)| *kind == Kind::Pod) else {
            return false;
        };
        let pods = GroupResource::new("", "pods");
        let now = self.cluster.cached(&pods, &entry.namespace, name).await;
        matches!(now, Ok(Some(bytes)) if bytes.as_ptr() == entry.source.as_ptr())
    }

    async fn renew(&self) {
        let mut changes = self.changes.lock().await;
        let pods = GroupResource::new("", "pods");
        // The watch cache was dropped: its successor tells of changes from now on.
        if changes.as_ref().is_some_and(|receiver| receiver.has_changed().is_err()) {
            *changes = None;
        }
        match changes.as_mut() {
            Some(receiver) if !receiver.has_changed().unwrap_or(true) => return,
            Some(receiver) => {
                receiver.borrow_and_update();
            }
            None => match self.cluster.changes(&pods).await {
                Ok(mut receiver) => {
                    receiver.borrow_and_update();
                    *changes = Some(receiver);
                }
                Err(_) => return,
            },
        }
        match self.cluster.list(&pods, "").await {
            Ok(listing) => self.index.store(Arc::new(next(&self.index.load(), &listing.items))),
            Err(_) => {
                if let Some(receiver) = changes.as_mut() {
                    receiver.mark_changed();
                }
            }
        }
    }
}

fn find(index: &Index, node: &str, found: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
    index.by_node.get(node)?.iter().find(|entry| found(entry)).cloned()
}

fn next(old: &Index, items: &[Bytes]) -> Index {
    let mut index = Index::default();
    for item in items {
        let address = item.as_ptr() as usize;
        let kept = old.pods.get(&address).filter(|entry| entry.source.len() == item.len());
        let Some(entry) = kept.cloned().or_else(|| parse(item).map(Arc::new)) else { continue };
        if !entry.node.is_empty() {
            index.by_node.entry(entry.node.clone()).or_default().push(entry.clone());
        }
        index.pods.insert(address, entry);
    }
    index
}

fn parse(bytes: &Bytes) -> Option<Entry> {
    let pod: Pod = api::json::read(bytes).ok()?;
    let references = references(&pod);
    let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
    let namespace = pod.metadata.namespace.unwrap_or_default();
    Some(Entry { source: bytes.clone(), node, namespace, references })
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
        let csi = volume.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref());
        if let Some(secret) = csi {
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
    out
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
