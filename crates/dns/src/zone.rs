//! What the cluster's zone says about a name: the pure half of the DNS.
//!
//! Reads Services and their EndpointSlices through [`View`]; returns an [`Answer`]. Not here: sockets and messages
//! (`server`), names outside the cluster (`forward`).
//!
//! Upstream: the Kubernetes DNS specification 1.1 and CoreDNS's kubernetes plugin (pods insecure).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use api::types::{core::v1::Service, discovery::v1::EndpointSlice};

/// Version of the specification, which the zone tells at `dns-version`.
const VERSION: &str = "1.1.0";

/// The objects that names come from.
pub trait View {
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Service with a cluster address.
    fn service_of(&self, address: &str) -> Option<Arc<Service>>;
    /// The slices that hold an endpoint's address.
    fn slices_of(&self, address: &str) -> Vec<Arc<EndpointSlice>>;
    /// Whether there is a Service in a namespace: then the namespace's name exists.
    fn has_namespace(&self, namespace: &str) -> bool;
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports.
    Srv,
    /// Names of addresses.
    Ptr,
    /// Text.
    Txt,
    /// Anything else, of which the zone has nothing.
    Other,
}

/// One record's content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// A port on a target; the record's owner is what was asked for.
    Port {
        /// The port.
        port: u16,
        /// Name of the target.
        target: String,
        /// Addresses of the target, told alongside.
        addresses: Vec<IpAddr>,
    },
    /// A name: of an address.
    Pointer(String),
    /// Another name for what was asked for.
    Alias(String),
    /// Text.
    Text(String),
}

/// What the zone says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name is not in this zone: ask others.
    NotHere,
    /// There is no such name.
    NoName,
    /// The name exists; maybe with nothing of the kind asked for.
    Records(Vec<Data>),
}

/// The zone of a cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    /// The cluster's domain, lower case, without the last dot.
    pub domain: String,
}

impl Zone {
    /// The name of a Service.
    fn service_name(&self, namespace: &str, service: &str) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }

    /// Answers for a name in lower case without its last dot.
    pub fn answer(&self, view: &dyn View, name: &str, kind: Kind) -> Answer {
        if let Some(address) = reverse(name) {
            return self.reverse_answer(view, address, kind);
        }
        let Some(inside) = name.strip_suffix(&self.domain) else { return Answer::NotHere };
        if inside.is_empty() {
            return Answer::Records(Vec::new());
        }
        let Some(inside) = inside.strip_suffix('.') else { return Answer::NotHere };
        let labels: Vec<&str> = inside.split('.').collect();
        match labels.as_slice() {
            ["dns-version"] => of_kind(vec![Data::Text(VERSION.into())], kind),
            ["svc" | "pod"] => Answer::Records(Vec::new()),
            [namespace, "svc" | "pod"] if view.has_namespace(namespace) => Answer::Records(Vec::new()),
            [pod, _, "pod"] => match dashed(pod) {
                Some(address) => of_kind(vec![Data::Address(address)], kind),
                None => Answer::NoName,
            },
            [.., namespace, "svc"] => {
                let rest = &labels[..labels.len() - 2];
                let Some((service, before)) = rest.split_last() else { return Answer::NoName };
                match view.service(namespace, service) {
                    Some(found) => self.service_answer(view, &found, before, kind),
                    None => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }

    fn service_answer(&self, view: &dyn View, service: &Service, before: &[&str], kind: Kind) -> Answer {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
            return Answer::NoName;
        };
        let Some(spec) = &service.spec else { return Answer::NoName };
        if spec.type_.as_deref() == Some("ExternalName") {
            return match (&spec.external_name, before) {
                (Some(target), []) => {
                    Answer::Records(vec![Data::Alias(target.trim_end_matches('.').to_lowercase())])
                }
                _ => Answer::NoName,
            };
        }
        let own_name = self.service_name(namespace, name);
        let cluster_ips: Vec<IpAddr> = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()))
            .filter_map(|ip| ip.parse().ok())
            .collect();
        let headless = cluster_ips.is_empty();
        let targets = if headless {
            endpoints(&view.slices(namespace, name), spec.publish_not_ready_addresses.unwrap_or(false))
        } else {
            let port = |port: &api::types::core::v1::ServicePort| Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: u16::try_from(port.port).unwrap_or_default(),
            };
            let ports: Vec<Port> = spec.ports.iter().flatten().map(port).collect();
            vec![Target { host: None, addresses: cluster_ips, ports }]
        };
        let addresses_of = |targets: &[&Target]| -> Vec<Data> {
            let unique: BTreeSet<IpAddr> = targets.iter().flat_map(|t| t.addresses.iter().copied()).collect();
            unique.into_iter().map(Data::Address).collect()
        };
        let srv = |wanted: Option<(&str, &str)>| -> Vec<Data> {
            let mut records: Vec<Data> = Vec::new();
            for target in &targets {
                let target_name = match &target.host {
                    Some(host) => format!("{host}.{own_name}"),
                    None => own_name.clone(),
                };
                for port in &target.ports {
                    let fits = wanted.is_none_or(|(name, protocol)| {
                        port.name.eq_ignore_ascii_case(name) && port.protocol.eq_ignore_ascii_case(protocol)
                    });
                    if fits {
                        records.push(Data::Port {
                            port: port.number,
                            target: target_name.clone(),
                            addresses: target.addresses.clone(),
                        });
                    }
                }
            }
            records.sort();
            records.dedup();
            records
        };
        match before {
            [] if headless && targets.is_empty() => Answer::NoName,
            [] => {
                let all: Vec<&Target> = targets.iter().collect();
                let mut records = addresses_of(&all);
                records.extend(srv(None));
                of_kind(records, kind)
            }
            [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => match srv(Some((port, protocol))) {
                    records if records.is_empty() => Answer::NoName,
                    records => of_kind(records, kind),
                },
                _ => Answer::NoName,
            },
            [host] if headless => {
                let fitting: Vec<&Target> =
                    targets.iter().filter(|target| target.host.as_deref() == Some(*host)).collect();
                if fitting.is_empty() { Answer::NoName } else { of_kind(addresses_of(&fitting), kind) }
            }
            _ => Answer::NoName,
        }
    }

    fn reverse_answer(&self, view: &dyn View, address: IpAddr, kind: Kind) -> Answer {
        let text = address.to_string();
        let mut names = BTreeSet::new();
        if let Some(service) = view.service_of(&text)
            && let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name)
        {
            names.insert(self.service_name(namespace, name));
        }
        for slice in view.slices_of(&text) {
            let Some((namespace, service)) = slice_owner(&slice) else { continue };
            for endpoint in slice.endpoints.iter().flatten().filter(|e| e.addresses.contains(&text)) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashes(&text));
                names.insert(format!("{host}.{}", self.service_name(namespace, service)));
            }
        }
        if names.is_empty() {
            // The address may be outside the cluster: whoever is asked next knows better.
            return Answer::NotHere;
        }
        of_kind(names.into_iter().map(Data::Pointer).collect(), kind)
    }
}

