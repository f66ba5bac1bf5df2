//! What Prometheus' client libraries tell of a process: processor time, memory, open files, start.
//!
//! And how many tasks there are, under the name that dashboards know. Reads `/proc` when the metrics are rendered, and never in between.
//! Upstream: prometheus/client_golang `process_collector_other.go`, which kube-apiserver registers.

use std::fs;

use foundation::metrics::registry;

/// The kernel's clock ticks in a second, as user space sees them on every architecture.
const TICKS: f64 = 100.0;
/// The bytes of a page, in which `/proc/self/stat` counts resident memory.
const PAGE: f64 = 4096.0;

/// Registers them.
pub fn register() {
    let registry = registry();
    registry.gauge_callback("go_goroutines", "Number of tasks that currently exist.", tasks);
    registry.counter_callback(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        || stat().map_or(0.0, |stat| (number(&stat, 14) + number(&stat, 15)) / TICKS),
    );
    registry.gauge_callback("process_virtual_memory_bytes", "Virtual memory size in bytes.", || {
        stat().map_or(0.0, |stat| number(&stat, 23))
    });
    registry.gauge_callback("process_resident_memory_bytes", "Resident memory size in bytes.", || {
        stat().map_or(0.0, |stat| number(&stat, 24) * PAGE)
    });
    registry.gauge_callback(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        || stat().map_or(0.0, |stat| booted() + number(&stat, 22) / TICKS),
    );
    registry.gauge_callback("process_open_fds", "Number of open file descriptors.", || {
        fs::read_dir("/proc/self/fd").map_or(0.0, |open| open.count() as f64)
    });
    registry.gauge_callback("process_max_fds", "Maximum number of open file descriptors.", || {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
    });
}

/// Those of the runtime that is asked on: the goroutines of this server.
fn tasks() -> f64 {
    tokio::runtime::Handle::try_current().map_or(0.0, |runtime| runtime.metrics().num_alive_tasks() as f64)
}

/// The fields after the process's name, which may hold anything.
fn stat() -> Option<String> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')').map(|(_, rest)| rest.to_owned())
}

/// A field by its number in proc_pid_stat(5); the first after the name is 3.
fn number(stat: &str, field: usize) -> f64 {
    stat.split_whitespace().nth(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

fn booted() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_that_are_meant() {
        let stat = " S 1 2 3 4 5 6 7 8 9 10 140 150 16 17 18 19 20 21 2200 23000 24 25";
        let fields = [14, 15, 22, 23, 24].map(|field| number(stat, field));
        assert_eq!(fields, [140.0, 150.0, 2200.0, 23000.0, 24.0]);
    }
}
