//! Figures of pods and containers: from control groups, writable layers and network devices.
//!
//! Upstream: containerd internal/cri/server/container_stats_list.go, sandbox_stats_linux.go.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cri::v1;
use sys::cgroup::{Cgroup, Figures};

use crate::engine::{Engine, now};

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// Bytes and inodes below a directory, hard links counted once.
pub(crate) fn disk_usage(directory: &Path) -> (u64, u64) {
    fn walk(directory: &Path, seen: &mut BTreeSet<(u64, u64)>, total: &mut (u64, u64)) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            total.0 += meta.blocks() * 512;
            total.1 += 1;
            if meta.is_dir() {
                walk(&entry.path(), seen, total);
            }
        }
    }
    let mut total = (0, 0);
    walk(directory, &mut BTreeSet::new(), &mut total);
    total
}

fn cpu(figures: &Figures, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage { timestamp, usage_core_nano_seconds: value(figures.cpu_nanoseconds), ..Default::default() }
}

fn memory(figures: &Figures, timestamp: i64) -> v1::MemoryUsage {
    let memory = &figures.memory;
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    }
}

impl Engine {
    /// Figures of a container; `None` if it is not there. Blocks.
    pub(crate) fn container_stats(&self, id: &str) -> Option<v1::ContainerStats> {
        let facts = self.container_facts(id)?;
        let figures = Cgroup::new(self.layout.clone(), facts.cgroup).figures();
        let timestamp = now();
        let (bytes, inodes) = disk_usage(&facts.upper);
        Some(v1::ContainerStats {
            attributes: Some(facts.attributes),
            cpu: Some(cpu(&figures, timestamp)),
            memory: Some(memory(&figures, timestamp)),
            writable_layer: Some(v1::FilesystemUsage {
                timestamp,
                fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.options.root.display().to_string() }),
                used_bytes: value(bytes),
                inodes_used: value(inodes),
            }),
            swap: Some(v1::SwapUsage {
                timestamp,
                swap_usage_bytes: value(figures.memory.swap),
                ..Default::default()
            }),
            io: None,
        })
    }

    /// Figures of a pod; `None` if it is not there. Blocks.
    pub(crate) fn sandbox_stats(&self, id: &str) -> Option<v1::PodSandboxStats> {
        let facts = self.sandbox_facts(id)?;
        let figures = Cgroup::new(self.layout.clone(), facts.cgroup).figures();
        let timestamp = now();
        let network = facts.netns.and(facts.first_pid).and_then(|pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
            let mut interfaces = interfaces(&text);
            let at = interfaces.iter().position(|i| i.name == "eth0")?;
            let default = interfaces.remove(at);
            Some(v1::NetworkUsage { timestamp, default_interface: Some(default), interfaces })
        });
        Some(v1::PodSandboxStats {
            attributes: Some(facts.attributes),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: Some(cpu(&figures, timestamp)),
                memory: Some(memory(&figures, timestamp)),
                network,
                process: Some(v1::ProcessUsage { timestamp, process_count: value(figures.pids) }),
                containers: facts.containers.iter().filter_map(|c| self.container_stats(c)).collect(),
                io: None,
            }),
            windows: None,
        })
    }
}

/// Reads `/proc/PID/net/dev`.
fn interfaces(text: &str) -> Vec<v1::NetworkInterfaceUsage> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            Some(v1::NetworkInterfaceUsage {
                name: name.trim().to_owned(),
                rx_bytes: value(*n.first()?),
                rx_errors: value(*n.get(2)?),
                tx_bytes: value(*n.get(8)?),
                tx_errors: value(*n.get(10)?),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters_are_read() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n  eth0: 10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].rx_bytes, found[0].rx_errors, found[0].tx_bytes, found[0].tx_errors),
            (value(10), value(2), value(20), value(3))
        );
    }

    #[test]
    fn hard_links_are_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        let (bytes, inodes) = disk_usage(directory.path());
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(inodes, 1);
    }
}
