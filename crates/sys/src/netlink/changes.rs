//! What others do to links, addresses, routes and neighbours, told by the kernel as it happens.
//!
//! Reads the network namespace its socket was opened in; the socket is readable when there is something to take. Not
//! here: what a change means to whom.
//!
//! The kernel tells of no route that vanishes because its link goes down or away: who cares for routes must look at
//! links, too.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use super::{
    Error, Received, Socket, messages, neighbour,
    route::{Link, Route, parse_link, parse_route},
    u32_of,
};

/// Something has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is new, another than before, or gone.
    Link(Link),
    /// An address of this interface came or went.
    Address {
        /// Index of the interface.
        link: u32,
    },
    /// A route of the main table came or went.
    Route(Route),
    /// A neighbour or a forwarding entry of this interface came, went, or was heard of.
    Neighbour {
        /// Index of the interface.
        link: u32,
    },
    /// More happened than the socket could hold: anything may have changed.
    Lost,
}

/// The stream of changes of one network namespace.
#[derive(Debug)]
pub struct Changes(Socket);

/// Links, neighbours, IPv4 addresses, IPv4 routes.
const GROUPS: i32 =
    libc::RTMGRP_LINK | libc::RTMGRP_NEIGH | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE;

impl Changes {
    /// Opens it in the calling thread's network namespace; what happens from here on is told.
    pub fn open() -> Result<Changes, Error> {
        Changes::of(Socket::open(libc::NETLINK_ROUTE)?)
    }

    /// Opens it in another network namespace.
    pub fn open_in(namespace: &File) -> Result<Changes, Error> {
        Changes::of(Socket::open_in(libc::NETLINK_ROUTE, namespace)?)
    }

    fn of(socket: Socket) -> Result<Changes, Error> {
        socket.subscribe(GROUPS as u32)?;
        Ok(Changes(socket))
    }

    /// Takes what has been told so far, without waiting.
    pub fn take(&mut self) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        loop {
            match self.0.receive_now() {
                Ok(Some(datagram)) => changes.extend(messages(&datagram).filter_map(|(header, payload)| {
                    parse(&Received { kind: header.nlmsg_type, payload: payload.to_vec() })
                })),
                Ok(None) => return Ok(changes),
                Err(Error::Socket(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes.push(Change::Lost);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// What event loops ask for.
impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn parse(message: &Received) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK => parse_link(message).map(Change::Link),
        // Looks like the other but for its type.
        libc::RTM_DELLINK => {
            let gone = Received { kind: libc::RTM_NEWLINK, ..message.clone() };
            parse_link(&gone).map(|link| Change::Link(Link { up: false, ..link }))
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            Some(Change::Address { link: u32_of(message.payload.get(4..)?)? })
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => parse_route(message).map(Change::Route),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            Some(Change::Neighbour { link: neighbour::link_of(message)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::{NewLink, RouteSocket};

    #[test]
    fn what_somebody_else_does_is_told() {
        // A thread of its own, which may have a network of its own.
        let namespace = std::thread::spawn(|| {
            crate::namespace::unshare(crate::namespace::Flags::CLONE_NEWNET).expect("needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = namespace.join().unwrap();
        let mut changes = Changes::open_in(&namespace).unwrap();
        let mut other = RouteSocket::open_in(&namespace).unwrap();
        assert_eq!(changes.take().unwrap(), []);
        other.create("br0", 0, &NewLink::Bridge).unwrap();
        let told = changes.take().unwrap();
        assert!(
            told.iter().any(|change| matches!(change, Change::Link(link) if link.name == "br0")),
            "{told:?}"
        );
        let index = other.link("br0").unwrap().unwrap().index;
        other.set_up(index).unwrap();
        other.add_address(index, [10, 9, 0, 1].into(), 24).unwrap();
        let told = changes.take().unwrap();
        assert!(told.contains(&Change::Address { link: index }), "{told:?}");
        let route = Route { gateway: Some([10, 9, 0, 7].into()), ..Route::to([10, 8, 0, 0].into(), 16) };
        other.replace_route(&route).unwrap();
        let whole = Change::Route(Route { link: Some(index), ..route });
        // Whether the link has carrier is told whenever the kernel finds the time: it may stand beside.
        assert!(changes.take().unwrap().contains(&whole));
        other.delete_route(&route).unwrap();
        assert!(changes.take().unwrap().contains(&whole));
        other.delete(index).unwrap();
        let told = changes.take().unwrap();
        assert!(told.iter().any(|change| matches!(change, Change::Link(link) if !link.up)), "{told:?}");
    }

    #[test]
    fn what_is_none_of_these_is_passed_over() {
        for (kind, payload) in
            [(libc::RTM_NEWADDR, vec![0; 7]), (libc::RTM_NEWROUTE, vec![0; 3]), (99, vec![])]
        {
            assert_eq!(parse(&Received { kind, payload }), None);
        }
    }
}