/// Namespace and name of the Service a slice belongs to.
pub fn slice_owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some((slice.metadata.namespace.as_deref()?, service))
}

struct Port {
    name: String,
    protocol: String,
    number: u16,
}

struct Target {
    host: Option<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
}

fn endpoints(slices: &[Arc<EndpointSlice>], not_ready_too: bool) -> Vec<Target> {
    let mut targets = Vec::new();
    for slice in slices {
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let Some(text) = endpoint.addresses.first().filter(|_| ready || not_ready_too) else { continue };
            let Ok(address) = text.parse() else { continue };
            let ports = slice.ports.iter().flatten().filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    number: u16::try_from(port.port?).ok()?,
                })
            });
            let host = endpoint.hostname.clone().unwrap_or_else(|| dashes(text));
            targets.push(Target { host: Some(host), addresses: vec![address], ports: ports.collect() });
        }
    }
    targets
}

/// The records of a kind; an alias answers every kind.
fn of_kind(records: Vec<Data>, kind: Kind) -> Answer {
    let fits = |data: &Data| match data {
        Data::Address(IpAddr::V4(_)) => kind == Kind::A,
        Data::Address(IpAddr::V6(_)) => kind == Kind::Aaaa,
        Data::Port { .. } => kind == Kind::Srv,
        Data::Pointer(_) => kind == Kind::Ptr,
        Data::Text(_) => kind == Kind::Txt,
        Data::Alias(_) => true,
    };
    Answer::Records(records.into_iter().filter(fits).collect())
}

fn dashes(address: &str) -> String {
    address.replace(['.', ':'], "-")
}

