//! The suite over etcd 3.4 and 3.5, and over this project's own server of the same API.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use foundation::{CancellationToken, ManualClock, SystemClock};
use parking_lot::Mutex;
use store::Store;
use store::embedded::Engine;
use store::suite::Factory;
use tempfile::TempDir;
use testkit::etcd::Etcd;

use super::store;

/// A real etcd.
struct Real(Mutex<Etcd>);

impl Real {
    /// One that takes transactions as large as the suite's, and leads soon: it is alone, and there is one for each test.
    fn new(version: &'static str) -> Self {
        let etcd = Etcd::new(version).argument("--max-txn-ops=10000");
        Self(Mutex::new(etcd.argument("--heartbeat-interval=10").argument("--election-timeout=100")))
    }
}

#[async_trait]
impl Factory for Real {
    async fn create(&self) -> Arc<dyn Store> {
        let mut etcd = self.0.lock();
        etcd.start();
        Arc::new(store(vec![etcd.url()]))
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(store);
        self.0.lock().kill();
        Some(self.create().await)
    }

    fn clock(&self) -> Option<ManualClock> {
        None
    }
}

mod etcd_3_4 {
    fn factory() -> super::Real {
        super::Real::new("3.4")
    }

    store::guarantees!(store::certify);
}

mod etcd_3_5 {
    fn factory() -> super::Real {
        super::Real::new("3.5")
    }

    store::guarantees!(store::certify);
}

/// The embedded engine behind the etcd v3 API.
struct Own {
    directory: TempDir,
    clock: ManualClock,
    running: Mutex<Option<(Arc<Engine>, CancellationToken)>>,
}

#[async_trait]
impl Factory for Own {
    async fn create(&self) -> Arc<dyn Store> {
        let clock = Arc::new(self.clock.clone());
        let engine = Engine::open(self.directory.path(), Default::default(), clock).unwrap();
        let options = etcd::Options { max_txn_ops: 10_000, ..etcd::Options::default() };
        let server = etcd::Server::new(engine.clone(), options, SystemClock::shared());
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(etcd::serve(server, listener, None, stop.clone()));
        *self.running.lock() = Some((engine, stop));
        Arc::new(store(vec![url]))
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(store);
        let (engine, stop) = self.running.lock().take().unwrap();
        stop.cancel();
        engine.shutdown();
        Some(self.create().await)
    }

    fn clock(&self) -> Option<ManualClock> {
        Some(self.clock.clone())
    }
}

mod own_server {
    fn factory() -> super::Own {
        super::Own {
            directory: tempfile::TempDir::new().unwrap(),
            clock: foundation::ManualClock::default(),
            running: parking_lot::Mutex::default(),
        }
    }

    store::guarantees!(store::certify);
}
