//! The store: the embedded engine in `<data-dir>/store`, or an external etcd.
//!
//! Reads the files of the external one's TLS. Not here: the API that the embedded one can be reached by (`etcd`).

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use foundation::{SharedClock, Tasks};
use store::Store;
use store::embedded::{Engine, Options};
use store_etcd::EtcdStore;

use super::Context;
use crate::config::datastore::Datastore;

/// Where the cluster's state is.
pub enum Opened {
    /// In this process.
    Embedded(Arc<Engine>),
    /// In an etcd, which other servers may share.
    External(EtcdStore),
}

impl Opened {
    /// It as the API server uses it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(engine) => engine.clone(),
            Self::External(etcd) => Arc::new(etcd.clone()),
        }
    }

    /// Where it is, for people.
    pub fn place(&self, data_dir: &Path, settings: &Datastore) -> String {
        match self {
            Self::Embedded(_) => directory(data_dir).display().to_string(),
            Self::External(_) => settings.datastore_endpoint.join(", "),
        }
    }

    /// Whether other servers may use it too.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::External(_))
    }

    /// Carries out what is queued. Nothing may be asked of it afterwards.
    pub fn shutdown(&self) {
        if let Self::Embedded(engine) = self {
            engine.shutdown();
        }
    }
}

/// Has the store forget its past now and then, which nobody else does for an external one.
pub fn keep_compacted(context: &Context, store: Arc<dyn Store>, tasks: &Tasks) {
    let (clock, interval) = (context.clock.clone(), context.config.datastore.etcd_compaction_interval);
    if interval.is_zero() {
        return;
    }
    let stop = tasks.token();
    tasks.spawn("compaction", async move {
        stop.run_until_cancelled(store_etcd::compaction::run(&*store, clock, interval)).await;
    });
}

/// Where the embedded store is.
pub fn directory(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("store")
}

/// Opens the store that the settings name.
pub fn open(data_dir: &Path, settings: &Datastore, clock: SharedClock) -> anyhow::Result<Opened> {
    if settings.datastore_endpoint.is_empty() {
        return open_embedded(&directory(data_dir), clock).map(Opened::Embedded);
    }
    let secure = settings.datastore_endpoint.iter().any(|endpoint| endpoint.starts_with("https:"));
    let tls = secure
        .then(|| {
            store_etcd::tls::client(
                settings.datastore_cafile.as_deref(),
                settings.datastore_certfile.as_deref(),
                settings.datastore_keyfile.as_deref(),
            )
        })
        .transpose()?;
    let options =
        store_etcd::Options { tls, ..store_etcd::Options::new(settings.datastore_endpoint.clone(), clock) };
    EtcdStore::new(options).map(Opened::External).context("the external datastore cannot be used")
}

/// Opens the embedded store in a directory.
pub fn open_embedded(directory: &Path, clock: SharedClock) -> anyhow::Result<Arc<Engine>> {
    Engine::open(directory, Options::default(), clock)
        .with_context(|| format!("cannot open the store in {}", directory.display()))
}
