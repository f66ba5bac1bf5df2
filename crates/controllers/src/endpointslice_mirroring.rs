//! Mirrors Endpoints that somebody else keeps into EndpointSlices, which is what proxies and DNS read.
//!
//! Reads Endpoints, Services and EndpointSlices. Creates, updates and deletes EndpointSlices.
//! Not here: Services with a selector ([`crate::endpointslice`] makes their slices, [`crate::endpoints`] their Endpoints).
//! Upstream: `pkg/controller/endpointslicemirroring`.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::meta::ObjectMeta;
use api::types::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use api::types::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::networking::{self, Port, SERVICE_NAME};
use crate::{claim, object, pods};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURS: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are only a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const UNCOPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
const MIRRORS: &str = "mirrors-of-endpoints";
/// Upstream's `--mirroring-max-endpoints-per-subset`.
const MOST: usize = 1000;

/// The controller; its keys are Endpoints.
pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    const NAME: &'static str = "endpoint-slice-mirroring-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Endpoints>();
        watches.map::<Service>(|_, change, wake| {
            let selected = |service: &Service| networking::selector(service).is_some();
            // Only whether there is a selector matters.
            if change.old().is_none_or(|old| selected(old) != selected(change.object())) {
                wake(Key::of(&**change.object()));
            }
        });
        watches.index::<EndpointSlice>(MIRRORS, |slice| mirrored(slice).into_iter().collect());
        watches.map::<EndpointSlice>(|_, change, wake| {
            let slice = &**change.object();
            if mirrored(slice).is_some()
                && let Some(name) = object::labels(slice).get(SERVICE_NAME)
            {
                wake(Key::new(object::namespace(slice), name));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let existing = view.by_index::<EndpointSlice>(MIRRORS, key.as_str());
        let endpoints = view.get_key::<Endpoints>(key).filter(|endpoints| is_mirrored(endpoints));
        let service = view.get_key::<Service>(key).filter(|one| networking::selector(one).is_none());
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            for slice in existing.iter().filter(|slice| !object::deleting(&***slice)) {
                plan.act(Action::delete(&**slice));
            }
            return plan;
        };
        let wanted = wanted(&endpoints, &mut plan);
        change(&mut plan, &endpoints, wanted, existing);
        plan
    }
}

/// The key of the Endpoints of a slice that is ours.
fn mirrored(slice: &EndpointSlice) -> Option<String> {
    let labels = object::labels(slice);
    let name = labels.get(SERVICE_NAME).filter(|_| labels.get(MANAGED_BY).is_some_and(|by| by == OURS))?;
    Some(client::cache_key(Some(object::namespace(slice)), name))
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    object::labels(endpoints).get(SKIP).is_none_or(|skip| skip != "true")
        && object::annotation(endpoints, LEADER).is_none()
}

