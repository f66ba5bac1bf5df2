//! What the API servers of a cluster are called, so that nobody else is given a certificate for it.
//!
//! Each server writes the names and addresses of its own certificate into a ConfigMap of `kube-system` when it starts
//! ([`object`]), which stays when the server is down: a load balancer's name goes on to be believed. Pure. Not here: who
//! writes it (the binary), who asks ([`super::serving`]).
//! Upstream: none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Object;
use api::types::core::v1::ConfigMap;
use serde_json::json;

/// Where the ConfigMaps are.
pub const NAMESPACE: &str = "kube-system";
/// The label that all of them have, and its value.
pub const LABEL: (&str, &str) = ("ironclad.dev/api-server", "names");
/// The key of the names, one a line.
const KEY: &str = "names";

/// Name of the ConfigMap of the server on this node.
pub fn object_name(node: &str) -> String {
    format!("ironclad-api-server.{node}")
}

/// What the server on this node is called, as the ConfigMap that says so.
pub fn object(node: &str, names: &[String]) -> Object {
    Object(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": object_name(node), "namespace": NAMESPACE, "labels": {LABEL.0: LABEL.1},
        },
        "data": {KEY: names.join("\n")},
    }))
}

/// Names and addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    dns: BTreeSet<String>,
    ips: BTreeSet<IpAddr>,
}

impl Names {
    /// These.
    pub(super) fn of(names: &[String]) -> Names {
        let mut known = Names::default();
        names.iter().for_each(|name| known.add(name));
        known
    }

    /// Those of a ConfigMap too.
    pub(super) fn add_all(&mut self, map: &ConfigMap) {
        let text = map.data.as_ref().and_then(|data| data.get(KEY));
        text.iter().flat_map(|text| text.lines()).for_each(|name| self.add(name));
    }

    fn add(&mut self, name: &str) {
        let name = plain(name);
        match name.parse::<IpAddr>() {
            Ok(ip) => {
                self.ips.insert(ip.to_canonical());
            }
            Err(_) if name.is_empty() => {}
            Err(_) => {
                self.dns.insert(name);
            }
        }
    }

    /// Whether an API server is believed under this name: it is one of theirs, or one that a wildcard of theirs stands for.
    pub(super) fn has_name(&self, name: &str) -> bool {
        let name = plain(name);
        // Some clients look for an address among the names.
        if let Ok(ip) = name.parse() {
            return self.has_address(ip);
        }
        let wildcard = name.split_once('.').map(|(_, domain)| format!("*.{domain}"));
        self.dns.contains(&name) || wildcard.is_some_and(|wildcard| self.dns.contains(&wildcard))
    }

    /// Whether an API server is believed at this address.
    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        // On every machine an API server may be believed there.
        ip.is_loopback() || ip.is_unspecified() || self.ips.contains(&ip)
    }
}

/// A name as it is compared: names have no case, and a full stop at the end means nothing.
fn plain(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_known_however_they_are_written() {
        let written = ["API.example.com.", "*.lb.example.com", "192.0.2.9", "fd00::9", "", "server-1"];
        let written = written.map(str::to_owned);
        let map = serde_json::from_value(object("n", &written).0).unwrap();
        let mut told = Names::default();
        told.add_all(&map);
        for names in [told, Names::of(&written)] {
            for (name, known) in [
                ("api.example.com", true),
                ("Api.Example.Com", true),
                ("server-1", true),
                ("a.lb.example.com", true),
                ("b.a.lb.example.com", false),
                ("lb.example.com", false),
                ("192.0.2.9", true),
                ("127.0.0.1", true),
                ("192.0.2.8", false),
                ("server-2", false),
                ("", false),
            ] {
                assert_eq!(names.has_name(name), known, "{name:?}");
            }
            for (ip, known) in [
                ("192.0.2.9", true),
                ("::ffff:192.0.2.9", true),
                ("fd00::9", true),
                ("fd00::8", false),
                ("127.0.0.53", true),
                ("::1", true),
                ("0.0.0.0", true),
            ] {
                assert_eq!(names.has_address(ip.parse().unwrap()), known, "{ip}");
            }
        }
    }
}
