//! The nodes and what runs on them, as the scheduler counts it.
//!
//! Fed with pods and nodes as the informers tell of them, and with pods assumed to be on a node before the API server
//! has said so. Pure. Not here: deciding (`cycle`).
//!
//! Upstream: pkg/scheduler/backend/cache and framework.NodeInfo.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use api::{
    kinds::core::pod::resources::pod_requests,
    quantity::Quantity,
    types::{
        core::v1::{Node, Pod, PodSpec},
        policy::v1::PodDisruptionBudget,
    },
};

use crate::{
    index::{Domains, Index, Saying, Selected, Selection},
    terms::{Labels, Namespaces, PodTerms, Term},
    volumes::{ClaimKey, Volumes, wanted},
};

/// Budgets by key (`namespace/name`).
pub type Budgets = BTreeMap<String, Arc<PodDisruptionBudget>>;

/// An amount of a resource, or a sum of amounts. One amount is at most what a quantity holds (an `i64`); sums of as
/// many as there can be pods fit here, so no pod can wrap what a node is counted with.
pub type Amount = i128;

/// Amounts of resources in whole units: milli-CPU for `cpu`, bytes or pieces for everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: Amount,
    /// Bytes of memory.
    pub memory: Amount,
    /// Bytes of local disk.
    pub ephemeral_storage: Amount,
    /// Everything else by name: huge pages, devices.
    pub scalar: BTreeMap<String, Amount>,
}

impl Resources {
    fn of(amounts: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount.milli_value().into(),
                "memory" => resources.memory = amount.value().into(),
                "ephemeral-storage" => resources.ephemeral_storage = amount.value().into(),
                "pods" => {}
                other => drop(resources.scalar.insert(other.to_owned(), amount.value().into())),
            }
        }
        resources
    }

    fn add(&mut self, other: &Self, sign: Amount) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// Requests that a pod without any is counted with when nodes are compared, so that such pods spread too.
const DEFAULT_MILLI_CPU: Amount = 100;
const DEFAULT_MEMORY: Amount = 200 * 1024 * 1024;

/// A port of the host: address (`0.0.0.0` for all), protocol, number.
pub type HostPort = (String, String, i32);

/// A pod with what the scheduler needs of it worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it requests.
    pub requests: Resources,
    /// The same with defaults for CPU and memory where it requests none.
    pub scored: Resources,
    /// Ports of the host it binds.
    pub host_ports: Vec<HostPort>,
    /// How important it is.
    pub priority: i32,
    /// What it says about other pods.
    pub terms: Arc<PodTerms>,
}

impl PodInfo {
    /// Works out what the scheduler needs of a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = pod.spec.as_ref().map(|spec| Resources::of(&pod_requests(spec))).unwrap_or_default();
        let mut scored = requests.clone();
        if scored.milli_cpu == 0 {
            scored.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if scored.memory == 0 {
            scored.memory = DEFAULT_MEMORY;
        }
        let host_ports = pod.spec.as_ref().map(host_ports).unwrap_or_default();
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        let terms = PodTerms::of(&pod);
        Self { pod, requests, scored, host_ports, priority, terms }
    }

    /// The pod's spec.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
        self.pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
    }

    /// `namespace/name`.
    pub fn key(&self) -> Arc<str> {
        client::key_of(&*self.pod)
    }

    /// Whether it counts for others as `other` does: only what nobody else looks at differs.
    fn counts_as(&self, other: &Self) -> bool {
        let (old, new) = (&self.pod.metadata, &other.pod.metadata);
        self.requests == other.requests
            && self.host_ports == other.host_ports
            && self.terms == other.terms
            && old.labels == new.labels
            && old.deletion_timestamp.is_some() == new.deletion_timestamp.is_some()
            && claims_of(self.spec()).eq(claims_of(other.spec()))
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

fn claims_of(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let claims = spec.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.map(|claim| claim.claim_name.as_str())
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}

/// A node and what runs on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub allowed_pods: i64,
    /// Sum of its pods' requests.
    pub requested: Resources,
    /// The same with defaults for pods that request nothing.
    pub scored: Resources,
    /// Its pods by UID.
    pub pods: HashMap<String, PodInfo>,
    /// Ports of the host in use.
    pub host_ports: BTreeSet<HostPort>,
    /// Images on the node with their size in bytes.
    pub images: BTreeMap<String, i64>,
}

