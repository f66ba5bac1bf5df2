//! The shape of the proxy's nftables: fixed chains and maps, and one small chain per number of endpoints.
//!
//! Writes [`Batch`]es. A packet to a Service is looked up once in a map of verdicts, which leads to the chain for
//! its number of endpoints; that chain draws a number and looks `(address, protocol, port, number)` up in one map
//! of endpoints. So a changed Service is a few changed map elements, whatever the number of Services; rules are
//! added only when a number of endpoints is seen for the first time.
//!
//! Upstream: pkg/proxy/nftables (same decisions; its chains per Service and per endpoint are not needed here).

use std::net::Ipv4Addr;

use sys::nftables::{
    Batch, Carries, Expression as Do, Family, Hook, HookPoint, Load, Part, Register, Set, Verdict,
};

use crate::plan::{address, port_bytes};

/// The table.
pub const TABLE: &str = "ironclad-proxy";
/// The mark of packets whose source must be replaced on leaving; the bit that kube-proxy uses.
const MASQUERADE_MARK: u32 = 0x4000;
/// Priorities of `dstnat`, `srcnat` and `filter`.
const BEFORE_ROUTING: i32 = -100;
const AFTER_ROUTING: i32 = 100;
const FILTER: i32 = 0;

/// The sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// (address, protocol, port) → chain.
    Services,
    /// (address, protocol, port, number) → (address, port).
    ServiceEndpoints,
    /// (protocol, port) → chain.
    NodePorts,
    /// (protocol, port, number) → (address, port).
    NodePortEndpoints,
    /// Addresses of Services: what is still bound for them when it is to be forwarded has no endpoint.
    ClusterIps,
    /// (address, protocol, port) of other addresses of Services without endpoints.
    NoEndpoints,
    /// (protocol, port) of node ports without endpoints.
    NoEndpointNodePorts,
    /// (address, address) of endpoints, for pods that reach themselves through a Service.
    Hairpin,
    /// (client, address, protocol, port) → (address, port), expiring.
    Affinity,
    /// (client, protocol, port) → (address, port), expiring.
    NodePortAffinity,
}

impl SetName {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Services,
        Self::ServiceEndpoints,
        Self::NodePorts,
        Self::NodePortEndpoints,
        Self::ClusterIps,
        Self::NoEndpoints,
        Self::NoEndpointNodePorts,
        Self::Hairpin,
        Self::Affinity,
        Self::NodePortAffinity,
    ];

    /// The name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::ServiceEndpoints => "service-endpoints",
            Self::NodePorts => "node-ports",
            Self::NodePortEndpoints => "node-port-endpoints",
            Self::ClusterIps => "cluster-ips",
            Self::NoEndpoints => "no-endpoints",
            Self::NoEndpointNodePorts => "no-endpoint-node-ports",
            Self::Hairpin => "hairpin",
            Self::Affinity => "affinity",
            Self::NodePortAffinity => "node-port-affinity",
        }
    }

    fn set(self) -> Set<'static> {
        use Part::{Integer, Ipv4, Port, Protocol};
        const TARGET: Carries<'static> = Carries::Data(&[Ipv4, Port]);
        let (key, carries): (&[Part], Carries<'static>) = match self {
            Self::Services => (&[Ipv4, Protocol, Port], Carries::Verdict),
            Self::ServiceEndpoints => (&[Ipv4, Protocol, Port, Integer], TARGET),
            Self::NodePorts => (&[Protocol, Port], Carries::Verdict),
            Self::NodePortEndpoints => (&[Protocol, Port, Integer], TARGET),
            Self::ClusterIps => (&[Ipv4], Carries::Nothing),
            Self::NoEndpoints => (&[Ipv4, Protocol, Port], Carries::Nothing),
            Self::NoEndpointNodePorts => (&[Protocol, Port], Carries::Nothing),
            Self::Hairpin => (&[Ipv4, Ipv4], Carries::Nothing),
            Self::Affinity => (&[Ipv4, Ipv4, Protocol, Port], TARGET),
            Self::NodePortAffinity => (&[Ipv4, Protocol, Port], TARGET),
        };
        let dynamic = matches!(self, Self::Affinity | Self::NodePortAffinity);
        Set { name: self.as_str(), key, carries, dynamic }
    }
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// An address of a Service: address, protocol number, port.
    Address(Ipv4Addr, u8, u16),
    /// A port of every node: protocol number, port.
    NodePort(u8, u16),
}

impl Entry {
    /// The key in the map of chains, and the start of the keys in the map of endpoints.
    pub fn key(self) -> Vec<u8> {
        match self {
            Self::Address(ip, protocol, port) => {
                [address(ip), vec![protocol, 0, 0, 0], port_bytes(port)].concat()
            }
            Self::NodePort(protocol, port) => [vec![protocol, 0, 0, 0], port_bytes(port)].concat(),
        }
    }
    /// The map of chains and the map of endpoints.
    pub fn sets(self) -> (SetName, SetName) {
        match self {
            Self::Address(..) => (SetName::Services, SetName::ServiceEndpoints),
            Self::NodePort(..) => (SetName::NodePorts, SetName::NodePortEndpoints),
        }
    }
}

