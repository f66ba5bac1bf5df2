//! Connects a sandbox to a bridge of the host.
//!
//! Reads its configuration; makes the bridge, a veth pair, addresses and routes; asks the IPAM plugin named
//! in the configuration for the address. With `"routed": true` a sandbox gets its address as a /32 with the
//! bridge as its only neighbour: every packet between pods then passes the host's routing, where connection
//! tracking, Services and policy see both directions, and no `br_netfilter` module is needed.
//! Not here: masquerading and Services (the `proxy` crate).
//!
//! Upstream: containernetworking/plugins main/bridge (`routed` is ours).

use std::{
    fs::{self, File},
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde::Deserialize;
use sys::netlink::{
    self,
    route::{Link, NewLink, Route as KernelRoute, RouteSocket},
};

use crate::{
    client,
    cni::{Arguments, Code, Command, Config, Error, Interface, Success},
    plugin::Plugin,
};

/// The plugin.
#[derive(Debug)]
pub struct Bridge;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    routed: bool,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    ipam: IpamName,
}

#[derive(Default, Deserialize)]
struct IpamName {
    #[serde(rename = "type", default)]
    kind: String,
}

fn default_bridge() -> String {
    "cni0".into()
}

impl Plugin for Bridge {
    fn add(&self, arguments: &Arguments, config: &Config) -> Result<Success, Error> {
        let own: Own = config.parse()?;
        if own.ipam.kind.is_empty() {
            return Err(Error::new(Code::InvalidConfig, "the bridge plugin needs an IPAM plugin"));
        }
        let namespace = open_namespace(&arguments.netns)?;
        let answer = client::call_plugin(&own.ipam.kind, Command::Add, arguments, config)?;
        let mut result: Success = serde_json::from_value(answer)
            .map_err(|error| Error::new(Code::Decoding, format!("the IPAM plugin's result: {error}")))?;
        connect(arguments, &own, &namespace, &mut result).inspect_err(|_| {
            // The address must not leak: the runtime may never send a DEL for an ADD that failed.
            let _ = client::call_plugin(&own.ipam.kind, Command::Del, arguments, config);
        })?;
        Ok(result)
    }

