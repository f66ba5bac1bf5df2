//! Decides which map elements a Service needs: the pure half of the proxy.
//!
//! Reads a Service and its EndpointSlices; returns [`Elements`]. Not here: telling the kernel (`executor`), the
//! fixed chains (`ruleset`).
//!
//! Upstream: pkg/proxy/{serviceport,endpoints,topology}.go for which endpoints are eligible.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use api::types::{core::v1::Service, discovery::v1::EndpointSlice};
use jiff::Timestamp;
use sys::nftables::{Data, Element, Verdict};

use crate::ruleset::{Balance, Entry, Policy, SetName};

/// Every set and map with the elements it must hold.
pub type Elements = BTreeSet<(SetName, Element)>;

/// What the kernel must know for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// When the Service was made: of two that ask for one entry the older has it.
    pub created: Option<Timestamp>,
    /// Elements that several Services may need, none of which carries data.
    pub shared: Elements,
    /// What clients connect to. Several Services may ask for one entry, and one of them can have it.
    pub entries: BTreeMap<Entry, EntryPlan>,
}

/// What the kernel must know for one entry of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPlan {
    /// What kind of entry it is to the Service.
    pub claim: Claim,
    /// Elements of sets and maps: keyed by the entry, so there can be no others for it.
    pub elements: Elements,
    /// The chain the elements lead to.
    pub chain: Option<Balance>,
    /// The endpoints that serve it now.
    pub backends: BTreeSet<Backend>,
}

/// How an entry has come to a Service; what is less goes before the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// The server has given it to this Service alone: its cluster address, a node port.
    Allocated,
    /// Anybody may ask for it: an external address, one that a load balancer has.
    Requested,
}

/// Where this proxy runs.
#[derive(Clone, Debug)]
pub struct Here {
    /// Name of the node.
    pub node_name: String,
}

/// Address and port of an endpoint.
pub type Backend = (Ipv4Addr, u16);

struct Candidate {
    backend: Backend,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
}

/// Plans one Service with the slices that carry its name.
pub fn plan(service: &Service, slices: &[Arc<EndpointSlice>], here: &Here) -> ServicePlan {
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut plan = ServicePlan { created, ..ServicePlan::default() };
    let Some(spec) = &service.spec else { return plan };
    let cluster_ips: Vec<Ipv4Addr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    // Headless Services have the word "None" in place of an address, ExternalName Services nothing.
    if cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        config.and_then(|client| client.timeout_seconds).map_or(10_800, i32::unsigned_abs)
    });
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let external_ips: Vec<Ipv4Addr> = external_addresses(service);

    for ip in &cluster_ips {
        plan.shared.insert((SetName::ClusterIps, element(address(*ip), None)));
    }
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol_number(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let candidates = candidates(slices, port.name.as_deref().unwrap_or_default(), protocol, here);
        let all = eligible(&candidates, false);
        let local = eligible(&candidates, true);
        for (ip, _) in &all {
            plan.shared.insert((SetName::Hairpin, element([address(*ip), address(*ip)].concat(), None)));
        }
        let inside = if internal_local { &local } else { &all };
        for ip in &cluster_ips {
            let entry = Entry::Address(*ip, protocol, number);
            // Traffic from outside the pods' network to a cluster address must come back through this node.
            plan.balance(entry, Claim::Allocated, Policy::Internal, affinity, inside);
        }
        let (outside, policy) =
            if external_local { (&local, Policy::Local) } else { (&all, Policy::External) };
        for ip in &external_ips {
            let entry = Entry::Address(*ip, protocol, number);
            plan.balance(entry, Claim::Requested, policy, affinity, outside);
        }
        if let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|p| *p > 0) {
            let entry = Entry::NodePort(protocol, node_port);
            plan.balance(entry, Claim::Allocated, policy, affinity, outside);
        }
    }
    plan
}

