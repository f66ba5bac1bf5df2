//! What the server counts, under upstream's names, labels and bounds.
//!
//! Those of the store are in [`storage`], of the watch caches in [`caches`], of authentication and authorization in
//! [`access`], of the filters in [`gates`], of what goes on for long in [`streams`], of answers that broke off in [`aborts`];
//! those of priority and fairness are in `fairness::metrics`, those of admission in `admission::metrics`, those of the
//! process in [`process`]. Upstream: apiserver/pkg/endpoints/metrics, apiserver/pkg/storage/etcd3/metrics.

pub mod aborts;
pub mod access;
pub(crate) mod caches;
pub mod gates;
pub mod process;
pub mod storage;
pub mod streams;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::GroupResource;
use api::kind::Verbs;
use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};
use futures::future::join_all;
use parking_lot::Mutex;
use store::Range;

use crate::request::{Query, RequestInfo};
use crate::server::Server;

/// Upstream's bounds of request latencies, in seconds.
pub(crate) const LATENCY: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Upstream's bounds of the sizes of answers, in bytes.
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upstream's bounds of the sizes of bodies of requests: every 100 kB up to the limit.
const BODIES: &[f64; 31] = &{
    let (mut bounds, mut at, mut next) = ([0.0; 31], 0, 50_000.0);
    while at < bounds.len() {
        bounds[at] = next;
        next += 100_000.0;
        at += 1;
    }
    bounds
};
/// What part of the server answered.
const COMPONENT: &str = "apiserver";

/// The families.
pub struct Metrics {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    own: Family<Histogram>,
    terminated: Family<Counter>,
    sizes: Family<Histogram>,
    bodies: Family<Histogram>,
    inflight: Family<Gauge>,
    deprecated: Family<Gauge>,
    stored: Family<Gauge>,
    objects: Family<Gauge>,
    /// Whose numbers are shown.
    shown: Mutex<HashSet<GroupResource>>,
    store_size: Family<Gauge>,
}

/// Counts one request for as long as it is served.
pub struct Inflight(Gauge);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The code.
    pub code: u16,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
    /// Whether it was a server-side apply.
    pub apply: bool,
    /// How much of the time went to webhooks and to waiting for its turn.
    pub elsewhere: Duration,
    /// Whether the server ended it: out of time, or out of room.
    pub terminated: bool,
    /// The length of the body in bytes, where it is known.
    pub size: Option<u64>,
    /// From the request's arrival to the answer's head.
    pub took: Duration,
}

