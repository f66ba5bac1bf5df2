//! The pod network: once this node has its part of the pods' addresses, writes the CNI configuration for it.
//!
//! Reads the Node object; writes the `.conflist` and the plugins' links where the runtime looks for them.

use std::sync::Arc;

use anyhow::Context as _;
use api::types::core::v1::Node;
use foundation::Tasks;
use network::conflist::{self, PodNetwork};

use crate::{cli, node};

/// Name of the bridge to which pods are connected.
pub const BRIDGE: &str = "cni0";

/// Links the plugins, and follows the node's addresses. `configured` is told when the configuration has been written.
pub fn start(
    context: &node::Context,
    tasks: &Tasks,
    configured: Arc<tokio::sync::Notify>,
) -> anyhow::Result<()> {
    let (bin_dir, conf_dir) = (context.cni_bin_dir(), context.cni_conf_dir());
    conflist::link_plugins(&bin_dir, &cli::own_path()?).context("cannot link the CNI plugins")?;
    let nodes = context.informers.informer::<Node>();
    let mut changes = nodes.subscribe();
    let name = context.identity.name.clone();
    let ipam_dir = context.dirs.data_dir.join("cni/networks");
    tasks.spawn_until_cancelled("network", async move {
        let mut written = None;
        loop {
            let node = nodes.get(None, &name);
            let subnet = node.and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
            if let Some(subnet) = subnet.filter(|subnet| written.as_ref() != Some(subnet)) {
                let network = PodNetwork {
                    subnet: subnet.clone(),
                    bridge: BRIDGE.into(),
                    ipam_dir: ipam_dir.clone(),
                    mtu: 0,
                };
                match conflist::write(&conf_dir, &network) {
                    Ok(()) => {
                        written = Some(subnet);
                        configured.notify_one();
                    }
                    Err(error) => tracing::error!(%error, "pods cannot be connected"),
                }
            }
            changes.recv().await;
        }
    });
    Ok(())
}
