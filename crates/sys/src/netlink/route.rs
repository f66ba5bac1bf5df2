//! Links, addresses and routes by rtnetlink.
//!
//! Reads and changes the network namespace its socket was opened in. Not here: which link or route is
//! wanted (the CNI plugins and the overlay decide).
//!
//! Upstream of the formats: Linux `include/uapi/linux/{rtnetlink,if_link,if_addr}.h`.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use super::{Error, Message, Received, Socket, attribute, text_of, u32_of};

const IFLA_LINK: u16 = 5;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTNH_F_ONLINK: u32 = 4;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index within its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, empty for devices without one.
    pub mac: Vec<u8>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge it belongs to.
    pub master: Option<u32>,
    /// Driver kind: `bridge`, `veth`, `vxlan`; none for hardware.
    pub kind: Option<String>,
    /// For veth: the other end's index in its own namespace.
    pub peer: Option<u32>,
    /// Whether it is set up.
    pub up: bool,
    /// For vxlan: between whom it goes.
    pub vxlan: Option<Vxlan>,
}

/// What a VXLAN device puts packets into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Number of the network, which sender and receiver share.
    pub network: u32,
    /// UDP port of all its ends.
    pub port: u16,
    /// Address that packets are sent from.
    pub local: Ipv4Addr,
}

impl Link {
    /// The hardware address as `02:00:00:00:00:01`.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// `RT_SCOPE_*`: 0 universe, 253 link, 254 host.
    pub scope: u8,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Network the route leads to; a prefix of 0 is the default route.
    pub destination: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// Next hop; none for directly connected networks.
    pub gateway: Option<IpAddr>,
    /// Interface index.
    pub link: Option<u32>,
    /// Who made it: `RTPROT_*`, or a number of one's own.
    pub protocol: u8,
    /// Among routes to the same network the lowest is taken.
    pub metric: u32,
    /// Take the next hop for a neighbour on the link, whatever the other routes say.
    pub onlink: bool,
}

impl Route {
    /// `RTPROT_STATIC`: made by an administrator.
    pub const STATIC: u8 = libc::RTPROT_STATIC;

    /// A static route to a network, whose way is to be filled in.
    pub fn to(destination: IpAddr, prefix: u8) -> Route {
        Route {
            destination,
            prefix,
            gateway: None,
            link: None,
            protocol: Route::STATIC,
            metric: 0,
            onlink: false,
        }
    }
}

/// What kind of link to make.
#[derive(Clone, Debug)]
pub enum NewLink<'a> {
    /// A bridge.
    Bridge,
    /// A pair of connected interfaces; the peer is made in the given namespace.
    Veth {
        /// The peer's name.
        peer: &'a str,
        /// The peer's namespace; the socket's own when none.
        peer_namespace: Option<&'a File>,
        /// The peer's hardware address; one of the kernel's choice when none.
        peer_mac: Option<[u8; 6]>,
    },
    /// An end of a VXLAN network that learns nothing: who is where is said by forwarding entries.
    Vxlan {
        /// Between whom.
        between: Vxlan,
        /// The device's own hardware address.
        mac: [u8; 6],
    },
}

/// An rtnetlink socket: every operation acts in the namespace in which it was opened.
#[derive(Debug)]
pub struct RouteSocket(Socket);

