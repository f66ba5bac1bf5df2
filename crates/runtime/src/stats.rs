//! Figures of pods and containers: from control groups, writable layers and network devices.
//!
//! Upstream: containerd internal/cri/server/container_stats_list.go, sandbox_stats_linux.go.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cri::v1;
use parking_lot::Mutex;
use sys::cgroup::{Cgroup, Figures};

use crate::engine::{Engine, now};

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// Bytes and inodes below a directory, hard links counted once.
pub(crate) fn disk_usage(directory: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    let mut seen = BTreeSet::new();
    // Not by recursion: containers make these trees, and each level would hold a descriptor and a frame.
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

/// A layer is looked at again after this, at the earliest; containerd's period.
const LAYER_AGAIN: Duration = Duration::from_secs(10);
/// And not before so many times what looking took: it shall be a hundredth of the time, however many files there are.
const LAYER_SHARE: u32 = 100;

/// Sizes of containers' writable layers as they were when last looked at. Whoever asks for figures asks often.
#[derive(Debug, Default)]
pub(crate) struct Layers(Mutex<BTreeMap<String, Layer>>);

#[derive(Clone, Copy, Debug)]
struct Layer {
    usage: (u64, u64),
    again: Instant,
}

impl Layers {
    /// Bytes and inodes of a container's layer. May look, which blocks; others are given what is known meanwhile.
    fn usage(&self, container: &str, look: impl FnOnce() -> (u64, u64)) -> (u64, u64) {
        let begun = Instant::now();
        let known = self.0.lock().get(container).copied();
        match known {
            Some(layer) if begun < layer.again => return layer.usage,
            Some(layer) => {
                // For as long as the last look took and more nobody else begins one.
                let again = begun + Duration::from_secs(3600);
                self.0.lock().insert(container.to_owned(), Layer { again, ..layer });
            }
            None => {}
        }
        let usage = look();
        let took = begun.elapsed();
        let again = begun + took + LAYER_AGAIN.max(took * LAYER_SHARE);
        self.0.lock().insert(container.to_owned(), Layer { usage, again });
        usage
    }

    /// The container is gone.
    pub(crate) fn forget(&self, container: &str) {
        self.0.lock().remove(container);
    }
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
        let (bytes, inodes) = self.layers.usage(id, || disk_usage(&facts.upper));
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
    fn a_layer_is_not_looked_at_for_each_who_asks() {
        let layers = Layers::default();
        assert_eq!(layers.usage("a", || (1, 1)), (1, 1));
        assert_eq!(layers.usage("a", || panic!("it was just looked at")), (1, 1));
        assert_eq!(layers.usage("b", || (2, 2)), (2, 2));
        layers.forget("a");
        assert_eq!(layers.usage("a", || (3, 3)), (3, 3));
        // Its time has come: one looks, the others are given what is known.
        layers.0.lock().get_mut("a").unwrap().again = Instant::now();
        let looked = layers.usage("a", || {
            assert_eq!(layers.usage("a", || panic!("somebody is looking")), (3, 3));
            (4, 4)
        });
        assert_eq!(looked, (4, 4));
    }

    #[test]
    fn a_deep_tree_is_walked_on_a_small_stack() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("d/".repeat(1500))).unwrap();
        let path = root.path().to_owned();
        let walk = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || disk_usage(&path).1);
        assert_eq!(walk.unwrap().join().unwrap(), 1500);
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
