//! Who this node is: its name and its address.
//!
//! Reads the host's name, its default route and its addresses. Not here: the Node object (the kubelet).

use std::net::IpAddr;

use anyhow::{Context, bail};
use sys::netlink::route::RouteSocket;

use crate::config;

/// Name and address of this node.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the Node object: the host's name in lower case, unless set.
    pub name: String,
    /// Address under which other nodes and pods reach it.
    pub ip: IpAddr,
}

/// Works out who this node is.
pub fn of(config: &config::node::Node) -> anyhow::Result<Identity> {
    let name = match &config.node_name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host's name; set --node-name")?
            .trim()
            .to_lowercase(),
    };
    let problems = api::names::is_dns1123_subdomain(&name);
    if let Some(problem) = problems.first() {
        bail!("the node name {name:?} cannot be used: {problem}");
    }
    let ip = match config.node_ip {
        Some(ip) => ip,
        None => detect_ip().context("cannot find this node's address; set --node-ip")?,
    };
    Ok(Identity { name, ip })
}

/// The address of the interface with the default route; else the first global one; else loopback, which is enough
/// for a cluster that nobody else talks to.
fn detect_ip() -> Result<IpAddr, sys::netlink::Error> {
    let mut socket = RouteSocket::open()?;
    let way_out = socket.routes()?.iter().find(|route| route.prefix == 0).and_then(|route| route.link);
    let addresses = socket.addresses()?;
    let global = |on: Option<u32>| {
        addresses
            .iter()
            .find(|a| {
                a.scope == 0 && a.ip.is_ipv4() && !a.ip.is_loopback() && on.is_none_or(|link| a.link == link)
            })
            .map(|a| a.ip)
    };
    Ok(way_out
        .and_then(|link| global(Some(link)))
        .or_else(|| global(None))
        .unwrap_or(IpAddr::from([127, 0, 0, 1])))
}
