//! What the server counts of what goes on for long: watches, logs, commands, tunnels, and what is sent over watches.
//!
//! Upstream: apiserver/pkg/endpoints/metrics/metrics.go (RecordLongRunning, WatchEvents, WatchEventsSizes).

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};

use super::{COMPONENT, scope, verb};
use crate::request::RequestInfo;

/// Upstream's bounds of the sizes of events: 1 KiB to 128 KiB.
const SIZES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
const EVENT: &[&str] = &["group", "version", "resource"];

/// Upstream's bounds of how long a watch takes to send what is there, in seconds.
const LISTS: &[f64] =
    &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];

struct Families {
    lists: Family<Histogram>,
    running: Family<Gauge>,
    events: Family<Counter>,
    sizes: Family<Histogram>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registry = registry();
    Families {
        lists: registry.histogram(
            "apiserver_watch_list_duration_seconds",
            "How long watches that begin with a list took until it was sent, in seconds.",
            &["group", "version", "resource", "scope"],
            LISTS,
        ),
        running: registry.gauge(
            "apiserver_longrunning_requests",
            "Requests being served that go on for long: watches, logs, commands, tunnels, proxies.",
            &["verb", "group", "version", "resource", "subresource", "scope", "component"],
        ),
        events: registry.counter("apiserver_watch_events_total", "Events sent to those who watch.", EVENT),
        sizes: registry.histogram(
            "apiserver_watch_events_sizes",
            "Sizes of the events sent to those who watch, in bytes.",
            EVENT,
            SIZES,
        ),
    }
});

/// Counts one request for as long as it lives.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts a request of something that exists, from now on.
pub fn running(info: &RequestInfo) -> Running {
    let (group, version, resource) = (&*info.group, &*info.version, &*info.resource);
    let labels = [verb(info, false), group, version, resource, &*info.subresource, scope(info), COMPONENT];
    let gauge = FAMILIES.running.with(&labels);
    gauge.inc();
    Running(gauge)
}

/// A watch that was asked for a list first has sent it.
pub(crate) fn listed(info: &RequestInfo, took: Duration) {
    let labels = [&*info.group, &*info.version, &*info.resource, scope(info)];
    FAMILIES.lists.with(&labels).observe_duration(took);
}

/// The counters of what one watch sends.
pub(crate) struct Events {
    count: Counter,
    sizes: Histogram,
}

impl Events {
    /// Those of a watch of this resource.
    pub(crate) fn of(info: &RequestInfo) -> Self {
        let labels = [&*info.group, &*info.version, &*info.resource];
        Self { count: FAMILIES.events.with(&labels), sizes: FAMILIES.sizes.with(&labels) }
    }

    /// An event of so many bytes was sent.
    pub(crate) fn sent(&self, bytes: usize) {
        self.count.inc();
        self.sizes.observe(bytes as f64);
    }
}
