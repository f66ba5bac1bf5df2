//! Measures a cluster of this very program against the targets it was built for.
//!
//! Each measurement starts the program anew on an empty directory, in network and mount namespaces of its own, and
//! looks at it as a stranger would: through HTTPS and `/proc`. The targets stand beside the figures, so that a reader
//! needs no other page.
//!
//! Read first: [`run`], `instance` (a started program), `space` (its namespaces). To add a measurement: a variant of
//! [`Command`] and a file like `idle`.
//!
//! Not here: micro-benchmarks of single crates.

mod api;
mod failover;
mod idle;
mod instance;
mod pod_start;
mod report;
mod space;
mod start;
mod store;

use std::path::Path;

use anyhow::Context;

pub use store::Topic;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Time from the start of the process to a ready node, and to a first running pod
    Start(StartOptions),
    /// Memory and processor time of a cluster that does nothing
    Idle(IdleOptions),
    /// Time from the creation of a pod until a watch sees it run
    PodStart(PodStartOptions),
    /// Writes, lists and watches of the API server, beside a bare TLS echo of the same bytes
    Api(ApiOptions),
    /// The store behind the etcd v3 API, beside a real etcd on the same disk
    Store(StoreOptions),
    /// How long three servers write nothing when the one that leads is killed, and what is lost
    Failover(FailoverOptions),
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

/// Settings of `api`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApiOptions {
    /// Numbers of pods at which to measure
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 150_000], value_name = "N")]
    pub pods: Vec<usize>,
    /// How many watch at once
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub watchers: usize,
}

/// Settings of `store`.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreOptions {
    /// The etcd to measure beside; the one on the path by default
    #[arg(long, value_name = "FILE")]
    pub etcd: Option<std::path::PathBuf>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["puts", "watches", "disk", "memory"], value_name = "TOPIC")]
    pub only: Vec<Topic>,
    /// How often to measure puts and watches, of which the medians count
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: usize,
    /// Writes of one client; many clients write ten times as many
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub puts: usize,
    /// How many watch at once
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub watchers: usize,
    /// Events to deliver to all watchers together
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub events: usize,
    /// Updates before the disk is looked at
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub updates: usize,
    /// Keys of 1 KB in memory
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub keys: usize,
}

/// Settings of `failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct FailoverOptions {
    /// How often to kill the one that leads
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub kills: usize,
}

/// Measures, and prints what was found; `own_path` is the program to start. Needs root.
pub async fn run(command: Command, own_path: &Path) -> anyhow::Result<()> {
    let own_path = own_path.to_owned();
    // Namespaces belong to threads: everything happens on one made for it, never on a worker of the caller's loop.
    let measure = move || space::within(|| measure(&command, &own_path));
    tokio::task::spawn_blocking(move || std::thread::spawn(measure).join())
        .await
        .context("the measurement was lost")?
        .map_err(|_| anyhow::anyhow!("the measurement panicked"))?
}

fn measure(command: &Command, own_path: &Path) -> anyhow::Result<()> {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build();
    event_loop.context("cannot start the event loop")?.block_on(async {
        match command {
            Command::Start(options) => start::run(options, own_path).await,
            Command::Idle(options) => idle::run(options, own_path).await,
            Command::PodStart(options) => pod_start::run(options, own_path).await,
            Command::Api(options) => api::run(options, own_path).await,
            Command::Store(options) => store::run(options, own_path).await,
            Command::Failover(options) => failover::run(options, own_path).await,
        }
    })
}
