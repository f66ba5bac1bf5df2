//! The nodes of a cluster as far as routes are concerned: each one's address and its network of pods.
//!
//! Reads changes of Node objects and keeps what is of use. Not here: whether a node's network is believed (`plan`).

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr, sync::Arc};

use api::types::core::v1::Node;
use client::Change;
use jiff::Timestamp;

/// An IPv4 network such as `10.42.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// Its first address.
    pub address: Ipv4Addr,
    /// How many leading bits all its addresses share, at most 32.
    pub prefix: u8,
}

impl Network {
    /// Whether an address belongs to it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        (u32::from(self.address) ^ u32::from(address)) & mask == 0
    }

    /// Whether all of another network belongs to it.
    pub fn includes(self, other: Network) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Whether they share an address.
    pub fn overlaps(self, other: Network) -> bool {
        self.includes(other) || other.includes(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A text that names no IPv4 network.
#[derive(Debug, thiserror::Error)]
#[error("no IPv4 network: {0:?}")]
pub struct NoNetwork(String);

impl FromStr for Network {
    type Err = NoNetwork;
    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let network = Network { address: address.parse().ok()?, prefix: prefix.parse().ok()? };
            let host_bits = u32::MAX.checked_shr(u32::from(network.prefix)).unwrap_or(0);
            (network.prefix <= 32 && u32::from(network.address) & host_bits == 0).then_some(network)
        };
        parse().ok_or_else(|| NoNetwork(text.to_owned()))
    }
}

/// A node with an address and a network of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the Node.
    pub name: String,
    /// Where other nodes reach it.
    pub address: Ipv4Addr,
    /// The addresses of its pods.
    pub pods: Network,
    /// When its Node was made.
    pub since: Option<Timestamp>,
}

/// This node and the others.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Network of all pods.
    pub cidr: Network,
    /// This node.
    pub own: Arc<Member>,
    /// All others, by name.
    pub others: Vec<Arc<Member>>,
}

/// What is known of all Nodes.
#[derive(Debug)]
pub struct Members {
    own: String,
    cidr: Network,
    known: BTreeMap<String, Arc<Member>>,
    /// Whether this node has a network of pods, but no IPv4 address.
    alone: bool,
}

impl Members {
    /// Knows nobody yet. `own` is this node's name, `cidr` the network of all pods.
    pub fn new(own: String, cidr: Network) -> Members {
        Members { own, cidr, known: BTreeMap::new(), alone: false }
    }

    /// Takes note of a Node's change; tells whether anything of use changed.
    pub fn see(&mut self, change: &Change<Node>) -> bool {
        let node = change.object();
        let Some(name) = &node.metadata.name else { return false };
        let pods = pods(node);
        let member = address(node).zip(pods).filter(|_| !change.is_deleted());
        let alone = pods.is_some() && member.is_none();
        let differs = *name == self.own && std::mem::replace(&mut self.alone, alone) != alone;
        let since = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let member = member.map(|(address, pods)| Member { name: name.clone(), address, pods, since });
        differs | self.update(name, member)
    }

    fn update(&mut self, name: &str, member: Option<Member>) -> bool {
        match member {
            Some(member) if self.known.get(name).is_some_and(|known| **known == member) => false,
            Some(member) => {
                self.known.insert(name.to_owned(), Arc::new(member));
                true
            }
            None => self.known.remove(name).is_some(),
        }
    }

    /// Whether this node has a network of pods, but no IPv4 address that others could send their packets to.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// The cluster, as soon as this node is a part of it.
    pub fn cluster(&self) -> Option<Cluster> {
        let own = self.known.get(&self.own)?.clone();
        let others = self.known.values().filter(|member| member.name != self.own).cloned().collect();
        Some(Cluster { cidr: self.cidr, own, others })
    }
}

/// A Node's IPv4 network of pods.
fn pods(node: &Node) -> Option<Network> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).find_map(|text| text.parse().ok())
}

/// A Node's IPv4 address among nodes.
fn address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.iter().flatten();
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    internal.find_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cidrs: &[&str], addresses: &[(&str, &str)]) -> Arc<Node> {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, text)| json!({"type": kind, "address": text})).collect();
        let metadata = json!({"name": name, "creationTimestamp": "2026-11-22T10:00:00Z"});
        let node = json!({"metadata": metadata, "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
                          "status": {"addresses": addresses}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn networks_are_read_and_compared() {
        for (text, sound) in [
            ("10.42.0.0/24", true),
            ("0.0.0.0/0", true),
            ("10.42.0.7/32", true),
            ("10.42.0.7/24", false),
            ("10.42.0.0/33", false),
            ("10.42.0.0", false),
            ("fd00::/64", false),
        ] {
            let network = text.parse::<Network>();
            assert_eq!(
                network.map(|network| network.to_string()).ok(),
                sound.then(|| text.to_owned()),
                "{text}"
            );
        }
        let network = |text: &str| text.parse::<Network>().unwrap();
        assert!(network("10.42.0.0/16").includes(network("10.42.255.0/24")));
        assert!(!network("10.42.255.0/24").includes(network("10.42.0.0/16")));
        assert!(network("10.42.255.0/24").overlaps(network("0.0.0.0/0")));
        assert!(!network("10.42.1.0/24").overlaps(network("10.42.2.0/24")));
    }

    #[test]
    fn only_what_is_of_use_counts_as_a_change() {
        let mut members = Members::new("a".into(), "10.42.0.0/16".parse().unwrap());
        let internal = [("Hostname", "b"), ("InternalIP", "fd00::2"), ("InternalIP", "192.0.2.2")];
        let b = node("b", &["fd00:1::/64", "10.42.1.0/24"], &internal);
        assert!(members.see(&Change::Added(b.clone())));
        assert!(members.cluster().is_none(), "this node is not there yet");
        assert!(!members.see(&Change::Added(node("a", &[], &[("InternalIP", "192.0.2.1")]))));
        assert!(!members.is_alone());
        assert!(members.see(&Change::Added(node("a", &["10.42.0.0/24"], &[("InternalIP", "fd00::1")]))));
        assert!(members.is_alone() && members.cluster().is_none());
        assert!(members.see(&Change::Added(node("a", &["10.42.0.0/24"], &[("InternalIP", "192.0.2.1")]))));
        assert!(!members.is_alone());
        let cluster = members.cluster().unwrap();
        assert_eq!((cluster.own.name.as_str(), cluster.others.len()), ("a", 1));
        let expected = Member {
            name: "b".into(),
            address: [192, 0, 2, 2].into(),
            pods: "10.42.1.0/24".parse().unwrap(),
            since: Some("2026-11-22T10:00:00Z".parse().unwrap()),
        };
        assert_eq!(*cluster.others[0], expected);

        // Another label, another address of another kind: nothing to do with routes.
        let mut labelled = (*b).clone();
        labelled.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
        assert!(!members.see(&Change::Updated { old: b.clone(), new: Arc::new(labelled) }));
        let moved = node("b", &["10.42.1.0/24"], &[("InternalIP", "192.0.2.9")]);
        assert!(members.see(&Change::Updated { old: b, new: moved.clone() }));
        assert!(members.see(&Change::Deleted(moved.clone())));
        assert!(!members.see(&Change::Deleted(moved)));
        assert!(members.cluster().unwrap().others.is_empty());
    }
}
