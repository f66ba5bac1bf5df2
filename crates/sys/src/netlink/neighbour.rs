//! Who is behind a link: neighbours (an IP address has this hardware address) and, for VXLAN devices, forwarding
//! entries (a hardware address is behind this end of the tunnel).
//!
//! Reads and changes the network namespace of a [`RouteSocket`]. Not here: which entries are wanted.
//!
//! Upstream of the formats: Linux `include/uapi/linux/neighbour.h`.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    Error, Message, Received, attribute,
    route::{RouteSocket, family, ip_of, octets},
    u32_of,
};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
/// The entry is the device's own, not one of the bridge that it may be a port of.
const NTF_SELF: u8 = 0x02;

/// An IP address on a link, and the hardware address it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Index of the interface.
    pub link: u32,
    /// The neighbour.
    pub ip: IpAddr,
    /// Its hardware address; zeroes while the kernel still asks for it.
    pub mac: [u8; 6],
    /// Whether it was put there by somebody and never ages.
    pub permanent: bool,
}

/// A hardware address in a VXLAN network, and the machine that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarding {
    /// Index of the VXLAN device.
    pub link: u32,
    /// The hardware address; zeroes stand for everybody.
    pub mac: [u8; 6],
    /// Where packets to it are sent.
    pub destination: Ipv4Addr,
}

impl RouteSocket {
    /// The IPv4 neighbours of all links.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let mut message = Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP);
        message.raw(&header(libc::AF_INET as u8, 0, 0, 0));
        let answers = self.socket().exchange("list neighbours", message)?;
        Ok(answers.iter().filter_map(parse_neighbour).collect())
    }

    /// Adds a permanent neighbour, or gives the one of this address another hardware address.
    pub fn put_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let ip = neighbour.ip;
        message
            .raw(&header(family(ip), neighbour.link, NUD_PERMANENT, 0))
            .put(NDA_DST, &octets(ip))
            .put(NDA_LLADDR, &neighbour.mac);
        self.socket().request(&format!("add neighbour {ip}"), message)
    }

    /// Deletes a neighbour.
    pub fn delete_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_DELNEIGH, 0);
        message.raw(&header(family(ip), link, 0, 0)).put(NDA_DST, &octets(ip));
        self.socket().request(&format!("delete neighbour {ip}"), message)
    }

    /// The forwarding entries of all VXLAN devices, as far as they lead to IPv4 addresses.
    pub fn forwardings(&mut self) -> Result<Vec<Forwarding>, Error> {
        let mut message = Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP);
        message.raw(&header(libc::AF_BRIDGE as u8, 0, 0, 0));
        let answers = self.socket().exchange("list forwarding entries", message)?;
        Ok(answers.iter().filter_map(parse_forwarding).collect())
    }

    /// Adds a permanent forwarding entry, or lets the one of this hardware address lead elsewhere.
    pub fn put_forwarding(&mut self, entry: &Forwarding) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        message
            .raw(&header(libc::AF_BRIDGE as u8, entry.link, NUD_PERMANENT | NUD_NOARP, NTF_SELF))
            .put(NDA_LLADDR, &entry.mac)
            .put(NDA_DST, &entry.destination.octets());
        self.socket().request(&format!("add forwarding entry to {}", entry.destination), message)
    }

    /// Deletes a forwarding entry.
    pub fn delete_forwarding(&mut self, entry: &Forwarding) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_DELNEIGH, 0);
        message
            .raw(&header(libc::AF_BRIDGE as u8, entry.link, 0, NTF_SELF))
            .put(NDA_LLADDR, &entry.mac)
            .put(NDA_DST, &entry.destination.octets());
        self.socket().request(&format!("delete forwarding entry to {}", entry.destination), message)
    }
}

/// `struct ndmsg`.
fn header(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0_u8; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// Family, link, state and flags of a received entry, and what follows them.
fn split(answer: &Received) -> Option<(u8, u32, u16, u8, &[u8])> {
    let head = answer.payload.get(..12)?;
    let state = u16::from_ne_bytes([head[8], head[9]]);
    Some((head[0], u32_of(&head[4..])?, state, head[10], answer.payload.get(12..)?))
}

/// The link that a message about a neighbour or a forwarding entry is about.
pub(super) fn link_of(answer: &Received) -> Option<u32> {
    split(answer).map(|(_, link, ..)| link)
}

fn parse_neighbour(answer: &Received) -> Option<Neighbour> {
    let (family, link, state, _, body) = split(answer)?;
    if family != libc::AF_INET as u8 {
        return None;
    }
    let mac = attribute(body, NDA_LLADDR).and_then(|mac| mac.try_into().ok()).unwrap_or_default();
    let ip = attribute(body, NDA_DST).and_then(ip_of)?;
    Some(Neighbour { link, ip, mac, permanent: state & NUD_PERMANENT != 0 })
}

fn parse_forwarding(answer: &Received) -> Option<Forwarding> {
    let (family, link, _, flags, body) = split(answer)?;
    if family != libc::AF_BRIDGE as u8 || flags & NTF_SELF == 0 {
        return None;
    }
    let destination = <[u8; 4]>::try_from(attribute(body, NDA_DST)?).ok()?.into();
    Some(Forwarding { link, mac: attribute(body, NDA_LLADDR)?.try_into().ok()?, destination })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::netlink::route::{NewLink, Vxlan};

    #[test]
    fn a_tunnel_is_read_back_as_it_was_made_with_who_is_behind_it() {
        // A thread of its own, which may have a network of its own.
        let namespace = std::thread::spawn(|| {
            crate::namespace::unshare(crate::namespace::Flags::CLONE_NEWNET).expect("needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let mut socket = RouteSocket::open_in(&namespace.join().unwrap()).unwrap();
        let between = Vxlan { network: 7, port: 8472, local: [192, 0, 2, 1].into() };
        let mac = [2, 0, 0, 0, 0, 1];
        socket.create("tunnel", 1400, &NewLink::Vxlan { between, mac }).unwrap();
        let link = socket.link("tunnel").unwrap().unwrap();
        assert_eq!((link.vxlan, link.mtu, link.mac.as_slice()), (Some(between), 1400, &mac[..]));
        socket.set_mtu(link.index, 1300).unwrap();
        socket.set_up(link.index).unwrap();
        assert_eq!(socket.link("tunnel").unwrap().unwrap().mtu, 1300);

        let mut neighbour = Neighbour {
            link: link.index,
            ip: IpAddr::from([10, 9, 1, 0]),
            mac: [2, 0, 0, 0, 0, 2],
            permanent: true,
        };
        socket.put_neighbour(&neighbour).unwrap();
        neighbour.mac[5] = 3;
        socket.put_neighbour(&neighbour).unwrap();
        let own =
            |list: Vec<Neighbour>| list.into_iter().filter(|n| n.link == link.index).collect::<Vec<_>>();
        assert_eq!(own(socket.neighbours().unwrap()), [neighbour]);
        socket.delete_neighbour(link.index, neighbour.ip).unwrap();
        assert!(own(socket.neighbours().unwrap()).iter().all(|left| !left.permanent));

        let mut entry =
            Forwarding { link: link.index, mac: neighbour.mac, destination: [192, 0, 2, 2].into() };
        socket.put_forwarding(&entry).unwrap();
        entry.destination = [192, 0, 2, 3].into();
        socket.put_forwarding(&entry).unwrap();
        assert_eq!(socket.forwardings().unwrap(), [entry]);
        socket.delete_forwarding(&entry).unwrap();
        assert_eq!(socket.forwardings().unwrap(), []);
    }
}
