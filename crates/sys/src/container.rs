//! The launcher: makes a process in a container, or one more process in a container that runs.
//!
//! Read first: [`Spec`] (a container), [`Process`] (what runs in it), [`launch`] and [`exec`]. Both fork
//! the calling process, which must have one thread (the pod supervisor), and answer over a status
//! socket: [`Status`] tells when the program runs, or why it does not, in runc's words.
//!
//! The child sets itself up in `child`: control group, mounts, root, devices, user, capabilities,
//! seccomp, exec. Network, IPC and UTS namespaces are the caller's own: the supervisor lives in the
//! namespaces of its pod, so containers have them by inheritance and no time is spent on joining.
//!
//! Not here: images, log files, waiting for the end, what Kubernetes wants.
//!
//! Upstream: runc libcontainer (standard_init_linux.go, rootfs_linux.go, setns_init_linux.go); the OCI
//! runtime specification.

pub mod capabilities;
mod child;
mod filesystem;
mod program;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::cgroup::Layout;
use crate::mount::Propagation;
use crate::namespace::{self, Flags};
use crate::process::{self, Fork};
use crate::seccomp;

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What runs, and with which rights.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the environment's PATH.
    pub args: Vec<String>,
    /// `NAME=value`. HOME is added from the container's /etc/passwd if it is missing.
    pub env: Vec<String>,
    /// Working directory; made if it is missing. Empty is `/`.
    pub cwd: String,
    /// Who.
    pub user: User,
    /// Rights.
    pub capabilities: capabilities::Sets,
    /// No program may add rights (setuid has no effect).
    pub no_new_privileges: bool,
    /// System call filter; `None` is unconfined.
    pub seccomp: Option<seccomp::Program>,
    /// AppArmor profile by name.
    pub apparmor: Option<String>,
    /// How likely the out-of-memory killer takes it; `None` leaves the caller's.
    pub oom_score_adj: Option<i32>,
    /// Whether it gets a terminal.
    pub terminal: bool,
}

/// Whose processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// Its own: its first process is 1.
    #[default]
    Own,
    /// The caller's (the host's).
    Host,
    /// Those of the namespace at this path.
    Join(PathBuf),
}

/// What the root directory is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Directory that `layers` are relative to (short names: the kernel takes one page of options).
    pub layers_in: PathBuf,
    /// Read-only layers, top first.
    pub layers: Vec<String>,
    /// Writable layer: files.
    pub upper: PathBuf,
    /// Writable layer: the kernel's scratch, on the same filesystem as `upper`.
    pub work: PathBuf,
    /// An existing directory to mount on, in the container's own mount namespace only.
    pub staging: PathBuf,
    /// Whether the result is read-only.
    pub readonly: bool,
    /// Whether device nodes in it (an image may bring some) cannot be opened.
    #[serde(default)]
    pub nodev: bool,
}

/// Something mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// The process filesystem of the container's PID namespace.
    Proc,
    /// The kernel's objects.
    Sysfs {
        /// Read-only.
        readonly: bool,
    },
    /// A minimal /dev: tmpfs, pseudo terminals, the standard devices and links.
    Dev,
    /// POSIX message queues.
    Mqueue {
        /// Where.
        target: PathBuf,
    },
    /// Control groups at /sys/fs/cgroup.
    Cgroup {
        /// Read-only.
        readonly: bool,
    },
    /// A memory filesystem.
    Tmpfs {
        /// Where.
        target: PathBuf,
        /// Options, such as `mode=1777,size=64m`.
        options: String,
    },
    /// A file or directory of the host.
    Bind {
        /// On the host; symbolic links are followed.
        source: PathBuf,
        /// In the container.
        target: PathBuf,
        /// Read-only (not what is mounted below).
        readonly: bool,
        /// What is mounted below is read-only too.
        recursive_readonly: bool,
        /// How later mounts travel.
        propagation: Propagation,
    },
}

/// A device node in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub path: PathBuf,
    /// Block rather than character.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A container to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    /// Its first process.
    pub process: Process,
    /// Its root directory.
    pub root: Root,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes beside the standard ones.
    pub devices: Vec<Device>,
    /// Paths made empty.
    pub masked: Vec<PathBuf>,
    /// Paths made read-only.
    pub readonly: Vec<PathBuf>,
    /// Whose processes it sees.
    pub pids: PidNamespace,
    /// Whether it sees its control group as the root.
    pub own_cgroup_namespace: bool,
    /// Its control group's path; the group exists already.
    pub cgroup: String,
}

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// Descriptors that the process gets copies of; `None` is /dev/null.
    Files {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A new terminal of the container, whose other end comes as [`Status::Terminal`].
    Terminal {
        /// Columns and rows, if known.
        size: Option<(u16, u16)>,
    },
}

