//! Keeps the EndpointSlices of each Service with a selector: what proxies and DNS read.
//!
//! Reads Services, pods, nodes (for zones) and EndpointSlices. Creates, updates and deletes EndpointSlices.
//! Not here: slices for Endpoints that users write (mirroring), and slices of Services that are gone
//! (the garbage collector: the Service owns them).
//! Upstream: `pkg/controller/endpointslice`, `k8s.io/endpointslice`.

mod slices;

use std::collections::BTreeMap;

use api::types::core::v1::{Node, Pod, Service};
use api::types::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone,
};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use crate::networking::{self, Port, SERVICE_NAME};
use crate::{object, pods};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURS: &str = "endpointslice-controller.k8s.io";
const BY_SERVICE: &str = "service";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller; its keys are Services.
pub struct EndpointSlices;

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpoint-slice-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.read::<Node>();
        watches.primary::<Service>();
        watches.map::<Pod>(networking::wake_services);
        watches.index::<EndpointSlice>(BY_SERVICE, |slice| service_of(slice).into_iter().collect());
        watches.map::<EndpointSlice>(|_, change, wake| {
            let slice = &**change.object();
            if let Some(name) =
                object::labels(slice).get(SERVICE_NAME).filter(|_| service_of(slice).is_some())
            {
                wake(Key::new(object::namespace(slice), name));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(service) = view.get_key::<Service>(key) else { return plan };
        if networking::selector(&service).is_none() || object::deleting(&*service) {
            return plan;
        }
        let existing = view.by_index::<EndpointSlice>(BY_SERVICE, key.as_str());
        let types = address_types(&service);
        for slice in existing.iter().filter(|slice| !types.contains(&slice.address_type.as_str())) {
            plan.act(Action::delete(&**slice));
        }
        let pods = networking::selected(view, &service, true);
        for address_type in types {
            let mut desired: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
            for pod in &pods {
                let ports = networking::ports(&service, pod);
                if let Some(endpoint) = endpoint(view, &service, pod, address_type) {
                    desired.entry(ports).or_default().push(endpoint);
                }
            }
            hint(&service, &mut desired);
            let existing: Vec<_> =
                existing.iter().filter(|slice| slice.address_type == address_type).cloned().collect();
            let changes = slices::reconcile(&service, address_type, desired, &existing);
            let failed = || {
                let name = format!("{}/{}", key.namespace(), key.name());
                let message = format!("Error updating Endpoint Slices for Service {name}: {{error}}");
                EventSpec::new(&*service, EventType::Warning, "FailedToUpdateEndpointSlices", message)
            };
            // Creations before deletions: at no time are endpoints in no slice.
            for slice in &changes.create {
                plan.act(Action::create(slice).with_failure(failed()));
            }
            for slice in &changes.update {
                plan.act(Action::update(slice).with_failure(failed()));
            }
            for slice in &changes.delete {
                plan.act(Action::delete(&**slice).with_failure(failed()));
            }
        }
        plan
    }
}

/// The key of the Service of a slice that is ours.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let labels = object::labels(slice);
    let name = labels.get(SERVICE_NAME).filter(|_| labels.get(MANAGED_BY).is_some_and(|by| by == OURS))?;
    Some(client::cache_key(Some(object::namespace(slice)), name))
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let mut families: Vec<&str> = spec
        .and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default()
        .iter()
        .map(String::as_str)
        .collect();
    if families.is_empty() {
        let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        families.push(if networking::is_ipv6(ip) { "IPv6" } else { "IPv4" });
    }
    families.into_iter().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect()
}

fn endpoint(view: &View<'_>, service: &Service, pod: &Pod, address_type: &str) -> Option<Endpoint> {
    let ipv6 = address_type == "IPv6";
    let addresses: Vec<String> = networking::addresses(pod)
        .into_iter()
        .filter(|address| networking::is_ipv6(address) == ipv6)
        .map(str::to_owned)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), object::deleting(pod));
    let node = pods::node(pod);
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(networking::publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: networking::hostname(service, pod),
        node_name: Some(node.to_owned()).filter(|node| !node.is_empty()),
        zone: view.get::<Node>("", node).and_then(|node| object::labels(&*node).get(ZONE).cloned()),
        target_ref: Some(networking::target_ref(pod)),
        deprecated_topology: None,
        hints: None,
    })
}

