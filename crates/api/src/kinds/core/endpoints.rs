//! Endpoints: the addresses behind a Service, in the old form that EndpointSlices replace.
//! Upstream: pkg/registry/core/endpoint, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::service::special_address;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{dns_label, dns_subdomain, ip, one_of, port_number, qualified_name};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::types::core::v1::{EndpointAddress, EndpointPort, Endpoints};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ep".into()],
        columns: vec![
            Column::object_name(),
            Column::new("Endpoints", "string", "The addresses and ports, at most three."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<Endpoints>::new()
                .default_with(default)
                .validate(validate)
                .warnings(warnings)
                .cells(cells),
        ),
        create_on_update: true,
        deprecated: Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
        ),
        ..Descriptor::new("", "v1", "Endpoints", "endpoints", Scope::Namespaced)
    }
}

fn default(endpoints: &mut Endpoints) {
    for subset in items_mut(&mut endpoints.subsets) {
        for port in items_mut(&mut subset.ports) {
            default_text(&mut port.protocol, "TCP");
        }
    }
}

fn validate(endpoints: &Endpoints) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, subset) in items(&endpoints.subsets).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        let (ready, not_ready) = (items(&subset.addresses), items(&subset.not_ready_addresses));
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(field::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (name, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (index, one) in list.iter().enumerate() {
                address(&mut errors, one, &path.child(name).index(index));
            }
        }
        let ports = items(&subset.ports);
        for (index, one) in ports.iter().enumerate() {
            port(&mut errors, one, ports.len() > 1, &path.child("ports").index(index));
        }
    }
    errors
}

fn address(errors: &mut ErrorList, address: &EndpointAddress, path: &Path) {
    ip(errors, &path.child("ip"), &address.ip);
    if !text(&address.hostname).is_empty() {
        dns_label(errors, &path.child("hostname"), text(&address.hostname));
    }
    if let Some(node) = &address.node_name {
        dns_subdomain(errors, &path.child("nodeName"), node);
    }
    special_address(errors, &address.ip, &path.child("ip"));
}

fn port(errors: &mut ErrorList, port: &EndpointPort, needs_name: bool, path: &Path) {
    let name = text(&port.name);
    if !name.is_empty() {
        dns_label(errors, &path.child("name"), name);
    } else if needs_name {
        errors.push(field::required(&path.child("name"), ""));
    }
    port_number(errors, &path.child("port"), port.port);
    one_of(errors, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
    if let Some(protocol) = &port.app_protocol {
        qualified_name(errors, &path.child("appProtocol"), protocol);
    }
}

/// The controller's own are in order, and written often: they are not looked at.
fn warnings(endpoints: &Endpoints, _: Option<&Value>) -> Vec<String> {
    let labels = endpoints.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get("endpoints.kubernetes.io/managed-by"));
    let mut warnings = Vec::new();
    if manager.is_some_and(|manager| manager == "endpoint-controller") {
        return warnings;
    }
    for (index, subset) in items(&endpoints.subsets).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        for (name, addresses) in lists {
            for (index, address) in items(addresses).iter().enumerate() {
                warn::ip(&mut warnings, &path.child(name).index(index).child("ip"), &address.ip);
            }
        }
    }
    warnings
}

fn cells(endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in items(&endpoints.subsets) {
        let addresses = items(&subset.addresses);
        match items(&subset.ports) {
            [] => list.extend(addresses.iter().map(|address| address.ip.clone())),
            ports => list.extend(ports.iter().flat_map(|port| {
                addresses.iter().map(move |address| match address.ip.contains(':') {
                    true => format!("[{}]:{}", address.ip, port.port),
                    false => format!("{}:{}", address.ip, port.port),
                })
            })),
        }
    }
    let empty = if items(&endpoints.subsets).is_empty() { row::NONE } else { "" };
    vec![
        row::name(&endpoints.metadata),
        row::first_three(&list, empty).into(),
        row::age(&endpoints.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks_and_rows() {
        let endpoints = |subsets: Value| {
            let mut endpoints: Endpoints =
                serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": subsets})).unwrap();
            default(&mut endpoints);
            endpoints
        };
        for (subsets, errors, shown) in [
            (json!([]), 0, "<none>"),
            (json!([{}]), 1, ""),
            (json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]), 0, "10.0.0.1:80"),
            (json!([{"addresses": [{"ip": "127.0.0.1"}]}]), 1, "127.0.0.1"),
            (
                json!([{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}]}]),
                0,
                "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...",
            ),
        ] {
            let endpoints = endpoints(subsets.clone());
            assert_eq!(validate(&endpoints).len(), errors, "{subsets}");
            assert_eq!(cells(&endpoints, Timestamp::UNIX_EPOCH)[1], shown);
        }
    }
}
