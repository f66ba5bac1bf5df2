//! Linux capabilities: names, sets, and how a process about to exec takes them.
//!
//! Upstream: capabilities(7); runc libcontainer/capabilities (what a set that cannot be had means).

use std::io;

use serde::{Deserialize, Serialize};

/// Names by bit.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set(pub u64);

impl Set {
    /// Whether the bit is in.
    pub fn contains(self, bit: u8) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// The same with the bit.
    pub fn with(self, bit: u8) -> Self {
        Self(self.0 | 1 << bit)
    }

    /// The same without the bit.
    pub fn without(self, bit: u8) -> Self {
        Self(self.0 & !(1 << bit))
    }
}

/// The bit of a capability by name, such as `CAP_NET_RAW`.
pub fn bit(name: &str) -> Option<u8> {
    NAMES.iter().position(|n| *n == name).map(|at| at as u8)
}

/// All that this kernel knows and this process may hand on (its bounding set). A container cannot be
/// given more than that: a host that lacks a capability simply has a smaller "all".
pub fn available() -> io::Result<Set> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let hex = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or_default();
    u64::from_str_radix(hex.trim(), 16).map(Set).map_err(io::Error::other)
}

/// The sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sets {
    /// What it may ever have.
    pub bounding: Set,
    /// What it has (permitted and effective).
    pub effective: Set,
    /// What a program with file capabilities may take over.
    pub inheritable: Set,
    /// What an ordinary program keeps over exec, also without being root.
    pub ambient: Set,
}

impl Sets {
    /// The part of these sets that `available` covers.
    pub fn within(self, available: Set) -> Self {
        let cut = |set: Set| Set(set.0 & available.0);
        Self {
            bounding: cut(self.bounding),
            effective: cut(self.effective),
            inheritable: cut(self.inheritable),
            ambient: cut(self.ambient),
        }
    }
}

pub(super) fn keep_over_setuid(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0)
}

/// Drops everything from the bounding set that is not in `set`. Needs CAP_SETPCAP.
pub(super) fn bound(set: Set, available: Set) -> io::Result<()> {
    for bit in 0..64 {
        // Those with a name even if the host has not said that it knows them.
        if (usize::from(bit) < NAMES.len() || available.contains(bit)) && !set.contains(bit) {
            prctl(libc::PR_CAPBSET_DROP, u64::from(bit), 0)?;
        }
    }
    Ok(())
}

/// Takes the sets. Call after the change of user.
pub(super) fn take(sets: &Sets) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let part = |shift: u32| Data {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.effective.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [part(0), part(32)];
    // SAFETY: version 3 reads one header and two data structures of this layout.
    let result = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for bit in (0..64).filter(|bit| sets.ambient.contains(*bit)) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(bit))?;
    }
    Ok(())
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, a, b, 0u64, 0u64) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_bits() {
        for (name, expected) in
            [("CAP_CHOWN", Some(0)), ("CAP_SYS_ADMIN", Some(21)), ("CAP_BPF", Some(39)), ("CAP_NONE", None)]
        {
            assert_eq!(bit(name), expected, "{name}");
        }
        assert!(available().unwrap().0 > 0);
    }
}