impl NodeInfo {
    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// The node's labels.
    pub fn labels(&self) -> &Labels {
        static NONE: OnceLock<Labels> = OnceLock::new();
        self.node.metadata.labels.as_ref().unwrap_or_else(|| NONE.get_or_init(Labels::new))
    }

    /// The same node with other pods on it, to see whether one more would fit.
    pub(crate) fn with(&self, pods: impl IntoIterator<Item = PodInfo>) -> Self {
        let mut info = self.clone();
        pods.into_iter().for_each(|pod| info.add(pod));
        info
    }

    fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: node.clone(),
            allocatable: Resources::default(),
            allowed_pods: 0,
            requested: Resources::default(),
            scored: Resources::default(),
            pods: HashMap::new(),
            host_ports: BTreeSet::new(),
            images: BTreeMap::new(),
        };
        info.set_node(node);
        info
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.clone().unwrap_or_default();
        let amounts: BTreeMap<String, Quantity> = status
            .allocatable
            .iter()
            .flatten()
            .filter_map(|(name, wire)| Some((name.clone(), Quantity::from_wire(wire).ok()?)))
            .collect();
        self.allocatable = Resources::of(&amounts);
        self.allowed_pods = amounts.get("pods").map_or(0, |pods| pods.value());
        self.images = status
            .images
            .iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or_default();
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    fn add(&mut self, pod: PodInfo) {
        self.requested.add(&pod.requests, 1);
        self.scored.add(&pod.scored, 1);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn remove(&mut self, uid: &str) -> Option<PodInfo> {
        let pod = self.pods.remove(uid)?;
        self.requested.add(&pod.requests, -1);
        self.scored.add(&pod.scored, -1);
        for port in &pod.host_ports {
            self.host_ports.remove(port);
        }
        Some(pod)
    }
}

/// All nodes. Pods on nodes that are not known (yet) are kept until the node is.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each counted pod is: UID to node name.
    places: HashMap<String, String>,
    /// Pods counted on a node whose object is not there.
    homeless: HashMap<String, Vec<PodInfo>>,
    /// How many nodes have an image.
    image_nodes: HashMap<String, usize>,
    index: Index,
    namespaces: Namespaces,
    budgets: Budgets,
    volumes: Volumes,
    /// How many pods on nodes use a claim.
    claim_uses: HashMap<ClaimKey, usize>,
    /// Pods that room is being made for: by UID, where.
    nominations: HashMap<String, (String, PodInfo)>,
}

impl Cluster {
    /// How many pods of a selection are in each domain.
    pub fn selected(&self, selection: Selection) -> Selected {
        self.index.selected(selection, &self.nodes, &self.namespaces)
    }

    /// Where the pods are that say something of this one.
    pub fn said_of<'a>(
        &'a self,
        saying: Saying,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = (&'a Term, &'a Domains)> {
        self.index.said_of(saying, pod, &self.namespaces)
    }

