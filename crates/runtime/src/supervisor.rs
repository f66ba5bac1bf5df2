//! The pod supervisor: one small process per pod, which outlives the runtime.
//!
//! It lives in the pod's network, IPC and UTS namespaces, is the parent of the pod's containers, writes
//! their log files and records their ends in the state files. The runtime reaches it over a unix socket,
//! and finds it there again after a restart.
//!
//! One thread, no async runtime, one `poll`. When it dies its containers die with it (parent death
//! signal), and the runtime sees the socket close.
//!
//! Not here: images, networks beyond the empty namespace, what the kubelet wants.
//!
//! Upstream: containerd's runtime shim and CRI log format.

mod container;
mod log;
mod nursery;
mod pod;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use sys::namespace::{self, Flags};

use crate::sysctl;
use crate::wire::{SandboxSpec, read_json};

/// The argument that makes the process the nursery of supervisors.
pub(crate) const NURSERY: &str = "--nursery";

/// Runs the nursery, or one supervisor, and never returns: call it before any thread is started. `args`
/// ends with [`NURSERY`] and its control group, or with the path of a [`SandboxSpec`]. A supervisor answers
/// `ok` or a reason on standard output, once, and closes it.
pub fn main(args: &[String]) -> ! {
    match args {
        [.., flag, group] if flag == NURSERY => std::process::exit(nursery::run(group)),
        [.., path] => supervise(Path::new(path)),
        [] => std::process::exit(2),
    }
}

fn supervise(path: &Path) -> ! {
    let result = read_json::<SandboxSpec>(path).and_then(|spec| prepare(&spec));
    let answer = match &result {
        Ok(_) => "ok".to_owned(),
        Err(e) => e.to_string(),
    };
    let heard = io::stdout().write_all(answer.as_bytes()).and_then(|()| io::stdout().flush());
    let code = match result {
        // Without anybody who waits for the pod there is nothing to supervise.
        Ok(pod) if heard.is_ok() => {
            detach();
            pod.run()
        }
        _ => 1,
    };
    // Not `exit`: handlers of the nursery's other life are none of ours.
    sys::process::exit_now(code)
}

fn prepare(spec: &SandboxSpec) -> io::Result<pod::Pod> {
    sys::process::block_signals()?;
    // Not a member of the starter's session: Ctrl-C in its terminal is not for us.
    nix::unistd::setsid()?;
    sys::process::adopt_orphans()?;
    let layout = sys::cgroup::Layout::detect()?;
    sys::process::set_name(&format!("pod-{}", spec.id));
    // The last to be killed when memory runs out; hardened hosts forbid it, and the pod runs all the same.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");

    let mut flags = Flags::empty();
    flags.set(Flags::CLONE_NEWNET, spec.network_namespace.is_some());
    flags.set(Flags::CLONE_NEWIPC, spec.ipc_namespace);
    flags.set(Flags::CLONE_NEWUTS, spec.uts_namespace);
    namespace::unshare(flags).map_err(described)?;
    if let Some(path) = &spec.network_namespace {
        namespace::pin("net", path).map_err(described)?;
    }
    if spec.uts_namespace && !spec.hostname.is_empty() {
        nix::unistd::sethostname(&spec.hostname)?;
    }
    for (name, value) in &spec.sysctls {
        // Asked before the fork too; this process alone knows that the namespaces are really its own.
        let file = sysctl::file(name, spec.own()).map_err(io::Error::other)?;
        fs::write(file, value).map_err(|e| io::Error::other(format!("sysctl {name}={value}: {e}")))?;
    }
    pod::Pod::new(spec, layout)
}

fn described(error: impl std::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    io::Error::other(text)
}

/// Lets go of the starter: its pipe and its working directory.
fn detach() {
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    let _ = nix::unistd::chdir("/");
}
