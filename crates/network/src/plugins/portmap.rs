//! Leads ports of the host to a sandbox.
//!
//! Reads `runtimeConfig.portMappings` and the result of the plugin before; writes the nftables table
//! `ironclad-portmap`, one map element per port. DEL finds its elements by the sandbox's address. Not here:
//! Services' node ports (the `proxy` crate).
//!
//! Upstream: containernetworking/plugins meta/portmap.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use sys::nftables::{
    Batch, Carries, Data, Element, Expression as Do, Family, Hook, HookPoint, Load, Nftables, Part, Register,
    Set, Verdict,
};

use crate::{
    cni::{Arguments, Code, Config, Error, Success},
    plugin::Plugin,
};

/// The plugin.
#[derive(Debug)]
pub struct Portmap;

const TABLE: &str = "ironclad-portmap";
const PORTS: &str = "ports";
const HAIRPIN: &str = "hairpin";
/// Before the Services' translation at -100, as upstream's portmap is found before kube-proxy.
const PRIORITY: i32 = -101;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    #[serde(default)]
    port_mappings: Vec<Mapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(rename = "hostIP", default)]
    host_ip: String,
}

impl Mapping {
    fn element(&self, target: Ipv4Addr) -> Result<Element, Error> {
        let invalid = |what: String| Error::new(Code::InvalidConfig, what);
        let protocol = match self.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            other => return Err(invalid(format!("unknown port protocol {other:?}"))),
        };
        let host = match self.host_ip.as_str() {
            "" | "::" => Ipv4Addr::UNSPECIFIED,
            text => text.parse().map_err(|_| invalid(format!("invalid hostIP {text:?}")))?,
        };
        let key = [&host.octets()[..], &[protocol, 0, 0, 0], &register(self.host_port)].concat();
        let data = [&target.octets()[..], &register(self.container_port)].concat();
        Ok(Element { key, data: Some(Data::Value(data)) })
    }
}