impl Metrics {
    /// The families, registered.
    pub fn new() -> Self {
        process::register();
        let registry = registry();
        registry
            .gauge(
                "kubernetes_build_info",
                "Which version this is; always 1.",
                &["major", "minor", "git_version", "compiler", "platform"],
            )
            .with(&["1", "37", crate::handlers::VERSION, "rustc", crate::handlers::PLATFORM])
            .set(1.0);
        Self {
            requests: registry.counter(
                "apiserver_request_total",
                "Requests answered, by what was asked for and the code of the answer.",
                &[
                    "verb",
                    "dry_run",
                    "group",
                    "version",
                    "resource",
                    "subresource",
                    "scope",
                    "component",
                    "code",
                ],
            ),
            latency: registry.histogram(
                "apiserver_request_duration_seconds",
                "How long requests took, in seconds, by what was asked for.",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
                LATENCY,
            ),
            own: registry.histogram(
                "apiserver_request_sli_duration_seconds",
                "How long requests took without webhooks and without waiting for their turn, in seconds.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
                LATENCY,
            ),
            terminated: registry.counter(
                "apiserver_request_terminations_total",
                "Requests that the server gave up to protect itself.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component", "code"],
            ),
            sizes: registry.histogram(
                "apiserver_response_sizes",
                "Sizes of answers in bytes, by what was asked for.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
                SIZES,
            ),
            bodies: registry.histogram(
                "apiserver_request_body_size_bytes",
                "Sizes of the bodies of requests that write, in bytes, by resource and verb.",
                &["group", "resource", "verb"],
                BODIES,
            ),
            inflight: registry.gauge(
                "apiserver_current_inflight_requests",
                "Number of requests being served, by kind of request.",
                &["request_kind"],
            ),
            deprecated: registry.gauge(
                "apiserver_requested_deprecated_apis",
                "Deprecated APIs that were asked for; always 1.",
                &["group", "version", "resource", "subresource", "removed_release"],
            ),
            stored: registry.gauge(
                "apiserver_storage_objects",
                "Stored objects by resource; -1 where they could not be counted.",
                &["resource"],
            ),
            objects: registry.gauge(
                "apiserver_resource_objects",
                "Stored objects by resource; -1 where they could not be counted.",
                &["group", "resource"],
            ),
            shown: Mutex::default(),
            store_size: registry.gauge(
                "apiserver_storage_size_bytes",
                "Size of the store on its disk, in bytes.",
                &["storage_cluster_id"],
            ),
        }
    }

    /// Notes that something deprecated was asked for, of which nobody knows when it goes.
    pub fn deprecated(&self, info: &RequestInfo) {
        let labels = [&*info.group, &*info.version, &*info.resource, &*info.subresource, ""];
        self.deprecated.with(&labels).set(1.0);
    }

    /// Counts a request from now on.
    pub fn inflight(&self, info: &RequestInfo) -> Inflight {
        let gauge = self.inflight.with(&[if info.is_read_only() { "readOnly" } else { "mutating" }]);
        gauge.inc();
        Inflight(gauge)
    }

    /// Counts the body of a request about a resource that exists.
    pub fn received(&self, info: &RequestInfo, size: usize) {
        let verb = match info.verb.as_str() {
            "deletecollection" => "delete_collection",
            verb @ ("create" | "update" | "patch" | "delete") => verb,
            _ => return,
        };
        self.bodies.with(&[&*info.group, &*info.resource, verb]).observe(size as f64);
    }

    /// Counts a request that was answered. `known`: whether what it asked for exists; what clients make up (also as a
    /// subresource) does not become a label.
    pub fn answered(&self, info: &RequestInfo, known: bool, answered: Answered) {
        let known = known && info.is_resource;
        let (group, version, resource, subresource, scope) = if known {
            (&*info.group, &*info.version, &*info.resource, &*info.subresource, scope(info))
        } else {
            ("", "", "", "", "")
        };
        let verb = verb(info, answered.apply);
        let dry_run = if answered.dry_run { "All" } else { "" };
        let code = answered.code.to_string();
        let labels = [verb, dry_run, group, version, resource, subresource, scope, COMPONENT, &code];
        self.requests.with(&labels).inc();
        if answered.terminated {
            let labels = [verb, group, version, resource, subresource, scope, COMPONENT, &code];
            self.terminated.with(&labels).inc();
        }
        if info.is_long_running() {
            return;
        }
        self.latency.with(&labels[..8]).observe_duration(answered.took);
        // As upstream, a dry run counts with the rest here.
        let labels = [verb, group, version, resource, subresource, scope, COMPONENT];
        self.own.with(&labels).observe_duration(answered.took.saturating_sub(answered.elsewhere));
        if let (true, "GET" | "LIST", Some(size)) = (known, verb, answered.size) {
            self.sizes.with(&labels).observe(size as f64);
        }
    }

    /// Sets the numbers of objects and the size of the store, for whoever is about to read them. What no cache has is
    /// counted in the store, which reads keys only.
    pub async fn count_objects(&self, server: &Server) {
        let table = server.registry.table();
        let mut counted = HashSet::new();
        // Versions of a resource are the same objects; what is not stored (a review) has none.
        let stored = table.all().filter(|resource| {
            resource.descriptor.verbs.contains(Verbs::LIST) && counted.insert(resource.group_resource.clone())
        });
        let counts = stored.map(|resource| async move {
            let cached = server.hub.filled(&resource.view).filter(|cache| !cache.is_closed());
            let count = match cached {
                Some(cache) => cache.len() as f64,
                None => {
                    let range = Range { count_only: true, ..Range::prefix(resource.view.prefix.clone()) };
                    tokio::select! {
                        found = server.storage.store.range(range) => found.map_or(UNKNOWN, |found| found.count as f64),
                        // A slow store must not hide the page that tells of it.
                        () = server.clock.sleep(COUNTING) => UNKNOWN,
                    }
                }
            };
            (&resource.group_resource, count)
        });
        let counts = join_all(counts).await;
        let present: HashSet<GroupResource> = counts.iter().map(|(name, _)| (*name).clone()).collect();
        // What nobody serves any more has no number; two who ask at once may disagree for a moment.
        for gone in std::mem::replace(&mut *self.shown.lock(), present.clone()).difference(&present) {
            self.stored.remove(&[&gone.to_string()]);
            self.objects.remove(&[&gone.group, &gone.resource]);
        }
        for (name, count) in counts {
            self.stored.with(&[&name.to_string()]).set(count);
            self.objects.with(&[&name.group, &name.resource]).set(count);
        }
        if let Ok(status) = server.storage.store.status().await {
            self.store_size.with(&["etcd-0"]).set(status.db_size as f64);
        }
    }
}

/// The number of objects where it cannot be had; upstream's word for it.
const UNKNOWN: f64 = -1.0;
/// How long the store is asked how many there are.
const COUNTING: Duration = Duration::from_secs(1);

tokio::task_local! {
    static ELSEWHERE: Arc<AtomicU64>;
}

/// How much of a request's time goes to others: webhooks, and waiting for its turn.
#[derive(Clone, Default)]
pub struct Elsewhere(Arc<AtomicU64>);

impl Elsewhere {
    /// Runs a request whose time is to be told apart.
    pub async fn around<F: Future>(&self, future: F) -> F::Output {
        ELSEWHERE.scope(self.0.clone(), future).await
    }

    /// So much until now.
    pub fn so_far(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Notes that the request that is being served has waited for others for so long.
pub fn elsewhere(took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let _ = ELSEWHERE.try_with(|sum| sum.fetch_add(nanoseconds, Ordering::Relaxed));
}

/// Whether the query asks that nothing be stored.
pub fn is_dry_run(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        query.contains("dryRun") && Query::parse(Some(query)).all("dryRun").any(|v| v == "All")
    })
}

/// What a request does, as upstream's series name it.
fn verb(info: &RequestInfo, apply: bool) -> &'static str {
    match info.verb.as_str() {
        _ if matches!(&*info.subresource, "attach" | "exec" | "portforward" | "proxy") => "CONNECT",
        "create" => "POST",
        "update" => "PUT",
        "patch" if apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "proxy" => "CONNECT",
        _ => "other",
    }
}

/// What a request is about: one object, a namespace, or everything.
pub fn scope(info: &RequestInfo) -> &'static str {
    match (info.name.is_empty(), info.namespace.is_empty()) {
        (false, _) => "resource",
        (_, false) => "namespace",
        _ => "cluster",
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