impl ServicePlan {
    /// Adds an entry, unless the Service has it already: its own cluster address may also be an external one.
    fn balance(
        &mut self,
        entry: Entry,
        claim: Claim,
        policy: Policy,
        affinity: Option<u32>,
        backends: &BTreeSet<Backend>,
    ) {
        let Ok(count) = u32::try_from(backends.len()) else { return };
        let mut elements = Elements::new();
        let mut chain = None;
        if count > 0 {
            let balance =
                Balance { node_port: matches!(entry, Entry::NodePort(..)), policy, count, affinity };
            let (entries, endpoints) = entry.sets();
            let verdict = Data::Verdict(Verdict::Goto(balance.name()));
            elements.insert((entries, element(entry.key(), Some(verdict))));
            for (index, (ip, port)) in (0_u32..).zip(backends) {
                let key = [entry.key(), index.to_ne_bytes().to_vec()].concat();
                let target = [address(*ip), port_bytes(*port)].concat();
                elements.insert((endpoints, element(key, Some(Data::Value(target)))));
            }
            chain = Some(balance);
        } else if policy != Policy::Internal {
            // Cluster addresses have a set of their own, for all their ports.
            let unserved = match entry {
                Entry::Address(..) => SetName::NoEndpoints,
                Entry::NodePort(..) => SetName::NoEndpointNodePorts,
            };
            elements.insert((unserved, element(entry.key(), None)));
        }
        let backends = backends.clone();
        self.entries.entry(entry).or_insert(EntryPlan { claim, elements, chain, backends });
    }
}

fn external_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let fixed = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten()).cloned();
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        // "Proxy" says that the load balancer itself delivers to the nodes.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.clone());
    let unique: BTreeSet<Ipv4Addr> = fixed.chain(ingress).filter_map(|ip| ip.parse().ok()).collect();
    unique.into_iter().collect()
}

fn candidates(slices: &[Arc<EndpointSlice>], port_name: &str, protocol: u8, here: &Here) -> Vec<Candidate> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && protocol_number(port.protocol.as_deref()) == Some(protocol)
        });
        for port in ports.filter_map(|port| u16::try_from(port.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let ready = conditions.ready.unwrap_or(true);
                // Only the first address counts: the API says that the rest is ignored.
                let address = endpoint.addresses.first().and_then(|address| address.parse().ok());
                found.extend(address.map(|ip| Candidate {
                    backend: (ip, port),
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                    local: endpoint.node_name.as_deref() == Some(&here.node_name),
                }));
            }
        }
    }
    found
}

/// The ready endpoints; where there are none, those that still serve while they terminate.
fn eligible(candidates: &[Candidate], local_only: bool) -> BTreeSet<Backend> {
    let here = |candidate: &&Candidate| !local_only || candidate.local;
    let ready: BTreeSet<Backend> =
        candidates.iter().filter(here).filter(|c| c.ready).map(|c| c.backend).collect();
    if !ready.is_empty() {
        return ready;
    }
    candidates.iter().filter(here).filter(|c| c.serving && c.terminating).map(|c| c.backend).collect()
}

fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn element(key: Vec<u8>, data: Option<Data>) -> Element {
    Element { key, data }
}

pub(crate) fn address(ip: Ipv4Addr) -> Vec<u8> {
    ip.octets().to_vec()
}

