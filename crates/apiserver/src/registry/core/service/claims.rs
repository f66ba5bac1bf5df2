//! Whose a cluster IP or a node port is: keys of the store, written and deleted in the transactions that write the Service.
//!
//! An address is an IPAddress object, as upstream's, and so can be listed and is also kept from Services by whoever makes one.
//! A node port is a key outside of the API. Two servers on one store cannot give one to two Services: the second
//! transaction is refused, and its server chooses something else.
//! Upstream: pkg/registry/core/service/{ipallocator/ipallocator.go,ipallocator/controller/repairip.go}; its node ports are one
//! bitmap in one key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use serde_json::json;
use store::{Compare, KeyValue, Op, OpResult, PutValue, Range, Txn};

use super::allocation::{Held, Ranges};
use crate::engine::Call;
use crate::registry::Resource;
use crate::storage::{self, Claim, Claims};

const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Claims made at once: an etcd takes 128 operations in a transaction.
const BATCH: usize = 100;
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

    /// What a Service takes and gives up to have what `new` has. Most updates change neither addresses nor ports, and cost
    /// neither a read nor an encoding.
    pub(super) async fn between(&self, new: Option<&Object>, old: Option<&Object>) -> Result<Claims, Status> {
        let held =
            |service: Option<&Object>| service.map(|service| self.ranges.held(service)).unwrap_or_default();
        let (next, last) = (held(new), held(old));
        let added = next.without(&last);
        let takes = new.map(|service| self.of(service, &added)).unwrap_or_default();
        let gone = last.without(&next);
        let keys = gone.addresses.iter().map(|at| self.address_key(*at));
        let keys: Vec<Bytes> = keys.chain(gone.ports.iter().map(|at| self.port_key(*at))).collect();
        let mut frees = Vec::new();
        for kv in self.read_all(&keys, false).await? {
            if old.is_some_and(|service| self.is_of(&kv, service)) {
                frees.push((kv.key, kv.mod_revision));
            }
        }
        Ok(Claims { takes, frees })
    }

    /// The claims of a Service on these of its addresses and ports.
    fn of(&self, service: &Object, held: &Held) -> Vec<Claim> {
        let namespace = service.namespace().unwrap_or_default();
        let addresses = held.addresses.iter().map(|at| {
            let object = ip_address(self.ranges.addresses.nth(*at), namespace, service.name());
            let object = crate::bootstrap::fresh(&self.call.server, &self.addresses, object);
            Claim { key: self.address_key(*at), value: self.addresses.encode(&object).into_put() }
        });
        let owner = owner(service);
        let ports = held
            .ports
            .iter()
            .map(|at| Claim { key: self.port_key(*at), value: PutValue::Plain(owner.clone()) });
        addresses.chain(ports).collect()
    }

    /// Whether a claim is this Service's, and not somebody's who made an IPAddress or has one by a mistake of the past.
    fn is_of(&self, kv: &KeyValue, service: &Object) -> bool {
        if kv.key.starts_with(PORTS.as_bytes()) {
            return kv.value == owner(service);
        }
        let Ok(address) = self.addresses.decode(&kv.value) else { return false };
        let parent = &address.0["spec"]["parentRef"];
        parent["resource"] == "services"
            && parent["namespace"] == service.namespace().unwrap_or_default()
            && parent["name"] == service.name()
    }

    /// Which of these are somebody's.
    pub(super) async fn claimed(&self, mut held: Held) -> Result<Held, Status> {
        let keys: Vec<Bytes> = held.addresses.iter().map(|at| self.address_key(*at)).collect();
        let ports: Vec<Bytes> = held.ports.iter().map(|at| self.port_key(*at)).collect();
        let there = self.read_all(&[keys.as_slice(), &ports].concat(), true).await?;
        let there: BTreeSet<&Bytes> = there.iter().map(|kv| &kv.key).collect();
        held.addresses.retain(|at| there.contains(&self.address_key(*at)));
        held.ports.retain(|at| there.contains(&self.port_key(*at)));
        Ok(held)
    }

    /// What is under these keys, where there is something, at one revision as long as one transaction holds them.
    async fn read_all(&self, keys: &[Bytes], keys_only: bool) -> Result<Vec<KeyValue>, Status> {
        let mut found = Vec::new();
        for some in keys.chunks(BATCH) {
            let read = |key: &Bytes| Op::Range(Range { keys_only, ..Range::key(key.clone()) });
            let txn = Txn { success: some.iter().map(read).collect(), ..Txn::default() };
            let answer = self.call.server.storage.store.txn(txn).await.map_err(storage::status)?;
            for result in answer.results {
                if let OpResult::Range(range) = result {
                    found.extend(range.kvs);
                }
            }
        }
        Ok(found)
    }

    async fn read(&self, range: Range) -> Result<Vec<KeyValue>, Status> {
        Ok(self.call.server.storage.store.range(range).await.map_err(storage::status)?.kvs)
    }

    /// Where in the ranges a claim is; `None` outside of them, where it is another server's business.
    fn place(&self, key: &[u8]) -> Option<Held> {
        let name = std::str::from_utf8(key.rsplit(|byte| *byte == b'/').next()?).ok()?;
        if key.starts_with(PORTS.as_bytes()) {
            let port = self.ranges.port_offset(name.parse().ok()?)?;
            return Some(Held { ports: vec![port], ..Held::default() });
        }
        let address = self.ranges.addresses.offset(name.parse().ok()?)?;
        Some(Held { addresses: vec![address], ..Held::default() })
    }

    /// Everything in the ranges that is somebody's.
    pub(super) async fn taken(&self) -> Result<Held, Status> {
        let mut taken = Held::default();
        for held in self.keys().await?.iter().filter_map(|kv| self.place(&kv.key)) {
            taken.addresses.extend(held.addresses);
            taken.ports.extend(held.ports);
        }
        Ok(taken)
    }

    /// Makes the claims of Services that are not there, and takes away those of Services that are not there: after a restore
    /// from elsewhere, or a server that kept no claims.
    pub(super) async fn repair(&self) -> Result<(), Status> {
        // First what is claimed, then the Services: a claim that comes in between is of a Service that is not listed, and is
        // not looked at.
        let there: BTreeMap<Bytes, u64> =
            self.keys().await?.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
        let services = super::services(self.call).await?;
        let mut wanted = BTreeSet::new();
        let mut missing = Vec::new();
        for claim in services.iter().flat_map(|service| self.of(service, &self.ranges.held(service))) {
            if wanted.insert(claim.key.clone()) && !there.contains_key(&claim.key) {
                missing.push((Compare::absent(claim.key.clone()), claim.key, claim.value));
            }
        }
        for some in missing.chunks(BATCH) {
            tracing::warn!(claims = some.len(), "what Services have was not marked as taken");
            let put = |(_, key, value): &(Compare, Bytes, PutValue)| Op::Put {
                key: key.clone(),
                value: value.clone(),
                lease: 0,
            };
            let compare = some.iter().map(|(compare, ..)| compare.clone()).collect();
            if self.txn(compare, some.iter().map(put).collect()).await? {
                continue;
            }
            // Another server does the same.
            for one in some {
                self.txn(vec![one.0.clone()], vec![put(one)]).await?;
            }
        }
        let orphans = there.iter().filter(|(key, _)| !wanted.contains(*key) && self.place(key).is_some());
        for (key, revision) in orphans {
            self.take_away(key, *revision).await?;
        }
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<KeyValue>, Status> {
        let mut keys = Vec::new();
        for prefix in [self.addresses.view.prefix.clone(), PORTS.into()] {
            keys.extend(self.read(Range { keys_only: true, ..Range::prefix(prefix) }).await?);
        }
        Ok(keys)
    }

    /// Deletes a claim that was seen at a revision, unless it is somebody's own IPAddress.
    async fn take_away(&self, key: &Bytes, revision: u64) -> Result<(), Status> {
        if !key.starts_with(PORTS.as_bytes()) {
            let found = self.read(Range::key(key.clone())).await?;
            let Some(kv) = found.into_iter().next() else { return Ok(()) };
            if self.addresses.decode(&kv.value)?.0["metadata"]["labels"][MANAGED_BY] != ALLOCATOR {
                return Ok(());
            }
        }
        tracing::warn!(?key, "what no Service has was marked as taken");
        let compare = vec![Compare::mod_revision(key.clone(), revision)];
        self.txn(compare, vec![Op::delete(key.clone())]).await.map(|_| ())
    }

    async fn txn(&self, compare: Vec<Compare>, success: Vec<Op>) -> Result<bool, Status> {
        let txn = Txn { compare, success, failure: Vec::new() };
        Ok(self.call.server.storage.store.txn(txn).await.map_err(storage::status)?.succeeded)
    }
}

/// What is stored for a node port.
fn owner(service: &Object) -> Bytes {
    let namespace = service.namespace().unwrap_or_default();
    json!({"namespace": namespace, "name": service.name()}).to_string().into()
}
