//! `ironclad uninstall`: stops everything and removes every trace.
//!
//! Ends a running server, pods and their supervisors; removes mounts, network namespaces, links, rules, cgroups and
//! files. What is not there is fine; what cannot be removed is told, and the rest is removed all the same.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use sys::netlink::route::RouteSocket;

use crate::config::DataDir;

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
    step("the server", stop_server(&options.dirs.data_dir));
    let runtime = crate::roles::runtime::options(&options.dirs)?;
    step("pods", runtime::uninstall(&runtime).map_err(|error| error.to_string()));
    step("service rules", proxy::uninstall().map_err(|error| error.to_string()));
    step("host ports", network::plugins::portmap::uninstall().map_err(|error| error.to_string()));
    step("the bridge", remove_link(crate::roles::network::BRIDGE));
    step("volumes", unmount_under(&options.dirs.data_dir));
    for directory in [&options.dirs.volatile(), &options.dirs.data_dir] {
        step("files", remove(directory));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("not everything could be removed: {}", problems.join("; "))
}

/// Where a server notes its process ID.
pub fn pid_file(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("run/server.pid")
}

fn stop_server(data_dir: &Path) -> Result<(), String> {
    let Ok(text) = fs::read_to_string(pid_file(data_dir)) else { return Ok(()) };
    let Ok(pid) = text.trim().parse::<i32>() else { return Ok(()) };
    // The ID may belong to somebody else by now: only a process that runs `ironclad server` is ended.
    let is_server = || {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"server"))
    };
    if !is_server() {
        return Ok(());
    }
    sys::process::kill(pid, libc::SIGTERM).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    while is_server() {
        if Instant::now() > deadline {
            return sys::process::kill(pid, libc::SIGKILL).map_err(|error| error.to_string());
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

fn unmount_under(directory: &Path) -> Result<(), String> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let mut points: Vec<&Path> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .filter(|point| point.starts_with(directory) && *point != directory)
        .collect();
    // The last mounted first: it may lie on one mounted before.
    points.reverse();
    for point in points {
        sys::mount::detach(point).map_err(|error| format!("{}: {error}", point.display()))?;
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<(), String> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", directory.display()))
        }
        _ => Ok(()),
    }
}
