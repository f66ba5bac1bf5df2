//! What the server counts, under upstream's names, labels and bounds.
//!
//! Those of priority and fairness are in `fairness::metrics`, those of admission in `admission::metrics`, those of the
//! process in [`process`]. Upstream: apiserver/pkg/endpoints/metrics, apiserver/pkg/storage/etcd3/metrics.

mod process;

use std::time::Duration;

use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};

use crate::cache::Hub;
use crate::registry::Table;
use crate::request::{Query, RequestInfo};

/// Upstream's bounds of request latencies, in seconds.
const LATENCY: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Upstream's bounds of the sizes of answers, in bytes.
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// What part of the server answered.
const COMPONENT: &str = "apiserver";

/// The families.
pub struct Metrics {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    sizes: Family<Histogram>,
    inflight: Family<Gauge>,
    watches: Family<Gauge>,
    stored: Family<Gauge>,
    objects: Family<Gauge>,
}

/// Counts one watch for as long as it lives.
pub struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
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
            sizes: registry.histogram(
                "apiserver_response_sizes",
                "Sizes of answers in bytes, by what was asked for.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
                SIZES,
            ),
            inflight: registry.gauge(
                "apiserver_current_inflight_requests",
                "Number of requests being served, by kind of request.",
                &["request_kind"],
            ),
            watches: registry.gauge(
                "apiserver_longrunning_requests",
                "Number of watches being served.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
            ),
            stored: registry.gauge(
                "apiserver_storage_objects",
                "Number of stored objects of the resources whose watch cache is filled.",
                &["resource"],
            ),
            objects: registry.gauge(
                "apiserver_resource_objects",
                "Number of stored objects of the resources whose watch cache is filled.",
                &["group", "resource"],
            ),
        }
    }

    /// Counts a watch from now on.
    pub fn watching(&self, info: &RequestInfo) -> Watching {
        let (group, version, resource) = (&*info.group, &*info.version, &*info.resource);
        let labels = ["WATCH", group, version, resource, &*info.subresource, scope(info), COMPONENT];
        let gauge = self.watches.with(&labels);
        gauge.inc();
        Watching(gauge)
    }

    /// Counts a request from now on.
    pub fn inflight(&self, info: &RequestInfo) -> Inflight {
        let gauge = self.inflight.with(&[if info.is_read_only() { "readOnly" } else { "mutating" }]);
        gauge.inc();
        Inflight(gauge)
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
        let verb = match info.verb.as_str() {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "proxy" => "CONNECT",
            _ => "other",
        };
        let dry_run = if answered.dry_run { "All" } else { "" };
        let code = answered.code.to_string();
        let labels = [verb, dry_run, group, version, resource, subresource, scope, COMPONENT, &code];
        self.requests.with(&labels).inc();
        if info.is_long_running() {
            return;
        }
        self.latency.with(&labels[..8]).observe_duration(answered.took);
        if let (true, "GET" | "LIST", Some(size)) = (known, verb, answered.size) {
            let labels = [verb, group, version, resource, subresource, scope, COMPONENT];
            self.sizes.with(&labels).observe(size as f64);
        }
    }

    /// Sets the numbers of objects, for whoever is about to read them. Resources that nobody has asked for yet have
    /// none: counting them would read the store.
    pub fn count_objects(&self, table: &Table, hub: &Hub) {
        for resource in table.all() {
            let Some(cache) = hub.filled(&resource.view).filter(|cache| !cache.is_closed()) else { continue };
            let count = cache.len() as f64;
            let name = &resource.group_resource;
            self.stored.with(&[&name.to_string()]).set(count);
            self.objects.with(&[&name.group, &name.resource]).set(count);
        }
    }
}

/// Whether the query asks that nothing be stored.
pub fn is_dry_run(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        query.contains("dryRun") && Query::parse(Some(query)).all("dryRun").any(|v| v == "All")
    })
}

/// What a request is about: one object, a namespace, or everything.
fn scope(info: &RequestInfo) -> &'static str {
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
