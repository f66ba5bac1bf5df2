//! What must hold before a cluster starts; each thing that does not is one clear sentence.
//!
//! Reads the settings and the host; creates the data directory. Takes the port of the API server, so that nobody can
//! take it between the check and its use.

use std::{net::SocketAddr, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, bail};
use tokio::net::TcpListener;

use crate::config::{Part, Server, agent::Agent};

/// Checks everything, and returns the API server's listener.
pub async fn check(config: &Server) -> anyhow::Result<TcpListener> {
    if config.enabled(Part::Kubelet) && !is_root()? {
        bail!(
            "a node needs root for containers and their network: run as root, or use --hollow-nodes to simulate nodes"
        );
    }
    writable(&config.dirs.data_dir)?;
    let address = SocketAddr::new(config.node.bind_address, config.https_listen_port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {} is taken by another program; choose one with --https-listen-port", address.port())
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Checks what an agent needs.
pub fn check_agent(config: &Agent) -> anyhow::Result<()> {
    for part in [Part::Controllers, Part::Scheduler, Part::Dns] {
        if !config.node.enabled(part) {
            bail!("an agent has no {part:?} to --disable: that is a part of servers");
        }
    }
    if !is_root()? {
        bail!("a node needs root for containers and their network: run as root");
    }
    writable(&config.dirs.data_dir)
}

fn is_root() -> anyhow::Result<bool> {
    // The owner of a process's files in /proc is its effective user.
    Ok(std::fs::metadata("/proc/self").context("cannot read /proc; is it mounted?")?.uid() == 0)
}

fn writable(directory: &Path) -> anyhow::Result<()> {
    let probe = directory.join(".write-test");
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| {
            format!(
                "the data directory {} cannot be written; choose another with --data-dir",
                directory.display()
            )
        })
}