    fn del(&self, arguments: &Arguments, config: &Config) -> Result<(), Error> {
        let own: Own = config.parse()?;
        if !own.ipam.kind.is_empty() {
            client::call_plugin(&own.ipam.kind, Command::Del, arguments, config)?;
        }
        let mut host = RouteSocket::open()?;
        match host.link(&host_name(arguments))? {
            Some(link) => match host.delete(link.index) {
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn check(&self, arguments: &Arguments, config: &Config) -> Result<(), Error> {
        let own: Own = config.parse()?;
        client::call_plugin(&own.ipam.kind, Command::Check, arguments, config)?;
        let mut host = RouteSocket::open()?;
        let bridge = host.link(&own.bridge)?.ok_or_else(|| missing("bridge", &own.bridge))?;
        let port_name = host_name(arguments);
        let port = host.link(&port_name)?.ok_or_else(|| missing("interface", &port_name))?;
        if port.master != Some(bridge.index) {
            return Err(Error::failed(format!("{port_name} is not connected to {}", own.bridge)));
        }
        let mut inside = RouteSocket::open_in(&open_namespace(&arguments.netns)?)?;
        let link =
            inside.link(&arguments.interface)?.ok_or_else(|| missing("interface", &arguments.interface))?;
        let addresses = inside.addresses()?;
        for ip in config.previous()?.into_iter().flat_map(|previous| previous.ips) {
            let wanted = ip.parts().map(|(address, _)| address);
            if !addresses.iter().any(|found| found.link == link.index && Some(found.ip) == wanted) {
                return Err(Error::failed(format!(
                    "{} has lost its address {}",
                    arguments.interface, ip.address
                )));
            }
        }
        Ok(())
    }
}

fn missing(what: &str, name: &str) -> Error {
    Error::failed(format!("the {what} {name} does not exist"))
}

/// Opens a network namespace by its path.
pub fn open_namespace(path: &Path) -> Result<File, Error> {
    File::open(path)
        .map_err(|error| Error::failed(format!("failed to open netns {:?}: {error}", path.display())))
}

/// Name of the host's end of a sandbox's pair: derived from the sandbox, so that DEL needs no record.
fn host_name(arguments: &Arguments) -> String {
    // DefaultHasher::new() has fixed keys: every process derives the same name. Interface names hold 15 bytes.
    let mut hasher = std::hash::DefaultHasher::new();
    (&arguments.container_id, &arguments.interface).hash(&mut hasher);
    format!("veth{:08x}", hasher.finish() as u32)
}

fn connect(arguments: &Arguments, own: &Own, namespace: &File, result: &mut Success) -> Result<(), Error> {
    let mut host = RouteSocket::open()?;
    let bridge = ensure_bridge(&mut host, own, result)?;
    let port_name = host_name(arguments);
    // What a crashed ADD for the same sandbox may have left.
    if let Some(stale) = host.link(&port_name)? {
        host.delete(stale.index)?;
    }
    let veth = NewLink::Veth { peer: &arguments.interface, peer_namespace: Some(namespace), peer_mac: None };
    host.create(&port_name, own.mtu, &veth)?;
    let port = host.link(&port_name)?.ok_or_else(|| missing("interface", &port_name))?;
    let inside = host
        .attach(port.index, bridge.index, own.hairpin_mode)
        .map_err(Error::from)
        .and_then(|()| configure_inside(arguments, own, namespace, result))
        .inspect_err(|_| {
            let _ = host.delete(port.index);
        })?;
    let sandbox = arguments.netns.display().to_string();
    result.interfaces = vec![
        Interface { name: bridge.name.clone(), mac: bridge.mac_text(), sandbox: String::new() },
        Interface { name: port.name.clone(), mac: port.mac_text(), sandbox: String::new() },
        Interface { name: inside.name.clone(), mac: inside.mac_text(), sandbox },
    ];
    for ip in &mut result.ips {
        ip.interface = Some(2);
    }
    Ok(())
}

fn ensure_bridge(host: &mut RouteSocket, own: &Own, result: &Success) -> Result<Link, Error> {
    let bridge = match host.link(&own.bridge)? {
        Some(link) if link.kind.as_deref() == Some("bridge") => link,
        Some(_) => return Err(Error::failed(format!("{} exists but is no bridge", own.bridge))),
        None => {
            match host.create(&own.bridge, own.mtu, &NewLink::Bridge) {
                // Two first pods at once: one of them makes the bridge.
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => host.link(&own.bridge)?.ok_or_else(|| missing("bridge", &own.bridge))?,
            }
        }
    };
    if !bridge.up {
        host.set_up(bridge.index)?;
    }
    if own.is_gateway || own.is_default_gateway {
        for (ip, (_, prefix)) in result.ips.iter().filter_map(|ip| Some((ip, ip.parts()?))) {
            if let Some(gateway) = ip.gateway {
                host.add_address(bridge.index, gateway, prefix)?;
            }
        }
        write_setting("ipv4/ip_forward", "1")?;
        // In a routed network a packet leaves by the interface it came in on; without this the host would
        // tell pods of a shorter way that they must not take.
        let redirects = format!("ipv4/conf/{}/send_redirects", own.bridge);
        if own.routed {
            write_setting(&redirects, "0")?;
            write_setting("ipv4/conf/all/send_redirects", "0")?;
        }
    }
    Ok(bridge)
}

fn write_setting(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|error| Error::failed(format!("cannot set {path} to {value}: {error}")))
}

fn configure_inside(
    arguments: &Arguments,
    own: &Own,
    namespace: &File,
    result: &Success,
) -> Result<Link, Error> {
    let mut inside = RouteSocket::open_in(namespace)?;
    let link =
        inside.link(&arguments.interface)?.ok_or_else(|| missing("interface", &arguments.interface))?;
    inside.set_up(link.index)?;
    for ip in &result.ips {
        let (address, prefix) =
            ip.parts().ok_or_else(|| Error::failed(format!("{:?} is no address", ip.address)))?;
        let prefix = if own.routed { if address.is_ipv4() { 32 } else { 128 } } else { prefix };
        inside.add_address(link.index, address, prefix)?;
        if let (true, Some(gateway)) = (own.routed, ip.gateway) {
            let prefix = if gateway.is_ipv4() { 32 } else { 128 };
            let neighbour = KernelRoute { link: Some(link.index), ..KernelRoute::to(gateway, prefix) };
            inside.replace_route(&neighbour)?;
        }
    }
    let gateway = result.ips.iter().find_map(|ip| ip.gateway);
    let mut routes: Vec<(IpAddr, u8, Option<IpAddr>)> = Vec::new();
    for route in &result.routes {
        let (destination, prefix) = route
            .dst
            .split_once('/')
            .and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)))
            .ok_or_else(|| Error::new(Code::InvalidConfig, format!("{:?} is no network", route.dst)))?;
        routes.push((destination, prefix, route.gw.or(gateway)));
    }
    if own.is_default_gateway && !routes.iter().any(|(_, prefix, _)| *prefix == 0) {
        routes.push((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, gateway));
    }
    for (destination, prefix, gateway) in routes {
        let link = Some(link.index);
        inside.replace_route(&KernelRoute { gateway, link, ..KernelRoute::to(destination, prefix) })?;
    }
    // Host and gateway learn the pod's hardware address at once instead of asking on the first packet.
    netlink::within(namespace, || write_setting(&format!("ipv4/conf/{}/arp_notify", link.name), "1"))
        .map_err(|error| Error::failed(format!("cannot enter the sandbox's network namespace: {error}")))??;
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ports_fit_and_differ() {
        let name = |id: &str| {
            host_name(&Arguments {
                container_id: id.into(),
                interface: "eth0".into(),
                ..Arguments::default()
            })
        };
        assert_eq!(name("a"), name("a"));
        assert_ne!(name("a"), name("b"));
        assert!(name("a").len() < 16);
    }
}
