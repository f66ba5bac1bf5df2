//! Measures a cluster of this very program against the targets it was built for.
//!
//! Each measurement starts the program anew on an empty directory, in network and mount namespaces of its own, and
//! looks at it as a stranger would: through HTTPS and `/proc`. The targets stand beside the figures, so that a reader
//! needs no other page.

use std::path::Path;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Time from the start of the process to a ready node, and to a first running pod
    Start(StartOptions),
    /// Memory and processor time of a cluster that does nothing
    Idle(IdleOptions),
    /// Time from the creation of a pod until a watch sees it run
    PodStart(PodStartOptions),
}

/// Settings of `start`.
#[derive(Clone, Debug, clap::Args)]
pub struct StartOptions {
    /// How often to start
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub runs: u32,
}

/// Settings of `idle`.
#[derive(Clone, Debug, clap::Args)]
pub struct IdleOptions {
    /// How long to look, in seconds, once the cluster has settled
    #[arg(long, default_value_t = 30, value_name = "S")]
    pub seconds: u32,
}

/// Settings of `pod-start`.
#[derive(Clone, Debug, clap::Args)]
pub struct PodStartOptions {
    /// How many pods to start one after another
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub runs: u32,
    /// How many pods to start at once
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub burst: u32,
}

/// Measures, and prints what was found; `own_path` is the program to start.
pub async fn run(command: Command, own_path: &Path) -> anyhow::Result<()> {
    let _ = (command, own_path);
    anyhow::bail!("this measurement is not ready")
}
