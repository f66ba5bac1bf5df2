//! Control groups: one group of processes, its limits, its figures, its end.
//!
//! Version 1 (one hierarchy per controller, also the "hybrid" layout), and version 2 (one hierarchy).
//! A group is named by its path below the root of the hierarchies, as `/kubepods/pod1/ctr1`.
//! Not here: which limits a pod has (kubelet), device rules of version 2 (`devices`).
//!
//! Upstream: runc libcontainer/cgroups (names and conversions), the kernel's cgroup-v1/ and cgroup-v2 pages.

pub mod devices;
mod figures;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use figures::{Figures, Memory};
use serde::{Deserialize, Serialize};

/// How often processes that are forked while their group is killed are looked for.
const KILL_ROUNDS: usize = 100;

/// An operation on a control file that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", .path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn fail(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { what, path, source }
}

/// How the host's control groups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Controller (or several, co-mounted) and mount point, such as `("cpu", "/sys/fs/cgroup/cpu")`.
    V1(Vec<(Vec<String>, PathBuf)>),
    /// The mount point.
    V2(PathBuf),
}

impl Layout {
    /// Reads `/proc/self/mountinfo`. A hybrid host (controllers in version 1, version 2 beside them
    /// without any that matters) counts as version 1.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
        let mut v2 = PathBuf::from("/sys/fs/cgroup");
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let names: Vec<String> = options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"))
                        .filter(|o| !o.starts_with("release_agent="))
                        .map(str::to_owned)
                        .collect();
                    // The same hierarchy mounted twice is one hierarchy.
                    if !names.is_empty() && !v1.iter().any(|(seen, _)| *seen == names) {
                        v1.push((names, PathBuf::from(point)));
                    }
                }
                Some("cgroup2") => v2 = PathBuf::from(point),
                _ => {}
            }
        }
        // systemd alone in version 1 carries no controller.
        let controllers = v1.iter().any(|(names, _)| names.iter().any(|n| !n.starts_with("name=")));
        if controllers { Self::V1(v1) } else { Self::V2(v2) }
    }

    /// Whether this is version 2.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Directories of the group at `path`, one per hierarchy.
    pub fn directories(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V1(all) => all.iter().map(|(_, mount)| mount.join(path)).collect(),
            Self::V2(mount) => vec![mount.join(path)],
        }
    }

    fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V1(all) => {
                all.iter().find(|(names, _)| names.iter().any(|n| n == controller)).map(|(_, m)| m.join(path))
            }
            Self::V2(mount) => Some(mount.join(path)),
        }
    }
}

/// Limits. `None` leaves a control as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Relative weight, 2 to 262144; 1024 is one CPU.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; negative: no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, such as `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Bytes; negative: no limit.
    pub memory: Option<i64>,
    /// Bytes of memory *and* swap; negative: no limit.
    pub memory_and_swap: Option<i64>,
    /// Processes and threads; negative: no limit.
    pub pids: Option<i64>,
    /// Page size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2 by name, with their values.
    pub unified: Vec<(String, String)>,
}

/// One group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    path: String,
}

impl Cgroup {
    /// Names a group; nothing is made.
    pub fn new(layout: Layout, path: impl Into<String>) -> Self {
        Self { layout, path: path.into() }
    }

