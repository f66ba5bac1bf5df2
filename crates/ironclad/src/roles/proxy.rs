//! The service proxy.

use anyhow::Context as _;
use foundation::Tasks;
use proxy::{Handle, Options};

use crate::node;

/// Starts the proxy.
pub fn start(context: &node::Context, tasks: &Tasks) -> anyhow::Result<Handle> {
    let options = Options {
        node_name: context.identity.name.clone(),
        cluster_cidr: context.cluster.cluster_cidr.parts(),
    };
    proxy::start(&options, &context.informers, tasks, context.clock.clone())
        .context("the service proxy cannot use nftables")
}
