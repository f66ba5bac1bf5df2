//! The pod network: once this node has its part of the pods' addresses, writes the CNI configuration for it, and keeps
//! routes to the pods of other nodes.
//!
//! Reads the Node objects; writes the `.conflist` and the plugins' links where the runtime looks for them. Not here: which
//! routes (`network::routes`).

use std::sync::Arc;

use anyhow::Context as _;
use api::types::core::v1::Node;
use foundation::Tasks;
use network::{
    conflist::{self, PodNetwork},
    routes,
};

use crate::{cli, node};

/// Name of the bridge to which pods are connected.
pub const BRIDGE: &str = "cni0";

/// Links the plugins, and follows the nodes' addresses. `configured` is told when the configuration has been written.
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
    let (address, prefix) = context.cluster.cluster_cidr.parts();
    let options =
        routes::Options { node_name: name.clone(), cluster_cidr: routes::Network { address, prefix } };
    let mut mtu = routes::start(options, nodes.clone(), tasks, context.clock.clone())
        .context("cannot keep routes to the pods of other nodes")?;
    tasks.spawn_until_cancelled("network", async move {
        let mut written = None;
        loop {
            let node = nodes.get(None, &name);
            let subnet = node.and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
            let mtu_now = *mtu.borrow_and_update();
            let wanted = subnet.zip(mtu_now).filter(|wanted| written.as_ref() != Some(wanted));
            if let Some((subnet, mtu)) = wanted {
                let network = PodNetwork {
                    subnet: subnet.clone(),
                    bridge: BRIDGE.into(),
                    ipam_dir: ipam_dir.clone(),
                    mtu,
                };
                match conflist::write(&conf_dir, &network) {
                    Ok(()) => {
                        written = Some((subnet, mtu));
                        configured.notify_one();
                    }
                    Err(error) => tracing::error!(%error, "pods cannot be connected"),
                }
            }
            tokio::select! {
                _ = changes.recv() => {}
                // Without the routes' task, which ends with the process, there is nothing new to hear.
                Ok(()) = mtu.changed() => {}
            }
        }
    });
    Ok(())
}
