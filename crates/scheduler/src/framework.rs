//! What a scheduler plugin is: the points at which it can have its say.
//!
//! A plugin is pure: it looks at a pod, a node and what it noted earlier in the same cycle. Commands (binding) are
//! returned, not done. Not here: the order of the points (`cycle`) and their I/O (`executor`).
//!
//! Upstream: staging/src/k8s.io/kube-scheduler/framework.

use std::{
    any::{Any, TypeId},
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::types::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use foundation::Randomness;

use crate::cluster::{Cluster, NodeInfo, PodInfo};

/// The best score a node can get from one plugin; the worst is 0.
pub const MAX_SCORE: i64 = 100;

/// Why a plugin refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin.
    pub plugin: &'static str,
    /// Reasons, as upstream words them.
    pub reasons: Vec<String>,
    /// Whether taking other pods away could not help.
    pub unresolvable: bool,
}

impl Rejection {
    /// A refusal that would not stand if other pods were gone.
    pub fn new(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()], unresolvable: false }
    }
    /// A refusal that stands whatever other pods do.
    pub fn unresolvable(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { unresolvable: true, ..Self::new(plugin, reason) }
    }
}

/// What a plugin has noted for itself during one cycle, by type.
#[derive(Default)]
pub struct CycleState {
    kept: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    brief: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl CycleState {
    /// Notes something.
    pub fn put<T: Any + Send + Sync>(&mut self, value: T) {
        self.kept.insert(TypeId::of::<T>(), Box::new(value));
    }
    /// Notes something until a node is chosen. What is shared with the cluster's counts belongs here: held any longer, it
    /// would be copied when they change.
    pub fn put_for_cycle<T: Any + Send + Sync>(&mut self, value: T) {
        self.brief.insert(TypeId::of::<T>(), Box::new(value));
    }
    /// A node is chosen.
    pub(crate) fn end_cycle(&mut self) {
        self.brief.clear();
    }
    /// Reads a note.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let kind = TypeId::of::<T>();
        self.brief.get(&kind).or_else(|| self.kept.get(&kind)).and_then(|value| value.downcast_ref())
    }
}