/// A port in network order, padded to a register.
fn register(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn mappings(config: &Config) -> Result<Vec<Mapping>, Error> {
    if config.runtime_config.is_null() {
        return Ok(Vec::new());
    }
    serde_json::from_value::<Runtime>(config.runtime_config.clone())
        .map(|runtime| runtime.port_mappings)
        .map_err(|error| Error::new(Code::Decoding, format!("could not parse portMappings: {error}")))
}

fn sandbox_address(result: &Success) -> Option<Ipv4Addr> {
    result.ips.iter().find_map(|ip| match ip.parts()? {
        (IpAddr::V4(address), _) => Some(address),
        _ => None,
    })
}

fn hairpin(address: Ipv4Addr) -> Element {
    Element { key: [address.octets(), address.octets()].concat(), data: None }
}

/// The table's fixed part; putting it again changes nothing.
fn table() -> Batch {
    const TARGET: Carries<'static> = Carries::Data(&[Part::Ipv4, Part::Port]);
    let (r0, r1, r2, target, target_port) = (Register(0), Register(1), Register(2), Register(4), Register(5));
    let mut batch = Batch::new(Family::Ip, TABLE);
    batch.add_table();
    batch.add_set(&Set {
        name: PORTS,
        key: &[Part::Ipv4, Part::Protocol, Part::Port],
        carries: TARGET,
        dynamic: false,
    });
    batch.add_set(&Set {
        name: HAIRPIN,
        key: &[Part::Ipv4, Part::Ipv4],
        carries: Carries::Nothing,
        dynamic: false,
    });
    let hook = |point, priority| Some(Hook { point, priority, nat: true });
    batch.add_chain("translate", None).flush_chain("translate");
    batch.add_chain("prerouting", hook(HookPoint::Prerouting, PRIORITY)).flush_chain("prerouting");
    batch.add_chain("output", hook(HookPoint::Output, PRIORITY)).flush_chain("output");
    batch.add_chain("postrouting", hook(HookPoint::Postrouting, 99)).flush_chain("postrouting");
    let here = [
        Do::Read(Load::DestinationKind, r0),
        Do::Equal(r0, Load::LOCAL.to_ne_bytes().to_vec()),
        Do::Verdict(Verdict::Jump("translate".into())),
    ];
    batch.add_rule("prerouting", &here).add_rule("output", &here);
    let port = [Do::Read(Load::Protocol, r1), Do::Read(Load::DestinationPort, r2)];
    let translate = [Do::Map(r0, PORTS.into(), target), Do::DestinationNat(target, target_port)];
    // A port bound to one address of the host goes before one bound to all.
    for address in [Do::Read(Load::DestinationIp, r0), Do::Put(vec![0; 4], r0)] {
        batch.add_rule("translate", &[&[address], &port[..], &translate].concat());
    }
    let own = [
        Do::Read(Load::SourceIp, r1),
        Do::Read(Load::DestinationIp, r2),
        Do::In(r1, HAIRPIN.into()),
        Do::Masquerade,
    ];
    batch.add_rule("postrouting", &own);
    batch
}

impl Plugin for Portmap {
    fn add(&self, _: &Arguments, config: &Config) -> Result<Success, Error> {
        let previous = config
            .previous()?
            .ok_or_else(|| Error::new(Code::InvalidConfig, "must be called as chained plugin"))?;
        let mappings = mappings(config)?;
        let Some(address) = sandbox_address(&previous).filter(|_| !mappings.is_empty()) else {
            return Ok(previous);
        };
        let elements =
            mappings.iter().map(|mapping| mapping.element(address)).collect::<Result<Vec<_>, _>>()?;
        let mut batch = table();
        batch.add_elements(PORTS, &elements).add_elements(HAIRPIN, [&hairpin(address)]);
        Nftables::open()?.commit(&batch)?;
        Ok(previous)
    }

    fn del(&self, _: &Arguments, config: &Config) -> Result<(), Error> {
        let mut kernel = Nftables::open()?;
        let address = config.previous()?.as_ref().and_then(sandbox_address);
        let Some(address) = address.filter(|_| kernel.has_table(Family::Ip, TABLE).unwrap_or(false)) else {
            return Ok(());
        };
        let leads_here = |data: &Vec<u8>| data.starts_with(&address.octets());
        let ports: Vec<Element> = kernel
            .elements(Family::Ip, TABLE, PORTS)?
            .into_iter()
            .filter(|(_, data)| data.as_ref().is_some_and(leads_here))
            .map(|(key, _)| Element { key, data: None })
            .collect();
        let mut batch = Batch::new(Family::Ip, TABLE);
        batch.delete_elements(PORTS, &ports);
        if kernel.elements(Family::Ip, TABLE, HAIRPIN)?.iter().any(|(key, _)| *key == hairpin(address).key) {
            batch.delete_elements(HAIRPIN, [&hairpin(address)]);
        }
        Ok(kernel.commit(&batch)?)
    }

    fn check(&self, _: &Arguments, config: &Config) -> Result<(), Error> {
        let Some(address) = config.previous()?.as_ref().and_then(sandbox_address) else { return Ok(()) };
        let mappings = mappings(config)?;
        if mappings.is_empty() {
            return Ok(());
        }
        let present = Nftables::open()?.elements(Family::Ip, TABLE, PORTS)?;
        for mapping in mappings {
            let Element { key, data: Some(Data::Value(data)) } = mapping.element(address)? else { continue };
            if !present.contains(&(key, Some(data))) {
                return Err(Error::failed(format!(
                    "host port {} no longer leads to {address}",
                    mapping.host_port
                )));
            }
        }
        Ok(())
    }
}

/// Removes the table with every mapping.
pub fn uninstall() -> Result<(), sys::netlink::Error> {
    Nftables::open()?.delete_table(Family::Ip, TABLE)
}
