//! An external etcd v3 cluster as a backend of the storage contract.
//!
//! Read first: [`EtcdStore`], which is a [`store::Store`]; then [`Options`]. How an endpoint is chosen and left is in
//! `endpoints`; how all watches share one stream of changes in `feed`; how a value comes to carry its own revision, which
//! no etcd can write, in `etcd::stamp`; how a long range is read in `pages`; who compacts, in [`compaction`]. Certified by the suite against etcd 3.4 and 3.5 (`tests/it`).
//!
//! The etcd should be the cluster's own: watches follow the whole key space, so that they know how far they have come
//! from any version of etcd (3.4 does not answer when asked).
//!
//! Not here: the messages (`etcd::wire`), which keys there are (`apiserver`). Upstream: what Kubernetes' etcd3 storage
//! and etcd's clientv3 do.

mod calls;
pub mod compaction;
mod endpoints;
mod feed;
mod pages;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use foundation::SharedClock;

use endpoints::Endpoints;
use feed::Feed;

/// Which etcd, and how long to try.
#[derive(Clone)]
pub struct Options {
    /// `http://host:port` or `https://host:port` of every member; any of them will do.
    pub endpoints: Vec<String>,
    /// For `https`: whom to trust, and who this is ([`tls::client`]).
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How long a call is tried, over all endpoints; of a long range, each page.
    pub timeout: Duration,
    /// What the pauses between attempts are measured with.
    pub clock: SharedClock,
}

impl Options {
    /// An etcd at these endpoints, without TLS.
    pub fn new(endpoints: Vec<String>, clock: SharedClock) -> Self {
        Self { endpoints, tls: None, timeout: Duration::from_secs(10), clock }
    }
}

/// Why an etcd cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint is named.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// An endpoint is no URL of an etcd.
    #[error("the etcd endpoint {endpoint:?} must be http://host:port or https://host:port")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A certificate or key cannot be used.
    #[error("the TLS of the etcd client cannot be set up: {detail}")]
    Tls {
        /// Which file, and why.
        detail: String,
    },
}

/// An etcd as a store. Clones are the same.
#[derive(Clone)]
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    feed: Arc<Feed>,
}

impl EtcdStore {
    /// The store in an etcd. Connects with the first call.
    pub fn new(options: Options) -> Result<Self, Error> {
        let endpoints = Arc::new(Endpoints::new(options)?);
        Ok(Self { feed: Arc::new(Feed::new(endpoints.clone())), endpoints })
    }
}
