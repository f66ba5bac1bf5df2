//! Services: cluster IPs and node ports, and `services/proxy`.
//!
//! What is taken is kept in the store (`claims`), beside the Services. Each server chooses by what it believes
//! (`allocation`): read at the first use, reserved before a write and given back when the write fails or the Service goes.
//! Where another server was faster the store refuses the write, and this one chooses again.
//! Upstream: pkg/registry/core/service/storage/{alloc,storage,rest_endpoints}.go.

mod allocation;
pub(crate) mod claims;
mod fields;
mod ports;

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use tokio::sync::{Mutex, OnceCell};

use super::node;
use super::pod::streams;
use crate::engine::Call;
use crate::proxy::{Destination, Reach};
use crate::registry::{Rest, Subresource, Undo};
use crate::response::Response;
use crate::storage::Claims;
use allocation::{Allocator, Held};
use claims::Places;

/// `services`.
#[derive(Default)]
pub(in crate::registry) struct Services {
    allocator: OnceCell<Arc<Allocator>>,
    /// Whose turn it is to write blocks of node ports.
    turns: Arc<Mutex<()>>,
}

impl Services {
    async fn allocator(&self, call: &Call) -> Result<Arc<Allocator>, Status> {
        let make = || async {
            let places = Places::new(call)?;
            places.repair().await?;
            let allocator = Allocator::new(places.ranges);
            allocator.adopt(&places.taken().await?);
            Ok::<_, Status>(Arc::new(allocator))
        };
        self.allocator.get_or_try_init(make).await.cloned()
    }

    /// Reserves what the Service needs beyond what `old` has.
    async fn reserve(&self, call: &Call, service: &mut Object, old: Option<&Object>) -> Result<Undo, Status> {
        let allocator = self.allocator(call).await?;
        let places = Places::new(call)?;
        // What is asked for by number and believed to be taken may have been given up on another server.
        let mut asked = places.ranges.held(service);
        if let Some(old) = old {
            let held = places.ranges.held(old);
            asked.addresses.retain(|at| !held.addresses.contains(at));
            asked.ports.retain(|at| !held.ports.contains(at));
        }
        let believed = allocator.believed(asked);
        if believed != Held::default() {
            let claimed = places.claimed(believed.clone()).await?;
            allocator.give_back(believed);
            allocator.adopt(&claimed);
        }
        let before = service.clone();
        let taken = match allocator.allocate(service, old, &*call.server.randomness) {
            Err(refused) if is_full(&refused) => {
                // Full of what this server alone believes, perhaps.
                *service = before;
                allocator.start_over(&places.taken().await?);
                allocator.allocate(service, old, &*call.server.randomness)?
            }
            other => other?,
        };
        Ok(Undo::with(move || allocator.give_back(taken)))
    }
}

/// All Services, as new as the store: what another request was given must not be given again.
async fn services(call: &Call) -> Result<Vec<Object>, Status> {
    call.server.hub.catch_up().await.map_err(crate::storage::status)?;
    let listed = call.server.cluster.list(&GroupResource::new("", "services"), "").await?;
    Ok(listed.items.iter().filter_map(|item| serde_json::from_slice(item).ok().map(Object)).collect())
}

fn is_full(refused: &Status) -> bool {
    refused.message.ends_with("range is full")
}

#[async_trait]
impl Rest for Services {
    fn reserves(&self) -> bool {
        true
    }

    async fn before_create(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        fields::default_families(object, call.server.options.service_cidr)?;
        self.reserve(call, object, None).await
    }

    async fn before_update(&self, call: &Call, new: &mut Object, old: &Object) -> Result<Undo, Status> {
        fields::carry_over(new, old);
        fields::default_families(new, call.server.options.service_cidr)?;
        self.reserve(call, new, Some(old)).await
    }

    async fn claims(
        &self,
        call: &Call,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Claims, Status> {
        Places::new(call)?.between(new, old, &self.turns).await
    }

    async fn lost(&self, call: &Call) -> Result<(), Status> {
        let taken = Places::new(call)?.taken().await?;
        self.allocator(call).await?.start_over(&taken);
        Ok(())
    }

    async fn after(&self, call: &Call, new: Option<&Object>, old: Option<&Object>) {
        if let (Some(old), Ok(allocator)) = (old, self.allocator(call).await) {
            allocator.release(old, new);
        }
    }

    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "proxy").then(|| Arc::new(ServiceProxy) as Arc<dyn Subresource>)
    }
}

struct ServiceProxy;

#[async_trait]
impl Subresource for ServiceProxy {
    async fn serve(&self, mut call: Call) -> Result<Response, Status> {
        node::proxyable(&call)?;
        let (scheme, name, port) = node::split(&call.info.name)
            .ok_or_else(|| Status::bad_request(format!("invalid service request {:?}", call.info.name)))?;
        let (scheme, name, port) = (scheme.to_owned(), name.to_owned(), port.to_owned());
        streams::connect(&call, "ServiceProxyOptions").await?;
        call.info.name = name.clone();
        let service = call.stored().await?.object;
        let unavailable = |what: &str| Status::service_unavailable(format!("{what} for service \"{name}\""));
        let port_name = fields::port_name(&service, &port)
            .ok_or_else(|| unavailable(&format!("no service port \"{port}\" found")))?;
        let endpoints = call
            .server
            .cluster
            .get(&GroupResource::new("", "endpoints"), &call.info.namespace, &name)
            .await
            .map_err(|_| unavailable("no endpoints available"))?;
        let mut ready = ready(&endpoints, &port_name, &call.info.namespace);
        let first = usize::try_from(call.server.randomness.below(ready.len().max(1) as u64)).unwrap_or(0);
        ready.rotate_left(first);
        let mut chosen = None;
        for candidate in ready {
            if is_of_its_pod(&call, &candidate).await {
                chosen = Some(candidate);
                break;
            }
        }
        let Ready { address: host, port, .. } =
            chosen.ok_or_else(|| unavailable("no endpoints available"))?;
        let tls = (scheme == "https").then(node::anyone);
        node::show(call, Destination { host, port, tls, server_name: None, reach: Reach::Routable }).await
    }
}

/// A ready address that serves the port asked for, and the pod it is said to be of.
#[derive(Debug, PartialEq, Eq)]
struct Ready {
    address: String,
    port: u16,
    pod: String,
}

/// The ready addresses that serve the port of this name and refer to a pod of the namespace: whoever writes
/// Endpoints must not choose what this server calls.
fn ready(endpoints: &Object, port_name: &str, namespace: &str) -> Vec<Ready> {
    let mut found = Vec::new();
    for subset in endpoints.0["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let port = ports
            .filter(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let target = &address["targetRef"];
            let (Some(ip), Some(pod)) = (address["ip"].as_str(), target["name"].as_str()) else { continue };
            if target["namespace"] == namespace {
                found.push(Ready { address: ip.to_owned(), port, pod: pod.to_owned() });
            }
        }
    }
    found
}

/// Whether the address is one that its pod has.
async fn is_of_its_pod(call: &Call, ready: &Ready) -> bool {
    let pods = GroupResource::new("", "pods");
    match call.server.cluster.get(&pods, &call.info.namespace, &ready.pod).await {
        Ok(pod) => {
            let addresses = pod.0["status"]["podIPs"].as_array();
            addresses.into_iter().flatten().any(|held| held["ip"] == *ready.address)
        }
        Err(_) => false,
    }
}
