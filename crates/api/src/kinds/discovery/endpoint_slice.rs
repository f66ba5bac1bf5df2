//! EndpointSlice: a part of the endpoints of a Service.
//! Upstream: pkg/registry/discovery/endpointslice, pkg/apis/discovery.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{dns_label, dns_subdomain, json, label_value, one_of, port_number, qualified_name};
use crate::kinds::core::service::special_address;
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::labels_errors;
use crate::types::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

/// The most labels of an endpoint's old topology.
const TOPOLOGY_MAX: usize = 16;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("AddressType", "string", "What its addresses are."),
            Column::new("Ports", "string", "The ports, at most three."),
            Column::new("Endpoints", "string", "The addresses, at most three."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<EndpointSlice>::new()
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Scope::Namespaced)
    }
}

fn default(slice: &mut EndpointSlice) {
    for port in items_mut(&mut slice.ports) {
        port.name.get_or_insert_default();
        default_text(&mut port.protocol, "TCP");
    }
    for endpoint in items_mut(&mut slice.endpoints) {
        endpoint.conditions.get_or_insert_default();
    }
}

fn validate(slice: &EndpointSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = Path::new("addressType");
    match &*slice.address_type {
        "" => errors.push(field::required(&kind, "")),
        "FQDN" | "IPv4" | "IPv6" => {}
        other => errors.push(field::not_supported(&kind, other, &["FQDN", "IPv4", "IPv6"])),
    }
    let endpoints = items(&slice.endpoints);
    let path = Path::new("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(field::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            self::endpoint(&mut errors, endpoint, &slice.address_type, &path.index(index));
        }
    }
    ports(&mut errors, items(&slice.ports), &Path::new("ports"));
    errors
}

fn endpoint(errors: &mut ErrorList, endpoint: &Endpoint, kind: &str, path: &Path) {
    let addresses_path = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.push(field::required(&addresses_path, "must contain at least 1 address")),
        many if many > ADDRESSES_MAX => errors.push(field::too_many(&addresses_path, many, ADDRESSES_MAX)),
        _ => {}
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses_path.index(index);
        match kind {
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                errors.push(field::invalid(&path, &**address, "must be an IPv4 address"));
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                errors.push(field::invalid(&path, &**address, "must be an IPv6 address"));
            }
            "IPv4" | "IPv6" => special_address(errors, address, &path),
            "FQDN" => domain(errors, address, &path),
            _ => {}
        }
    }
    if let Some(node) = &endpoint.node_name {
        dns_subdomain(errors, &path.child("nodeName"), node);
    }
    if let Some(hostname) = &endpoint.hostname {
        dns_label(errors, &path.child("hostname"), hostname);
    }
    if let Some(labels) = &endpoint.deprecated_topology {
        let path = path.child("deprecatedTopology");
        if labels.len() > TOPOLOGY_MAX {
            errors.push(field::too_many(&path, labels.len(), TOPOLOGY_MAX));
        }
        errors.extend(labels_errors(labels, &path));
    }
    if let Some(hints) = &endpoint.hints {
        let path = path.child("hints");
        let zones: Vec<&str> = items(&hints.for_zones).iter().map(|zone| zone.name.as_str()).collect();
        named(errors, &path.child("forZones"), &zones, label_value);
        let nodes: Vec<&str> = items(&hints.for_nodes).iter().map(|node| node.name.as_str()).collect();
        named(errors, &path.child("forNodes"), &nodes, dns_subdomain);
    }
}

/// Checks a list of hints: few, and each name once.
fn named(errors: &mut ErrorList, path: &Path, names: &[&str], check: fn(&mut ErrorList, &Path, &str)) {
    const HINTS_MAX: usize = 8;
    if names.len() > HINTS_MAX {
        errors.push(field::too_many(path, names.len(), HINTS_MAX));
        return;
    }
    for (index, name) in names.iter().enumerate() {
        let path = path.index(index).child("name");
        if names[..index].contains(name) {
            errors.push(field::duplicate(&path, *name));
        }
        check(errors, &path, name);
    }
}

fn ports(errors: &mut ErrorList, ports: &[EndpointPort], path: &Path) {
    if ports.len() > PORTS_MAX {
        errors.push(field::too_many(path, ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            dns_label(errors, &path.child("name"), name);
        }
        if !seen.insert(name) {
            errors.push(field::duplicate(&path.child("name"), json(&port.name)));
        }
        one_of(errors, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port.port {
            port_number(errors, &path.child("port"), number);
        }
        if let Some(protocol) = &port.app_protocol {
            qualified_name(errors, &path.child("appProtocol"), protocol);
        }
    }
}

fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> ErrorList {
    let mut errors = validate(new);
    crate::meta_validation::immutable(
        &mut errors,
        &Path::new("addressType"),
        &new.address_type,
        &old.address_type,
    );
    errors
}

/// A name of at least two labels; a dot may follow it.
fn domain(errors: &mut ErrorList, address: &str, path: &Path) {
    if address.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    let name = address.strip_suffix('.').unwrap_or(address);
    let before = errors.len();
    dns_subdomain(errors, path, name);
    if errors.len() > before {
        return;
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(field::invalid(path, name, detail));
        return;
    }
    for label in name.split('.') {
        dns_label(errors, path, label);
    }
}

/// The controllers' own are in order, and written often: their addresses are not looked at.
fn warnings(slice: &EndpointSlice, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if slice.address_type == "FQDN" {
        // `spec` is upstream's slip: the kind has none.
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get("endpointslice.kubernetes.io/managed-by"));
    let own = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    if manager.is_some_and(|manager| own.contains(&manager.as_str())) {
        return warnings;
    }
    for (index, endpoint) in items(&slice.endpoints).iter().enumerate() {
        let path = Path::new("endpoints").index(index).child("addresses");
        for (index, address) in endpoint.addresses.iter().enumerate() {
            warn::ip(&mut warnings, &path.index(index), address);
        }
    }
    warnings
}

fn cells(slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(&slice.ports)
        .iter()
        .map(|port| match (port.port, &port.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        items(&slice.endpoints).iter().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
    vec![
        row::name(&slice.metadata),
        slice.address_type.clone().into(),
        row::first_three(&ports, "<unset>").into(),
        row::first_three(&addresses, "<unset>").into(),
        row::age(&slice.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks() {
        for (slice, errors) in [
            (json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}), 0),
            (json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]}), 1),
            (json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}), 1),
            (json!({"addressType": "x", "endpoints": []}), 1),
            (json!({"addressType": "FQDN", "endpoints": [{"addresses": ["localhost", "a.b"]}]}), 1),
            (json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b."]}], "ports": [{}, {}]}), 1),
        ] {
            let mut object: EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
            default(&mut object);
            assert_eq!(validate(&object).len(), errors, "{slice}");
        }
    }
}
