//! The nodes and what runs on them, as the scheduler counts it.
//!
//! Fed with pods and nodes as the informers tell of them, and with pods assumed to be on a node before the API server
//! has said so. Pure. Not here: deciding (`cycle`).
//!
//! Upstream: pkg/scheduler/backend/cache and framework.NodeInfo.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    kinds::core::pod::resources::pod_requests,
    quantity::Quantity,
    types::core::v1::{Node, Pod, PodSpec},
};

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
        Self { pod, requests, scored, host_ports }
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

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
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
}

impl Cluster {
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
                info.set_node(node);
                count_images(&mut self.image_nodes, info, true);
            }
            None => {
                let mut info = NodeInfo::new(node);
                count_images(&mut self.image_nodes, &info, true);
                for pod in self.homeless.remove(&name).unwrap_or_default() {
                    info.add(pod);
                }
                self.nodes.insert(name, info);
            }
        }
    }

    /// A node is gone. Its pods stay counted there until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.remove(name) {
            count_images(&mut self.image_nodes, &info, false);
            if !info.pods.is_empty() {
                self.homeless.insert(name.to_owned(), info.pods.into_values().collect());
            }
        }
    }

    /// A pod is (assumed to be) on a node. One that is counted there or elsewhere already is counted anew; returns it
    /// as it was.
    pub fn set_pod(&mut self, pod: PodInfo, node: &str) -> Option<PodInfo> {
        let before = self.remove_pod(pod.uid());
        self.places.insert(pod.uid().to_owned(), node.to_owned());
        match self.nodes.get_mut(node) {
            Some(info) => info.add(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
        before
    }

    /// A pod no longer uses its node. Returns it as it was counted, if it did.
    pub fn remove_pod(&mut self, uid: &str) -> Option<PodInfo> {
        let node = self.places.remove(uid)?;
        if let Some(info) = self.nodes.get_mut(&node) {
            return info.remove(uid);
        }
        let pods = self.homeless.get_mut(&node)?;
        let at = pods.iter().position(|pod| pod.uid() == uid)?;
        let pod = pods.swap_remove(at);
        if pods.is_empty() {
            self.homeless.remove(&node);
        }
        Some(pod)
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