type Group = (&'static str, Vec<Port>);

/// The endpoints by family and ports: each group is one slice.
fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> BTreeMap<Group, Vec<Endpoint>> {
    // Subsets are not bounded, only what each of them has: nothing here looks at all of a group for each address.
    let mut groups: BTreeMap<Group, (HashSet<IpAddr>, Vec<Endpoint>)> = BTreeMap::new();
    let (mut invalid, mut skipped) = (0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut added = 0;
        let mut by_family = [("IPv4", Vec::new()), ("IPv6", Vec::new())];
        for (address, is_ready) in ready.chain(unready) {
            if added >= MOST {
                skipped += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            added += 1;
            by_family[usize::from(ip.is_ipv6())].1.push((ip, endpoint(address, ip, is_ready)));
        }
        let ports = ports(subset);
        for (family, list) in by_family.into_iter().filter(|(_, list)| !list.is_empty()) {
            let (seen, group) = groups.entry((family, ports.clone())).or_default();
            group.extend(list.into_iter().filter(|(ip, _)| seen.insert(*ip)).map(|(_, endpoint)| endpoint));
        }
    }
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        plan.event(endpoints, EventType::Warning, "InvalidIPAddress", message);
    }
    if skipped > 0 {
        let skipped = skipped + invalid;
        let message = format!(
            "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        plan.event(endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
    }
    groups.into_iter().map(|(group, (_, list))| (group, list)).collect()
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let mut ports: Vec<_> = subset
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.port,
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, (family, ports): &Group, list: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = object::labels(endpoints).clone();
    labels.insert(SERVICE_NAME.to_owned(), object::name(endpoints).to_owned());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !UNCOPIED.contains(&key.as_str()));
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(pods::generate_name(object::name(endpoints))),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![claim::reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: (*family).to_owned(),
        ports: Some(ports.collect()),
        endpoints: Some(list),
    }
}

fn group_of(slice: &EndpointSlice) -> Group {
    let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
    let mut ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (family, ports)
}

/// Whether a slice says what it should already.
fn says(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.endpoints.as_deref().unwrap_or_default() == new.endpoints.as_deref().unwrap_or_default()
        && group_of(old) == group_of(new)
        && old.metadata.labels == new.metadata.labels
        && old.metadata.annotations.clone().unwrap_or_default()
            == new.metadata.annotations.clone().unwrap_or_default()
}

/// One slice for each group; slices that go are used again for those that come.
fn change(
    plan: &mut Plan,
    endpoints: &Endpoints,
    wanted: BTreeMap<Group, Vec<Endpoint>>,
    existing: Vec<Arc<EndpointSlice>>,
) {
    let mut spare = Vec::new();
    let mut by_group: BTreeMap<Group, Arc<EndpointSlice>> = BTreeMap::new();
    for old in existing.into_iter().filter(|slice| !object::deleting(&**slice)) {
        let group = group_of(&old);
        if wanted.contains_key(&group) && !by_group.contains_key(&group) {
            by_group.insert(group, old);
        } else {
            spare.push(old);
        }
    }
    for (group, list) in wanted {
        let new = slice(endpoints, &group, list);
        // A slice cannot change its family.
        let reused = by_group.remove(&group).or_else(|| {
            let at = spare.iter().position(|old| old.address_type == group.0)?;
            Some(spare.remove(at))
        });
        match reused {
            Some(old) if says(&old, &new) => {}
            Some(old) => {
                let mut changed = EndpointSlice::clone(&old);
                changed.ports = new.ports;
                changed.endpoints = new.endpoints;
                changed.metadata.labels = new.metadata.labels;
                changed.metadata.annotations = new.metadata.annotations;
                plan.act(Action::update(&changed));
            }
            None if object::deleting(endpoints) => {}
            None => {
                plan.act(Action::create(&new));
            }
        }
    }
    for old in spare {
        plan.act(Action::delete(&*old));
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value, labels: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "uid": "e", "labels": labels},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn service(selector: Value) -> Service {
        serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "a"}, "spec": {"selector": selector}}),
        )
        .unwrap()
    }

    fn one(ip: &str) -> Value {
        json!([{"addresses": [{"ip": ip}], "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}])
    }

    fn fixture(subsets: Value, labels: Value, selector: Value) -> Fixture<EndpointSliceMirroring> {
        Fixture::new(EndpointSliceMirroring)
            .with(vec![endpoints(subsets, labels)])
            .with(vec![service(selector)])
    }

    fn made(fixture: &Fixture<EndpointSliceMirroring>) -> Vec<EndpointSlice> {
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        plan.actions()
            .enumerate()
            .map(|(at, action)| {
                let mut slice: EndpointSlice = action.object().unwrap();
                slice.metadata.name = Some(format!("s-{at}"));
                slice
            })
            .collect()
    }

    #[test]
    fn what_is_mirrored() {
        let create = "create endpointslices a/s-";
        let two = json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 81}]},
        ]);
        for (what, subsets, labels, selector, lines) in [
            ("a subset", one("10.0.0.1"), json!({}), Value::Null, vec![create]),
            ("families and ports apart", two, json!({}), Value::Null, vec![create; 3]),
            ("a Service that selects", one("10.0.0.1"), json!({}), json!({"a": "b"}), vec![]),
            ("on demand not", one("10.0.0.1"), json!({SKIP: "true"}), Value::Null, vec![]),
            ("nothing", json!([]), json!({}), Value::Null, vec![]),
        ] {
            let fixture = fixture(subsets, labels, selector);
            assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), lines, "{what}");
        }
    }

    #[test]
    fn slices_follow_and_go() {
        let old = made(&fixture(one("10.0.0.1"), json!({}), Value::Null));
        let same = fixture(one("10.0.0.1"), json!({}), Value::Null).with(old.clone());
        assert_eq!(same.lines("a", "s", Timestamp::UNIX_EPOCH), Vec::<String>::new());
        let moved = fixture(one("10.0.0.2"), json!({}), Value::Null).with(old.clone());
        assert_eq!(moved.lines("a", "s", Timestamp::UNIX_EPOCH), ["update endpointslices a/s-0"]);
        let selects = fixture(one("10.0.0.1"), json!({}), json!({"a": "b"})).with(old);
        assert_eq!(selects.lines("a", "s", Timestamp::UNIX_EPOCH), ["delete endpointslices a/s-0"]);
    }

    #[test]
    fn readiness_and_bad_addresses_are_told() {
        let subsets = json!([{"addresses": [{"ip": "x"}], "notReadyAddresses": [{"ip": "10.0.0.1"}]}]);
        let fixture = fixture(subsets, json!({}), Value::Null);
        let list = made(&fixture)[0].endpoints.clone().unwrap();
        assert_eq!(list[0].conditions.as_ref().unwrap().ready, Some(false));
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        assert_eq!(plan.events[0].message, "Skipped 1 invalid IP addresses when mirroring to EndpointSlices");
    }
}
