//! Whose a cluster IP or a node port is: keys of the store, written and deleted in the transactions that write the Service.
//!
//! An address is an IPAddress object, as upstream's, and so can be listed and is also kept from Services by whoever makes one.
//! A node port is a key outside of the API. Two servers on one store cannot give one to two Services: the second
//! transaction is refused, and its server chooses something else.
//! Upstream: pkg/registry/core/service/{ipallocator/ipallocator.go,ipallocator/controller/repairip.go}; its node ports are one
//! bitmap in one key.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use serde_json::json;
use store::{Compare, KeyValue, Op, PutValue, Range, Txn};

use super::allocation::{Held, Ranges};
use crate::engine::Call;
use crate::registry::Resource;
use crate::storage::{self, Claim};

const PORTS: &str = "/registry/ranges/servicenodeports/";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// An IPAddress that a Service has, but for what makes it this one (`uid`, `creationTimestamp`).
pub(crate) fn ip_address(address: IpAddr, namespace: &str, name: &str) -> Object {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    Object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, MANAGED_BY: ALLOCATOR},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    }))
}

/// Where the claims of one server's ranges are.
pub(super) struct Places<'a> {
    pub(super) ranges: Ranges,
    call: &'a Call,
    addresses: Arc<Resource>,
}

impl<'a> Places<'a> {
    pub(super) fn new(call: &'a Call) -> Result<Self, Status> {
        let options = &call.server.options;
        let ranges = Ranges { addresses: options.service_cidr, ports: options.node_ports };
        let table = call.server.registry.table();
        let addresses = table.get("networking.k8s.io", "v1", "ipaddresses").cloned();
        Ok(Self { ranges, call, addresses: addresses.ok_or_else(Status::page_not_found)? })
    }

    fn address_key(&self, at: u32) -> Bytes {
        self.addresses.key("", &self.ranges.addresses.nth(at).to_string())
    }

    fn port_key(&self, at: u32) -> Bytes {
        format!("{PORTS}{}", self.ranges.port(at)).into()
    }

    /// The claims of a Service on what it has.
    pub(super) fn of(&self, service: &Object) -> Vec<Claim> {
        let held = self.ranges.held(service);
        let namespace = service.namespace().unwrap_or_default();
        let addresses = held.addresses.iter().map(|at| {
            let object = ip_address(self.ranges.addresses.nth(*at), namespace, service.name());
            let object = crate::bootstrap::fresh(&self.call.server, &self.addresses, object);
            Claim { key: self.address_key(*at), value: self.addresses.encode(&object).into_put() }
        });
        let owner = json!({"namespace": namespace, "name": service.name()}).to_string();
        let owner = PutValue::Plain(owner.into());
        let ports = held.ports.iter().map(|at| Claim { key: self.port_key(*at), value: owner.clone() });
        addresses.chain(ports).collect()
    }

    /// Which of these are somebody's.
    pub(super) async fn claimed(&self, mut held: Held) -> Result<Held, Status> {
        let mut claimed = Held::default();
        for at in held.addresses.drain(..) {
            if self.exists(self.address_key(at)).await? {
                claimed.addresses.push(at);
            }
        }
        for at in held.ports.drain(..) {
            if self.exists(self.port_key(at)).await? {
                claimed.ports.push(at);
            }
        }
        Ok(claimed)
    }

    async fn exists(&self, key: Bytes) -> Result<bool, Status> {
        let range = Range { keys_only: true, ..Range::key(key) };
        Ok(!self.call.server.storage.0.range(range).await.map_err(storage::status)?.kvs.is_empty())
    }

    /// Makes the claims of these Services that are not there, takes away those of Services that are not there, and says what
    /// is taken: after a restore from elsewhere, or a server that kept no claims.
    pub(super) async fn repair(&self, services: &[Object]) -> Result<Held, Status> {
        let there: BTreeSet<Bytes> = self.keys().await?.into_iter().map(|kv| kv.key).collect();
        let mut wanted = BTreeSet::new();
        for claim in services.iter().flat_map(|service| self.of(service)) {
            if !there.contains(&claim.key) {
                tracing::warn!(key = ?claim.key, "what a Service has was not marked as taken");
                let put = Op::Put { key: claim.key.clone(), value: claim.value, lease: 0 };
                self.txn(Compare::absent(claim.key.clone()), put).await?;
            }
            wanted.insert(claim.key);
        }
        for key in there.iter().filter(|key| !wanted.contains(*key)) {
            self.take_away(key).await?;
        }
        let mut held = Held::default();
        for kv in self.keys().await? {
            let name =
                kv.key.rsplit(|byte| *byte == b'/').next().and_then(|name| std::str::from_utf8(name).ok());
            let Some(name) = name else { continue };
            match name.parse::<u64>() {
                Ok(port) => held.ports.extend(self.ranges.port_offset(port)),
                Err(_) => held
                    .addresses
                    .extend(name.parse().ok().and_then(|address| self.ranges.addresses.offset(address))),
            }
        }
        Ok(held)
    }

    async fn keys(&self) -> Result<Vec<KeyValue>, Status> {
        let mut keys = Vec::new();
        for prefix in [self.addresses.view.prefix.clone(), PORTS.into()] {
            let range = Range { keys_only: true, ..Range::prefix(prefix) };
            keys.extend(self.call.server.storage.0.range(range).await.map_err(storage::status)?.kvs);
        }
        Ok(keys)
    }

    /// Deletes a claim, unless it is somebody's own IPAddress or has been written meanwhile.
    async fn take_away(&self, key: &Bytes) -> Result<(), Status> {
        let found =
            self.call.server.storage.0.range(Range::key(key.clone())).await.map_err(storage::status)?;
        let Some(kv) = found.kvs.into_iter().next() else { return Ok(()) };
        if !key.starts_with(PORTS.as_bytes()) {
            let address = self.addresses.decode(&kv.value)?;
            if address.0["metadata"]["labels"][MANAGED_BY] != ALLOCATOR {
                return Ok(());
            }
        }
        tracing::warn!(?key, "what no Service has was marked as taken");
        self.txn(Compare::mod_revision(key.clone(), kv.mod_revision), Op::delete(key.clone())).await
    }

    async fn txn(&self, compare: Compare, op: Op) -> Result<(), Status> {
        let txn = Txn { compare: vec![compare], success: vec![op], failure: Vec::new() };
        self.call.server.storage.0.txn(txn).await.map(|_| ()).map_err(storage::status)
    }
}
