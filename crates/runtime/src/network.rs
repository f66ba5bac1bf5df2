//! The seam to the pod network: set up, tear down, tell whether it could.
//!
//! [`Cni`] is the one in use; tests have their own. Not here: plugins (the `network` crate).

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;

/// What the network needs to know of a pod.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// The sandbox's ID.
    pub sandbox: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the host that lead to it.
    pub ports: Vec<HostPort>,
}

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// On the host.
    pub host: u16,
    /// In the pod.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The host's address; empty: all.
    pub address: String,
}

/// A pod network. Called on a thread that may block.
pub trait Network: Send + Sync + 'static {
    /// Connects a pod; its addresses, the main one first.
    fn setup(&self, pod: &Attachment) -> Result<Vec<IpAddr>, String>;
    /// Disconnects it; what is gone already is fine.
    fn teardown(&self, pod: &Attachment) -> Result<(), String>;
    /// Whether pods can be connected now, or why not.
    fn check(&self) -> Result<(), String>;
}

/// The network that a directory of CNI configurations describes.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Directory of `*.conflist`; read at each use, so that a network may appear later.
    pub conf_dir: PathBuf,
    /// Directory of the plugins.
    pub bin_dir: PathBuf,
    /// Where results are kept for the disconnection.
    pub cache_dir: PathBuf,
}

impl Cni {
    fn load(&self) -> Result<network::client::Network, String> {
        network::client::Network::load(&self.conf_dir, &self.bin_dir, &self.cache_dir)
            .map_err(|e| e.to_string())
    }

    fn sandbox(pod: &Attachment) -> network::client::Sandbox {
        network::client::Sandbox {
            id: pod.sandbox.clone(),
            netns: pod.netns.clone(),
            pod_name: pod.name.clone(),
            pod_namespace: pod.namespace.clone(),
            pod_uid: pod.uid.clone(),
            port_mappings: pod
                .ports
                .iter()
                .map(|p| {
                    json!({"hostPort": p.host, "containerPort": p.container, "protocol": p.protocol, "hostIP": p.address})
                })
                .collect(),
        }
    }
}

impl Network for Cni {
    fn setup(&self, pod: &Attachment) -> Result<Vec<IpAddr>, String> {
        let result = self.load()?.add(&Self::sandbox(pod)).map_err(|e| e.to_string())?;
        let addresses: Vec<IpAddr> =
            result.ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse().ok()).collect();
        if addresses.is_empty() {
            return Err("the network gave no address".to_owned());
        }
        Ok(addresses)
    }

    fn teardown(&self, pod: &Attachment) -> Result<(), String> {
        self.load()?.del(&Self::sandbox(pod)).map_err(|e| e.to_string())
    }

    fn check(&self) -> Result<(), String> {
        self.load().map(drop)
    }
}
