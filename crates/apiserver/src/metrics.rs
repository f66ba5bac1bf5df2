//! What the server counts, under upstream's names.
//! Upstream: apiserver/pkg/endpoints/metrics.

use std::time::Duration;

use api::kind::Descriptor;
use foundation::metrics::{Counter, Family, Gauge, Histogram, LATENCY_BUCKETS, registry};

use crate::request::RequestInfo;

/// The families.
pub struct Metrics {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    inflight: Family<Gauge>,
    watches: Family<Gauge>,
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

impl Metrics {
    /// The families, registered.
    pub fn new() -> Self {
        let registry = registry();
        Self {
            requests: registry.counter(
                "apiserver_request_total",
                "Counter of apiserver requests broken out for each verb, group, version, resource, scope and code.",
                &["verb", "group", "version", "resource", "subresource", "scope", "code"],
            ),
            latency: registry.histogram(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, group, version, resource and scope.",
                &["verb", "group", "version", "resource", "subresource", "scope"],
                LATENCY_BUCKETS,
            ),
            inflight: registry.gauge(
                "apiserver_current_inflight_requests",
                "Number of requests being served, by kind of request.",
                &["request_kind"],
            ),
            watches: registry.gauge(
                "apiserver_longrunning_requests",
                "Number of watches being served.",
                &["verb", "group", "version", "resource"],
            ),
        }
    }

    /// Counts a watch from now on.
    pub fn watching(&self, descriptor: &Descriptor) -> Watching {
        let gauge = self.watches.with(&["WATCH", &descriptor.group, &descriptor.version, &descriptor.plural]);
        gauge.inc();
        Watching(gauge)
    }

    /// Counts a request from now on.
    pub fn inflight(&self, info: &RequestInfo) -> Inflight {
        let gauge = self.inflight.with(&[if info.is_read_only() { "readOnly" } else { "mutating" }]);
        gauge.inc();
        Inflight(gauge)
    }

    /// Counts a request that was answered. `resource` is what it asked for, if that exists: what clients make
    /// up (also as a subresource) does not become a label.
    pub fn answered(&self, info: &RequestInfo, resource: Option<&Descriptor>, code: u16, took: Duration) {
        let known = info.is_resource
            && resource.is_some_and(|d| info.subresource.is_empty() || d.has_subresource(&info.subresource));
        let (group, version, resource, subresource) = if known {
            (&*info.group, &*info.version, &*info.resource, &*info.subresource)
        } else {
            ("", "", "", "")
        };
        let scope = match (known, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (_, false, _) => "resource",
            (_, _, false) => "namespace",
            _ => "cluster",
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
        let code = code.to_string();
        self.requests.with(&[verb, group, version, resource, subresource, scope, &code]).inc();
        if !info.is_long_running() {
            self.latency.with(&[verb, group, version, resource, subresource, scope]).observe_duration(took);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
