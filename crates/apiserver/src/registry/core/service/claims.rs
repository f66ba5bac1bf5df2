//! Whose a cluster IP or a node port is: keys of the store, written and deleted in the transactions that write the Service.
//!
//! An address is an IPAddress object, as upstream's, and so can be listed and is also kept from Services by whoever makes one.
//! Node ports are keys outside of the API, one for a block of them (`ports`). Two servers on one store cannot give one to two
//! Services: the second transaction is refused, and its server chooses something else.
//! Upstream: pkg/registry/core/service/{ipallocator/ipallocator.go,ipallocator/controller/repairip.go}.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use serde_json::json;
use store::{Compare, KeyValue, Op, OpResult, PutValue, Range, Txn};
use tokio::sync::Mutex;

use super::allocation::{Held, Ranges};
use super::ports::{self, Block};
use crate::engine::Call;
use crate::registry::Resource;
use crate::storage::{self, Claim, Claims, Share};

/// Where node ports had a key each, before there were blocks.
const SINGLE_PORTS: &str = "/registry/ranges/servicenodeports/";
/// How often what others write meanwhile is looked at anew.
const REPAIRS: usize = 10;
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

    /// What a Service takes and gives up to have what `new` has. Most updates change neither addresses nor ports, and cost
    /// neither a read nor an encoding. Blocks of ports are written by one of this server's requests after the other
    /// (`turns`), so that they do not refuse each other.
    pub(super) async fn between(
        &self,
        new: Option<&Object>,
        old: Option<&Object>,
        turns: &Arc<Mutex<()>>,
    ) -> Result<Claims, Status> {
        let held =
            |service: Option<&Object>| service.map(|service| self.ranges.held(service)).unwrap_or_default();
        let (next, last) = (held(new), held(old));
        let (added, gone) = (next.without(&last), last.without(&next));
        let takes = new.map(|service| self.of(service, &added.addresses)).unwrap_or_default();
        let keys: Vec<Bytes> = gone.addresses.iter().map(|at| self.address_key(*at)).collect();
        let mut frees = Vec::new();
        for kv in self.read_all(&keys, false).await? {
            if old.is_some_and(|service| self.is_of(&kv, service)) {
                frees.push((kv.key, kv.mod_revision));
            }
        }
        let mut claims = Claims { takes, frees, ..Claims::default() };
        let ports = |held: &Held| held.ports.iter().map(|at| self.port(*at)).collect::<BTreeSet<u16>>();
        let (wanted, gone) = (ports(&added), ports(&gone));
        let Some(owner) = new.or(old).map(ports::owner) else { return Ok(claims) };
        if wanted.is_empty() && gone.is_empty() {
            return Ok(claims);
        }
        claims.turn = Some(turns.clone().lock_owned().await);
        let firsts: BTreeSet<u16> = wanted.union(&gone).map(|port| ports::first(*port)).collect();
        for (first, (before, revision)) in self.some_blocks(&firsts).await? {
            let mut block = before.clone();
            for port in wanted.iter().filter(|port| ports::first(**port) == first) {
                claims.is_lost |= !block.take(*port, &owner);
            }
            for port in gone.iter().filter(|port| ports::first(**port) == first) {
                block.free(*port, &owner);
            }
            if block != before {
                claims.shares.push(Share { key: ports::key(first), revision, value: block.value() });
            }
        }
        Ok(claims)
    }

    /// The claims of a Service on these of its addresses.
    fn of(&self, service: &Object, addresses: &[u32]) -> Vec<Claim> {
        let namespace = service.namespace().unwrap_or_default();
        let claim = |at: &u32| {
            let object = ip_address(self.ranges.addresses.nth(*at), namespace, service.name());
            let object = crate::bootstrap::fresh(&self.call.server, &self.addresses, object);
            Claim { key: self.address_key(*at), value: self.addresses.encode(&object).into_put() }
        };
        addresses.iter().map(claim).collect()
    }

    /// The node ports that a Service has of the range.
    fn ports(&self, service: &Object) -> BTreeSet<u16> {
        self.ranges.held(service).ports.iter().map(|at| self.port(*at)).collect()
    }

    fn port(&self, at: u32) -> u16 {
        // The range is one of ports.
        u16::try_from(self.ranges.port(at)).unwrap_or(u16::MAX)
    }

    /// These blocks, by their first ports, each with the revision that it was written at; 0 if it is not there.
    async fn some_blocks(&self, firsts: &BTreeSet<u16>) -> Result<BTreeMap<u16, (Block, u64)>, Status> {
        let keys: Vec<Bytes> = firsts.iter().map(|first| ports::key(*first)).collect();
        let found = self.read_all(&keys, false).await?;
        let mut blocks = BTreeMap::new();
        for (first, key) in firsts.iter().zip(&keys) {
            let block = match found.iter().find(|kv| kv.key == *key) {
                Some(kv) => (Block::read(&kv.value)?, kv.mod_revision),
                None => Default::default(),
            };
            blocks.insert(*first, block);
        }
        Ok(blocks)
    }

    /// Every block that is there, with its revision, by its key.
    async fn blocks(&self) -> Result<BTreeMap<Bytes, (Block, u64)>, Status> {
        let found = self.read(Range::prefix(ports::PREFIX)).await?.into_iter();
        found.map(|kv| Ok((kv.key, (Block::read(&kv.value)?, kv.mod_revision)))).collect()
    }

    /// Whether an address is this Service's, and not somebody's who made an IPAddress or has one by a mistake of the past.
    fn is_of(&self, kv: &KeyValue, service: &Object) -> bool {
        let Ok(address) = self.addresses.decode(&kv.value) else { return false };
        let parent = &address.0["spec"]["parentRef"];
        parent["resource"] == "services"
            && parent["namespace"] == service.namespace().unwrap_or_default()
            && parent["name"] == service.name()
    }

    /// Which of these are somebody's.
    pub(super) async fn claimed(&self, mut held: Held) -> Result<Held, Status> {
        let keys: Vec<Bytes> = held.addresses.iter().map(|at| self.address_key(*at)).collect();
        let there = self.read_all(&keys, true).await?;
        let there: BTreeSet<&Bytes> = there.iter().map(|kv| &kv.key).collect();
        held.addresses.retain(|at| there.contains(&self.address_key(*at)));
        let firsts = held.ports.iter().map(|at| ports::first(self.port(*at))).collect();
        let blocks = self.some_blocks(&firsts).await?;
        let is_taken =
            |port: u16| blocks.get(&ports::first(port)).is_some_and(|(block, _)| block.0.contains_key(&port));
        held.ports.retain(|at| is_taken(self.port(*at)));
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

    /// Where in the range a claimed address is; `None` outside of it, where it is another server's business.
    fn place(&self, key: &[u8]) -> Option<u32> {
        let name = std::str::from_utf8(key.rsplit(|byte| *byte == b'/').next()?).ok()?;
        self.ranges.addresses.offset(name.parse().ok()?)
    }

    /// Everything in the ranges that is somebody's.
    pub(super) async fn taken(&self) -> Result<Held, Status> {
        let addresses = self.address_keys().await?.iter().filter_map(|kv| self.place(&kv.key)).collect();
        let blocks = self.blocks().await?;
        let ports = blocks.values().flat_map(|(block, _)| block.0.keys());
        let ports = ports.filter_map(|port| self.ranges.port_offset((*port).into())).collect();
        Ok(Held { addresses, ports })
    }

    /// Makes the claims of Services that are not there, and takes away those of Services that are not there: after a restore
    /// from elsewhere, or a server that kept no claims.
    pub(super) async fn repair(&self) -> Result<(), Status> {
        for _ in 0..REPAIRS {
            // First what is claimed, then the Services: a claim that comes in between is of a Service that is not listed,
            // and is not looked at, or is in a block that is not written any more.
            let there = self.address_keys().await?;
            let blocks = self.blocks().await?;
            let services = super::services(self.call).await?;
            self.repair_addresses(there, &services).await?;
            if self.repair_ports(blocks, &services).await? {
                break;
            }
        }
        // What it held is in the blocks, or of no Service.
        if !self.read(Range { keys_only: true, limit: 1, ..Range::prefix(SINGLE_PORTS) }).await?.is_empty() {
            let Range { start, end, .. } = Range::prefix(SINGLE_PORTS);
            self.txn(Vec::new(), vec![Op::Delete { start, end }]).await?;
        }
        Ok(())
    }

    async fn repair_addresses(&self, there: Vec<KeyValue>, services: &[Object]) -> Result<(), Status> {
        let there: BTreeMap<Bytes, u64> = there.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
        let mut wanted = BTreeSet::new();
        let mut missing = Vec::new();
        for claim in
            services.iter().flat_map(|service| self.of(service, &self.ranges.held(service).addresses))
        {
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

    /// False if somebody wrote a block meanwhile.
    async fn repair_ports(
        &self,
        blocks: BTreeMap<Bytes, (Block, u64)>,
        services: &[Object],
    ) -> Result<bool, Status> {
        let mut wanted: BTreeMap<Bytes, BTreeMap<u16, String>> =
            blocks.keys().map(|key| (key.clone(), BTreeMap::new())).collect();
        for service in services {
            for port in self.ports(service) {
                let block = wanted.entry(ports::key(ports::first(port))).or_default();
                block.entry(port).or_insert_with(|| ports::owner(service));
            }
        }
        let mut done = true;
        for (key, wanted) in wanted {
            let (before, revision) = blocks.get(&key).cloned().unwrap_or_default();
            let mut block = before.clone();
            block.put_right(&wanted, |port| self.ranges.port_offset(port.into()).is_some());
            if block != before {
                tracing::warn!(?key, "the node ports that Services have were not those marked as taken");
                let share = Share { key, revision, value: block.value() };
                done &= self.txn(vec![share.condition()], vec![share.op()]).await?;
            }
        }
        Ok(done)
    }

    async fn address_keys(&self) -> Result<Vec<KeyValue>, Status> {
        self.read(Range { keys_only: true, ..Range::prefix(self.addresses.view.prefix.clone()) }).await
    }

    /// Deletes an address that was seen at a revision, unless it is somebody's own IPAddress.
    async fn take_away(&self, key: &Bytes, revision: u64) -> Result<(), Status> {
        let found = self.read(Range::key(key.clone())).await?;
        let Some(kv) = found.into_iter().next() else { return Ok(()) };
        if self.addresses.decode(&kv.value)?.0["metadata"]["labels"][MANAGED_BY] != ALLOCATOR {
            return Ok(());
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
