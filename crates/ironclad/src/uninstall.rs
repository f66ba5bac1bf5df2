//! `ironclad uninstall`: stops everything and removes every trace.
//!
//! Ends a running server, pods and their supervisors; removes mounts, network namespaces, links, rules, cgroups and
//! files. What is not there is fine; what cannot be removed is told, and the rest is removed all the same.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use network::conflist;
use sys::netlink::route::RouteSocket;

use crate::config::{self, DataDir};

/// How long a server has to end in order before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to remove.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub dirs: DataDir,
}

/// Removes everything.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut problems: Vec<String> = Vec::new();
    let mut step = |what: &str, outcome: Result<(), String>| {
        if let Err(problem) = outcome {
            problems.push(format!("{what}: {problem}"));
        }
    };
    let mut runtime = crate::roles::runtime::options(&options.dirs)?;
    if let Some((file, server)) = read_announcement(&options.dirs.data_dir) {
        step("the server", stop_server(&file, server.pid));
        // Pods are disconnected by the plugins that connected them.
        (runtime.cni_bin_dir, runtime.cni_conf_dir) = (server.cni_bin_dir, server.cni_conf_dir);
    }
    step("pods", runtime::uninstall(&runtime).map_err(|error| error.to_string()));
    step("service rules", proxy::uninstall().map_err(|error| error.to_string()));
    step("host ports", network::plugins::portmap::uninstall().map_err(|error| error.to_string()));
    step("routes to other nodes", network::routes::uninstall().map_err(|error| error.to_string()));
    step("the bridge", remove_link(crate::roles::network::BRIDGE));
    let network = conflist::remove(&runtime.cni_conf_dir);
    step("the network's configuration", network.map_err(|error| error.to_string()));
    let program = crate::cli::own_path()?;
    let plugins = conflist::unlink_plugins(&runtime.cni_bin_dir, &program);
    step("the network's plugins", plugins.map_err(|error| error.to_string()));
    let data_dir = &options.dirs.data_dir;
    step("volumes", sys::mount::detach_below(data_dir).map_err(|error| error.to_string()));
    // Refuses while anything is mounted below: it would be removed through the mount.
    step("files", sys::mount::remove_tree(data_dir).map_err(|error| error.to_string()));
    if problems.is_empty() {
        return Ok(());
    }
    bail!("not everything could be removed: {}", problems.join("; "))
}

/// What a server leaves for who removes its cluster, in `<data-dir>/run/server.json`. The file is locked for as long as
/// the server lives, so that neither a second one starts nor a stranger with its number is taken for it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Announcement {
    pid: i32,
    cni_bin_dir: PathBuf,
    cni_conf_dir: PathBuf,
}

fn announcement(data_dir: &Path) -> PathBuf {
    data_dir.join("run/server.json")
}

/// Notes that this process is the data directory's server. It is so until the returned file is closed.
pub fn announce(dirs: &DataDir, config: &config::node::Node) -> anyhow::Result<File> {
    let data_dir = &dirs.data_dir;
    let path = announcement(data_dir);
    let open = || {
        fs::create_dir_all(data_dir.join("run"))?;
        File::options().create(true).truncate(false).read(true).write(true).open(&path)
    };
    let mut file = open().with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another server runs in {}", data_dir.display()),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    let announcement = Announcement {
        pid: i32::try_from(std::process::id())?,
        cni_bin_dir: dirs.cni_bin_dir(config),
        cni_conf_dir: dirs.cni_conf_dir(config),
    };
    let text = serde_json::to_vec(&announcement)?;
    file.set_len(0)
        .and_then(|()| file.write_all(&text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// The announcement of a server that runs, or of the last one.
fn read_announcement(data_dir: &Path) -> Option<(File, Announcement)> {
    let mut file = File::options().read(true).write(true).open(announcement(data_dir)).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    Some((file, serde_json::from_slice(&text).ok()?))
}

fn stop_server(file: &File, pid: i32) -> Result<(), String> {
    // Locked by the process that wrote it, and by no other: the number is really its own.
    let runs = || matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if !runs() {
        return Ok(());
    }
    sys::process::kill(pid, libc::SIGTERM).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    let mut killed = false;
    while runs() {
        if Instant::now() > deadline && !std::mem::replace(&mut killed, true) {
            sys::process::kill(pid, libc::SIGKILL).map_err(|error| error.to_string())?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn remove_link(name: &str) -> Result<(), String> {
    let remove = || {
        let mut socket = RouteSocket::open()?;
        match socket.link(name)? {
            Some(link) => socket.delete(link.index),
            None => Ok(()),
        }
    };
    remove().map_err(|error: sys::netlink::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_itself_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        // A bystander whose number an old announcement names.
        let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let text = serde_json::json!({"pid": bystander.id(), "cni_bin_dir": "/b", "cni_conf_dir": "/c"});
        fs::write(announcement(directory.path()), text.to_string()).unwrap();
        let (file, server) = read_announcement(directory.path()).unwrap();
        assert_eq!((server.cni_bin_dir, server.cni_conf_dir), ("/b".into(), "/c".into()));
        stop_server(&file, server.pid).unwrap();
        assert_eq!(bystander.try_wait().unwrap(), None, "a stranger was ended");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
