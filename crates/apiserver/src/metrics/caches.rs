//! What the server counts of its watch caches: lists served out of them, changes, watchers cut off.
//!
//! The counters of a cache are looked up when it is made. Caches of several versions of a resource count together, as they
//! do upstream, where there is one for all versions.
//! Upstream: apiserver/pkg/storage/cacher/metrics/metrics.go.

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};

use super::storage;

const LABELS: &[&str] = &["group", "resource"];
const INDEXED: &[&str] = &["group", "resource", "index"];

/// Upstream's bounds of waits for a watch cache, in seconds.
const WAITS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];

struct Families {
    waits: Family<Histogram>,
    lists: Family<Counter>,
    fetched: Family<Counter>,
    returned: Family<Counter>,
    initial: Family<Counter>,
    received: Family<Counter>,
    dispatched: Family<Counter>,
    initializations: Family<Counter>,
    terminated: Family<Counter>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let counter = |name, help| registry().counter(name, help, LABELS);
    let indexed = |name, help| registry().counter(name, help, INDEXED);
    Families {
        waits: registry().histogram(
            "apiserver_watch_cache_read_wait_seconds",
            "How long reads waited for a watch cache to be new enough, in seconds.",
            LABELS,
            WAITS,
        ),
        lists: indexed("apiserver_cache_list_total", "Lists that were served out of a watch cache."),
        fetched: indexed(
            "apiserver_cache_list_fetched_objects_total",
            "Objects that were looked at in watch caches for lists.",
        ),
        returned: counter(
            "apiserver_cache_list_returned_objects_total",
            "Objects out of watch caches that lists returned.",
        ),
        initial: counter(
            "apiserver_init_events_total",
            "Objects that watches began with out of a watch cache.",
        ),
        received: counter(
            "apiserver_watch_cache_events_received_total",
            "Changes that watch caches were told of.",
        ),
        dispatched: counter(
            "apiserver_watch_cache_events_dispatched_total",
            "Changes that watch caches told their watchers of.",
        ),
        initializations: counter(
            "apiserver_watch_cache_initializations_total",
            "How often watch caches were filled.",
        ),
        terminated: counter(
            "apiserver_terminated_watchers_total",
            "Watchers that were cut off because they did not take their changes.",
        ),
    }
});

/// A read of a resource has waited for its cache.
pub(crate) fn waited(group: &str, resource: &str, took: Duration) {
    FAMILIES.waits.with(&[group, resource]).observe_duration(took);
}

/// The counters of one cache.
#[derive(Clone)]
pub(crate) struct Counters {
    labels: [String; 2],
    lists: Counter,
    fetched: Counter,
    returned: Counter,
    /// Objects that watches begin with.
    pub(crate) initial: Counter,
    /// Changes heard of.
    pub(crate) received: Counter,
    /// Changes told.
    pub(crate) dispatched: Counter,
    /// Fillings.
    pub(crate) initializations: Counter,
    /// Watchers cut off.
    pub(crate) terminated: Counter,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Counters").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Counters {
    /// Those of the cache of the objects under `prefix`.
    pub(crate) fn of(prefix: &[u8]) -> Self {
        let (group, resource) = storage::named(storage::place(prefix).unwrap_or_default());
        let labels = [group, resource];
        let pair = [labels[0].as_str(), labels[1].as_str()];
        let plain = [pair[0], pair[1], ""];
        let families = &*FAMILIES;
        Self {
            lists: families.lists.with(&plain),
            fetched: families.fetched.with(&plain),
            returned: families.returned.with(&pair),
            initial: families.initial.with(&pair),
            received: families.received.with(&pair),
            dispatched: families.dispatched.with(&pair),
            initializations: families.initializations.with(&pair),
            terminated: families.terminated.with(&pair),
            labels,
        }
    }

    /// A list was served: so many objects were looked at, found by the index over `field` if there is one, and so many
    /// returned.
    pub(crate) fn listed(&self, field: Option<&str>, fetched: usize, returned: usize) {
        match field {
            None => {
                self.lists.inc();
                self.fetched.add(fetched as u64);
            }
            Some(field) => {
                // Upstream's name of an index over a field.
                let index = format!("f:{field}");
                let labels = [self.labels[0].as_str(), self.labels[1].as_str(), index.as_str()];
                FAMILIES.lists.with(&labels).inc();
                FAMILIES.fetched.with(&labels).add(fetched as u64);
            }
        }
        self.returned.add(returned as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_counts_under_the_name_of_its_resource() {
        let counters = Counters::of(b"/registry/caches.example.com/things/");
        counters.received.add(3);
        counters.listed(None, 5, 2);
        counters.listed(Some("spec.color"), 1, 1);
        let page = registry().render();
        let at = "group=\"caches.example.com\",resource=\"things\"";
        for line in [
            format!("apiserver_watch_cache_events_received_total{{{at}}} 3"),
            format!("apiserver_cache_list_total{{{at},index=\"\"}} 1"),
            format!("apiserver_cache_list_total{{{at},index=\"f:spec.color\"}} 1"),
            format!("apiserver_cache_list_fetched_objects_total{{{at},index=\"\"}} 5"),
            format!("apiserver_cache_list_returned_objects_total{{{at}}} 3"),
        ] {
            assert!(page.lines().any(|known| known == line), "{line}");
        }
    }
}
