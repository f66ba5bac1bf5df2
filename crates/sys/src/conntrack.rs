//! The kernel's table of connections: listing and deleting entries.
//!
//! Reads and changes the network namespace its socket was opened in. Not here: which entries are stale.
//!
//! Upstream of the formats: Linux `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::net::Ipv4Addr;

use crate::netlink::{Error, Message, Socket, attribute};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address and port.
    pub source: (Ipv4Addr, u16),
    /// Destination address and port.
    pub destination: (Ipv4Addr, u16),
    /// Transport protocol: 17 is UDP.
    pub protocol: u8,
}

/// An IPv4 connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come: its source is the translated destination.
    pub reply: Tuple,
    key: Vec<u8>,
}

/// A connection to the kernel's table.
#[derive(Debug)]
pub struct Conntrack(Socket);

impl Conntrack {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Socket::open(libc::NETLINK_NETFILTER).map(Self)
    }

    /// Deletes the IPv4 connections for which `stale` says so; tells how many.
    pub fn delete_where(&mut self, stale: impl Fn(&Connection) -> bool) -> Result<usize, Error> {
        let mut message = Message::new(SUBSYSTEM << 8 | GET, libc::NLM_F_DUMP);
        message.raw(&header());
        let answers = self.0.exchange("list connections", message)?;
        let mut deleted = 0;
        for connection in answers.iter().filter_map(|answer| parse(answer.payload.get(4..)?)) {
            if stale(&connection) {
                let mut message = Message::new(SUBSYSTEM << 8 | DELETE, 0);
                message.raw(&header()).put(TUPLE_ORIGINAL | NESTED, &connection.key);
                match self.0.request("delete connection", message) {
                    // It may have ended by itself meanwhile.
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => deleted += 1,
                }
            }
        }
        Ok(deleted)
    }
}

/// Family IPv4, version 0, no resource.
fn header() -> [u8; 4] {
    [libc::AF_INET as u8, 0, 0, 0]
}

fn parse(body: &[u8]) -> Option<Connection> {
    let key = attribute(body, TUPLE_ORIGINAL)?;
    let reply = attribute(body, TUPLE_REPLY)?;
    Some(Connection { original: tuple(key)?, reply: tuple(reply)?, key: key.to_vec() })
}

fn tuple(body: &[u8]) -> Option<Tuple> {
    let (addresses, transport) = (attribute(body, 1)?, attribute(body, 2)?);
    let ip = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(attribute(addresses, kind)?).ok()?));
    // ICMP has no ports: zero stands for them.
    let port =
        |kind| attribute(transport, kind).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: (ip(1)?, port(2)),
        destination: (ip(2)?, port(3)),
        protocol: *attribute(transport, 1)?.first()?,
    })
}
