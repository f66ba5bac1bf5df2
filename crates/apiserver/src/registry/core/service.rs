//! Services: cluster IPs and node ports, and `services/proxy`.
//!
//! What is allocated is kept in memory: built from a list at the first use, reserved before a write and
//! given back when the write fails or the Service goes. The store is the truth: a server that starts again
//! reads it there.
//! Upstream: pkg/registry/core/service/storage/{alloc,storage,rest_endpoints}.go.

mod allocation;
mod fields;

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::node;
use super::pod::streams;
use crate::engine::Call;
use crate::proxy::{self, Destination};
use crate::registry::{Rest, Subresource, Undo};
use crate::response::Response;
use allocation::Allocator;

/// `services`.
#[derive(Default)]
pub(in crate::registry) struct Services {
    allocator: OnceCell<Arc<Allocator>>,
}

impl Services {
    async fn allocator(&self, call: &Call) -> Result<Arc<Allocator>, Status> {
        let make = || async {
            // As new as the store: what another request was given must not be given again.
            call.server.hub.catch_up().await.map_err(crate::storage::status)?;
            let listed = call.server.cluster.list(&GroupResource::new("", "services"), "").await?;
            let services =
                listed.items.iter().filter_map(|item| serde_json::from_slice(item).ok().map(Object));
            let options = &call.server.options;
            let allocator = Allocator::new(options.service_cidr, options.node_ports);
            for service in services {
                allocator.adopt(&service);
            }
            Ok::<_, Status>(Arc::new(allocator))
        };
        self.allocator.get_or_try_init(make).await.cloned()
    }
}

#[async_trait]
impl Rest for Services {
    async fn before_create(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        let allocator = self.allocator(call).await?;
        fields::default_families(object, call.server.options.service_cidr);
        let taken = allocator.allocate(object, None, &*call.server.randomness)?;
        Ok(Undo::with(move || allocator.give_back(taken)))
    }

    async fn before_update(&self, call: &Call, new: &mut Object, old: &Object) -> Result<Undo, Status> {
        let allocator = self.allocator(call).await?;
        fields::carry_over(new, old);
        fields::default_families(new, call.server.options.service_cidr);
        let taken = allocator.allocate(new, Some(old), &*call.server.randomness)?;
        Ok(Undo::with(move || allocator.give_back(taken)))
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
        let (scheme, name, port) = node::split(&call.info.name);
        let (scheme, name, port) = (scheme.to_owned(), name.to_owned(), port.to_owned());
        call.info.name = name.clone();
        let service = call.stored().await?.object;
        streams::connect(&call, "ServiceProxyOptions").await?;
        let unavailable = |what: &str| Status::service_unavailable(format!("{what} for service \"{name}\""));
        let port_name = fields::port_name(&service, &port)
            .ok_or_else(|| unavailable(&format!("no service port \"{port}\" found")))?;
        let endpoints = call
            .server
            .cluster
            .get(&GroupResource::new("", "endpoints"), &call.info.namespace, &name)
            .await
            .map_err(|_| unavailable("no endpoints available"))?;
        let ready = endpoint(&endpoints, &port_name, call.server.randomness.u64());
        let (host, port) = ready.ok_or_else(|| unavailable("no endpoints available"))?;
        let tls = (scheme == "https").then(node::anyone);
        let path = node::proxied_path(&call);
        proxy::forward(call, Destination { host, port, tls }, &path).await
    }
}

/// One of the ready addresses that serve the port of this name.
fn endpoint(endpoints: &Object, port_name: &str, choice: u64) -> Option<(String, u16)> {
    let mut found = Vec::new();
    for subset in endpoints.0["subsets"].as_array()? {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let port = ports
            .filter(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        found.extend(
            addresses.filter_map(Value::as_object).filter_map(|a| Some((a["ip"].as_str()?.to_owned(), port))),
        );
    }
    let at = usize::try_from(choice % (found.len().max(1) as u64)).ok()?;
    (!found.is_empty()).then(|| found.swap_remove(at))
}
