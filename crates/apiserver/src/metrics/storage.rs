//! What the server counts of its store, under the names that upstream has for etcd.
//!
//! A [`Measured`] store stands in front of any other. Which resource a call is about is read off its key.
//! Upstream: apiserver/pkg/storage/etcd3/metrics/metrics.go, etcd3/latency_tracker.go (the operations).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use foundation::SharedClock;
use foundation::metrics::{Counter, Family, Histogram, registry};
use parking_lot::RwLock;
use store::{
    Error, LeaseId, LeaseInfo, Op, Range, RangeResponse, Revision, Status, Store, Target, Txn, TxnResponse,
    WatchRequest, WatchStream,
};

use super::LATENCY;

const LABELS: &[&str] = &["group", "resource"];

struct Lists {
    served: Family<Counter>,
    fetched: Family<Counter>,
    evaluated: Family<Counter>,
    returned: Family<Counter>,
}

static LISTS: LazyLock<Lists> = LazyLock::new(|| {
    let counter = |name, help| registry().counter(name, help, LABELS);
    Lists {
        served: counter("apiserver_storage_list_total", "Lists that were read out of the store."),
        fetched: counter(
            "apiserver_storage_list_fetched_objects_total",
            "Objects read out of the store for lists.",
        ),
        evaluated: counter(
            "apiserver_storage_list_evaluated_objects_total",
            "Objects out of the store that were held against the selectors of lists.",
        ),
        returned: counter(
            "apiserver_storage_list_returned_objects_total",
            "Objects out of the store that lists returned.",
        ),
    }
});

/// A list was served out of the store: so many objects were read, and so many of them returned.
pub fn listed(resource: &api::GroupResource, fetched: u64, returned: usize) {
    let labels = [resource.group.as_str(), resource.resource.as_str()];
    LISTS.served.with(&labels).inc();
    LISTS.fetched.with(&labels).add(fetched);
    LISTS.evaluated.with(&labels).add(fetched);
    LISTS.returned.with(&labels).add(returned as u64);
}

/// What is done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Get,
    List,
    Create,
    Update,
    Delete,
}

const OPERATIONS: [&str; 5] = ["get", "list", "create", "update", "delete"];

/// The counters of one operation on one resource.
#[derive(Clone)]
struct Counters {
    latency: Histogram,
    requests: Counter,
    errors: Counter,
}

/// A store that is measured.
pub struct Measured {
    inner: Arc<dyn Store>,
    clock: SharedClock,
    latency: Family<Histogram>,
    requests: Family<Counter>,
    errors: Family<Counter>,
    /// By operation, and then by the part of the key that names the resource.
    known: [RwLock<HashMap<Box<[u8]>, Counters>>; 5],
}

impl Measured {
    /// `inner`, measured by `clock`.
    pub fn new(inner: Arc<dyn Store>, clock: SharedClock) -> Self {
        const LABELS: &[&str] = &["operation", "group", "resource"];
        let registry = registry();
        Self {
            inner,
            clock,
            latency: registry.histogram(
                "etcd_request_duration_seconds",
                "How long calls of the store took, in seconds.",
                LABELS,
                LATENCY,
            ),
            requests: registry.counter("etcd_requests_total", "Calls of the store.", LABELS),
            errors: registry.counter("etcd_request_errors_total", "Calls of the store that failed.", LABELS),
            known: Default::default(),
        }
    }

    fn count(&self, operation: Operation, key: &[u8], failed: bool, took: Duration) {
        let Some(place) = place(key) else { return };
        let known = &self.known[operation as usize];
        let found = known.read().get(place).cloned();
        let counters = found.unwrap_or_else(|| {
            let (group, resource) = named(place);
            let labels = [OPERATIONS[operation as usize], group.as_str(), resource.as_str()];
            let counters = Counters {
                latency: self.latency.with(&labels),
                requests: self.requests.with(&labels),
                errors: self.errors.with(&labels),
            };
            known.write().insert(place.into(), counters.clone());
            counters
        });
        counters.latency.observe_duration(took);
        counters.requests.inc();
        if failed {
            counters.errors.inc();
        }
    }
}

/// `core/pods` of `/registry/core/pods/default/a`; `None` for keys that hold no objects.
pub(super) fn place(key: &[u8]) -> Option<&[u8]> {
    let rest = key.strip_prefix(b"/registry/")?;
    let group = rest.iter().position(|byte| *byte == b'/')?;
    let resource = &rest[group + 1..];
    let end = resource.iter().position(|byte| *byte == b'/')?;
    (end > 0).then(|| &rest[..group + 1 + end])
}

/// The group and resource of a place.
pub(super) fn named(place: &[u8]) -> (String, String) {
    let name = String::from_utf8_lossy(place);
    let (group, resource) = name.split_once('/').unwrap_or(("", &name));
    (if group == "core" { "" } else { group }.to_owned(), resource.to_owned())
}

/// What a transaction does, and to which key.
fn meaning(txn: &Txn) -> Option<(Operation, bytes::Bytes)> {
    txn.success.iter().find_map(|op| match op {
        Op::Put { key, .. } => {
            let new = txn
                .compare
                .iter()
                .any(|compare| matches!(compare.target, Target::CreateRevision(0) | Target::ModRevision(0)));
            Some((if new { Operation::Create } else { Operation::Update }, key.clone()))
        }
        Op::Delete { start, .. } => Some((Operation::Delete, start.clone())),
        Op::Range(_) | Op::Txn(_) => None,
    })
}

#[async_trait]
impl Store for Measured {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        // Keys of objects end with a name, prefixes of lists with a slash or a name's beginning and an end of their own.
        let single = range.end.len() == range.start.len() + 1 && range.end.last() == Some(&0);
        let operation = if single { Operation::Get } else { Operation::List };
        let key = range.start.clone();
        let began = self.clock.monotonic();
        let answer = self.inner.range(range).await;
        self.count(operation, &key, answer.is_err(), self.clock.monotonic().saturating_sub(began));
        answer
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        let meaning = meaning(&txn);
        let began = self.clock.monotonic();
        let answer = self.inner.txn(txn).await;
        if let Some((operation, key)) = meaning {
            self.count(operation, &key, answer.is_err(), self.clock.monotonic().saturating_sub(began));
        }
        answer
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        self.inner.watch(request).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn is_current(&self, key: &[u8]) -> Result<bool, Error> {
        self.inner.is_current(key).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.inner.leases().await
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_grant(ttl, id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_time_to_live(id).await
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.inner.defragment().await
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        self.inner.warnings().await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_in_the_key() {
        for (key, expected) in [
            ("/registry/core/pods/default/a", Some("core/pods")),
            ("/registry/apps/deployments/", Some("apps/deployments")),
            ("/registry/core/nodes", None),
            ("/elsewhere/core/pods/a", None),
            ("/registry/core//a", None),
        ] {
            assert_eq!(place(key.as_bytes()), expected.map(str::as_bytes), "{key}");
        }
    }
}
