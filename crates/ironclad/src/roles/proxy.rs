//! The service proxy.

use anyhow::Context as _;
use foundation::Tasks;
use proxy::{Handle, Options};

use super::{Api, Context};

/// Starts the proxy.
pub fn start(context: &Context, api: &Api, tasks: &Tasks) -> anyhow::Result<Handle> {
    let options =
        Options { node_name: context.node.name.clone(), cluster_cidr: context.config.cluster_cidr.parts() };
    proxy::start(&options, &api.informers, tasks, context.clock.clone())
        .context("the service proxy cannot use nftables")
}