/// Why nothing was forked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fork or what it needs.
    #[error("cannot fork")]
    Fork(#[from] io::Error),
    /// The PID namespace to join.
    #[error("cannot join the PID namespace")]
    Namespace(#[from] namespace::Error),
}

/// A process that was forked and sets itself up.
#[derive(Debug)]
pub struct Launched {
    /// Its PID as the caller sees it; reaped by the caller.
    pub pid: i32,
    /// Readable when there is a [`Status`]; see [`status`].
    pub status: OwnedFd,
}

/// News from a process being set up.
#[derive(Debug)]
pub enum Status {
    /// The master side of its terminal.
    Terminal(OwnedFd),
    /// It will not run, for this reason; it has ended or is about to.
    Failed(String),
    /// Something the host forbids, and the process runs without.
    Warning(String),
    /// The program runs.
    Running,
}

const MESSAGE_TERMINAL: u8 = b't';
const MESSAGE_FAILED: u8 = b'f';
const MESSAGE_WARNING: u8 = b'w';

/// Reads the next news. Blocks unless the socket is readable. After [`Status::Failed`] and
/// [`Status::Running`] there is no more.
pub fn status(socket: BorrowedFd<'_>) -> io::Result<Status> {
    let mut buffer = vec![0; process::MAX_MESSAGE];
    let (length, mut descriptors) = process::receive(socket, &mut buffer)?;
    let text = || String::from_utf8_lossy(&buffer[1..length.max(1)]).into_owned();
    Ok(match (length, buffer[0]) {
        (0, _) => Status::Running, // closed by exec
        (_, MESSAGE_WARNING) => Status::Warning(text()),
        (_, MESSAGE_TERMINAL) if !descriptors.is_empty() => Status::Terminal(descriptors.remove(0)),
        _ => Status::Failed(text()),
    })
}

/// Makes a container. `host_pids` is the PID namespace of the caller, to come back to.
pub fn launch(
    spec: &Spec,
    layout: &Layout,
    stdio: Stdio,
    host_pids: BorrowedFd<'_>,
) -> Result<Launched, Error> {
    let flags = match spec.pids {
        PidNamespace::Own => Flags::CLONE_NEWNS | Flags::CLONE_NEWPID,
        _ => Flags::CLONE_NEWNS,
    };
    let join = match &spec.pids {
        PidNamespace::Join(path) => Some(path.clone()),
        _ => None,
    };
    forked(flags, join, host_pids, |status| child::container(spec, layout, stdio, status))
}

/// Runs one more process in the container whose first process is `pid`, in its control group.
pub fn exec(
    process: &Process,
    pid: i32,
    cgroup: &str,
    layout: &Layout,
    stdio: Stdio,
    host_pids: BorrowedFd<'_>,
) -> Result<Launched, Error> {
    let join = Some(PathBuf::from(format!("/proc/{pid}/ns/pid")));
    forked(Flags::empty(), join, host_pids, |status| child::exec(process, pid, cgroup, layout, stdio, status))
}

/// A process that does nothing but be the first of a PID namespace and reap what is orphaned in it.
pub fn pause() -> io::Result<i32> {
    match process::fork(Flags::CLONE_NEWPID)? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => child::pause(),
    }
}

fn forked<R>(
    flags: Flags,
    join: Option<PathBuf>,
    host_pids: BorrowedFd<'_>,
    child: impl FnOnce(OwnedFd) -> R,
) -> Result<Launched, Error> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(io::Error::from)?;
    if let Some(path) = &join {
        namespace::join(path)?;
    }
    let forked = process::fork(flags);
    if join.is_some() && !matches!(forked, Ok(Fork::Child)) {
        // Only future children were concerned, and the next one may belong elsewhere.
        namespace::enter(host_pids)?;
    }
    match forked? {
        Fork::Parent(pid) => Ok(Launched { pid, status: ours }),
        Fork::Child => {
            drop(ours);
            child(theirs);
            process::exit_now(127)
        }
    }
}

fn tell(socket: &OwnedFd, kind: u8, text: &str, descriptors: &[BorrowedFd<'_>]) {
    let mut message = vec![kind];
    message.extend(text.bytes().take(process::MAX_MESSAGE / 2));
    // Nobody to tell if the supervisor is gone.
    let _ = process::send(socket.as_fd(), &message, descriptors);
}
