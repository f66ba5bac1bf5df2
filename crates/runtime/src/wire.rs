//! What the runtime and a pod's supervisor say to each other, and the files they share.
//!
//! One message is one `SOCK_SEQPACKET` datagram of JSON, with descriptors beside it where a verb says so.
//! The two may be of different versions (the supervisor outlives an upgrade), so fields are only added.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sysctl::Own;

/// What a supervisor is told at its start (a file whose path is its last argument).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The sandbox's ID.
    pub id: String,
    /// Where to listen.
    pub socket: PathBuf,
    /// Where to pin a new network namespace; `None` is the host's network.
    pub network_namespace: Option<PathBuf>,
    /// Whether to make a new IPC namespace.
    pub ipc_namespace: bool,
    /// Whether to make a new UTS namespace.
    pub uts_namespace: bool,
    /// Hostname within it.
    pub hostname: String,
    /// Kernel parameters of the namespaces, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the containers share one PID namespace.
    pub shared_pids: bool,
}

impl SandboxSpec {
    /// Which namespaces the pod has of its own.
    pub(crate) fn own(&self) -> Own {
        Own { network: self.network_namespace.is_some(), ipc: self.ipc_namespace, uts: self.uts_namespace }
    }
}

/// Whose processes a container sees, in terms of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pids {
    /// Its own.
    Own,
    /// The host's.
    Host,
    /// The pod's.
    Sandbox,
    /// Those of another container of the pod.
    Container(String),
}

/// A container as its supervisor starts it (the file `spec.json` in the container's directory).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// For the launcher.
    pub spec: sys::container::Spec,
    /// Whose processes it sees.
    pub pids: Pids,
    /// Whether standard input stays open for who attaches.
    pub stdin: bool,
    /// Log file; `None` throws the output away.
    pub log: Option<PathBuf>,
}

/// How a container's run went (the file `status.json` in its directory, written by the supervisor).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// PID of the first process on the host; 0 before the start.
    pub pid: i32,
    /// Nanoseconds since the epoch; 0: not yet.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0: not yet.
    pub finished_at: i64,
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// One word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl RunStatus {
    /// Whether it has ended.
    pub fn exited(&self) -> bool {
        self.finished_at != 0
    }

    /// Whether it has begun and not ended.
    pub fn running(&self) -> bool {
        self.started_at != 0 && !self.exited()
    }
}

/// A request of the runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the reply.
    pub id: u64,
    /// What to do.
    pub verb: Verb,
}

/// What a supervisor can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Verb {
    /// Starts the container described in `spec.json` of a directory. Answers when its program runs.
    Start {
        /// Container.
        container: String,
        /// Its directory.
        directory: PathBuf,
    },
    /// Runs one more process. Descriptors: a file with the [`sys::container::Process`] as JSON, then for
    /// each of `streams` that is set a descriptor for the process. With a terminal the reply carries the
    /// master side instead. Answers when the program runs.
    Exec {
        /// Container.
        container: String,
        /// Name for this process in later messages.
        exec: String,
        /// Which of standard input, output, error are given.
        streams: [bool; 3],
        /// Columns and rows.
        size: Option<(u16, u16)>,
    },
    /// Copies the container's output to the given descriptors (output and, without a terminal, error). The
    /// reply carries a descriptor for its input or terminal, if there is one.
    Attach {
        /// Container.
        container: String,
    },
    /// Closes the supervisor's end of standard input.
    CloseStdin {
        /// Container.
        container: String,
    },
    /// Sends a signal to the container's first process.
    Signal {
        /// Container.
        container: String,
        /// Number.
        signal: i32,
    },
    /// Sends a signal to a process made by `Exec`.
    SignalExec {
        /// Its name.
        exec: String,
        /// Number.
        signal: i32,
    },
    /// Opens the log file anew (it was moved away).
    ReopenLog {
        /// Container.
        container: String,
    },
    /// Forgets a container that has ended.
    Forget {
        /// Container.
        container: String,
    },
    /// Tells of all containers.
    List,
    /// Kills what runs and ends.
    Shutdown,
}

/// A supervisor's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The container or process runs.
    Started {
        /// PID on the host.
        pid: i32,
    },
    /// All containers.
    Containers(BTreeMap<String, RunStatus>),
    /// It was not done, for this reason.
    Failed(String),
}

/// What a supervisor tells unasked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A container has ended.
    Exited {
        /// Which.
        container: String,
        /// How.
        status: RunStatus,
    },
    /// A process made by `Exec` has ended.
    ExecExited {
        /// Its name.
        exec: String,
        /// Exit code, or 128 + signal.
        code: i32,
    },
    /// The host forbids something; the container runs without it.
    Warning(String),
}

/// Any message of a supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// To a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Unasked.
    Event(Event),
}

/// Writes a file as a whole or not at all (a reader never sees a half).
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// [`write_whole`] of a value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_whole(path, &serde_json::to_vec(value)?)
}

/// [`write_json`] of what must be whole after a power cut too: the file's content is on the disk before its name is.
pub fn write_synced<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = std::fs::File::create(&temporary)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(value)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