/// Whose source address is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Only that of clients outside the pods' network.
    Internal,
    /// Everyone's: the endpoint may be on another node.
    External,
    /// Nobody's: the endpoint is on this node.
    Local,
}

/// The chain that chooses among a number of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Balance {
    /// Whether it serves node ports.
    pub node_port: bool,
    /// Whose source address is replaced.
    pub policy: Policy,
    /// Number of endpoints.
    pub count: u32,
    /// Seconds for which a client stays with its endpoint.
    pub affinity: Option<u32>,
}

impl Balance {
    /// The chain's name.
    pub fn name(&self) -> String {
        let node = if self.node_port { "node-" } else { "" };
        let policy = match self.policy {
            Policy::Internal => "internal",
            Policy::External => "external",
            Policy::Local => "local",
        };
        let sticky = self.affinity.map(|seconds| format!("-sticky-{seconds}")).unwrap_or_default();
        format!("{node}{policy}-{}{sticky}", self.count)
    }
}

/// What the fixed rules depend on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Network of all pods: address and prefix length.
    pub cluster_cidr: (Ipv4Addr, u8),
}

const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
/// First of the two registers of a target.
const TARGET: Register = Register(4);
const TARGET_PORT: Register = Register(5);
/// First of the registers of an endpoint's key, where a client's key is needed beside it.
const KEY: u8 = 8;

/// Builds the table from nothing: whatever was in it is gone in the same transaction.
pub fn build(settings: &Settings) -> Batch {
    let mut batch = Batch::new(Family::Ip, TABLE);
    // Adding before deleting makes deleting possible whether or not the table was there.
    batch.add_table().delete_table().add_table();
    for set in SetName::ALL {
        batch.add_set(&set.set());
    }
    batch.add_chain("dispatch", None);
    let nat = |point, priority| Some(Hook { point, priority, nat: true });
    let filter = |point| Some(Hook { point, priority: FILTER, nat: false });
    batch.add_chain("prerouting", nat(HookPoint::Prerouting, BEFORE_ROUTING));
    batch.add_chain("output", nat(HookPoint::Output, BEFORE_ROUTING));
    batch.add_chain("postrouting", nat(HookPoint::Postrouting, AFTER_ROUTING));
    batch.add_chain("filter-input", filter(HookPoint::Input));
    batch.add_chain("filter-forward", filter(HookPoint::Forward));
    batch.add_chain("filter-output", filter(HookPoint::Output));
    let dispatch = Do::Verdict(Verdict::Jump("dispatch".into()));
    batch.add_rule("prerouting", std::slice::from_ref(&dispatch));
    batch.add_rule("output", &[dispatch]);
    batch.add_rule(
        "dispatch",
        &[&destination(R0)[..], &[Do::VerdictMap(R0, SetName::Services.as_str().into())]].concat(),
    );
    // Node ports answer on every address of this host but loopback, where the answer could not be translated.
    let local = [
        Do::Read(Load::DestinationKind, R0),
        Do::Equal(R0, Load::LOCAL.to_ne_bytes().to_vec()),
        Do::Read(Load::DestinationIp, R0),
        Do::Mask(R0, [255, 0, 0, 0], [0; 4]),
        Do::NotEqual(R0, vec![127, 0, 0, 0]),
        Do::Read(Load::Protocol, R0),
        Do::Read(Load::DestinationPort, R1),
    ];
    batch.add_rule(
        "dispatch",
        &[&local[..], &[Do::VerdictMap(R0, SetName::NodePorts.as_str().into())]].concat(),
    );
    postrouting(&mut batch, settings);
    for chain in ["filter-forward", "filter-output", "filter-input"] {
        let known = Do::In(R0, SetName::NoEndpoints.as_str().into());
        batch.add_rule(chain, &[&destination(R0)[..], &[known, Do::Reject]].concat());
    }
    for chain in ["filter-forward", "filter-output"] {
        let cluster = Do::In(R0, SetName::ClusterIps.as_str().into());
        batch.add_rule(chain, &[Do::Read(Load::DestinationIp, R0), cluster, Do::Reject]);
    }
    let node_port = Do::In(R0, SetName::NoEndpointNodePorts.as_str().into());
    batch.add_rule("filter-input", &[&local[..], &[node_port, Do::Reject]].concat());
    batch
}

fn destination(first: Register) -> [Do; 3] {
    [
        Do::Read(Load::DestinationIp, first),
        Do::Read(Load::Protocol, Register(first.0 + 1)),
        Do::Read(Load::DestinationPort, Register(first.0 + 2)),
    ]
}

