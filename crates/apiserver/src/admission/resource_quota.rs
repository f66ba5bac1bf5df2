//! Refuses what would exceed a ResourceQuota of its namespace, and counts what does not.
//!
//! The count is kept in the quota's status and moved by compare-and-swap, so that however many writes run at
//! once, no two take the same room. What was counted and then not stored, and what is deleted, is given back by
//! the resourcequota controller, which counts anew.
//! Reads ResourceQuotas; writes their status.
//! Not here: what an object uses and which quotas are about it ([`api::quota`]).
//! Upstream: apiserver/pkg/admission/plugin/resourcequota.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use api::quantity::Quantity;
use api::quota::{self, Usage, hard};
use api::types::core::v1 as core;
use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use foundation::SharedClock;
use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard};

use super::json::{list, typed};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

/// How often a swap is tried again when somebody else (the controller, another server) was quicker.
const TRIES: usize = 50;
/// Locks that spare this server's own requests the swap's failures; namespaces share them by hash.
const LOCKS: usize = 64;

/// What may be used only where a quota bounds it.
#[derive(Clone, Debug)]
pub struct Limited {
    /// The resource whose objects are meant.
    pub resource: GroupResource,
    /// Amounts whose names contain one of these.
    pub contains: Vec<String>,
    /// Objects that are within one of these.
    pub scopes: Vec<Scope>,
}

/// A scope of quotas, as a selector.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Which scope.
    pub name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// What the operator is about.
    pub values: Vec<String>,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{{} {} [{}]}}", self.name, self.operator, self.values.join(" "))
    }
}

pub(super) struct ResourceQuota {
    clock: SharedClock,
    limited: Arc<[Limited]>,
    locks: [Mutex<()>; LOCKS],
}

fn quotas() -> GroupResource {
    GroupResource::new("", "resourcequotas")
}

/// `cpu=1,pods=2`, as messages list amounts.
fn print(usage: &BTreeMap<&str, Quantity>) -> String {
    let parts: Vec<String> = usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}

impl ResourceQuota {
    pub(super) fn new(clock: SharedClock, limited: Arc<[Limited]>) -> Self {
        Self { clock, limited, locks: std::array::from_fn(|_| Mutex::new(())) }
    }

    /// What is used though it is limited and no quota is about it.
    fn uncovered(
        &self,
        resource: &GroupResource,
        object: &Object,
        usage: &Usage,
        quotas: &[core::ResourceQuota],
    ) -> Option<String> {
        let limited: Vec<&Limited> = self.limited.iter().filter(|one| one.resource == *resource).collect();
        if limited.is_empty() {
            return None;
        }
        let about: Vec<Usage> =
            quotas.iter().filter(|quota| quota::matches(quota, resource, object)).map(hard).collect();
        let names =
            usage.iter().filter(|(_, amount)| **amount > Quantity::ZERO).map(|(name, _)| name.as_str());
        let names: Vec<&str> = names
            .filter(|name| limited.iter().any(|one| one.contains.iter().any(|part| name.contains(part))))
            .filter(|name| !about.iter().any(|hard| hard.contains_key(*name)))
            .collect();
        if !names.is_empty() {
            return Some(format!("insufficient quota to consume: {}", names.join(",")));
        }
        let covered = |name: &str| {
            quotas.iter().flat_map(quota::scopes).any(|(scope, operator, values)| {
                scope == name && quota::within(scope, operator, values, resource, object)
            })
        };
        let scopes = limited.iter().flat_map(|one| &one.scopes);
        let scopes = scopes
            .filter(|scope| quota::within(&scope.name, &scope.operator, &scope.values, resource, object));
        let scopes: Vec<String> =
            scopes.filter(|scope| !covered(&scope.name)).map(ToString::to_string).collect();
        let scopes = scopes.join(" ");
        (!scopes.is_empty()).then(|| format!("insufficient quota to match these scopes: [{scopes}]"))
    }

    async fn lock(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(namespace);
        self.locks[(hash % LOCKS as u64) as usize].lock().await
    }

