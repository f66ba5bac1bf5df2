//! Which links, neighbours and routes lead to the pods of other nodes: the decision.
//!
//! Reads a [`Cluster`] and what the kernel has ([`Observed`]); writes [`Command`]s. Pure. Not here: running them
//! (`kernel`).
//!
//! A node whose address is on a link of ours gets a route through that address. All others get a route through the
//! tunnel, whose next hop is the first address of the node's pod network: a name for the tunnel's other end that nobody
//! else has. The tunnel's own end has the first address of our pod network, so that what this host itself sends to pods
//! beyond the tunnel is answered through the tunnel.
//!
//! Of networks that overlap one gets a route: that of the node to which a route of ours leads already, else that of the
//! older Node. Whoever comes later draws nobody's packets to itself, whatever its name.
//!
//! What is ours is told by the routes' protocol number and by the tunnel's name; nothing else is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use sys::netlink::{
    neighbour::{Forwarding, Neighbour},
    route::{Address, Link, Route, Vxlan},
};

use super::members::{Cluster, Member, Network};

/// Name of the tunnel: this product, then the VXLAN network's number.
pub const TUNNEL: &str = "ironclad.1";
/// The VXLAN network's number.
const VNI: u32 = 1;
/// The UDP port of all ends; Linux's own choice from before one was assigned, which flannel uses, too.
const PORT: u16 = 8472;
/// Ethernet, IPv4, UDP and VXLAN headers around each packet, in bytes.
const OVERHEAD: u32 = 50;
/// Who made a route: a number that no routing daemon has (iproute2's `rt_protos`).
pub const PROTOCOL: u8 = 73;
/// Where neither link nor address says: an Ethernet.
const USUAL_MTU: u32 = 1500;

/// What the kernel has.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All links.
    pub links: Vec<Link>,
    /// All IPv4 addresses.
    pub addresses: Vec<Address>,
    /// The IPv4 routes of the main table.
    pub routes: Vec<Route>,
    /// The tunnel's neighbours.
    pub neighbours: Vec<Neighbour>,
    /// The tunnel's forwarding entries.
    pub forwardings: Vec<Forwarding>,
    /// Whether the host passes on packets that are not for itself.
    pub forwards: bool,
}

impl Observed {
    /// The tunnel, if there is one.
    pub fn tunnel(&self) -> Option<&Link> {
        self.links.iter().find(|link| link.name == TUNNEL)
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// One step. The tunnel is meant by what it is, not by its number, which it has only when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes the tunnel, down.
    MakeTunnel {
        /// Between whom.
        between: Vxlan,
        /// Its hardware address.
        mac: [u8; 6],
        /// Its largest packet in bytes.
        mtu: u32,
    },
    /// Deletes the tunnel, and with it whatever leads through it.
    DeleteTunnel,
    /// Changes the tunnel's largest packet.
    TunnelMtu(u32),
    /// Sets the tunnel up.
    TunnelUp,
    /// Gives the tunnel an address of its own.
    AddTunnelAddress(Ipv4Addr),
    /// Takes an address from the tunnel.
    RemoveTunnelAddress(IpAddr, u8),
    /// Says which hardware address a next hop beyond the tunnel has.
    PutNeighbour(Ipv4Addr, [u8; 6]),
    /// Forgets a next hop.
    DeleteNeighbour(IpAddr),
    /// Says on which machine a hardware address is.
    PutForwarding([u8; 6], Ipv4Addr),
    /// Forgets on which machine a hardware address is.
    DeleteForwarding(Forwarding),
    /// Adds or changes a route to a network of pods.
    PutRoute(Network, Way),
    /// Deletes a route.
    DeleteRoute(Route),
    /// Writes a setting below `/proc/sys/net`.
    Set(String, &'static str),
}

/// How a network of pods is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through an address on a link of ours.
    Direct {
        /// The other node.
        gateway: Ipv4Addr,
        /// Index of the interface.
        link: u32,
    },
    /// Through the tunnel.
    Tunnel,
}

/// A node whose pods are not reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Its name.
    pub node: String,
    /// Why.
    pub reason: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The steps, in order; none when all is as it should be.
    pub commands: Vec<Command>,
    /// The largest packet that reaches every other pod whole, in bytes; none while this node's address is on no link.
    pub mtu: Option<u32>,
    /// Who is not reached, and why.
    pub refused: BTreeSet<Refusal>,
    /// The links over which others are reached, and that with this node's address.
    pub links: BTreeSet<u32>,
}

