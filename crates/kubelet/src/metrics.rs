//! What the kubelet counts, under upstream's names and bounds.
//!
//! The numbers of pods and containers are taken when somebody asks for the metrics. Not here: requests (`client`), use
//! of resources (`server::stats`). Upstream: pkg/kubelet/metrics/metrics.go.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foundation::SharedClock;
use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};

use crate::worker::actor::Snapshot;
use crate::worker::state::Phase;

/// Prometheus' default bounds, in seconds.
const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upstream's bounds of starting pods, in seconds, with finer ones below, where they would all fall into one.
const STARTS: &[f64] = &[
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0,
    180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Names that the kubelet's page shows: its own, and those that every component has.
const OWN: &[&str] = &[
    "kubelet_",
    "volume_manager_",
    "storage_operation_",
    "rest_client_",
    "process_",
    "kubernetes_build_info",
];

struct Families {
    worked: Family<Histogram>,
    started: Family<Histogram>,
    started_since_seen: Histogram,
    operations: Family<Counter>,
    operation_errors: Family<Counter>,
    operation_latency: Family<Histogram>,
    relist: Family<Histogram>,
    relist_interval: Family<Histogram>,
    last_seen: Gauge,
    running_pods: Gauge,
    running_containers: Family<Gauge>,
    active_pods: Family<Gauge>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registry = registry();
    Families {
        worked: registry.histogram(
            "kubelet_pod_worker_duration_seconds",
            "How long one look at a pod took, in seconds.",
            &["operation_type"],
            DEFAULT,
        ),
        started: registry.histogram(
            "kubelet_pod_start_total_duration_seconds",
            "From a pod's creation until it ran, pulls included, in seconds.",
            &[],
            STARTS,
        ),
        started_since_seen: registry
            .histogram(
                "kubelet_pod_start_duration_seconds",
                "From when the kubelet first saw a pod until it ran, in seconds.",
                &[],
                STARTS,
            )
            .only(),
        operations: registry.counter(
            "kubelet_runtime_operations_total",
            "Calls of the container runtime.",
            &["operation_type"],
        ),
        operation_errors: registry.counter(
            "kubelet_runtime_operations_errors_total",
            "Calls of the container runtime that failed.",
            &["operation_type"],
        ),
        operation_latency: registry.histogram(
            "kubelet_runtime_operations_duration_seconds",
            "How long calls of the container runtime took, in seconds.",
            &["operation_type"],
            DEFAULT,
        ),
        relist: registry.histogram(
            "kubelet_pleg_relist_duration_seconds",
            "How long listing the runtime took, in seconds, where it tells no events.",
            &[],
            DEFAULT,
        ),
        relist_interval: registry.histogram(
            "kubelet_pleg_relist_interval_seconds",
            "Time between two listings of the runtime, in seconds.",
            &[],
            DEFAULT,
        ),
        last_seen: registry
            .gauge(
                "kubelet_pleg_last_seen_seconds",
                "When the runtime was last heard of, in seconds since 1970.",
                &[],
            )
            .only(),
        running_pods: registry.gauge("kubelet_running_pods", "Pods with a sandbox that runs.", &[]).only(),
        running_containers: registry.gauge(
            "kubelet_running_containers",
            "Containers by their state.",
            &["container_state"],
        ),
        active_pods: registry.gauge("kubelet_active_pods", "Pods that take part of the node.", &["static"]),
    }
});

/// Says which node this is.
pub(crate) fn node(name: &str) {
    let family = registry().gauge("kubelet_node_name", "Which node this is; always 1.", &["node"]);
    family.with(&[name]).set(1.0);
}

