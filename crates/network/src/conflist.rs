//! The configuration of the pod network, and the plugins' names, where a runtime looks for them.
//!
//! Writes one `.conflist` and one link per plugin; an unchanged file is left alone. Not here: which subnet a
//! node has (node IPAM).

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::plugins;

/// Name of the file: early in the alphabet, because runtimes take the first.
const FILE: &str = "10-ironclad.conflist";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// The pod network of a node.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// The node's own pods, such as `10.42.0.0/24`.
    pub subnet: String,
    /// Name of the bridge.
    pub bridge: String,
    /// Where addresses in use are kept.
    pub ipam_dir: PathBuf,
    /// Largest packet; 0 for the kernel's choice.
    pub mtu: u32,
}

impl PodNetwork {
    fn conflist(&self) -> serde_json::Value {
        let bridge = json!({
            "type": "bridge", "bridge": self.bridge, "isGateway": true, "isDefaultGateway": true,
            "hairpinMode": true, "routed": true, "mtu": self.mtu,
            "ipam": {"type": "host-local", "dataDir": self.ipam_dir, "ranges": [[{"subnet": self.subnet}]]},
        });
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        json!({"cniVersion": "1.0.0", "name": "ironclad", "plugins": [bridge, portmap]})
    }
}

/// Writes the network's configuration into a directory.
pub fn write(conf_dir: &Path, network: &PodNetwork) -> Result<(), Error> {
    let path = conf_dir.join(FILE);
    let text = format!("{:#}\n", network.conflist());
    let failed = |source| Error { path: path.clone(), source };
    fs::create_dir_all(conf_dir).map_err(failed)?;
    if fs::read_to_string(&path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    // A runtime may read at any moment: the new content appears at once or not at all.
    let fresh = conf_dir.join(format!(".{FILE}"));
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).map_err(failed)
}

/// Removes the configuration.
pub fn remove(conf_dir: &Path) -> Result<(), Error> {
    let path = conf_dir.join(FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error { path, source }),
        _ => Ok(()),
    }
}

/// Links every embedded plugin's name to this program in a directory.
pub fn link_plugins(bin_dir: &Path, program: &Path) -> Result<(), Error> {
    fs::create_dir_all(bin_dir).map_err(|source| Error { path: bin_dir.into(), source })?;
    for name in plugins::NAMES {
        let path = bin_dir.join(name);
        if fs::read_link(&path).is_ok_and(|target| target == program) {
            continue;
        }
        let failed = |source| Error { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
            _ => symlink(program, &path).map_err(failed)?,
        }
    }
    Ok(())
}

/// Removes the links of [`link_plugins`]; what else has their names stays.
pub fn unlink_plugins(bin_dir: &Path, program: &Path) -> Result<(), Error> {
    for name in plugins::NAMES {
        let path = bin_dir.join(name);
        if fs::read_link(&path).is_ok_and(|target| target == program) {
            fs::remove_file(&path).map_err(|source| Error { path, source })?;
        }
    }
    Ok(())
}

/// The gateway (first address) of a subnet such as `10.42.0.0/24`.
pub fn gateway(subnet: &str) -> Option<IpAddr> {
    let (address, _) = subnet.split_once('/')?;
    let network: std::net::Ipv4Addr = address.parse().ok()?;
    Some(IpAddr::V4((u32::from(network) + 1).into()))
}