/// The hardware address of a node's end of the tunnel: a locally administered one that holds the node's address.
pub fn mac_of(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x0a, 0x1c, a, b, c, d]
}

/// Plans the way from what is to what should be.
pub fn plan(cluster: &Cluster, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let own = &cluster.own;
    let home = observed
        .addresses
        .iter()
        .find(|address| address.ip == own.address)
        .and_then(|address| observed.link(address.link));
    plan.links.extend(home.map(|link| link.index));

    let mut ways: BTreeMap<Network, (&Member, Way)> = BTreeMap::new();
    let mut kept: BTreeMap<Network, &Member> = BTreeMap::new();
    for other in in_order_of_right(&cluster.others, observed) {
        let taken = owner(&ways, other.pods, |(member, _)| *member)
            .or_else(|| owner(&kept, other.pods, |member| *member));
        if let Some(reason) = objection(cluster, other, taken) {
            plan.refused.insert(Refusal { node: other.name.clone(), reason });
            continue;
        }
        // Simulated nodes say that they are here.
        if other.address == own.address {
            continue;
        }
        match way_to(other.address, observed) {
            Some(way) => {
                plan.links.extend(match way {
                    Way::Direct { link, .. } => Some(link),
                    Way::Tunnel => None,
                });
                ways.insert(other.pods, (other, way));
            }
            // A link that is down for a moment: what there is stays.
            None => {
                kept.insert(other.pods, other);
                let reason = format!("no route leads to its address {}", other.address);
                plan.refused.insert(Refusal { node: other.name.clone(), reason });
            }
        }
    }
    let beyond: Vec<&Member> =
        ways.values().filter(|(_, way)| *way == Way::Tunnel).map(|(member, _)| *member).collect();
    let mtu = home.filter(|link| link.name != "lo").map(|link| link.mtu);
    plan.mtu = home.map(|_| match (mtu, beyond.is_empty()) {
        (Some(mtu), true) => mtu,
        (mtu, false) => mtu.unwrap_or(USUAL_MTU).saturating_sub(OVERHEAD),
        (None, true) => 0,
    });

    if !ways.is_empty() && !observed.forwards {
        plan.commands.push(Command::Set("ipv4/ip_forward".into(), "1"));
    }
    let mut tunnel = observed.tunnel();
    if !beyond.is_empty() {
        let mtu = mtu.unwrap_or(USUAL_MTU).saturating_sub(OVERHEAD);
        tunnel = keep_tunnel(own, mtu, observed, &mut plan.commands);
        keep_neighbours(&beyond, tunnel.is_some(), observed, &mut plan.commands);
    }
    keep_routes(&ways, &kept, tunnel, observed, &mut plan);
    // Last: until here it may have carried what now goes elsewhere.
    if beyond.is_empty() && kept.is_empty() && tunnel.is_some() {
        plan.commands.push(Command::DeleteTunnel);
    }
    plan
}

/// The nodes, each before those that must not take its network from it: first those to which a route of ours leads already,
/// then the older before the younger.
fn in_order_of_right<'a>(others: &'a [Arc<Member>], observed: &Observed) -> Vec<&'a Member> {
    let tunnel = observed.tunnel().map(|link| link.index);
    let ours = observed.routes.iter().filter(|route| route.protocol == PROTOCOL && route.metric == 0);
    let there: BTreeMap<(IpAddr, u8), &Route> =
        ours.map(|route| ((route.destination, route.prefix), route)).collect();
    let hops: BTreeSet<(IpAddr, [u8; 6])> =
        observed.neighbours.iter().map(|known| (known.ip, known.mac)).collect();
    let has_route = |other: &Member| {
        let Some(route) = there.get(&(other.pods.address.into(), other.pods.prefix)) else { return false };
        if route.link.is_some() && route.link == tunnel {
            return hops.contains(&(other.pods.address.into(), mac_of(other.address)));
        }
        route.gateway == Some(other.address.into())
    };
    let mut order: Vec<(bool, &Member)> =
        others.iter().map(|other| (!has_route(other), other.as_ref())).collect();
    // Stable: those of one second stay in the order of their names.
    order.sort_by_key(|(without, other)| (*without, other.since));
    order.into_iter().map(|(_, other)| other).collect()
}

