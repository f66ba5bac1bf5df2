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
    /// Control group below which all pods are; nodes that share a machine need one each
    #[arg(long, env = "IRONCLAD_CGROUP_ROOT", default_value = "/", value_parser = control_group, value_name = "PATH")]
    pub cgroup_root: String,
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

/// A control group as the kubelet wants it: without a slash at its end, so empty for the root of the hierarchies.
fn control_group(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    match path.strip_prefix('/') {
        Some(parts) if parts.split('/').all(plain) => Ok(path.to_owned()),
        None if path.is_empty() && text.starts_with('/') => Ok(String::new()),
        _ => Err(format!("{text:?} is no absolute path below the control groups' root, such as /node-1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_absolute_paths_that_stay_below_the_root() {
        for (text, expected) in [
            ("/", Some("")),
            ("/node-1", Some("/node-1")),
            ("/machines/node-1/", Some("/machines/node-1")),
            ("", None),
            ("node-1", None),
            ("/a/../b", None),
            ("/a//b", None),
        ] {
            assert_eq!(control_group(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
