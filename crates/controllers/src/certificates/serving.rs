//! Approves the requests of nodes for the certificates of their own servers, where every name and address asked for is the
//! node's.
//!
//! Reads CertificateSigningRequests, Nodes, and where the API servers are found and what they are called; writes the
//! approval. A request that asks for more is left to a person. What a node says of its own name and addresses is not
//! enough: an API server's, or an address that an older Node has too, would let a node answer in another's name.
//! Upstream: none; it leaves these requests to others (`rules::node_server` are its rules of the signer). k3s signs such
//! certificates for its agents itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::types::certificates::v1::CertificateSigningRequest;
use api::types::core::v1::{ConfigMap, Node, Service};
use api::types::discovery::v1::EndpointSlice;
use client::ListOptions;
use jiff::Timestamp;
use pki::csr::Subject;
use reconcile::{Action, Caches, Controller, Key, Plan, View, Watches};

use super::api_servers::{LABEL, NAMESPACE, Names};
use super::{approving, has, is_issued, rules, subject};

/// The controller.
pub struct ServingApproval {
    /// What the API server beside this controller is called, whatever stands in the cluster.
    own: Names,
}

/// Index of undecided requests by who asks.
const BY_REQUESTER: &str = "serving-approval/requester";
/// Index of Nodes by their addresses.
const BY_ADDRESS: &str = "serving-approval/address";
const NODE: &str = "system:node:";
const MESSAGE: &str = "Auto approving kubelet serving certificate for the names and addresses of its node.";

impl ServingApproval {
    /// Beside an API server that has these names and addresses.
    pub fn new(api_server_names: &[String]) -> ServingApproval {
        ServingApproval { own: Names::of(api_server_names) }
    }

    /// What all API servers are called.
    fn api_servers(&self, view: &View<'_>) -> Names {
        let mut names = self.own.clone();
        let maps = view.list_namespace::<ConfigMap>(NAMESPACE);
        maps.iter().for_each(|map| names.add_all(map));
        names
    }
}

