//! The settings of the node half of the program, alike for `ironclad server` and `ironclad agent`.
//!
//! Not here: what all nodes of a cluster have to agree on, which servers are told by flags and agents by their servers
//! (`node::Cluster`).

use std::net::IpAddr;

use super::Part;

/// What one node is told of itself.
#[derive(Clone, Debug, clap::Args)]
pub struct Node {
    /// Name of this node; the host's name by default
    #[arg(long, env = "IRONCLAD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node; that of the default route by default
    #[arg(long, env = "IRONCLAD_NODE_IP", value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Address on which this node listens
    #[arg(long, env = "IRONCLAD_BIND_ADDRESS", default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port of the kubelet
    #[arg(long, env = "IRONCLAD_KUBELET_PORT", default_value_t = 10250, value_name = "PORT")]
    pub kubelet_port: u16,
    /// Kernel parameters that pods may set beside the safe ones, for instance net.core.somaxconn or kernel.msg*
    #[arg(long, env = "IRONCLAD_ALLOWED_UNSAFE_SYSCTLS", value_delimiter = ',', value_name = "NAME")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// CRI socket of a runtime to use in place of the embedded one, for instance /run/containerd/containerd.sock
    #[arg(long, env = "IRONCLAD_CONTAINER_RUNTIME_ENDPOINT", value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Directory to which the embedded CNI plugins are linked for the runtime
    #[arg(long, env = "IRONCLAD_CNI_BIN_DIR", value_name = "DIR")]
    pub cni_bin_dir: Option<std::path::PathBuf>,
    /// Directory to which the pod network's configuration is written for the runtime
    #[arg(long, env = "IRONCLAD_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<std::path::PathBuf>,
    /// Parts to leave out
    #[arg(long, env = "IRONCLAD_DISABLE", value_delimiter = ',', value_name = "PART")]
    pub disable: Vec<Part>,
    /// Stop all pods when this process stops; they go on otherwise
    #[arg(long, env = "IRONCLAD_STOP_PODS")]
    pub stop_pods: bool,
}

impl Node {
    /// Whether a part is to run.
    pub fn enabled(&self, part: Part) -> bool {
        !self.disable.contains(&part)
    }
}