fn postrouting(batch: &mut Batch, settings: &Settings) {
    let mark = MASQUERADE_MARK.to_ne_bytes();
    let marked = [
        Do::Read(Load::Mark, R0),
        Do::Mask(R0, mark, [0; 4]),
        Do::Equal(R0, mark.to_vec()),
        Do::Read(Load::Mark, R0),
        Do::Mask(R0, (!MASQUERADE_MARK).to_ne_bytes(), [0; 4]),
        Do::SetMark(R0),
        Do::Masquerade,
    ];
    batch.add_rule("postrouting", &marked);
    let translated = Load::TRANSLATED.to_ne_bytes();
    let hairpin = [
        Do::Read(Load::ConnectionStatus, R0),
        Do::Mask(R0, translated, [0; 4]),
        Do::Equal(R0, translated.to_vec()),
        Do::Read(Load::SourceIp, R1),
        Do::Read(Load::DestinationIp, R2),
        Do::In(R1, SetName::Hairpin.as_str().into()),
        Do::Masquerade,
    ];
    batch.add_rule("postrouting", &hairpin);
    // Pods' addresses mean nothing outside the cluster.
    let (network, mask) = masked(settings);
    let leaving = [
        Do::Read(Load::SourceIp, R0),
        Do::Mask(R0, mask, [0; 4]),
        Do::Equal(R0, network.clone()),
        Do::Read(Load::DestinationIp, R0),
        Do::Mask(R0, mask, [0; 4]),
        Do::NotEqual(R0, network),
        // 224.0.0.0/4 is multicast, which stays in its segment.
        Do::Read(Load::DestinationIp, R0),
        Do::Mask(R0, [0xf0, 0, 0, 0], [0; 4]),
        Do::NotEqual(R0, vec![0xe0, 0, 0, 0]),
        Do::Masquerade,
    ];
    batch.add_rule("postrouting", &leaving);
}

fn masked(settings: &Settings) -> (Vec<u8>, [u8; 4]) {
    let (address, prefix) = settings.cluster_cidr;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    ((u32::from(address) & mask).to_be_bytes().to_vec(), mask.to_be_bytes())
}

/// Makes the chain that chooses among a number of endpoints.
pub fn add_balance(batch: &mut Batch, balance: &Balance, settings: &Settings) {
    let name = balance.name();
    batch.add_chain(&name, None);
    let mark = [
        Do::Read(Load::Mark, R1),
        Do::Mask(R1, (!MASQUERADE_MARK).to_ne_bytes(), MASQUERADE_MARK.to_ne_bytes()),
        Do::SetMark(R1),
    ];
    match balance.policy {
        Policy::Local => {}
        Policy::External => {
            batch.add_rule(&name, &mark);
        }
        Policy::Internal => {
            let (network, mask) = masked(settings);
            let outside =
                [Do::Read(Load::SourceIp, R0), Do::Mask(R0, mask, [0; 4]), Do::NotEqual(R0, network)];
            batch.add_rule(&name, &[&outside[..], &mark].concat());
        }
    }
    let (key, width, endpoints, affinity) = if balance.node_port {
        let key = |at: u8| {
            vec![Do::Read(Load::Protocol, Register(at)), Do::Read(Load::DestinationPort, Register(at + 1))]
        };
        (key as fn(u8) -> Vec<Do>, 2, SetName::NodePortEndpoints, SetName::NodePortAffinity)
    } else {
        let key = |at: u8| destination(Register(at)).to_vec();
        (key as fn(u8) -> Vec<Do>, 3, SetName::ServiceEndpoints, SetName::Affinity)
    };
    let endpoints = endpoints.as_str().to_owned();
    let translate = Do::DestinationNat(TARGET, TARGET_PORT);
    let Some(seconds) = balance.affinity else {
        let mut rule = key(0);
        rule.push(Do::Random(if width == 2 { R2 } else { R3 }, balance.count));
        rule.extend([Do::Map(R0, endpoints, TARGET), translate]);
        batch.add_rule(&name, &rule);
        return;
    };
    let client: Vec<Do> = [vec![Do::Read(Load::SourceIp, R0)], key(1)].concat();
    let set = affinity.as_str().to_owned();
    let remember = Do::Remember { set: set.clone(), key: R0, data: TARGET, seconds };
    let known = [&client[..], &[Do::Map(R0, set, TARGET), remember.clone(), translate.clone()]].concat();
    batch.add_rule(&name, &known);
    let mut fresh = client;
    fresh.extend(key(KEY));
    fresh.push(Do::Random(Register(KEY + width), balance.count));
    fresh.extend([Do::Map(Register(KEY), endpoints, TARGET), remember, translate]);
    batch.add_rule(&name, &fresh);
}