impl Controller for ServingApproval {
    const NAME: &'static str = "kubelet-serving-approver";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<CertificateSigningRequest>();
        watches.index::<CertificateSigningRequest>(BY_REQUESTER, |request| {
            let waits = is_undecided(request);
            request.spec.username.clone().filter(|_| waits).into_iter().collect()
        });
        watches.index::<Node>(BY_ADDRESS, addresses);
        watches.read::<Service>().read::<EndpointSlice>();
        watches.select::<ConfigMap>(ListOptions::labels(format!("{}={}", LABEL.0, LABEL.1)));
        // A server that is none any more sets its names free.
        watches.map::<ConfigMap>(|caches: &Caches, _, wake| {
            let requests = caches.list::<CertificateSigningRequest>();
            requests
                .iter()
                .filter(|request| is_undecided(request))
                .for_each(|request| wake(Key::of(&**request)));
        });
        // A node asks as soon as it is there, perhaps before the cache knows its addresses; and what stands in the way of one
        // is what another Node says of itself.
        watches.map::<Node>(|caches: &Caches, change, wake| {
            let node = change.object();
            let (before, after) = (change.old().map(|old| addresses(old)), addresses(node));
            if before.as_ref() == Some(&after) {
                return;
            }
            let mut concerned = BTreeSet::from([node.metadata.name.clone().unwrap_or_default()]);
            for address in before.iter().flatten().chain(&after) {
                let others = caches.by_index::<Node>(BY_ADDRESS, address);
                concerned.extend(others.iter().filter_map(|other| other.metadata.name.clone()));
            }
            let requests = caches.informer::<CertificateSigningRequest>();
            for name in concerned {
                for request in requests.by_index(BY_REQUESTER, &format!("{NODE}{name}")) {
                    wake(Key::of(&*request));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.get_key::<CertificateSigningRequest>(key) else { return plan };
        if !is_undecided(&request) {
            return plan;
        }
        match judge(view, &request, &self.api_servers(view)) {
            Ok(()) => {
                let approved = approving::approved(&request, MESSAGE, now);
                plan.act(Action::update_subresource(&approved, "approval"));
            }
            Err(reason) => {
                tracing::info!(request = key.name(), reason, "a serving certificate is not approved");
            }
        }
        plan
    }
}

fn is_undecided(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == rules::NODE_SERVER
        && !is_issued(request)
        && !has(request, "Approved")
        && !has(request, "Denied")
}

/// The addresses of a node, of whatever type, each written in the one way in which it is compared.
fn addresses(node: &Node) -> Vec<String> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let plain = |text: &str| text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |ip| written(&ip));
    addresses.iter().map(|address| plain(&address.address)).collect()
}

/// An address as it is compared: to a client that verifies one, an IPv4 address within IPv6 is the IPv4 address.
fn written(ip: &IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// Which of two Nodes was there first.
fn age(node: &Node) -> (Option<Timestamp>, Option<&str>) {
    (node.metadata.creation_timestamp.as_ref().map(|time| time.0), node.metadata.name.as_deref())
}

/// Whether the node may have what it asks for, or why not.
fn judge(view: &View<'_>, request: &CertificateSigningRequest, api_servers: &Names) -> Result<(), String> {
    let subject = subject(request)?;
    let spec = &request.spec;
    rules::node_server(&subject, spec.usages.as_deref().unwrap_or_default())?;
    let requester = spec.username.as_deref().unwrap_or_default();
    let in_nodes = spec.groups.iter().flatten().any(|group| group == "system:nodes");
    let name = requester.strip_prefix(NODE).filter(|_| in_nodes).ok_or("it is not a node that asks")?;
    if subject.common_name != requester {
        return Err("it is asked for by another node".to_owned());
    }
    let node = view.get::<Node>("", name).ok_or("there is no such node")?;
    names(name, &subject, api_servers)?;
    let own = addresses(&node);
    for ip in &subject.ip_addresses {
        let text = written(ip);
        if !own.contains(&text) {
            return Err(format!("{ip} is no address of the node"));
        }
        // A younger one says so to no avail: a node must not keep another from its certificate.
        let others = view.informer::<Node>().by_index(BY_ADDRESS, &text);
        if others.iter().any(|other| age(other) < age(&node)) {
            return Err(format!("{ip} is an address of an older node too"));
        }
        if api_servers.has_address(*ip) || is_of_the_api_server(view, *ip) {
            return Err(format!("{ip} is an address of the API server"));
        }
    }
    Ok(())
}

/// A node has one name, and none under which the API server is asked for.
fn names(name: &str, subject: &Subject, api_servers: &Names) -> Result<(), String> {
    let reserved = ["localhost", "kubernetes", "kubernetes.default"].contains(&name)
        || name.starts_with("kubernetes.default.")
        || api_servers.has_name(name);
    match subject.dns_names.iter().find(|asked| *asked != name) {
        Some(other) => Err(format!("{other:?} is not the name of the node")),
        None if reserved && !subject.dns_names.is_empty() => {
            Err(format!("{name:?} is a name of the API server"))
        }
        None => Ok(()),
    }
}

fn is_of_the_api_server(view: &View<'_>, ip: IpAddr) -> bool {
    let is = |address: &String| address.parse::<IpAddr>().is_ok_and(|found| written(&found) == written(&ip));
    let service = view.get::<Service>("default", "kubernetes");
    let of_service =
        service.and_then(|service| service.spec.as_ref()?.cluster_ips.as_ref().map(|ips| ips.iter().any(is)));
    let slice = view.get::<EndpointSlice>("default", "kubernetes");
    let of_slice = slice.is_some_and(|slice| {
        slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses).any(is)
    });
    of_service == Some(true) || of_slice
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    /// A node that is so many seconds younger than the first.
    fn aged(name: &str, addresses: &[(&str, &str)], seconds: u8) -> Node {
        let addresses: Vec<Value> =
            addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let created = format!("2026-11-22T10:00:{seconds:02}Z");
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created}, "status": {"addresses": addresses},
        }))
        .unwrap()
    }

    fn node(name: &str, addresses: &[(&str, &str)]) -> Node {
        aged(name, addresses, 30)
    }

    /// What another API server than the one beside the controller says that it is called.
    fn called(names: &[&str]) -> ConfigMap {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        serde_json::from_value(super::super::api_servers::object("server-2", &names).0).unwrap()
    }

    fn request(
        user: &str,
        groups: &[&str],
        name: &str,
        dns: &[&str],
        ips: &[&str],
    ) -> CertificateSigningRequest {
        let subject = Subject {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".to_owned()],
            dns_names: dns.iter().map(|dns| (*dns).to_owned()).collect(),
            ip_addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..Subject::default()
        };
        let pem = pki::Requested::new(&subject).unwrap().pem();
        serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "r"},
            "spec": {
                "request": api::k8s_openapi::ByteString(pem.into_bytes()), "signerName": rules::NODE_SERVER,
                "usages": ["digital signature", "server auth"], "username": user, "groups": groups,
            },
        }))
        .unwrap()
    }

    fn cluster(requests: Vec<CertificateSigningRequest>) -> Fixture<ServingApproval> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIPs": ["10.43.0.1"]},
        }))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes", "namespace": "default"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.100"]}],
        }))
        .unwrap();
        let ip = "InternalIP";
        let nodes = [
            aged("n1", &[(ip, "10.0.0.1"), (ip, "::ffff:10.0.0.2"), ("Hostname", "n1")], 1),
            node(
                "n2",
                &[
                    (ip, "10.0.0.2"),
                    (ip, "10.0.0.100"),
                    (ip, "10.43.0.1"),
                    (ip, "10.0.0.200"),
                    (ip, "10.0.0.201"),
                    (ip, "127.0.0.1"),
                    ("Hostname", "kubernetes"),
                ],
            ),
            node("kubernetes.default.svc", &[(ip, "10.0.0.9")]),
            node("server-1", &[(ip, "10.0.0.9")]),
            node("server-2", &[(ip, "10.0.0.9")]),
            node("api.example.com", &[(ip, "10.0.0.9")]),
            node("x.lb.example.com", &[(ip, "10.0.0.9")]),
        ];
        let own = ["server-1", "api.example.com", "10.0.0.200"].map(str::to_owned);
        Fixture::new(ServingApproval::new(&own))
            .with(nodes)
            .with([service])
            .with([slice])
            .with([called(&["server-2", "*.lb.example.com", "10.0.0.201"])])
            .with(requests)
    }

    #[test]
    fn a_node_gets_what_is_its_own() {
        let nodes = &["system:nodes", "system:authenticated"][..];
        let (n1, n2, odd) = ("system:node:n1", "system:node:n2", "system:node:kubernetes.default.svc");
        let (s1, s2) = ("system:node:server-1", "system:node:server-2");
        let (api, lb) = ("system:node:api.example.com", "system:node:x.lb.example.com");
        for (what, user, groups, name, dns, ips, approves) in [
            ("its address", n1, nodes, "n1", vec![], vec!["10.0.0.1"], true),
            ("its name and address", n1, nodes, "n1", vec!["n1"], vec!["10.0.0.1"], true),
            ("an address it does not have", n1, nodes, "n1", vec!["n1"], vec!["10.0.0.7"], false),
            ("another name", n1, nodes, "n1", vec!["n1", "n2"], vec![], false),
            ("an address that a younger one has too", n1, nodes, "n1", vec![], vec!["10.0.0.2"], true),
            ("an address that an older one has too", n2, nodes, "n2", vec![], vec!["10.0.0.2"], false),
            ("this API server's", n2, nodes, "n2", vec![], vec!["10.0.0.200"], false),
            ("another API server's", n2, nodes, "n2", vec![], vec!["10.0.0.201"], false),
            ("the machine's own", n2, nodes, "n2", vec![], vec!["127.0.0.1"], false),
            ("this server's node", s1, nodes, "server-1", vec!["server-1"], vec![], false),
            ("another server's node", s2, nodes, "server-2", vec!["server-2"], vec![], false),
            ("a load balancer", api, nodes, "api.example.com", vec!["api.example.com"], vec![], false),
            ("one of many", lb, nodes, "x.lb.example.com", vec!["x.lb.example.com"], vec![], false),
            ("an address of the API server", n2, nodes, "n2", vec![], vec!["10.0.0.100"], false),
            ("that of its Service", n2, nodes, "n2", vec![], vec!["10.43.0.1"], false),
            ("a name by which it goes", n2, nodes, "n2", vec!["kubernetes"], vec![], false),
            (
                "a name that is the API server's",
                odd,
                nodes,
                "kubernetes.default.svc",
                vec!["kubernetes.default.svc"],
                vec![],
                false,
            ),
            ("for another", n2, nodes, "n1", vec!["n1"], vec![], false),
            ("not a node's group", n1, &["system:authenticated"], "n1", vec!["n1"], vec![], false),
            ("a person", "jane", nodes, "n1", vec!["n1"], vec![], false),
            ("no such node", "system:node:n3", nodes, "n3", vec!["n3"], vec![], false),
            ("nothing", n1, nodes, "n1", vec![], vec![], false),
        ] {
            let fixture = cluster(vec![request(user, groups, name, &dns, &ips)]);
            let want: &[&str] =
                if approves { &["update certificatesigningrequests/approval r"] } else { &[] };
            assert_eq!(fixture.lines("", "r", Timestamp::UNIX_EPOCH), want, "{what}");
        }
    }

    #[test]
    fn what_is_decided_or_of_another_signer_is_left_alone() {
        let good = || request("system:node:n1", &["system:nodes"], "n1", &["n1"], &[]);
        for (what, signer, condition) in [
            ("approved", rules::NODE_SERVER, json!([{"type": "Approved", "status": "True"}])),
            ("denied", rules::NODE_SERVER, json!([{"type": "Denied", "status": "True"}])),
            ("another signer", rules::NODE_CLIENT, json!([])),
        ] {
            let mut request = good();
            request.spec.signer_name = signer.to_owned();
            request.status = Some(serde_json::from_value(json!({"conditions": condition})).unwrap());
            assert!(cluster(vec![request]).lines("", "r", Timestamp::UNIX_EPOCH).is_empty(), "{what}");
        }
    }

    #[test]
    fn a_node_that_shows_up_later_wakes_its_request() {
        let fixture =
            cluster(vec![request("system:node:n3", &["system:nodes"], "n3", &["n3"], &["10.0.0.3"])]);
        fixture.woken();
        let nodes = fixture.caches().informer::<Node>();
        nodes.feed(vec![node("n3", &[])]);
        assert_eq!(fixture.woken(), ["r"]);
        nodes.feed(vec![node("n3", &[("InternalIP", "10.0.0.3")])]);
        assert_eq!(fixture.woken(), ["r"]);
        assert_eq!(fixture.lines("", "r", Timestamp::UNIX_EPOCH).len(), 1);
        let mut labelled = node("n3", &[("InternalIP", "10.0.0.3")]);
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        nodes.feed(vec![labelled]);
        assert_eq!(fixture.woken(), [""; 0], "nothing that matters has changed");
    }

    #[test]
    fn who_is_no_longer_in_the_way_wakes_those_who_wait() {
        let (ip, groups) = ("InternalIP", &["system:nodes"][..]);
        let asks = request("system:node:n3", groups, "n3", &["n3"], &["10.0.0.3"]);
        let fixture = cluster(vec![asks]);
        let (nodes, maps) = (fixture.caches().informer::<Node>(), fixture.caches().informer::<ConfigMap>());
        let asked = |older: &[(&str, &str)]| {
            nodes.feed(vec![aged("older", older, 1), node("n3", &[(ip, "10.0.0.3")])]);
            (fixture.woken(), fixture.lines("", "r", Timestamp::UNIX_EPOCH).len())
        };
        assert_eq!(asked(&[(ip, "10.0.0.3")]), (vec!["r".to_owned()], 0));
        assert_eq!(asked(&[(ip, "10.0.0.4")]), (vec!["r".to_owned()], 1));
        assert_eq!(asked(&[(ip, "10.0.0.5")]), (vec![], 1), "none of its business");
        asked(&[(ip, "10.0.0.3")]);
        nodes.feed(vec![node("n3", &[(ip, "10.0.0.3")])]);
        assert_eq!(fixture.woken(), ["r"], "the other one is gone");

        maps.feed(vec![called(&["10.0.0.3"])]);
        assert_eq!(
            (fixture.woken(), fixture.lines("", "r", Timestamp::UNIX_EPOCH).len()),
            (vec!["r".to_owned()], 0)
        );
        maps.feed(vec![]);
        assert_eq!(
            (fixture.woken(), fixture.lines("", "r", Timestamp::UNIX_EPOCH).len()),
            (vec!["r".to_owned()], 1)
        );
    }
}