/// A port in network order, padded to a register.
pub(crate) fn port_bytes(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn here() -> Here {
        Here { node_name: "here".into() }
    }

    fn service(spec: serde_json::Value) -> Service {
        let mut spec = spec;
        spec["clusterIPs"] = json!(["10.43.0.7"]);
        if spec["ports"].is_null() {
            spec["ports"] = json!([{"name": "web", "port": 80, "protocol": "TCP"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    fn slices(endpoints: serde_json::Value) -> Vec<Arc<EndpointSlice>> {
        let slice = json!({"metadata": {"name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}]});
        vec![Arc::new(serde_json::from_value(slice).unwrap())]
    }

    fn endpoint(ip: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> serde_json::Value {
        json!({"addresses": [ip], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn elements(plan: &ServicePlan) -> Elements {
        let entries = plan.entries.values().flat_map(|entry| &entry.elements);
        plan.shared.iter().chain(entries).cloned().collect()
    }

    fn count(plan: &ServicePlan, set: SetName) -> usize {
        elements(plan).iter().filter(|(name, _)| *name == set).count()
    }

    fn chains(plan: &ServicePlan) -> Vec<String> {
        let chains: BTreeSet<Balance> = plan.entries.values().filter_map(|entry| entry.chain).collect();
        chains.iter().map(Balance::name).collect()
    }

    #[test]
    fn ready_endpoints_share_the_load() {
        let endpoints = json!([
            endpoint("10.42.0.2", "here", true, true, false),
            endpoint("10.42.1.2", "there", true, true, false),
            endpoint("10.42.1.3", "there", false, false, false),
        ]);
        let plan = plan(&service(json!({})), &slices(endpoints), &here());
        assert_eq!(chains(&plan), ["internal-2"]);
        assert_eq!(count(&plan, SetName::Services), 1);
        assert_eq!(count(&plan, SetName::ServiceEndpoints), 2);
        assert_eq!(count(&plan, SetName::ClusterIps), 1);
        assert_eq!(count(&plan, SetName::Hairpin), 2);
        let elements = elements(&plan);
        let (_, entry) = elements.iter().find(|(set, _)| *set == SetName::Services).unwrap();
        assert_eq!(entry.key, [10, 43, 0, 7, 6, 0, 0, 0, 0, 80, 0, 0]);
        let (_, first) = elements.iter().find(|(set, _)| *set == SetName::ServiceEndpoints).unwrap();
        assert_eq!(first.data, Some(Data::Value(vec![10, 42, 0, 2, 0x1f, 0x90, 0, 0])));
    }

    #[test]
    fn which_endpoints_are_eligible() {
        let terminating = endpoint("10.42.0.2", "here", false, true, true);
        let ready_there = endpoint("10.42.1.2", "there", true, true, false);
        let gone = endpoint("10.42.1.3", "there", false, false, true);
        let local = json!({"internalTrafficPolicy": "Local"});
        let cases = [
            (
                "terminating ones serve only when nothing else does",
                json!({}),
                json!([terminating]),
                vec!["internal-1"],
            ),
            ("a ready one is preferred", json!({}), json!([terminating, ready_there]), vec!["internal-1"]),
            ("none", json!({}), json!([gone]), vec![]),
            ("none here", local.clone(), json!([ready_there]), vec![]),
            ("here", local, json!([terminating, ready_there]), vec!["internal-1"]),
            ("headless", json!({"clusterIP": "None"}), json!([]), vec![]),
            (
                "sticky",
                json!({"sessionAffinity": "ClientIP"}),
                json!([ready_there]),
                vec!["internal-1-sticky-10800"],
            ),
            (
                "sticky for a while",
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
                json!([ready_there]),
                vec!["internal-1-sticky-5"],
            ),
        ];
        for (name, spec, endpoints, expected) in cases {
            assert_eq!(chains(&plan(&service(spec), &slices(endpoints), &here())), expected, "{name}");
        }
    }

    #[test]
    fn node_ports_and_external_addresses() {
        let port = json!([{"name": "web", "port": 80, "nodePort": 30080}]);
        let spec = |policy: &str| {
            service(
                json!({"type": "NodePort", "ports": port, "externalTrafficPolicy": policy, "externalIPs": ["192.0.2.1"]}),
            )
        };
        let there = slices(json!([endpoint("10.42.1.2", "there", true, true, false)]));
        let cluster = plan(&spec("Cluster"), &there, &here());
        assert_eq!(chains(&cluster), ["internal-1", "external-1", "node-external-1"]);
        assert_eq!(count(&cluster, SetName::NodePorts), 1);
        let local = plan(&spec("Local"), &there, &here());
        assert_eq!(chains(&local), ["internal-1"]);
        assert_eq!(count(&local, SetName::NoEndpointNodePorts), 1);
        assert_eq!(count(&local, SetName::NoEndpoints), 1);
    }
}
