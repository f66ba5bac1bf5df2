//! Lays endpoints out over slices of at most a hundred, and changes as few of the existing ones as possible. Pure.
//!
//! Upstream: `k8s.io/endpointslice/reconciler.go` (reconcileByPortMapping, finalize).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::ObjectMeta;
use api::types::core::v1::Service;
use api::types::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::{MANAGED_BY, OURS};
use crate::networking::{self, Port, SERVICE_NAME};
use crate::{claim, object};

/// Upstream's `--max-endpoints-per-slice`.
const MOST: usize = 100;

/// What must be written.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// What makes two endpoints the same one, whatever its conditions.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>, Option<String>) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), uid, endpoint.node_name.clone())
}

/// The changes that make the slices of one address type hold exactly the desired endpoints.
pub(super) fn reconcile(
    service: &Service,
    address_type: &str,
    desired: BTreeMap<Vec<Port>, Vec<Endpoint>>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let mut by_ports: BTreeMap<Vec<Port>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing.iter().filter(|slice| !object::deleting(&***slice)) {
        by_ports.entry(ports_of(slice)).or_default().push(slice.clone());
    }
    for (ports, endpoints) in desired {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        fill(service, address_type, &ports, endpoints, &slices, &mut changes);
    }
    // Nobody serves these ports any more.
    for (_, slices) in by_ports {
        changes.delete.extend(slices);
    }
    let going = changes.delete.len() + existing.iter().filter(|slice| object::deleting(&***slice)).count();
    if going == existing.len() && changes.create.is_empty() {
        // Nothing would be left: an empty slice says that the Service is known and has no endpoints.
        changes.create.push(slice(service, address_type, &[], Vec::new()));
    }
    // A slice that goes and one that comes are one that changes.
    while let (Some(_), Some(_)) = (changes.create.first(), changes.delete.first()) {
        let (new, old) = (changes.create.remove(0), changes.delete.remove(0));
        let mut reused = EndpointSlice::clone(&old);
        reused.ports = new.ports;
        reused.endpoints = new.endpoints;
        reused.metadata.labels = new.metadata.labels;
        if !same(&reused, &old) {
            changes.update.push(reused);
        }
    }
    changes
}

/// Keeps what is right, takes out what is not, and puts the rest where there is room.
fn fill(
    service: &Service,
    address_type: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    slices: &[Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let mut missing: BTreeMap<_, _> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let labels = labels(service);
    let mut changed: Vec<EndpointSlice> = Vec::new();
    let mut kept: Vec<&Arc<EndpointSlice>> = Vec::new();
    let mut emptied: Vec<&Arc<EndpointSlice>> = Vec::new();
    for slice in slices {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let after: Vec<_> =
            before.iter().filter_map(|endpoint| missing.remove(&identity(endpoint))).collect();
        if after.is_empty() {
            emptied.push(slice);
        } else if after == before && slice.metadata.labels.as_ref() == Some(&labels) {
            kept.push(slice);
        } else {
            let mut slice = EndpointSlice::clone(slice);
            slice.endpoints = Some(after);
            slice.metadata.labels = Some(labels.clone());
            changed.push(slice);
        }
    }
    let mut rest: Vec<Endpoint> = missing.into_values().collect();
    let take = |slice: &mut EndpointSlice, rest: &mut Vec<Endpoint>| {
        let list = slice.endpoints.get_or_insert_default();
        let room = MOST.saturating_sub(list.len()).min(rest.len());
        list.extend(rest.drain(..room));
    };
    // First into slices that are written anyway, the fullest first.
    changed.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.as_ref().map_or(0, Vec::len)));
    for slice in &mut changed {
        take(slice, &mut rest);
    }
    // Then the remainder of whole slices into the one existing slice that it fills best.
    let remainder = rest.len() % MOST;
    if remainder > 0 {
        let size = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
        let best =
            kept.iter().filter(|slice| size(slice) + remainder <= MOST).max_by_key(|slice| size(slice));
        if let Some(best) = best {
            let mut slice = EndpointSlice::clone(best);
            let mut part = rest.split_off(rest.len() - remainder);
            take(&mut slice, &mut part);
            changed.push(slice);
        }
    }
    while !rest.is_empty() {
        let part = rest.drain(..rest.len().min(MOST)).collect();
        changes.create.push(slice(service, address_type, ports, part));
    }
    changes.update.extend(changed);
    changes.delete.extend(emptied.into_iter().cloned());
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = networking::inherited_labels(service);
    labels.insert(SERVICE_NAME.to_owned(), object::name(service).to_owned());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    labels
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
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
    ports
}

fn slice(service: &Service, address_type: &str, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(crate::pods::generate_name(object::name(service))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![claim::reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        ports: Some(ports.collect()),
        endpoints: Some(endpoints),
    }
}

/// Whether two slices say the same; an absent list is an empty one.
fn same(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    a.endpoints.as_deref().unwrap_or_default() == b.endpoints.as_deref().unwrap_or_default()
        && ports_of(a) == ports_of(b)
        && a.metadata.labels == b.metadata.labels
}