/// What `trafficDistribution` asks for: endpoints serve their own zone (or node) first. Hints are all or nothing: a proxy
/// that finds one endpoint without them ignores the others'.
fn hint(service: &Service, desired: &mut BTreeMap<Vec<Port>, Vec<Endpoint>>) {
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let same_node = match distribution {
        Some("PreferClose" | "PreferSameZone") => false,
        Some("PreferSameNode") => true,
        _ => return,
    };
    for endpoint in desired.values_mut().flatten() {
        if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(true) {
            continue;
        }
        let zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        let nodes = endpoint.node_name.clone().filter(|_| same_node).map(|name| vec![ForNode { name }]);
        if zones.is_some() || nodes.is_some() {
            endpoint.hints = Some(EndpointHints { for_zones: zones, for_nodes: nodes });
        }
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut spec = json!({
            "selector": {"app": "x"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        });
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "uid": "s", "labels": {"team": "y"}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn pod(index: usize, ready: &str, deleting: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("p{index:04}"), "namespace": "a", "uid": format!("u{index}"), "labels": {"app": "x"},
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
            },
            "spec": {"nodeName": "n", "containers": []},
            "status": {
                "podIP": format!("10.1.{}.{}", index / 250, index % 250), "phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    }

    fn fixture(service: Service, pods: Vec<Pod>) -> Fixture<EndpointSlices> {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {ZONE: "z"}}})).unwrap();
        Fixture::new(EndpointSlices).with(vec![service]).with(pods).with(vec![node])
    }

    fn written(fixture: &Fixture<EndpointSlices>) -> Vec<EndpointSlice> {
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        plan.actions().filter_map(|action| action.object()).collect()
    }

    /// Gives created slices the names that a server would.
    fn named(slices: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
        let mut slices = slices;
        for (index, slice) in slices.iter_mut().enumerate() {
            slice.metadata.name.get_or_insert(format!("s-{index}"));
            slice.metadata.uid.get_or_insert(format!("slice-{index}"));
        }
        slices
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        for (what, ready, deleting, unready, expected) in [
            ("ready", "True", false, false, (true, true, false)),
            ("not ready", "False", false, false, (false, false, false)),
            ("not ready, published", "False", false, true, (true, false, false)),
            ("drains", "True", true, false, (false, true, true)),
        ] {
            let service = service(json!({"publishNotReadyAddresses": unready}));
            let slices = written(&fixture(service, vec![pod(1, ready, deleting)]));
            let endpoint = slices[0].endpoints.as_ref().unwrap()[0].clone();
            let conditions = endpoint.conditions.unwrap();
            assert_eq!(
                (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap()),
                expected,
                "{what}"
            );
            assert_eq!((endpoint.zone.as_deref(), endpoint.node_name.as_deref()), (Some("z"), Some("n")));
        }
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice() {
        let fixture = fixture(service(json!({})), vec![]);
        let slices = written(&fixture);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].endpoints.as_deref().unwrap_or_default().len(), 0);
        let labels = object::labels(&slices[0]);
        assert_eq!(labels.get(SERVICE_NAME).map(String::as_str), Some("s"));
        assert_eq!(labels.get("team").map(String::as_str), Some("y"));
        let fixture = fixture.with(named(slices));
        assert!(written(&fixture).is_empty(), "it stays");
    }

    #[test]
    fn slices_hold_at_most_100_and_change_as_little_as_possible() {
        let pods: Vec<_> = (0..250).map(|index| pod(index, "True", false)).collect();
        let fixture = fixture(service(json!({})), pods.clone());
        let slices = named(written(&fixture));
        let sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
        let fixture = fixture.with(slices.clone());
        assert!(written(&fixture).is_empty());
        let mut fewer = pods.clone();
        fewer.remove(120);
        let fixture = fixture.with(fewer);
        let changed = written(&fixture);
        assert_eq!(changed.len(), 1, "one endpoint less is one slice written");
        assert_eq!(changed[0].endpoints.as_ref().unwrap().len(), 99);
        let mut more = pods;
        more.push(pod(300, "True", false));
        let fixture = fixture.with(more);
        let changed = written(&fixture);
        assert_eq!(changed.len(), 1, "one endpoint more goes where there is room");
        assert_eq!(changed[0].endpoints.as_ref().unwrap().len(), 51);
        let fixture = fixture.with(Vec::<Pod>::new());
        assert_eq!(
            fixture.lines("a", "s", Timestamp::UNIX_EPOCH),
            ["update endpointslices a/s-0", "delete endpointslices a/s-1", "delete endpointslices a/s-2"],
        );
    }

    #[test]
    fn traffic_distribution_becomes_hints() {
        let slices = written(&fixture(
            service(json!({"trafficDistribution": "PreferSameNode"})),
            vec![pod(1, "True", false)],
        ));
        let hints = slices[0].endpoints.as_ref().unwrap()[0].hints.clone().unwrap();
        assert_eq!(hints.for_zones.unwrap()[0].name, "z");
        assert_eq!(hints.for_nodes.unwrap()[0].name, "n");
    }

    #[test]
    fn slices_of_a_family_that_is_gone_are_deleted() {
        let fixture = fixture(service(json!({"ipFamilies": ["IPv4"]})), vec![]);
        let mut slices = named(written(&fixture));
        let mut six = slices[0].clone();
        six.address_type = "IPv6".to_owned();
        six.metadata.name = Some("six".to_owned());
        slices.push(six);
        let fixture = fixture.with(slices);
        assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), ["delete endpointslices a/six"]);
    }
}
