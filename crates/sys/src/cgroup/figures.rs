//! Reads what a control group has used. A control file that is missing counts as 0.
//!
//! Upstream: runc libcontainer/cgroups/fs and fs2; containerd's CRI stats (the working set).

use std::fs;
use std::path::Path;

use super::Layout;

/// Memory of a group, in bytes where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// The part that cannot be reclaimed easily: usage less inactive file pages.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit; `None`: none.
    pub limit: Option<u64>,
    /// Minor faults, a count.
    pub page_faults: u64,
    /// Major faults, a count.
    pub major_page_faults: u64,
    /// Swap in use.
    pub swap: u64,
}

/// A moment's figures of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// CPU time used since the group was made, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads now.
    pub pids: u64,
}

/// Version 1 says "no limit" with the highest page-aligned number.
const V1_UNLIMITED: u64 = 0x7FFF_FFFF_FFFF_F000;

pub(super) fn read(layout: &Layout, path: &str) -> Figures {
    let file = |controller: &str, file: &str| layout.directory(controller, path).map(|d| d.join(file));
    let value = |controller: &str, name: &str| file(controller, name).and_then(|f| number(&f)).unwrap_or(0);
    if layout.is_v2() {
        let stat = file("memory", "memory.stat").and_then(|f| fs::read_to_string(f).ok()).unwrap_or_default();
        let usage = value("memory", "memory.current");
        Figures {
            cpu_nanoseconds: file("cpu", "cpu.stat").and_then(|f| keyed(&f, "usage_usec")).unwrap_or(0)
                * 1000,
            memory: Memory {
                usage,
                working_set: usage.saturating_sub(key(&stat, "inactive_file").unwrap_or(0)),
                rss: key(&stat, "anon").unwrap_or(0),
                limit: file("memory", "memory.max").and_then(|f| number(&f)),
                page_faults: key(&stat, "pgfault").unwrap_or(0),
                major_page_faults: key(&stat, "pgmajfault").unwrap_or(0),
                swap: value("memory", "memory.swap.current"),
            },
            pids: value("pids", "pids.current"),
        }
    } else {
        let stat = file("memory", "memory.stat").and_then(|f| fs::read_to_string(f).ok()).unwrap_or_default();
        let usage = value("memory", "memory.usage_in_bytes");
        let limit = file("memory", "memory.limit_in_bytes").and_then(|f| number(&f));
        Figures {
            cpu_nanoseconds: value("cpuacct", "cpuacct.usage"),
            memory: Memory {
                usage,
                working_set: usage.saturating_sub(key(&stat, "total_inactive_file").unwrap_or(0)),
                rss: key(&stat, "total_rss").unwrap_or(0),
                limit: limit.filter(|l| *l < V1_UNLIMITED),
                page_faults: key(&stat, "total_pgfault").unwrap_or(0),
                major_page_faults: key(&stat, "total_pgmajfault").unwrap_or(0),
                swap: key(&stat, "total_swap").unwrap_or(0),
            },
            pids: value("pids", "pids.current"),
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a key in a file of "key number" lines.
pub(super) fn keyed(file: &Path, name: &str) -> Option<u64> {
    key(&fs::read_to_string(file).ok()?, name)
}

fn key(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
