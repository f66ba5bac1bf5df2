//! Removes every trace of a runtime: supervisors and containers, mounts, namespaces, control groups, files.

use std::io;
use std::path::Path;

use sys::cgroup::{Cgroup, Layout};

use crate::engine::{ContainerRecord, SandboxRecord, remove_empty_group};
use crate::network::{Attachment, Cni, Network};
use crate::options::Options;
use crate::wire::{Request, Verb, read_json};

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
            let group = Cgroup::new(layout.clone(), record.cgroup.clone());
            group.kill();
            // Dying takes a moment; a supervisor reaps.
            for _ in 0..50 {
                if group.remove().is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            // The pod's group, its class's, that of all pods: those that others use stay.
            let mut above = record.cgroup.as_str();
            while let Some((parent, _)) = above.trim_end_matches('/').rsplit_once('/') {
                remove_empty_group(&layout, parent);
                above = parent;
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
        if let Some(id) = directory.file_name().and_then(|n| n.to_str()) {
            end_supervisor(&options.socket_of(id));
        }
    }
    // Of this runtime or another one: it stays while supervisors are in it.
    let group = Cgroup::new(layout, crate::nursery::SUPERVISORS);
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
        note(sys::mount::detach_below(prefix));
        note(sys::mount::remove_tree(prefix));
    }
    let _ = std::fs::remove_file(&options.socket);
    first
}

/// Asks a supervisor to end, and kills it if it does not within five seconds.
fn end_supervisor(path: &Path) {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt,
    };
    use std::os::fd::{AsFd, AsRawFd};
    let ask = || -> io::Result<()> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        let supervisor = getsockopt(&fd, sockopt::PeerCredentials)?.pid();
        setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0))?;
        let request = serde_json::to_vec(&Request { id: 0, verb: Verb::Shutdown })?;
        sys::process::send(fd.as_fd(), &request, &[])?;
        let mut buffer = vec![0; sys::process::MAX_MESSAGE];
        loop {
            match sys::process::receive(fd.as_fd(), &mut buffer) {
                Ok((0, _)) => return Ok(()),
                Ok(_) => {}
                Err(_) => return sys::process::kill(supervisor, nix::libc::SIGKILL),
            }
        }
    };
    // Where nobody listens there is no supervisor.
    let _ = ask();
}

fn entries(path: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect()
}
