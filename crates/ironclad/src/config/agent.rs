//! The settings of `ironclad agent`: which cluster to join, and what the node is told of itself.
//!
//! Not here: what the cluster tells its agents (`node::Cluster`).

use std::path::PathBuf;

use super::{DataDir, logs, node};

/// Every setting of `ironclad agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Agent {
    /// YAML file with the same keys as these flags
    #[arg(long, env = "IRONCLAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub dirs: DataDir,
    #[command(flatten)]
    pub join: Join,
    #[command(flatten)]
    pub node: node::Node,
    #[command(flatten)]
    pub logs: logs::Logs,
}

/// Which cluster, and by what right.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Join {
    /// A server of the cluster, for instance https://10.0.0.1:6443. The others are learnt from it; more may be named
    #[arg(long, env = "IRONCLAD_SERVER", value_delimiter = ',', value_name = "URL")]
    pub server: Vec<String>,
    /// Token to join by, as `ironclad token agent` prints it on a server; needed once
    #[arg(long, env = "IRONCLAD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File with the token
    #[arg(long, env = "IRONCLAD_TOKEN_FILE", conflicts_with = "token", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the cluster's authority, for a token that does not name it
    #[arg(long, env = "IRONCLAD_SERVER_CA_FILE", value_name = "FILE")]
    pub server_ca_file: Option<PathBuf>,
}
