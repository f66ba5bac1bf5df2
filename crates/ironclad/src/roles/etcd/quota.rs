//! How much history `ironclad etcd` keeps: a history is memory here, so no more than the machine has to give.
//!
//! Reads `/proc/meminfo` and the limits of this process's control groups, of both versions. Not here: what is done where
//! there is more (`store`).
//! Upstream: etcd's `--quota-backend-bytes`, which is of its file: 2 GiB where it is 0, and no bound where it is negative.

use kubelet::node::info::meminfo;
use sys::cgroup::{Cgroup, Layout};

/// The most that is kept where nothing is said.
const MOST: u64 = 2 << 30;
/// And of the memory: what exists now, and the rest of the process, need theirs.
const SHARE: u64 = 4;

/// The memory that this process may have, in bytes: the machine's, or what a control group leaves it of that. `None`: the
/// system does not say.
pub fn memory() -> Option<u64> {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let machine = meminfo(&text("/proc/meminfo"), "MemTotal").and_then(|bytes| bytes.try_into().ok());
    let layout = Layout::detect().ok();
    let limit = |path: &str| Cgroup::new(layout.clone()?, path).figures().memory.limit;
    least(machine, &text("/proc/self/cgroup"), layout.as_ref().is_some_and(Layout::is_v2), limit)
}

/// The least of the machine's memory and the limits of the groups that a process is in, one in the other.
fn least(
    machine: Option<u64>,
    groups: &str,
    is_v2: bool,
    limit: impl Fn(&str) -> Option<u64>,
) -> Option<u64> {
    let own = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it =
            if is_v2 { controllers.is_empty() } else { controllers.split(',').any(|it| it == "memory") };
        is_it.then_some(path)
    });
    let mut path = own.unwrap_or("/");
    let mut least = machine;
    loop {
        // A container may see another path than the one that it finds its own group at, which is the root then.
        least = [least, limit(if path.is_empty() { "/" } else { path })].into_iter().flatten().min();
        match path.rfind('/') {
            Some(parent) if path != "/" => path = &path[..parent],
            _ => return least,
        }
    }
}

/// The bytes of history to keep where so many were asked for, as etcd understands them; and what there is to be said of it.
pub fn quota(asked: i64, memory: Option<u64>) -> (u64, Option<String>) {
    let quota = match asked {
        0 => return (memory.map_or(MOST, |memory| MOST.min(memory / SHARE)), None),
        ..0 => u64::MAX,
        bytes => bytes.unsigned_abs(),
    };
    let beyond = memory.filter(|memory| quota > *memory).map(|memory| {
        format!(
            "--quota-backend-bytes={asked} allows more history than there is memory ({memory} bytes), and history is kept \
             there: without compactions this process will run out of it"
        )
    });
    (quota, beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_history_fits_the_machine() {
        for (asked, memory, expected, warned) in [
            (0, Some(64 * GIB), 2 * GIB, false),
            (0, Some(8 * GIB), 2 * GIB, false),
            (0, Some(GIB), GIB / 4, false),
            (0, None, 2 * GIB, false),
            (GIB as i64, Some(2 * GIB), GIB, false),
            (8 << 30, Some(8 * GIB), 8 * GIB, false),
            (8 << 30, Some(8 * GIB - 1), 8 * GIB, true),
            (8 << 30, None, 8 * GIB, false),
            (-1, Some(GIB), u64::MAX, true),
            (-1, None, u64::MAX, false),
        ] {
            let (quota, warning) = quota(asked, memory);
            assert_eq!((quota, warning.is_some()), (expected, warned), "{asked} {memory:?}");
        }
    }

    #[test]
    fn the_smallest_limit_counts() {
        const V1: &str = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/c\n";
        const V2: &str = "0::/a/b\n";
        for (machine, groups, is_v2, limits, expected) in [
            (Some(8), V1, false, &[("/a/b", 4)][..], Some(4)),
            (Some(8), V1, false, &[("/a", 4)], Some(4)),
            (Some(8), V1, false, &[("/", 4)], Some(4)),
            (Some(8), V1, false, &[("/a/b", 6), ("/a", 5)], Some(5)),
            (Some(8), V1, false, &[("/c", 4), ("/b", 4)], Some(8)),
            (Some(8), V1, false, &[("/a/b", 16)], Some(8)),
            (Some(8), V2, true, &[("/a/b", 4)], Some(4)),
            (Some(8), V2, true, &[("/a", 4)], Some(4)),
            (Some(8), "0::/\n", true, &[("/", 4)], Some(4)),
            (Some(8), "", true, &[("/", 4)], Some(4)),
            (None, V2, true, &[("/a/b", 4)], Some(4)),
            (None, V2, true, &[], None),
        ] {
            let limit = |path: &str| limits.iter().find(|(at, _)| *at == path).map(|(_, bytes)| *bytes);
            assert_eq!(least(machine, groups, is_v2, limit), expected, "{groups:?} {limits:?}");
        }
        // Of this machine it is known.
        assert!(memory().is_some_and(|bytes| bytes > 64 << 20));
    }
}
