//! The machine: processors, memory, disk, and what it calls itself.
//!
//! Reads `/proc`, `/sys`, `/etc` and the file system of the kubelet's directory, once.
//! Upstream: `pkg/kubelet/cadvisor`, `pkg/kubelet/nodestatus/setters.go`.

use std::collections::BTreeMap;
use std::path::Path;

use api::meta::Quantity;
use api::types::core::v1::NodeSystemInfo;
use nix::sys::statvfs::statvfs;

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: i64,
    /// Size in bytes of the file system that the kubelet's directory is on.
    pub disk: u64,
    /// What the machine calls itself.
    pub system: NodeSystemInfo,
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A value of `/proc/meminfo` in bytes.
pub fn meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))?;
    line.split_whitespace().nth(1)?.parse::<i64>().ok().map(|kib| kib * 1024)
}

impl Machine {
    /// Looks at the machine.
    pub fn inspect(root: &Path) -> Machine {
        let uname = nix::sys::utsname::uname().ok();
        let part = |value: Option<&std::ffi::OsStr>| {
            value.map(|v| v.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let machine_id = text("/etc/machine-id");
        let uuid = text("/sys/class/dmi/id/product_uuid");
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: meminfo(&text("/proc/meminfo"), "MemTotal").unwrap_or(0),
            disk: statvfs(root).map_or(0, |stat| stat.blocks() * stat.fragment_size()),
            system: NodeSystemInfo {
                architecture: architecture.to_owned(),
                boot_id: text("/proc/sys/kernel/random/boot_id"),
                kernel_version: part(uname.as_ref().map(|uname| uname.release())),
                operating_system: "linux".to_owned(),
                os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
                system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
                machine_id,
                ..NodeSystemInfo::default()
            },
        }
    }

    /// What the node reports as its capacity; all of it can be given to pods.
    pub fn capacity(&self, max_pods: u32) -> BTreeMap<String, Quantity> {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(self.cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", self.memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", self.disk / 1024))),
            ("pods".to_owned(), Quantity(max_pods.to_string())),
            ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
            ("hugepages-1Gi".to_owned(), Quantity("0".to_owned())),
        ])
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       16384 kB\nMemTotalX: 1 kB\nMemFree: 2 kB\n";
        assert_eq!(super::meminfo(text, "MemTotal"), Some(16384 * 1024));
        assert_eq!(super::meminfo(text, "Mem"), None);
    }
}
