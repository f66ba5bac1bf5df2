//! The etcd v3 API: its messages, a server of it over any [`Store`](store::Store), and the snapshots its tools save.
//!
//! Read first: [`wire`], the messages, clients and server traits generated from `proto/`; then [`Server`], which answers
//! them from a store, and [`serve`], which listens, also for the pages of health and metrics. [`snapshot`] writes and reads the files of `etcdctl snapshot save`;
//! [`stamp`] is how values that carry their revision are kept by those who cannot write it.
//! What each call means upstream is etcd's `server/etcdserver/api/v3rpc`; the texts and codes of the refusals, which
//! clients compare, are in `refusal`.
//!
//! To add a call: its messages to `proto/rpc.proto`, `cargo run -p etcd --example generate_etcd`, and a method in the file of
//! its service. Not here: the client side as a backend (`store-etcd`), which keys there are (`apiserver`).

mod auth;
mod cluster;
mod connection;
pub mod convert;
mod kv;
mod leader;
mod lease;
mod maintenance;
mod metrics;
mod opening;
mod pages;
pub mod refusal;
mod serve;
mod services;
pub mod snapshot;
pub mod stamp;
mod txn;
mod watch;

use std::sync::Arc;

use foundation::SharedClock;
use store::{Revision, Store};

pub use cluster::{Known, Members, NotRemoved, Standing};
pub use serve::{serve, serve_pages};

/// Messages, clients and server traits, by upstream's package names.
pub mod wire {
    /// Requests, answers and services.
    #[expect(missing_docs, reason = "generated; the proto file is the documentation")]
    #[allow(clippy::all, reason = "generated")]
    #[rustfmt::skip]
    pub mod etcdserverpb {
        include!("generated/etcdserverpb.rs");
    }
    /// Leases in snapshot files.
    #[expect(missing_docs, reason = "generated; the proto file is the documentation")]
    #[rustfmt::skip]
    pub mod leasepb {
        include!("generated/leasepb.rs");
    }
    /// Keys and changes.
    #[expect(missing_docs, reason = "generated; the proto file is the documentation")]
    #[allow(clippy::all, reason = "generated")]
    #[rustfmt::skip]
    pub mod mvccpb {
        include!("generated/mvccpb.rs");
    }
}

/// The version of etcd whose API this is: what clients look at to know which calls they may make.
pub const VERSION: &str = "3.6.0";

/// How a server presents itself, and what it accepts.
#[derive(Clone)]
pub struct Options {
    /// Its name in the list of members.
    pub name: String,
    /// Identifies the data: the same for a store however often it is opened. Not zero.
    pub id: u64,
    /// The URLs that the list of members shows.
    pub client_urls: Vec<String>,
    /// The URLs that the list of members shows for those who keep the store; of one that nobody else keeps.
    pub peer_urls: Vec<String>,
    /// Comparisons, and operations of a branch, that a transaction may have. etcd's `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// How often a watch that asked for it is told how far it has come while nothing changes. etcd's
    /// `--experimental-watch-progress-notify-interval`.
    pub progress_interval: std::time::Duration,
    /// Who keeps the store together with this process; `None` if nobody does.
    pub members: Option<Arc<dyn Members>>,
    /// Where a save is built that somebody asks for; `None`: where the system keeps temporary files, which may be memory.
    pub scratch: Option<std::path::PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            id: 1,
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
            max_txn_ops: 128,
            progress_interval: std::time::Duration::from_secs(600),
            members: None,
            scratch: None,
        }
    }
}

/// Answers the etcd v3 API from a store. Clones are the same.
#[derive(Clone)]
pub struct Server {
    store: Arc<dyn Store>,
    options: Arc<Options>,
    clock: SharedClock,
    metrics: Arc<metrics::Metrics>,
    /// Snapshots that may be under way: each is the whole store in a temporary file.
    snapshots: Arc<tokio::sync::Semaphore>,
}

/// Snapshots at once.
const SNAPSHOTS: usize = 2;

impl Server {
    /// Answers from `store`.
    pub fn new(store: Arc<dyn Store>, options: Options, clock: SharedClock) -> Self {
        let snapshots = Arc::new(tokio::sync::Semaphore::new(SNAPSHOTS));
        let metrics = Arc::new(metrics::Metrics::new(options.id));
        Self { store, options: Arc::new(options), clock, metrics, snapshots }
    }

    /// The header of an answer as of `revision`.
    fn header(&self, revision: Revision) -> Option<wire::etcdserverpb::ResponseHeader> {
        let id = self.options.id;
        let standing = self.options.members.as_ref().map(|members| members.standing());
        let (cluster_id, member_id, raft_term) =
            standing.map_or((id, id, 1), |standing| (standing.cluster, standing.id, standing.term));
        Some(wire::etcdserverpb::ResponseHeader {
            cluster_id,
            member_id,
            revision: revision as i64,
            raft_term,
        })
    }

    /// The header of an answer as of now.
    async fn header_now(&self) -> Result<Option<wire::etcdserverpb::ResponseHeader>, tonic::Status> {
        let revision = self.store.revision().await.map_err(refusal::status)?;
        Ok(self.header(revision))
    }

    /// The header of an answer as far as this member knows: there is one without a majority, too.
    async fn header_known(&self) -> Result<Option<wire::etcdserverpb::ResponseHeader>, tonic::Status> {
        let revision = snapshot::known_revision(&*self.store).await.map_err(refusal::status)?;
        Ok(self.header(revision))
    }
}