/// Counts every call of the runtime.
pub(crate) fn observer(clock: SharedClock) -> cri::Observer {
    Arc::new(move |operation| {
        let families = &*FAMILIES;
        families.operations.with(&[operation]).inc();
        let (clock, began, operation) = (clock.clone(), clock.monotonic(), operation.to_owned());
        Box::new(move |succeeded| {
            let families = &*FAMILIES;
            if !succeeded {
                families.operation_errors.with(&[&operation]).inc();
            }
            let took = clock.monotonic().saturating_sub(began);
            families.operation_latency.with(&[&operation]).observe_duration(took);
        })
    })
}

/// Measures a worker that looks at its pod.
pub(crate) fn timed<T>(clock: &SharedClock, ending: bool, work: impl FnOnce() -> T) -> T {
    let began = clock.monotonic();
    let done = work();
    let took = clock.monotonic().saturating_sub(began);
    FAMILIES.worked.with(&[if ending { "kill" } else { "sync" }]).observe_duration(took);
    done
}

/// A pod runs, for the first time: so long after it was created, and after it was first seen here.
pub(crate) fn started(since_creation: Duration, since_seen: Duration) {
    FAMILIES.started.only().observe_duration(since_creation);
    FAMILIES.started_since_seen.observe_duration(since_seen);
}

/// The runtime was listed; `interval`: since the last time.
pub(crate) fn relisted(took: Duration, interval: Option<Duration>) {
    FAMILIES.relist.only().observe_duration(took);
    if let Some(interval) = interval {
        FAMILIES.relist_interval.only().observe_duration(interval);
    }
}

/// The runtime told something, or was listed, at this time in seconds since 1970.
pub(crate) fn heard(at: i64) {
    FAMILIES.last_seen.set(at as f64);
}

/// The kubelet's page, with the pods as they are now.
pub(crate) fn page(pods: &[Snapshot]) -> String {
    let families = &*FAMILIES;
    let running = pods.iter().filter(|pod| pod.runtime.sandboxes.iter().any(|sandbox| sandbox.ready)).count();
    families.running_pods.set(running as f64);
    families.active_pods.with(&["false"]).set(pods.len() as f64);
    for (label, phase) in [
        ("created", Phase::Created),
        ("running", Phase::Running),
        ("exited", Phase::Exited),
        ("unknown", Phase::Unknown),
    ] {
        let containers = pods.iter().flat_map(|pod| &pod.runtime.containers);
        let count = containers.filter(|container| container.phase == phase).count();
        families.running_containers.with(&[label]).set(count as f64);
    }
    registry().render_where(is_own)
}

/// Whether a metric is one of the kubelet's page.
fn is_own(name: &str) -> bool {
    OWN.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_dashboards_read_and_nothing_of_others() {
        let clock: SharedClock = foundation::SystemClock::shared();
        node("node-1");
        observer(clock.clone())("run_podsandbox")(true);
        observer(clock.clone())("exec_sync")(false);
        timed(&clock, false, || ());
        started(Duration::from_millis(60), Duration::from_millis(40));
        relisted(Duration::from_millis(2), Some(Duration::from_secs(1)));
        heard(1_700_000_000);
        registry().counter("apiserver_of_the_same_process_total", "Of others.", &[]).only().inc();
        let page = page(&[Snapshot::default()]);
        for series in [
            "kubelet_node_name{node=\"node-1\"} 1",
            "kubelet_running_pods 0",
            "kubelet_running_containers{container_state=\"running\"} 0",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"exec_sync\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"run_podsandbox\"} 1",
            "kubelet_pod_worker_duration_seconds_count{operation_type=\"sync\"} 1",
            "kubelet_pod_start_duration_seconds_count 1",
            "kubelet_pod_start_total_duration_seconds_bucket{le=\"0.1\"} 1",
            "kubelet_pleg_relist_duration_seconds_count 1",
            "kubelet_pleg_relist_interval_seconds_sum 1",
            "kubelet_pleg_last_seen_seconds 1700000000",
        ] {
            assert!(page.lines().any(|line| line == series), "{series} is missing in\n{page}");
        }
        assert!(!page.contains("apiserver_"), "{page}");
    }
}