/// Whose network overlaps this one. The networks in the map are ordered by their first address and do not overlap: only two
/// can be in the way.
fn owner<'a, T>(
    taken: &BTreeMap<Network, T>,
    pods: Network,
    of: impl Fn(&T) -> &'a Member,
) -> Option<&'a Member> {
    let neighbours = [taken.range(..=pods).next_back(), taken.range(pods..).next()];
    neighbours.into_iter().flatten().find(|(network, _)| network.overlaps(pods)).map(|(_, found)| of(found))
}

/// What speaks against a route to a node's network; `taken`: who has it.
fn objection(cluster: &Cluster, other: &Member, taken: Option<&Member>) -> Option<String> {
    let pods = other.pods;
    if !cluster.cidr.includes(pods) {
        return Some(format!("its network {pods} is outside of the pods' {}", cluster.cidr));
    }
    if pods.overlaps(cluster.own.pods) {
        return Some(format!("its network {pods} overlaps this node's {}", cluster.own.pods));
    }
    if let Some(owner) = taken {
        return Some(format!("its network {pods} overlaps {} of node {}", owner.pods, owner.name));
    }
    if other.address.is_loopback() || other.address.is_unspecified() {
        return Some(format!("nobody is reached at its address {}", other.address));
    }
    None
}

/// How a node is reached: as the kernel would send a packet to it. None when there is no way at all.
fn way_to(address: Ipv4Addr, observed: &Observed) -> Option<Way> {
    let covers = |route: &&Route| match route.destination {
        IpAddr::V4(network) => Network { address: network, prefix: route.prefix }.contains(address),
        IpAddr::V6(_) => false,
    };
    let others = observed.routes.iter().filter(|route| route.protocol != PROTOCOL);
    let best = others.filter(covers).max_by_key(|route| (route.prefix, std::cmp::Reverse(route.metric)))?;
    match (best.gateway, best.link) {
        (None, Some(link)) => Some(Way::Direct { gateway: address, link }),
        _ => Some(Way::Tunnel),
    }
}

/// The tunnel as it should be; returns the one that is there already and stays.
fn keep_tunnel<'a>(
    own: &Member,
    mtu: u32,
    observed: &'a Observed,
    commands: &mut Vec<Command>,
) -> Option<&'a Link> {
    let between = Vxlan { network: VNI, port: PORT, local: own.address };
    let mac = mac_of(own.address);
    let found = observed.tunnel();
    let good = found.filter(|link| link.vxlan == Some(between) && link.mac == mac);
    let Some(tunnel) = good else {
        if found.is_some() {
            commands.push(Command::DeleteTunnel);
        }
        commands.push(Command::MakeTunnel { between, mac, mtu });
        // Loose: a node that is on a link of ours may not know it and answer through the tunnel.
        commands.push(Command::Set(format!("ipv4/conf/{TUNNEL}/rp_filter"), "2"));
        commands.push(Command::AddTunnelAddress(own.pods.address));
        commands.push(Command::TunnelUp);
        return None;
    };
    if tunnel.mtu != mtu {
        commands.push(Command::TunnelMtu(mtu));
    }
    let addresses = observed.addresses.iter().filter(|address| address.link == tunnel.index);
    let (right, wrong): (Vec<&Address>, Vec<&Address>) =
        addresses.partition(|address| address.ip == own.pods.address && address.prefix == 32);
    for address in wrong {
        commands.push(Command::RemoveTunnelAddress(address.ip, address.prefix));
    }
    if right.is_empty() {
        commands.push(Command::AddTunnelAddress(own.pods.address));
    }
    if !tunnel.up {
        commands.push(Command::TunnelUp);
    }
    Some(tunnel)
}