/// The address written with dashes, as pods' names have it.
fn dashed(label: &str) -> Option<IpAddr> {
    if let Ok(address) = label.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// The address of a name under in-addr.arpa or ip6.arpa.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = rest.rsplit('.').collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<u8> =
        rest.split('.').map(|d| u8::from_str_radix(d, 16)).collect::<Result<_, _>>().ok()?;
    if digits.len() != 32 {
        return None;
    }
    let value = digits.iter().rev().fold(0_u128, |value, digit| value << 4 | u128::from(*digit & 15));
    Some(IpAddr::V6(value.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Cluster {
        services: Vec<Arc<Service>>,
        slices: Vec<Arc<EndpointSlice>>,
    }

    impl View for Cluster {
        fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
            let fits = |s: &&Arc<Service>| {
                s.metadata.namespace.as_deref() == Some(namespace) && s.metadata.name.as_deref() == Some(name)
            };
            self.services.iter().find(fits).cloned()
        }
        fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
            let fits = |s: &&Arc<EndpointSlice>| slice_owner(s) == Some((namespace, service));
            self.slices.iter().filter(fits).cloned().collect()
        }
        fn service_of(&self, address: &str) -> Option<Arc<Service>> {
            let has = |s: &&Arc<Service>| s.spec.as_ref().unwrap().cluster_ip.as_deref() == Some(address);
            self.services.iter().find(has).cloned()
        }
        fn slices_of(&self, address: &str) -> Vec<Arc<EndpointSlice>> {
            let has =
                |s: &&Arc<EndpointSlice>| s.endpoints.iter().flatten().any(|e| e.addresses[0] == address);
            self.slices.iter().filter(has).cloned().collect()
        }
        fn has_namespace(&self, namespace: &str) -> bool {
            self.services.iter().any(|s| s.metadata.namespace.as_deref() == Some(namespace))
        }
    }

    fn cluster() -> Cluster {
        let service = |name: &str, spec: serde_json::Value| {
            let value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let slice = json!({
            "metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.42.0.5"], "hostname": "db-0"},
                {"addresses": ["10.42.0.6"]},
                {"addresses": ["10.42.0.7"], "conditions": {"ready": false}},
            ],
        });
        Cluster {
            services: vec![
                service(
                    "web",
                    json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": ports}),
                ),
                service("db", json!({"clusterIP": "None", "clusterIPs": ["None"]})),
                service("empty", json!({"clusterIP": "None", "clusterIPs": ["None"]})),
                service("out", json!({"type": "ExternalName", "externalName": "Example.COM."})),
            ],
            slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
        }
    }

    fn ask(name: &str, kind: Kind) -> String {
        let zone = Zone { domain: "cluster.local".into() };
        match zone.answer(&cluster(), name, kind) {
            Answer::NotHere => "elsewhere".into(),
            Answer::NoName => "none".into(),
            Answer::Records(records) => {
                let text = |data: &Data| match data {
                    Data::Address(address) => address.to_string(),
                    Data::Port { port, target, .. } => format!("{target}:{port}"),
                    Data::Pointer(name) | Data::Alias(name) | Data::Text(name) => name.clone(),
                };
                records.iter().map(text).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn names_are_those_of_the_specification() {
        let cases = [
            ("web.default.svc.cluster.local", Kind::A, "10.43.0.7"),
            ("web.default.svc.cluster.local", Kind::Aaaa, ""),
            ("web.default.svc.cluster.local", Kind::Srv, "web.default.svc.cluster.local:80"),
            ("_http._tcp.web.default.svc.cluster.local", Kind::Srv, "web.default.svc.cluster.local:80"),
            ("_http._udp.web.default.svc.cluster.local", Kind::Srv, "none"),
            ("web.other.svc.cluster.local", Kind::A, "none"),
            ("x.web.default.svc.cluster.local", Kind::A, "none"),
            ("db.default.svc.cluster.local", Kind::A, "10.42.0.5 10.42.0.6"),
            ("db-0.db.default.svc.cluster.local", Kind::A, "10.42.0.5"),
            ("10-42-0-6.db.default.svc.cluster.local", Kind::A, "10.42.0.6"),
            ("10-42-0-7.db.default.svc.cluster.local", Kind::A, "none"),
            (
                "_sql._tcp.db.default.svc.cluster.local",
                Kind::Srv,
                "10-42-0-6.db.default.svc.cluster.local:5432 db-0.db.default.svc.cluster.local:5432",
            ),
            ("empty.default.svc.cluster.local", Kind::A, "none"),
            ("out.default.svc.cluster.local", Kind::A, "example.com"),
            ("10-42-0-9.default.pod.cluster.local", Kind::A, "10.42.0.9"),
            ("nonsense.default.pod.cluster.local", Kind::A, "none"),
            ("dns-version.cluster.local", Kind::Txt, "1.1.0"),
            ("default.svc.cluster.local", Kind::A, ""),
            ("svc.cluster.local", Kind::A, ""),
            ("cluster.local", Kind::A, ""),
            ("nothing.cluster.local", Kind::A, "none"),
            ("notcluster.local", Kind::A, "elsewhere"),
            ("example.com", Kind::A, "elsewhere"),
            ("7.0.43.10.in-addr.arpa", Kind::Ptr, "web.default.svc.cluster.local"),
            ("5.0.42.10.in-addr.arpa", Kind::Ptr, "db-0.db.default.svc.cluster.local"),
            ("6.0.42.10.in-addr.arpa", Kind::Ptr, "10-42-0-6.db.default.svc.cluster.local"),
            ("1.1.1.1.in-addr.arpa", Kind::Ptr, "elsewhere"),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(ask(name, kind), expected, "{name} {kind:?}");
        }
    }
}
