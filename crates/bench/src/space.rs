//! Network and mount namespaces of a measurement, so that it neither finds nor leaves anything on the host.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::Context;
use sys::{
    mount::Propagation,
    namespace::Flags,
    netlink::route::{NewLink, Route, RouteSocket},
};

/// The node's address, on an interface with a default route as a host on a network has. Nobody is at the other end.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// Moves the calling thread, and what it will start, to new namespaces, and calls `work` there.
pub fn within<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    sys::namespace::unshare(Flags::CLONE_NEWNET | Flags::CLONE_NEWNS)
        .context("cannot make namespaces for the measurement: it needs root")?;
    sys::mount::propagation(Path::new("/"), Propagation::Private)?;
    let mut socket = RouteSocket::open()?;
    socket.create("eth0", 0, &NewLink::Veth { peer: "uplink", peer_namespace: None, peer_mac: None })?;
    let mut index = 0;
    for name in ["lo", "uplink", "eth0"] {
        index = socket.link(name)?.with_context(|| format!("the link {name} is not there"))?.index;
        socket.set_up(index)?;
    }
    socket.add_address(index, ADDRESS, 24)?;
    let destination = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    socket.replace_route(&Route {
        gateway: Some(GATEWAY),
        link: Some(index),
        ..Route::to(destination, 0)
    })?;
    work()
}
