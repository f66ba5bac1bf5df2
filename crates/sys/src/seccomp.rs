//! Seccomp: which system calls a container may make, and the filter program that says so to the kernel.
//!
//! Pure but for [`load`]. Reads profiles (the container engine's own, or the JSON of an OCI/Docker
//! profile), writes classic BPF. Not here: who chooses the profile (the runtime).
//!
//! `seccompiler` is not used: it knows one action beside the default (profiles mix errno values), and
//! loading through it always sets no_new_privs, which would break setuid programs in containers.
//!
//! Upstream: containerd contrib/seccomp (the effect of the default profile), libseccomp (the meaning
//! of actions and comparisons), the OCI runtime specification's `linux.seccomp`.

mod compile;
mod syscalls;

use std::io;

use serde::{Deserialize, Serialize};

pub use compile::compile;

use crate::container::capabilities::{self, Set};

/// Why a profile cannot become a filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JSON is not a profile.
    #[error("cannot decode seccomp profile")]
    Decode(#[from] serde_json::Error),
    /// An action this version does not know.
    #[error("unsupported seccomp action {0:?}")]
    Action(String),
    /// A comparison this version does not know.
    #[error("unsupported seccomp comparison {0:?}")]
    Comparison(String),
    /// An argument index above 5.
    #[error("seccomp argument index {0} is above 5")]
    Index(u32),
    /// The kernel accepts at most 4096 instructions.
    #[error("seccomp filter of {0} instructions is longer than the kernel's 4096")]
    TooLong(usize),
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// The thread dies.
    KillThread,
    /// The process dies (SIGSYS).
    KillProcess,
    /// SIGSYS is sent, which the program may handle.
    Trap,
    /// It is made, and logged by the kernel.
    Log,
    /// The tracer decides.
    Trace(u16),
}

impl Action {
    fn parse(name: &str, errno: Option<u32>) -> Result<Self, Error> {
        let value = errno.unwrap_or(libc::EPERM as u32) as u16;
        Ok(match name {
            "SCMP_ACT_ALLOW" => Self::Allow,
            "SCMP_ACT_ERRNO" => Self::Errno(value),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KillThread,
            "SCMP_ACT_KILL_PROCESS" => Self::KillProcess,
            "SCMP_ACT_TRAP" => Self::Trap,
            "SCMP_ACT_LOG" => Self::Log,
            "SCMP_ACT_TRACE" => Self::Trace(value),
            other => return Err(Error::Action(other.to_owned())),
        })
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `==`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
    /// `argument & mask ==`
    MaskedEqual(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// 0 to 5.
    pub index: u32,
    /// How.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// An action for some calls, if all conditions hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Names; one the architecture does not have is ignored.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// A profile: rules, and what happens to calls without one.
#[derive(Clone, Debug)]
pub struct Profile {
    /// For calls without a rule.
    pub default: Action,
    /// Unconditional rules win over conditional ones; among equals the first wins.
    pub rules: Vec<Rule>,
}

/// A compiled filter: one `u64` per BPF instruction (code, jt, jf, k from high to low).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program(pub Vec<u64>);

/// Calls the default profile refuses whatever the capabilities.
const DENIED: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "bdflush",
    "break",
    "create_module",
    "ftime",
    "get_kernel_syms",
    "getpmsg",
    "gtty",
    "idle",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lock",
    "migrate_pages",
    "move_pages",
    "mpx",
    "nfsservctl",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "pivot_root",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "request_key",
    "security",
    "sgetmask",
    "ssetmask",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "ulimit",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
];

/// Calls the default profile allows to who has one of the capabilities.
const GATED: &[(&str, &[&str])] = &[
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// The `CLONE_NEW*` flags but for time: what `clone` may not ask for without CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// The personalities programs use in earnest (Linux, 32-bit address space, `uname26` …, and asking).
const PERSONALITIES: [u64; 5] = [0, 8, 0x20000, 0x20008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

/// What `RuntimeDefault` means, for a process with these bounding capabilities.
pub fn runtime_default(capabilities: Set) -> Profile {
    let has = |name: &str| capabilities::bit(name).is_some_and(|bit| capabilities.contains(bit));
    let gated = |name: &str| GATED.iter().any(|(_, names)| names.contains(&name));
    let conditional = |name: &str| matches!(name, "personality" | "socket");
    let allow = |names: Vec<String>| Rule { names, action: Action::Allow, conditions: vec![] };
    let mut rules = vec![allow(
        syscalls::SYSCALLS
            .iter()
            .map(|(name, ..)| *name)
            .filter(|name| !DENIED.contains(name) && !gated(name) && !conditional(name))
            .map(str::to_owned)
            .collect(),
    )];
    for (capability, names) in GATED {
        if has(capability) {
            rules.push(allow(names.iter().map(|n| (*n).to_owned()).collect()));
        }
    }
    let mut when = |name: &str, index, comparison, value| {
        rules.push(Rule {
            names: vec![name.to_owned()],
            action: Action::Allow,
            conditions: vec![Condition { index, comparison, value }],
        });
    };
    for value in PERSONALITIES {
        when("personality", 0, Comparison::Equal, value);
    }
    when("socket", 0, Comparison::NotEqual, AF_VSOCK);
    if !has("CAP_SYS_ADMIN") {
        when("clone", 0, Comparison::MaskedEqual(CLONE_NAMESPACES), 0);
        // clone3's flags are behind a pointer: "not there" makes libc fall back to clone.
        rules.push(Rule {
            names: vec!["clone3".to_owned()],
            action: Action::Errno(libc::ENOSYS as u16),
            conditions: vec![],
        });
    }
    Profile { default: Action::Errno(libc::EPERM as u16), rules }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Option<Vec<JsonRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<JsonArgument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile in the JSON form of the OCI runtime specification.
pub fn parse(json: &[u8]) -> Result<Profile, Error> {
    let json: Json = serde_json::from_slice(json)?;
    let rules = json.syscalls.unwrap_or_default().into_iter().map(|rule| {
        let conditions = rule.args.unwrap_or_default().into_iter().map(|argument| {
            if argument.index > 5 {
                return Err(Error::Index(argument.index));
            }
            let (comparison, value) = match argument.op.as_str() {
                "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
                "SCMP_CMP_LT" => (Comparison::Less, argument.value),
                "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
                "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
                "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
                "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
                "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(argument.value), argument.value_two),
                other => return Err(Error::Comparison(other.to_owned())),
            };
            Ok(Condition { index: argument.index, comparison, value })
        });
        Ok(Rule {
            names: rule.names.into_iter().chain(rule.name).collect(),
            action: Action::parse(&rule.action, rule.errno_ret)?,
            conditions: conditions.collect::<Result<_, Error>>()?,
        })
    });
    Ok(Profile {
        default: Action::parse(&json.default_action, json.default_errno_ret)?,
        rules: rules.collect::<Result<_, Error>>()?,
    })
}

/// Puts the filter on the calling thread and its future children. Needs CAP_SYS_ADMIN, or
/// no_new_privs set before.
pub fn load(program: &Program) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .0
        .iter()
        .map(|i| libc::sock_filter {
            code: (i >> 48) as u16,
            jt: (i >> 40) as u8,
            jf: (i >> 32) as u8,
            k: *i as u32,
        })
        .collect();
    let prog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `prog` points to `filter`, which lives until the call returns; the kernel copies it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&prog))
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
