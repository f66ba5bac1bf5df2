//! Removes every trace of a runtime: supervisors and containers, mounts, namespaces, control groups, files.

use std::io;
use std::path::Path;

use sys::cgroup::{Cgroup, Layout};

use crate::engine::{ContainerRecord, SandboxRecord};
use crate::network::{Attachment, Cni, Network};
use crate::options::Options;
use crate::wire::read_json;

/// See the module. The runtime must not be serving. Goes on past what fails; the first failure is told.
pub fn uninstall(options: &Options) -> io::Result<()> {
    let layout = Layout::detect()?;
    let network = Cni {
        conf_dir: options.cni_conf_dir.clone(),
        bin_dir: options.cni_bin_dir.clone(),
        cache_dir: options.state.join("cni"),
    };
    for directory in entries(&options.root.join("containers")) {
        if let Ok(record) = read_json::<ContainerRecord>(&directory.join("record.json")) {
            let group = Cgroup::new(layout.clone(), record.cgroup);
            group.kill();
            // Dying takes a moment; a supervisor reaps.
            for _ in 0..50 {
                if group.remove().is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
    for directory in entries(&options.root.join("sandboxes")) {
        if let Ok(record) = read_json::<SandboxRecord>(&directory.join("record.json"))
            && let Some(netns) = record.netns
        {
            let pod = Attachment { sandbox: record.id, netns, ..Attachment::default() };
            if let Err(error) = network.teardown(&pod) {
                tracing::warn!(%error, sandbox = pod.sandbox, "disconnect a pod");
            }
        }
        kill_supervisor(&directory.join("sandbox.json"));
    }
    // Of this runtime or another one: it stays while supervisors are in it.
    let group = Cgroup::new(layout, crate::engine::SUPERVISORS);
    for _ in 0..50 {
        if group.processes().is_empty() && group.remove().is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let mut first = Ok(());
    let mut note = |result: io::Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    for prefix in [&options.state, &options.root] {
        for mount in sys::mount::below(prefix)? {
            note(sys::mount::detach(&mount).map_err(|e| e.source));
        }
        note(match std::fs::remove_dir_all(prefix) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        });
    }
    let _ = std::fs::remove_file(&options.socket);
    first
}

/// The supervisor is the process that has the sandbox's file as its last argument.
fn kill_supervisor(spec: &Path) {
    for process in entries(Path::new("/proc")) {
        let Some(pid) = process.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let last = line.strip_suffix(b"\0").unwrap_or(&line).rsplit(|b| *b == 0).next();
        if last == Some(spec.as_os_str().as_encoded_bytes()) {
            let _ = sys::process::kill(pid, nix::libc::SIGKILL);
        }
    }
}

fn entries(path: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect()
}