    /// Makes room in one quota for what is asked, or says why not.
    async fn charge(
        &self,
        request: &Request<'_>,
        name: &str,
        asked: &Usage,
        cluster: &dyn ClusterState,
        store: bool,
    ) -> Result<(), Status> {
        for _ in 0..TRIES {
            let mut object = match cluster.get(&quotas(), request.namespace, name).await {
                Ok(object) => object,
                // The quota is gone, and its bounds with it.
                Err(status) if status.is_not_found() => return Ok(()),
                Err(status) => return Err(status),
            };
            let quota: core::ResourceQuota = typed(&object)?;
            let hard = hard(&quota);
            let counted = quota
                .status
                .and_then(|status| status.used)
                .map(|used| quota::parse(&used))
                .unwrap_or_default();
            let used = complete(counted, &hard, &object, cluster, self.clock.now()).await?;
            let mut next = used.clone();
            let mut over: [BTreeMap<&str, Quantity>; 3] = Default::default();
            for (resource, more) in asked.iter().filter(|(resource, _)| hard.contains_key(*resource)) {
                let held = used.get(resource).copied().unwrap_or_default();
                let sum = held + *more;
                // What shrinks is let through even where the rest is over the bound already.
                if *more > Quantity::ZERO && sum > hard[resource] {
                    over[0].insert(resource, *more);
                    over[1].insert(resource, held);
                    over[2].insert(resource, hard[resource]);
                }
                next.insert(resource.clone(), sum);
            }
            if !over[0].is_empty() {
                let [requested, used, limited] = over.each_ref().map(print);
                return Err(request.forbidden(format!(
                    "exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"
                )));
            }
            if !store {
                return Ok(());
            }
            let wire = |usage: &Usage| -> serde_json::Value {
                usage
                    .iter()
                    .map(|(name, amount)| (name.clone(), serde_json::Value::from(amount.to_string())))
                    .collect()
            };
            object.0["status"]["hard"] = wire(&hard);
            object.0["status"]["used"] = wire(&next);
            match cluster.replace(&quotas(), object).await {
                Ok(_) => return Ok(()),
                Err(status) if status.is_conflict() => {}
                Err(status) if status.is_not_found() => return Ok(()),
                Err(status) => return Err(status),
            }
        }
        Err(Status::conflict(&quotas(), name, "the quota is being changed too quickly, try again"))
    }
}

/// The count with what was not counted yet: a new quota's objects are counted by the first write that meets it.
async fn complete(
    mut counted: Usage,
    hard: &Usage,
    quota: &Object,
    cluster: &dyn ClusterState,
    now: Timestamp,
) -> Result<Usage, Status> {
    let unknown: Vec<&String> = hard.keys().filter(|name| !counted.contains_key(*name)).collect();
    if unknown.is_empty() {
        counted.retain(|name, _| hard.contains_key(name));
        return Ok(counted);
    }
    let namespace = quota.namespace().unwrap_or_default().to_owned();
    let quota: core::ResourceQuota = typed(quota)?;
    let mut fresh = Usage::new();
    for resource in quota::resources_behind(unknown.iter().map(|name| name.as_str())) {
        let listing = match cluster.list(&resource, &namespace).await {
            Ok(listing) => listing,
            // A resource that is not served has no objects.
            Err(status) if status.is_not_found() => continue,
            Err(status) => return Err(status),
        };
        for bytes in listing.items {
            let object = Object(serde_json::from_slice(&bytes).map_err(Status::internal)?);
            if quota::is_over(&resource, &object, now) || !quota::matches(&quota, &resource, &object) {
                continue;
            }
            for (name, amount) in quota::of(&resource, &object)? {
                let held = fresh.get(&name).copied().unwrap_or_default();
                fresh.insert(name, held + amount);
            }
        }
    }
    for name in unknown {
        counted.insert(name.clone(), fresh.get(name).copied().unwrap_or_default());
    }
    counted.retain(|name, _| hard.contains_key(name));
    Ok(counted)
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        let resource = request.resource.group_resource();
        let resize = request.is("", "pods", "resize");
        if request.namespace.is_empty() || !request.subresource.is_empty() && !resize {
            return Ok(());
        }
        if request.operation == Operation::Update && !resize && !quota::changes_with_updates(&resource) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let known: Vec<core::ResourceQuota> =
            list(&**cluster, "", "resourcequotas", request.namespace).await?;
        if known.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let usage = quota::of(&resource, object)?;
        let uncovered = self.uncovered(&resource, object, &usage, &known);
        let asked = quota::difference(
            usage,
            match request.old {
                Some(old) => quota::of(&resource, old)?,
                None => Usage::new(),
            },
        );
        let mut concerned = Vec::new();
        for quota in &known {
            let hard = hard(quota);
            let bounded = asked.iter().any(|(name, amount)| hard.contains_key(name) && !amount.is_zero());
            let demanded = quota::is_pod(&resource) && hard.keys().any(|name| quota::must_be_given(name));
            if !(bounded || demanded) || !quota::matches(quota, &resource, object) {
                continue;
            }
            let name = quota.metadata.name.clone().unwrap_or_default();
            if let Some(missing) = quota::missing(&resource, object, &hard)? {
                return Err(request.forbidden(format!("failed quota: {name}: must specify {missing}")));
            }
            if bounded {
                concerned.push(name);
            }
        }
        if let Some(uncovered) = uncovered {
            return Err(request.forbidden(uncovered));
        }
        if concerned.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(request.namespace).await;
        // All are asked before any is charged, so that a refusal by one leaves nothing taken in the others.
        for store in [false, true] {
            if store && request.dry_run {
                break;
            }
            for name in &concerned {
                self.charge(request, name, &asked, &**cluster, store).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
