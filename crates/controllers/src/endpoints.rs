//! Keeps the Endpoints of each Service with a selector: the addresses of its pods, in the old form.
//!
//! Reads Services, pods and Endpoints. Creates, updates and deletes Endpoints.
//! Not here: the form that proxies read ([`crate::endpointslice`]); Endpoints of Services without a selector (their owner's).
//! Upstream: `pkg/controller/endpoint`.

use std::collections::BTreeMap;

use api::meta::ObjectMeta;
use api::types::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use crate::networking::{self, Port};
use crate::{object, pods};

/// Upstream truncates Endpoints at so many addresses and says so in an annotation.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// The controller; its keys are Services.
pub struct EndpointsController;

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoint-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Service>();
        watches.map::<Pod>(networking::wake_services);
        watches.map::<Endpoints>(|_, change, wake| {
            if change.is_deleted() {
                wake(Key::of(&**change.object()));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let current = view.get_key::<Endpoints>(key);
        let Some(service) = view.get_key::<Service>(key) else {
            if let Some(current) = current {
                plan.act(Action::delete(&*current));
            }
            return plan;
        };
        if networking::selector(&service).is_none() || object::deleting(&*service) {
            return plan;
        }
        let unready = networking::publishes_unready(&service);
        let mut found: BTreeMap<Vec<Port>, Subset> = BTreeMap::new();
        for pod in networking::selected(view, &service, unready) {
            let ports = networking::ports(&service, &pod);
            if ports.is_empty() && !networking::is_headless(&service) {
                continue;
            }
            let subset = found.entry(ports).or_default();
            // The primary address only: Endpoints know one family.
            let Some(address) = primary(&service, &pod) else { continue };
            if unready || pods::is_ready(&pod) {
                subset.ready.push(address);
            } else {
                subset.unready.push(address);
            }
        }
        let (subsets, truncated) = pack(found);
        let failed = |reason: &str, what: &str| {
            let name = format!("{}/{}", key.namespace(), key.name());
            let message = format!("Failed to {what} {name}: {{error}}");
            EventSpec::new(&*service, EventType::Warning, reason, message)
        };
        let mut labels = networking::inherited_labels(&service);
        labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
        match current {
            None => {
                let mut endpoints = Endpoints {
                    metadata: ObjectMeta {
                        name: Some(key.name().to_owned()),
                        namespace: Some(key.namespace().to_owned()),
                        labels: Some(labels),
                        ..ObjectMeta::default()
                    },
                    subsets: some(subsets),
                };
                mark(&mut endpoints, truncated);
                let event = failed("FailedToCreateEndpoint", "create endpoint for service");
                plan.act(Action::create(&endpoints).with_failure(event));
            }
            Some(current) => {
                let mut updated = Endpoints::clone(&current);
                updated.subsets = some(subsets);
                updated.metadata.labels = Some(labels);
                mark(&mut updated, truncated);
                if updated != *current {
                    let event = failed("FailedToUpdateEndpoint", "update endpoint");
                    plan.act(Action::update(&updated).with_failure(event));
                }
            }
        }
        plan
    }
}

#[derive(Default)]
struct Subset {
    ready: Vec<EndpointAddress>,
    unready: Vec<EndpointAddress>,
}

/// The pod's address of the Service's first family.
fn primary(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let ipv6 = families.first().map(|family| family == "IPv6");
    let addresses = networking::addresses(pod);
    let address = match ipv6 {
        Some(ipv6) => addresses.into_iter().find(|address| networking::is_ipv6(address) == ipv6),
        None => addresses.into_iter().next(),
    }?;
    Some(EndpointAddress {
        ip: address.to_owned(),
        node_name: Some(pods::node(pod).to_owned()).filter(|node| !node.is_empty()),
        hostname: networking::hostname(service, pod),
        target_ref: Some(networking::target_ref(pod)),
    })
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The subsets in a fixed order, cut at the capacity (those that are not ready go first).
fn pack(found: BTreeMap<Vec<Port>, Subset>) -> (Vec<EndpointSubset>, bool) {
    let total: usize = found.values().map(|subset| subset.ready.len() + subset.unready.len()).sum();
    let ready: usize = found.values().map(|subset| subset.ready.len()).sum();
    let mut room_ready = CAPACITY;
    let mut room_unready = CAPACITY.saturating_sub(ready);
    let mut subsets = Vec::new();
    for (ports, mut subset) in found {
        for (list, room) in [(&mut subset.ready, &mut room_ready), (&mut subset.unready, &mut room_unready)] {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
            list.truncate(*room);
            *room -= list.len();
        }
        if subset.ready.is_empty() && subset.unready.is_empty() {
            continue;
        }
        let ports = ports.into_iter().map(|port| EndpointPort {
            name: Some(port.name).filter(|name| !name.is_empty()),
            port: port.number,
            protocol: Some(port.protocol),
            app_protocol: port.app_protocol,
        });
        subsets.push(EndpointSubset {
            addresses: some(subset.ready),
            not_ready_addresses: some(subset.unready),
            ports: some(ports.collect()),
        });
    }
    (subsets, total > CAPACITY)
}

fn mark(endpoints: &mut Endpoints, truncated: bool) {
    let annotations = &mut endpoints.metadata.annotations;
    if truncated {
        annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(all) = annotations {
        all.remove(OVER_CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "a", "uid": "s"}, "spec": spec}))
            .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "x"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn spec() -> Value {
        json!({"selector": {"app": "x"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "web"}]})
    }

    #[test]
    fn ready_and_unready_addresses_are_apart() {
        let pods = vec![pod("b", "10.1.0.2", "True"), pod("a", "10.1.0.3", "False"), pod("c", "", "True")];
        let fixture = Fixture::new(EndpointsController).with(vec![service(spec())]).with(pods);
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        let endpoints: Endpoints = plan.actions().next().unwrap().object().unwrap();
        let subset = &endpoints.subsets.unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subset.addresses), ["10.1.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.1.0.3"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
    }

    #[test]
    fn the_same_again_is_no_write() {
        let fixture = Fixture::new(EndpointsController)
            .with(vec![service(spec())])
            .with(vec![pod("p", "10.1.0.2", "True")]);
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        let endpoints: Endpoints = plan.actions().next().unwrap().object().unwrap();
        let fixture = fixture.with(vec![endpoints.clone()]);
        assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), Vec::<String>::new());
        let fixture = fixture.with(vec![pod("p", "10.1.0.9", "True")]);
        assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), ["update endpoints a/s"]);
        let fixture = fixture.with(Vec::<Service>::new());
        assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), ["delete endpoints a/s"]);
    }

    #[test]
    fn services_that_are_not_ours() {
        for spec in [json!({}), json!({"selector": {"app": "x"}, "type": "ExternalName"})] {
            let fixture = Fixture::new(EndpointsController)
                .with(vec![service(spec.clone())])
                .with(vec![pod("p", "10.1.0.2", "True")]);
            assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn only_a_change_that_shows_wakes_the_service() {
        let fixture = Fixture::new(EndpointsController)
            .with(vec![service(spec())])
            .with(vec![pod("p", "10.1.0.2", "True")]);
        fixture.woken();
        let mut same = pod("p", "10.1.0.2", "True");
        same.metadata.annotations = Some(BTreeMap::new());
        let fixture = fixture.with(vec![same]);
        assert_eq!(fixture.woken(), Vec::<String>::new());
        let fixture = fixture.with(vec![pod("p", "10.1.0.2", "False")]);
        assert_eq!(fixture.woken(), ["a/s"]);
    }
}