    /// The labels of the namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// A namespace has these labels, or is gone; `true` if that is new.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        if self.namespaces.get(name) == labels.as_ref() {
            return false;
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
        self.index.namespaces_changed();
        true
    }

    /// The budgets that preemption spares.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// The budget of a key (`namespace/name`) is this one, or gone.
    pub fn set_budget(&mut self, key: &str, budget: Option<Arc<PodDisruptionBudget>>) {
        match budget {
            Some(budget) => drop(self.budgets.insert(key.to_owned(), budget)),
            None => drop(self.budgets.remove(key)),
        }
    }

    /// Claims, volumes and classes.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// How many pods on nodes use a claim.
    pub fn uses_of_claim(&self, namespace: &str, name: &str) -> usize {
        self.claim_uses.get(&(namespace.to_owned(), name.to_owned())).copied().unwrap_or_default()
    }

    fn count_claims(&mut self, pod: &Pod, change: isize) {
        for one in wanted(pod) {
            let key = (pod.metadata.namespace.clone().unwrap_or_default(), one.claim);
            let uses = self.claim_uses.entry(key.clone()).or_default();
            *uses = uses.saturating_add_signed(change);
            if *uses == 0 {
                self.claim_uses.remove(&key);
            }
        }
    }

    /// Claims, volumes and classes, to change them.
    pub fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// Room is being made for a pod on a node; or, with `None`, no longer.
    pub fn nominate(&mut self, pod: &PodInfo, node: Option<&str>) {
        match node {
            Some(node) => {
                let uid = pod.uid().to_owned();
                self.nominations.insert(uid, (node.to_owned(), pod.clone()));
            }
            None => self.forget_nomination(pod.uid()),
        }
    }

    /// Nothing is nominated any more for the pod of this UID.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominations.remove(uid);
    }

    /// Where room is being made for the pod of this UID.
    pub fn nominated_node(&self, uid: &str) -> Option<&str> {
        self.nominations.get(uid).map(|(node, _)| node.as_str())
    }

    /// The pods that room is being made for on a node and that are at least as important as `pod`.
    pub fn nominated_before(&self, node: &str, pod: &PodInfo) -> Vec<PodInfo> {
        let all = self.nominations.values();
        all.filter(|(place, other)| {
            place == node && other.priority >= pod.priority && other.uid() != pod.uid()
        })
        .map(|(_, other)| other.clone())
        .collect()
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> &BTreeMap<String, NodeInfo> {
        &self.nodes
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.nodes.get_mut(&name) {
            Some(info) => {
                count_images(&mut self.image_nodes, info, false);
                let moves = info.node.metadata.labels != node.metadata.labels;
                if moves {
                    count_pods(&mut self.index, info, &self.namespaces, -1);
                    self.index.remove_node(info.labels());
                }
                info.set_node(node);
                if moves {
                    self.index.add_node(info.labels());
                    count_pods(&mut self.index, info, &self.namespaces, 1);
                }
                count_images(&mut self.image_nodes, info, true);
            }
            None => {
                let mut info = NodeInfo::new(node);
                count_images(&mut self.image_nodes, &info, true);
                for pod in self.homeless.remove(&name).unwrap_or_default() {
                    info.add(pod);
                }
                self.index.add_node(info.labels());
                count_pods(&mut self.index, &info, &self.namespaces, 1);
                self.nodes.insert(name, info);
            }
        }
    }

    /// A node is gone. Its pods stay counted there until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.remove(name) {
            count_images(&mut self.image_nodes, &info, false);
            count_pods(&mut self.index, &info, &self.namespaces, -1);
            self.index.remove_node(info.labels());
            if !info.pods.is_empty() {
                self.homeless.insert(name.to_owned(), info.pods.into_values().collect());
            }
        }
    }

    /// A pod is (assumed to be) on a node. One that is counted there or elsewhere already is counted anew; returns it
    /// as it was.
    pub fn set_pod(&mut self, pod: PodInfo, node: &str) -> Option<PodInfo> {
        if self.places.get(pod.uid()).is_some_and(|place| place == node)
            && let Some(counted) = self.nodes.get_mut(node).and_then(|info| info.pods.get_mut(pod.uid()))
            && counted.counts_as(&pod)
        {
            // Most changes of a pod are of its status.
            return Some(std::mem::replace(counted, pod));
        }
        let before = self.remove_pod(pod.uid());
        self.places.insert(pod.uid().to_owned(), node.to_owned());
        self.count_claims(&pod.pod, 1);
        match self.nodes.get_mut(node) {
            Some(info) => {
                self.index.pod(&pod, node, info.labels(), &self.namespaces, 1);
                info.add(pod);
            }
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
        before
    }

    /// A pod no longer uses its node. Returns it as it was counted, if it did.
    pub fn remove_pod(&mut self, uid: &str) -> Option<PodInfo> {
        let node = self.places.remove(uid)?;
        if let Some(info) = self.nodes.get_mut(&node) {
            let pod = info.remove(uid)?;
            self.index.pod(&pod, &node, info.labels(), &self.namespaces, -1);
            self.count_claims(&pod.pod, -1);
            return Some(pod);
        }
        let pods = self.homeless.get_mut(&node)?;
        let at = pods.iter().position(|pod| pod.uid() == uid)?;
        let pod = pods.swap_remove(at);
        if pods.is_empty() {
            self.homeless.remove(&node);
        }
        self.count_claims(&pod.pod, -1);
        Some(pod)
    }
}