/// Something that happened and may help a pod that fits nowhere. Every pod that waits is asked about it: what hints
/// look at is worked out before, once.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A node is new.
    NodeAdded(&'a Node),
    /// A node has changed: before and after.
    NodeUpdated(&'a Node, &'a Node),
    /// A node is gone.
    NodeGone(&'a Node),
    /// A pod has got a node.
    AssignedPodAdded(&'a PodInfo),
    /// A pod no longer uses its node.
    AssignedPodGone(&'a PodInfo),
    /// A pod on a node has changed what others may depend on: its labels or its requests. Other changes (of its
    /// status above all) are no event.
    AssignedPodUpdated(&'a PodInfo, &'a PodInfo),
    /// The waiting pod itself has changed.
    PodUpdated(&'a PodInfo, &'a PodInfo),
    /// Namespaces or their labels have changed.
    NamespacesChanged,
    /// A claim (by namespace and name), or what claims can be bound to, has changed.
    VolumesChanged(Option<(&'a str, &'a str)>),
}

/// Whether a plugin that refused a pod thinks that an event may help it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Try again.
    Queue,
    /// It cannot help.
    Skip,
}

/// What has to be done before a pod is bound. The pod is bound once all its claims are.
#[derive(Clone, Debug)]
pub enum Preparation {
    /// Set a volume aside for a claim.
    BindVolume {
        /// The volume.
        volume: Arc<PersistentVolume>,
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
    },
    /// Tell the claim's provisioner the node.
    SelectNode {
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
        /// The node.
        node: String,
    },
}

/// How a chosen node is made the pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// By the pod's `binding` subresource.
    ByApi,
}

/// A plugin. Every method has a default that lets the pod pass.
pub trait Plugin: Send + Sync {
    /// Its name, as in upstream's configuration.
    fn name(&self) -> &'static str;

    /// PreEnqueue: whether the pod may be scheduled at all yet.
    fn pre_enqueue(&self, _pod: &Pod) -> Result<(), Rejection> {
        Ok(())
    }
    /// QueueSort: the pod's rank, lowest first; `None` where this plugin does not sort.
    fn rank(&self, _pod: &Pod) -> Option<i64> {
        None
    }
    /// PreFilter: notes what filtering needs; may name the only nodes worth looking at. What there is to know of each node
    /// belongs into [`Plugin::filter`]: of many nodes only some are looked at, and of one when room is made.
    fn pre_filter(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _cluster: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        Ok(None)
    }
    /// Filter: whether the pod fits on the node.
    fn filter(
        &self,
        _state: &CycleState,
        _pod: &PodInfo,
        _node: &NodeInfo,
        _cluster: &Cluster,
    ) -> Result<(), Rejection> {
        Ok(())
    }
    /// PostFilter: when the pod fits nowhere, may make room and name the node where. It may try things out on the
    /// cluster, and leaves it as it was.
    fn post_filter(
        &self,
        _pod: &PodInfo,
        _cluster: &mut Cluster,
        _refused: &Refused,
        _profile: &[Weighted],
        _randomness: &dyn Randomness,
    ) -> Option<PostFiltered> {
        None
    }
    /// PreScore: notes what scoring needs. `false`: this plugin has nothing to score for this pod.
    fn pre_score(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _nodes: &[&NodeInfo],
        _cluster: &Cluster,
    ) -> bool {
        false
    }
    /// Score: how good the node is, 0 to 100 after [`Plugin::normalize`].
    fn score(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> i64 {
        0
    }
    /// NormalizeScore: brings all nodes' scores between 0 and 100.
    fn normalize(&self, _scores: &mut [i64]) {}
    /// Reserve: sets aside what the pod needs on the node.
    fn reserve(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// Unreserve: takes back what [`Plugin::reserve`] did.
    fn unreserve(&self, _state: &CycleState, _pod: &PodInfo) {}
    /// Permit: the last word before binding.
    fn permit(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// PreBind: whether what binding needs is in place.
    fn pre_bind(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// PreBind: what has to be written (and has to have taken effect) before the pod is bound.
    fn prepare(&self, _pod: &PodInfo, _node: &NodeInfo, _cluster: &Cluster) -> Vec<Preparation> {
        Vec::new()
    }
    /// Bind: how to bind; the first plugin that answers does.
    fn bind(&self, _pod: &PodInfo, _node: &NodeInfo) -> Option<Binding> {
        None
    }
    /// PostBind: told once the pod is bound.
    fn post_bind(&self, _pod: &Pod, _node: &str) {}
    /// QueueingHint: whether an event may help a pod that this plugin has refused.
    fn hint(&self, _pod: &PodInfo, _event: &Event<'_>) -> Hint {
        Hint::Skip
    }
    /// Whether pods that this plugin has refused are asked when some pod gets a node. That happens more often than
    /// anything else, and helps only who waits for company.
    fn looks_at_new_pods(&self) -> bool {
        false
    }
}

/// Which nodes refused a pod, and why. A node that is not among them was not worth looking at.
#[derive(Default)]
pub struct Refused {
    /// By the node's name.
    pub by_node: HashMap<String, Rejection>,
}

/// What PostFilter found.
#[derive(Clone, Debug)]
pub struct PostFiltered {
    /// Node on which room is being made.
    pub nominated_node: Option<String>,
    /// What to add to the message.
    pub message: String,
    /// Pods that have to go for it.
    pub victims: Vec<PodInfo>,
}

/// A plugin with the weight of its score.
pub struct Weighted {
    /// The plugin.
    pub plugin: Box<dyn Plugin>,
    /// Weight; 0 for one that does not score.
    pub weight: i64,
}

/// Scales scores so that the highest is 100; with `reverse`, so that the highest becomes 0.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        *score = match (most, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (most, true) => MAX_SCORE - *score * MAX_SCORE / most,
            (most, false) => *score * MAX_SCORE / most,
        };
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Objects for the tests of plugins.

    use serde_json::json;

    use super::*;

    /// A pod from JSON.
    pub fn pod(text: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_str(text).unwrap())
    }
    /// A pod whose spec is given; named `p`.
    pub fn pod_with(spec: serde_json::Value) -> PodInfo {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let value = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"}, "spec": spec});
        PodInfo::new(Arc::new(serde_json::from_value(value).unwrap()))
    }
    /// A pod of a name (which is its UID too) with labels.
    pub fn named_pod(name: &str, labels: serde_json::Value, spec: serde_json::Value) -> PodInfo {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": labels});
        PodInfo::new(Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()))
    }
    /// A node with only labels.
    pub fn node_labelled(name: &str, labels: serde_json::Value) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap())
    }
    /// A node with room for ten pods.
    pub fn node(name: &str, cpu: &str, memory: &str) -> Arc<Node> {
        node_with(name, json!({}), json!({"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"}}))
    }
    /// A node from its parts.
    pub fn node_with(name: &str, spec: serde_json::Value, status: serde_json::Value) -> Arc<Node> {
        let labels = json!({"kubernetes.io/hostname": name, "zone": format!("zone-{name}")});
        let value = json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(value).unwrap())
    }
    /// A cluster of nodes.
    pub fn cluster(nodes: impl IntoIterator<Item = Arc<Node>>) -> Cluster {
        let mut cluster = Cluster::default();
        nodes.into_iter().for_each(|node| cluster.set_node(node));
        cluster
    }
    /// What one plugin's filter says of a pod on a node.
    pub fn filter(
        plugin: &dyn Plugin,
        pod: &PodInfo,
        cluster: &Cluster,
        node: &str,
    ) -> Result<(), Vec<String>> {
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, pod, cluster).map_err(|rejection| rejection.reasons)?;
        plugin.filter(&state, pod, &cluster.nodes()[node], cluster).map_err(|rejection| rejection.reasons)
    }
    /// The normalized scores that one plugin gives to all nodes, in the order of their names.
    pub fn scores(plugin: &dyn Plugin, pod: &PodInfo, cluster: &Cluster) -> Vec<i64> {
        let mut state = CycleState::default();
        let nodes: Vec<&NodeInfo> = cluster.nodes().values().collect();
        if !plugin.pre_score(&mut state, pod, &nodes, cluster) {
            return Vec::new();
        }
        let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(&state, pod, node)).collect();
        plugin.normalize(&mut scores);
        scores
    }
}