    /// The group's path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the group, and its parents where they are missing.
    pub fn create(&self) -> Result<(), Error> {
        match &self.layout {
            Layout::V1(all) => {
                for (names, mount) in all {
                    let directory = mount.join(self.path.trim_start_matches('/'));
                    fs::create_dir_all(&directory).map_err(fail("create cgroup", &directory))?;
                    if names.iter().any(|n| n == "cpuset") {
                        inherit_cpuset(mount, &directory)?;
                    }
                }
            }
            Layout::V2(mount) => {
                let mut at = mount.clone();
                for part in Path::new(self.path.trim_start_matches('/')) {
                    enable_controllers(&at);
                    at.push(part);
                    match fs::create_dir(&at) {
                        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                            return Err(fail("create cgroup", &at)(e));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves a process in; 0 is the caller.
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        for directory in self.layout.directories(&self.path) {
            let file = directory.join("cgroup.procs");
            fs::write(&file, pid.to_string()).map_err(fail("write", &file))?;
        }
        Ok(())
    }

    /// Moves the calling process in, which has one thread.
    ///
    /// In version 1 by the file of threads: a thread that moves itself needs no global lock, and so does
    /// not wait for an RCU grace period (10 ms and more on a busy host), as `cgroup.procs` does.
    pub fn enter(&self) -> Result<(), Error> {
        let file = if self.layout.is_v2() { "cgroup.procs" } else { "tasks" };
        for directory in self.layout.directories(&self.path) {
            let file = directory.join(file);
            fs::write(&file, "0").map_err(fail("write", &file))?;
        }
        Ok(())
    }

    /// Processes of this group (of all sub-groups too).
    pub fn processes(&self) -> Vec<i32> {
        fn collect(directory: &Path, into: &mut Vec<i32>) {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            into.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    collect(&entry.path(), into);
                }
            }
        }
        let mut all = Vec::new();
        // Every process is in every hierarchy: one of them tells.
        if let Some(directory) = self.layout.directories(&self.path).first() {
            collect(directory, &mut all);
        }
        all
    }

    /// Sends SIGKILL to everything in the group, also to what forks meanwhile.
    pub fn kill(&self) {
        if let Layout::V2(mount) = &self.layout {
            let file = mount.join(self.path.trim_start_matches('/')).join("cgroup.kill"); // Linux 5.14
            if fs::write(file, "1").is_ok() {
                return;
            }
        }
        // Frozen processes do not fork; where nothing freezes, children are looked for until there are no new ones.
        let frozen = self.freeze(true);
        let mut seen = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            let fresh: Vec<i32> = self.processes().into_iter().filter(|pid| seen.insert(*pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                let _ = crate::process::kill(pid, libc::SIGKILL);
            }
        }
        if frozen {
            self.freeze(false);
        }
    }

    /// Freezes the group's processes, or lets them go on; whether the host can.
    fn freeze(&self, frozen: bool) -> bool {
        let (file, value) = match (self.layout.is_v2(), frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let directory = self.layout.directory("freezer", &self.path);
        directory.is_some_and(|directory| fs::write(directory.join(file), value).is_ok())
    }

    /// Removes the group and its sub-groups; `EBUSY` means that processes are still in it.
    pub fn remove(&self) -> Result<(), Error> {
        fn remove(directory: &Path) -> io::Result<()> {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove(&entry.path())?;
                }
            }
            fs::remove_dir(directory)
        }
        let mut result = Ok(());
        for directory in self.layout.directories(&self.path) {
            // The usual case first: one call, no listing.
            match fs::remove_dir(&directory).or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => remove(&directory),
            }) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    result = Err(fail("remove cgroup", &directory)(e));
                }
                _ => {}
            }
        }
        result
    }

    /// How often the out-of-memory killer has struck in the group.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.layout.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(directory) = self.layout.directory("memory", &self.path) else { return 0 };
        figures::keyed(&directory.join(file), "oom_kill").unwrap_or(0)
    }

    /// Reads the group's figures.
    pub fn figures(&self) -> Figures {
        figures::read(&self.layout, &self.path)
    }

    /// Applies limits; the result names the ones the host has no control for (a missing controller),
    /// which the caller may log and live with.
    pub fn set(&self, limits: &Limits) -> Result<Vec<&'static str>, Error> {
        let mut missing = Vec::new();
        if self.layout.is_v2() {
            self.set_v2(limits, &mut missing)?
        } else {
            self.set_v1(limits, &mut missing)?
        }
        Ok(missing)
    }

    fn write(
        &self,
        controller: &'static str,
        file: &str,
        value: &str,
        missing: &mut Vec<&'static str>,
    ) -> Result<(), Error> {
        let path = self.layout.directory(controller, &self.path).map(|d| d.join(file));
        match path.filter(|p| p.exists()) {
            Some(path) => fs::write(&path, value).map_err(fail("write", &path)),
            None => {
                if !missing.contains(&controller) {
                    missing.push(controller);
                }
                Ok(())
            }
        }
    }

    fn set_v1(&self, limits: &Limits, missing: &mut Vec<&'static str>) -> Result<(), Error> {
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.shares", &shares.to_string(), missing)?;
        }
        if let Some(period) = limits.cpu_period {
            self.write("cpu", "cpu.cfs_period_us", &period.to_string(), missing)?;
        }
        if let Some(quota) = limits.cpu_quota {
            self.write("cpu", "cpu.cfs_quota_us", &quota.to_string(), missing)?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            self.write("cpuset", "cpuset.cpus", cpus, missing)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.write("cpuset", "cpuset.mems", mems, missing)?;
        }
        let swap = limits.memory_and_swap.map(|bytes| bytes.to_string());
        let swap_file = "memory.memsw.limit_in_bytes";
        let has_swap =
            self.layout.directory("memory", &self.path).is_some_and(|d| d.join(swap_file).exists());
        if let Some(memory) = limits.memory {
            let memory = memory.to_string();
            let first = self.write("memory", "memory.limit_in_bytes", &memory, missing);
            // The kernel keeps memory <= memory+swap: raising needs swap first, lowering memory first.
            if first.is_err()
                && let (Some(swap), true) = (&swap, has_swap)
            {
                self.write("memory", swap_file, swap, missing)?;
                self.write("memory", "memory.limit_in_bytes", &memory, missing)?;
            } else {
                first?;
            }
        }
        if let (Some(swap), true) = (&swap, has_swap) {
            self.write("memory", swap_file, swap, missing)?;
        }
        if let Some(pids) = limits.pids {
            self.write("pids", "pids.max", &max(pids), missing)?;
        }
        for (size, bytes) in &limits.hugepages {
            let file = format!("hugetlb.{size}.limit_in_bytes");
            self.write("hugetlb", &file, &bytes.to_string(), missing)?;
        }
        Ok(())
    }

    fn set_v2(&self, limits: &Limits, missing: &mut Vec<&'static str>) -> Result<(), Error> {
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.weight", &weight(shares).to_string(), missing)?;
        }
        if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            let quota = limits.cpu_quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
            let period = limits.cpu_period.unwrap_or(100_000);
            self.write("cpu", "cpu.max", &format!("{quota} {period}"), missing)?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            self.write("cpuset", "cpuset.cpus", cpus, missing)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.write("cpuset", "cpuset.mems", mems, missing)?;
        }
        if let Some(memory) = limits.memory {
            self.write("memory", "memory.max", &max(memory), missing)?;
        }
        if let Some(both) = limits.memory_and_swap {
            // Version 2 limits swap alone.
            let swap = match limits.memory {
                Some(memory) if both >= 0 && memory >= 0 => max((both - memory).max(0)),
                _ => "max".to_owned(),
            };
            let file = self.layout.directory("memory", &self.path).map(|d| d.join("memory.swap.max"));
            if file.is_some_and(|f| f.exists()) {
                self.write("memory", "memory.swap.max", &swap, missing)?;
            }
        }
        if let Some(pids) = limits.pids {
            self.write("pids", "pids.max", &max(pids), missing)?;
        }
        for (size, bytes) in &limits.hugepages {
            self.write("hugetlb", &format!("hugetlb.{size}.max"), &bytes.to_string(), missing)?;
        }
        for (file, value) in &limits.unified {
            self.write("unified", file, value, missing)?;
        }
        Ok(())
    }
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Version 1's shares (2 to 262144) on version 2's scale (1 to 10000), by the quadratic of runc 1.3.2
/// (which maps 1024 to 100, so that one CPU has the kernel's default weight).
pub fn weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// A new version 1 cpuset is empty and admits no process: copy what the parent has, from the top down.
fn inherit_cpuset(mount: &Path, directory: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut chain: Vec<&Path> = directory.ancestors().take_while(|a| *a != mount).collect();
        chain.retain(|d| fs::read_to_string(d.join(file)).is_ok_and(|v| v.trim().is_empty()));
        for d in chain.into_iter().rev() {
            let parent = d.parent().unwrap_or(mount).join(file);
            let value = fs::read_to_string(&parent).map_err(fail("read", &parent))?;
            let target = d.join(file);
            fs::write(&target, value.trim()).map_err(fail("write", &target))?;
        }
    }
    Ok(())
}

/// Lets children of a version 2 group be limited. A controller that cannot be enabled shows up later as
/// a missing control file.
fn enable_controllers(directory: &Path) {
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    for controller in read("cgroup.controllers").split_whitespace() {
        if !enabled.split_whitespace().any(|e| e == controller) {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_read_from_mountinfo() {
        let line = |point: &str, kind: &str, options: &str| {
            format!("30 25 0:26 / {point} rw,relatime shared:4 - {kind} cgroup rw,{options}\n")
        };
        let hybrid = line("/sys/fs/cgroup/cpu", "cgroup", "cpu,cpuacct")
            + &line("/sys/fs/cgroup/systemd", "cgroup", "xattr,name=systemd")
            + &line("/sys/fs/cgroup/unified", "cgroup2", "nsdelegate");
        let Layout::V1(all) = Layout::parse(&hybrid) else { panic!("hybrid is version 1") };
        assert_eq!(all[0].0, ["cpu", "cpuacct"]);
        assert_eq!(all[1].0, ["name=systemd"]);
        let pure = line("/sys/fs/cgroup", "cgroup2", "nsdelegate");
        assert_eq!(Layout::parse(&pure), Layout::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (102, 17), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
    }
}