impl RouteSocket {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Socket::open(libc::NETLINK_ROUTE).map(Self)
    }

    /// Opens it in another network namespace.
    pub fn open_in(namespace: &File) -> Result<Self, Error> {
        Socket::open_in(libc::NETLINK_ROUTE, namespace).map(Self)
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.0
    }

    /// The interface of a name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_ACK);
        message.raw(&link_header(0, 0, 0)).put_text(IFLA_IFNAME, name);
        match self.0.exchange(&format!("look up link {name}"), message) {
            Ok(answers) => Ok(answers.iter().find_map(parse_link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
        message.raw(&link_header(0, 0, 0));
        Ok(self.0.exchange("list links", message)?.iter().filter_map(parse_link).collect())
    }

    /// Makes an interface, down at first. `mtu` 0 leaves the kernel's choice.
    pub fn create(&mut self, name: &str, mtu: u32, new: &NewLink<'_>) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        message.raw(&link_header(0, 0, 0)).put_text(IFLA_IFNAME, name);
        if mtu > 0 {
            message.put_u32(IFLA_MTU, mtu);
        }
        if let NewLink::Vxlan { mac, .. } = new {
            message.put(IFLA_ADDRESS, mac);
        }
        let info = message.nest(IFLA_LINKINFO);
        match new {
            NewLink::Bridge => {
                message.put_text(IFLA_INFO_KIND, "bridge");
            }
            NewLink::Veth { peer, peer_namespace, peer_mac } => {
                message.put_text(IFLA_INFO_KIND, "veth");
                let data = message.nest(IFLA_INFO_DATA);
                let end = message.nest(VETH_INFO_PEER);
                message.raw(&link_header(0, 0, 0)).put_text(IFLA_IFNAME, peer);
                if mtu > 0 {
                    message.put_u32(IFLA_MTU, mtu);
                }
                if let Some(mac) = peer_mac {
                    message.put(IFLA_ADDRESS, mac);
                }
                if let Some(namespace) = peer_namespace {
                    message.put_u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                }
                message.end(end);
                message.end(data);
            }
            NewLink::Vxlan { between, .. } => {
                message.put_text(IFLA_INFO_KIND, "vxlan");
                let data = message.nest(IFLA_INFO_DATA);
                message
                    .put_u32(IFLA_VXLAN_ID, between.network)
                    .put(IFLA_VXLAN_LOCAL, &between.local.octets())
                    .put(IFLA_VXLAN_LEARNING, &[0])
                    .put(IFLA_VXLAN_PORT, &between.port.to_be_bytes());
                message.end(data);
            }
        }
        message.end(info);
        self.0.request(&format!("create link {name}"), message)
    }

    /// Deletes an interface (for veth, with its peer).
    pub fn delete(&mut self, index: u32) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_DELLINK, 0);
        message.raw(&link_header(index, 0, 0));
        self.0.request("delete link", message)
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.raw(&link_header(index, libc::IFF_UP as u32, libc::IFF_UP as u32));
        self.0.request("set link up", message)
    }

    /// Sets an interface's largest packet, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.raw(&link_header(index, 0, 0)).put_u32(IFLA_MTU, mtu);
        self.0.request("set link's MTU", message)
    }

    /// Makes an interface a port of a bridge and sets both its flags: up, and hairpin (a packet may leave
    /// by the port it came from, which a pod needs to reach itself through a Service).
    pub fn attach(&mut self, index: u32, bridge: u32, hairpin: bool) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message
            .raw(&link_header(index, libc::IFF_UP as u32, libc::IFF_UP as u32))
            .put_u32(IFLA_MASTER, bridge);
        self.0.request("attach link to bridge", message)?;
        if hairpin {
            let mut message = Message::new(libc::RTM_SETLINK, 0);
            let mut header = link_header(index, 0, 0);
            header[0] = libc::AF_BRIDGE as u8;
            message.raw(&header);
            let port = message.nest(IFLA_PROTINFO);
            message.put(IFLA_BRPORT_MODE, &[1]);
            message.end(port);
            self.0.request("set hairpin mode", message)?;
        }
        Ok(())
    }

    /// Gives an interface an address; one that it has already is no error.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        self.address(&mut message, index, ip, prefix);
        match self.0.request(&format!("add address {ip}/{prefix}"), message) {
            Err(error) if error.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Takes an address from an interface.
    pub fn delete_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_DELADDR, 0);
        self.address(&mut message, index, ip, prefix);
        self.0.request(&format!("delete address {ip}/{prefix}"), message)
    }

    fn address(&self, message: &mut Message, index: u32, ip: IpAddr, prefix: u8) {
        let mut header = [0_u8; 8];
        header[0] = family(ip);
        header[1] = prefix;
        // IFA_F_NODAD: an IPv6 address of our own allocation needs no second of duplicate detection.
        header[2] = if ip.is_ipv6() { 0x02 } else { 0 };
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        message.raw(&header).put(IFA_LOCAL, &octets(ip)).put(IFA_ADDRESS, &octets(ip));
    }

    /// All addresses of all interfaces.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let mut message = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        message.raw(&[0; 8]);
        let answers = self.0.exchange("list addresses", message)?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let head = answer.payload.get(..8)?;
                let body = answer.payload.get(8..)?;
                let ip = attribute(body, IFA_LOCAL).or_else(|| attribute(body, IFA_ADDRESS))?;
                Some(Address { link: u32_of(&head[4..])?, ip: ip_of(ip)?, prefix: head[1], scope: head[3] })
            })
            .collect())
    }

    /// Adds a route, or replaces the one to the same network.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = self.route(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, route);
        self.0.request(&format!("add route to {}/{}", route.destination, route.prefix), message)
    }

    /// Deletes a route of the same protocol and metric.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = self.route(libc::RTM_DELROUTE, 0, route);
        self.0.request(&format!("delete route to {}/{}", route.destination, route.prefix), message)
    }

    fn route(&self, kind: u16, flags: i32, route: &Route) -> Message {
        let mut message = Message::new(kind, flags);
        let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let mut header = [0_u8; 12];
        header[0] = family(route.destination);
        header[1] = route.prefix;
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = route.protocol;
        header[6] = if kind == libc::RTM_DELROUTE { libc::RT_SCOPE_NOWHERE } else { scope };
        header[7] = libc::RTN_UNICAST;
        if route.onlink {
            header[8..12].copy_from_slice(&(RTNH_F_ONLINK).to_ne_bytes());
        }
        message.raw(&header);
        if route.prefix > 0 {
            message.put(RTA_DST, &octets(route.destination));
        }
        if let Some(gateway) = route.gateway {
            message.put(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(link) = route.link {
            message.put_u32(RTA_OIF, link);
        }
        if route.metric > 0 {
            message.put_u32(RTA_PRIORITY, route.metric);
        }
        message
    }

    /// The routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut message = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP);
        message.raw(&[0; 12]);
        let answers = self.0.exchange("list routes", message)?;
        Ok(answers.iter().filter_map(parse_route).collect())
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0_u8; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

pub(super) fn parse_link(answer: &Received) -> Option<Link> {
    if answer.kind != libc::RTM_NEWLINK {
        return None;
    }
    let head = answer.payload.get(..16)?;
    let body = answer.payload.get(16..)?;
    let info = attribute(body, IFLA_LINKINFO);
    Some(Link {
        index: u32_of(&head[4..])?,
        up: u32_of(&head[8..])? & libc::IFF_UP as u32 != 0,
        name: attribute(body, IFLA_IFNAME).map(text_of)?,
        mac: attribute(body, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: attribute(body, IFLA_MTU).and_then(u32_of).unwrap_or_default(),
        master: attribute(body, IFLA_MASTER).and_then(u32_of),
        kind: info.and_then(|info| attribute(info, IFLA_INFO_KIND)).map(text_of),
        peer: attribute(body, IFLA_LINK).and_then(u32_of),
        vxlan: info.and_then(|info| {
            let kind = attribute(info, IFLA_INFO_KIND).map(text_of)?;
            if kind == "vxlan" { parse_vxlan(attribute(info, IFLA_INFO_DATA)?) } else { None }
        }),
    })
}

/// Of a device between IPv4 addresses.
fn parse_vxlan(data: &[u8]) -> Option<Vxlan> {
    let port = <[u8; 2]>::try_from(attribute(data, IFLA_VXLAN_PORT)?).ok()?;
    let local = <[u8; 4]>::try_from(attribute(data, IFLA_VXLAN_LOCAL)?).ok()?;
    Some(Vxlan {
        network: attribute(data, IFLA_VXLAN_ID).and_then(u32_of)?,
        port: u16::from_be_bytes(port),
        local: local.into(),
    })
}

pub(super) fn parse_route(answer: &Received) -> Option<Route> {
    let head = answer.payload.get(..12)?;
    let body = answer.payload.get(12..)?;
    let table = attribute(body, RTA_TABLE).and_then(u32_of).unwrap_or(u32::from(head[4]));
    if table != u32::from(libc::RT_TABLE_MAIN) {
        return None;
    }
    let unspecified = if head[0] == libc::AF_INET6 as u8 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Some(Route {
        destination: attribute(body, RTA_DST).and_then(ip_of).unwrap_or(unspecified),
        prefix: head[1],
        gateway: attribute(body, RTA_GATEWAY).and_then(ip_of),
        link: attribute(body, RTA_OIF).and_then(u32_of),
        protocol: head[5],
        metric: attribute(body, RTA_PRIORITY).and_then(u32_of).unwrap_or_default(),
        onlink: u32_of(&head[8..]).is_some_and(|flags| flags & RTNH_F_ONLINK != 0),
    })
}

pub(super) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn ip_of(payload: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(payload) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(payload).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network namespace of the test's own, held by a file.
    fn namespace() -> File {
        std::thread::spawn(|| {
            // SAFETY: only this short-lived thread changes its namespace.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_pair_between_two_namespaces_gets_addresses_and_routes() {
        let (left, right) = (namespace(), namespace());
        let mut here = RouteSocket::open_in(&left).unwrap();
        let mut there = RouteSocket::open_in(&right).unwrap();
        assert_eq!(here.link("br0").unwrap(), None);
        here.create("br0", 0, &NewLink::Bridge).unwrap();
        assert!(here.create("br0", 0, &NewLink::Bridge).unwrap_err().is_exists());
        let mac = [2, 0, 0, 0, 0, 9];
        let veth = NewLink::Veth { peer: "eth0", peer_namespace: Some(&right), peer_mac: Some(mac) };
        here.create("veth0", 1400, &veth).unwrap();
        let bridge = here.link("br0").unwrap().unwrap();
        let port = here.link("veth0").unwrap().unwrap();
        here.set_up(bridge.index).unwrap();
        here.attach(port.index, bridge.index, true).unwrap();
        let port = here.link("veth0").unwrap().unwrap();
        assert_eq!((port.master, port.up, port.mtu), (Some(bridge.index), true, 1400));
        assert_eq!(port.kind.as_deref(), Some("veth"));

        let gateway = IpAddr::from([10, 9, 0, 1]);
        here.add_address(bridge.index, gateway, 24).unwrap();
        here.add_address(bridge.index, gateway, 24).unwrap();
        let eth0 = there.link("eth0").unwrap().unwrap();
        assert_eq!(eth0.mac, mac);
        there.set_up(eth0.index).unwrap();
        there.add_address(eth0.index, IpAddr::from([10, 9, 0, 2]), 24).unwrap();
        let default = Route {
            gateway: Some(gateway),
            link: Some(eth0.index),
            ..Route::to(IpAddr::from([0, 0, 0, 0]), 0)
        };
        there.replace_route(&default).unwrap();
        assert!(there.routes().unwrap().contains(&default));
        there.delete_route(&default).unwrap();
        assert!(!there.routes().unwrap().contains(&default));
        assert!(there.addresses().unwrap().iter().any(|a| a.link == eth0.index && a.prefix == 24));

        here.delete(port.index).unwrap();
        assert_eq!(there.link("eth0").unwrap(), None);
    }
}
