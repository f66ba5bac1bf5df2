//! The settings of the store: where it is, and how else it can be reached.
//!
//! The flags of an external store have k3s' names. Not here: what is done with them (`roles::store`, `roles::etcd`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the cluster's state is kept.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct Datastore {
    /// URLs of an etcd to keep the state in, for instance https://10.0.0.1:2379; the embedded store by default
    #[arg(long, env = "IRONCLAD_DATASTORE_ENDPOINT", value_delimiter = ',', value_name = "URL")]
    pub datastore_endpoint: Vec<String>,
    /// Authorities that etcd's certificate may come from; those of the system by default
    #[arg(long, env = "IRONCLAD_DATASTORE_CAFILE", value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, env = "IRONCLAD_DATASTORE_CERTFILE", requires = "datastore_keyfile", value_name = "FILE")]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "IRONCLAD_DATASTORE_KEYFILE", requires = "datastore_certfile", value_name = "FILE")]
    pub datastore_keyfile: Option<PathBuf>,
    /// How much of an etcd's past is kept for watches and continued lists; 0 leaves compaction to somebody else
    #[arg(
        long,
        env = "IRONCLAD_ETCD_COMPACTION_INTERVAL",
        default_value = "5m",
        value_parser = super::apiserver::duration,
        value_name = "DURATION"
    )]
    pub etcd_compaction_interval: Duration,
    /// Address on which the embedded store answers the etcd v3 API, for instance 127.0.0.1:2379: by TLS, with the API
    /// server's certificate, to clients with a certificate of the cluster's authority for a member of system:masters
    /// (<data-dir>/pki/admin.crt). What they do there is past the API server's checks
    #[arg(long, env = "IRONCLAD_ETCD_LISTEN", conflicts_with = "datastore_endpoint", value_name = "ADDRESS")]
    pub etcd_listen: Option<SocketAddr>,
    /// When to save the store, as five fields of cron, for instance "0 */12 * * *"; never by default
    #[arg(long, env = "IRONCLAD_ETCD_SNAPSHOT_SCHEDULE_CRON", value_name = "CRON")]
    pub etcd_snapshot_schedule_cron: Option<String>,
    /// How many saved files to keep
    #[arg(long, env = "IRONCLAD_ETCD_SNAPSHOT_RETENTION", default_value_t = 5, value_name = "N")]
    pub etcd_snapshot_retention: usize,
    /// Directory of the saved files; <data-dir>/snapshots by default
    #[arg(long, env = "IRONCLAD_ETCD_SNAPSHOT_DIR", value_name = "DIR")]
    pub etcd_snapshot_dir: Option<PathBuf>,
    /// What the names of the saved files begin with
    #[arg(long, env = "IRONCLAD_ETCD_SNAPSHOT_NAME", default_value = "etcd-snapshot", value_name = "NAME")]
    pub etcd_snapshot_name: String,
}