/// Who is beyond the tunnel. A tunnel that is only just made knows nobody.
fn keep_neighbours(beyond: &[&Member], there: bool, observed: &Observed, commands: &mut Vec<Command>) {
    let (neighbours, forwardings) = match there {
        true => (observed.neighbours.as_slice(), observed.forwardings.as_slice()),
        false => (&[][..], &[][..]),
    };
    let hops: BTreeMap<IpAddr, [u8; 6]> =
        beyond.iter().map(|other| (other.pods.address.into(), mac_of(other.address))).collect();
    let ends: BTreeMap<[u8; 6], Ipv4Addr> =
        beyond.iter().map(|other| (mac_of(other.address), other.address)).collect();
    let stale = neighbours.iter().filter(|known| known.permanent && !hops.contains_key(&known.ip));
    commands.extend(stale.map(|known| Command::DeleteNeighbour(known.ip)));
    let stale = forwardings.iter().filter(|known| ends.get(&known.mac) != Some(&known.destination));
    commands.extend(stale.map(|known| Command::DeleteForwarding(*known)));

    let known: BTreeSet<(IpAddr, [u8; 6])> =
        neighbours.iter().filter(|known| known.permanent).map(|known| (known.ip, known.mac)).collect();
    let sent: BTreeSet<([u8; 6], Ipv4Addr)> =
        forwardings.iter().map(|known| (known.mac, known.destination)).collect();
    for other in beyond {
        let mac = mac_of(other.address);
        if !sent.contains(&(mac, other.address)) {
            commands.push(Command::PutForwarding(mac, other.address));
        }
        if !known.contains(&(other.pods.address.into(), mac)) {
            commands.push(Command::PutNeighbour(other.pods.address, mac));
        }
    }
}

/// The routes, one for each network.
fn keep_routes(
    ways: &BTreeMap<Network, (&Member, Way)>,
    kept: &BTreeMap<Network, &Member>,
    tunnel: Option<&Link>,
    observed: &Observed,
    plan: &mut Plan,
) {
    let network_of = |route: &Route| match route.destination {
        IpAddr::V4(address) => Some(Network { address, prefix: route.prefix }),
        IpAddr::V6(_) => None,
    };
    let mut right: BTreeSet<Network> = BTreeSet::new();
    for route in observed.routes.iter().filter(|route| route.protocol == PROTOCOL) {
        let Some(network) = network_of(route) else { continue };
        match ways.get(&network) {
            Some((_, way)) if leads(route, network, *way, tunnel) && right.insert(network) => {}
            // It is replaced below, without a moment in which there is none.
            Some(_) if route.metric == 0 => {}
            None if kept.contains_key(&network) => {}
            _ => plan.commands.push(Command::DeleteRoute(*route)),
        }
    }
    // The kernel has one route to a network with a metric: to add ours would be to replace somebody's.
    let foreign: BTreeSet<Network> = observed
        .routes
        .iter()
        .filter(|route| route.protocol != PROTOCOL && route.metric == 0)
        .filter_map(network_of)
        .collect();
    for (network, (member, way)) in ways {
        if right.contains(network) {
            continue;
        }
        if foreign.contains(network) {
            let reason = format!("somebody else's route to {network} is in the way");
            plan.refused.insert(Refusal { node: member.name.clone(), reason });
            continue;
        }
        plan.commands.push(Command::PutRoute(*network, *way));
    }
}

/// Whether a route of ours goes the wanted way.
fn leads(route: &Route, network: Network, way: Way, tunnel: Option<&Link>) -> bool {
    let (gateway, link, onlink) = match way {
        Way::Direct { gateway, link } => (gateway, Some(link), false),
        Way::Tunnel => (network.address, tunnel.map(|tunnel| tunnel.index), true),
    };
    link.is_some()
        && (route.gateway, route.link, route.onlink, route.metric) == (Some(gateway.into()), link, onlink, 0)
}

#[cfg(test)]
mod tests;