fn count_pods(index: &mut Index, node: &NodeInfo, namespaces: &Namespaces, change: i64) {
    for pod in node.pods.values() {
        index.pod(pod, node.name(), node.labels(), namespaces, change);
    }
}

fn count_images(counts: &mut HashMap<String, usize>, node: &NodeInfo, present: bool) {
    for image in node.images.keys() {
        let count = counts.entry(image.clone()).or_default();
        *count = if present { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            counts.remove(image);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::testing::{node, pod};

    #[test]
    fn pods_are_counted_where_they_are() {
        let mut cluster = Cluster::default();
        let one = PodInfo::new(pod(
            r#"{"metadata": {"name": "a", "uid": "1"}, "spec": {"containers": [{"name": "c",
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi", "example.com/gpu": "2"}}}]}}"#,
        ));
        cluster.set_pod(one.clone(), "n");
        cluster.set_node(node("n", "2", "4Gi"));
        let requested = |cluster: &Cluster| cluster.nodes()["n"].requested.clone();
        assert_eq!((requested(&cluster).milli_cpu, requested(&cluster).memory), (500, 1 << 30));
        cluster.set_pod(one.clone(), "n");
        assert_eq!(requested(&cluster).scalar["example.com/gpu"], 2, "counted once");
        cluster.remove_node("n");
        cluster.set_node(node("n", "2", "4Gi"));
        assert_eq!(requested(&cluster).milli_cpu, 500, "a node that comes back has its pods");
        assert!(cluster.remove_pod("1").is_some());
        assert!(cluster.remove_pod("1").is_none());
        assert_eq!(requested(&cluster).milli_cpu, 0);
    }

    #[test]
    fn no_pods_request_makes_a_node_look_empty() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", "2", "4Gi"));
        let huge = |uid: &str| {
            let text = format!(
                r#"{{"metadata": {{"name": "{uid}", "uid": "{uid}"}}, "spec": {{"containers": [{{"name": "c",
                "resources": {{"requests": {{"cpu": "5E", "memory": "5Ei", "example.com/gpu": "5E"}}}}}}]}}}}"#
            );
            PodInfo::new(pod(&text))
        };
        for uid in ["1", "2", "3"] {
            cluster.set_pod(huge(uid), "n");
        }
        let requested = cluster.nodes()["n"].requested.clone();
        let one = Amount::from(5_i64 << 60);
        assert_eq!(requested.memory, 3 * one);
        assert!(requested.milli_cpu > Amount::from(i64::MAX) && requested.scalar["example.com/gpu"] > 0);
        for uid in ["1", "2", "3"] {
            cluster.remove_pod(uid);
        }
        assert_eq!(cluster.nodes()["n"].requested.memory, 0);
    }
}
