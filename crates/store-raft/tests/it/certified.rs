//! The suite over a cluster of three, asked through its leader and through one that follows.

use std::sync::Arc;

use async_trait::async_trait;
use foundation::ManualClock;
use store::Store;
use store::suite::Factory;
use tokio::sync::Mutex;

use super::cluster::{Authority, Cluster, Network, Under};

struct Three {
    cluster: Mutex<Option<Cluster>>,
    tls: bool,
    /// Ask a member that does not lead.
    follower: bool,
}

impl Three {
    fn new(tls: bool, follower: bool) -> Self {
        Self { cluster: Mutex::default(), tls, follower }
    }

    fn asked(&self, cluster: &Cluster) -> Arc<dyn Store> {
        let leader = cluster.leader();
        cluster.member(if self.follower { (leader + 1) % 3 } else { leader })
    }
}

#[async_trait]
impl Factory for Three {
    async fn create(&self) -> Arc<dyn Store> {
        let under =
            if self.tls { Under::Tls(Authority::default()) } else { Under::Memory(Network::default()) };
        let cluster = Cluster::start(under).await;
        let asked = self.asked(&cluster);
        *self.cluster.lock().await = Some(cluster);
        asked
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(store);
        let mut cluster = self.cluster.lock().await;
        let cluster = cluster.as_mut().unwrap();
        cluster.stop().await;
        // In another order than they were made.
        for index in [2, 0, 1] {
            cluster.restart(index).await;
        }
        cluster.settled().await;
        Some(self.asked(cluster))
    }

    fn clock(&self) -> Option<ManualClock> {
        None
    }
}

mod through_the_leader {
    fn factory() -> super::Three {
        super::Three::new(false, false)
    }

    store::guarantees!(store::certify);
}

mod through_a_follower {
    fn factory() -> super::Three {
        super::Three::new(false, true)
    }

    store::guarantees!(store::certify);
}

mod over_tls {
    fn factory() -> super::Three {
        super::Three::new(true, true)
    }

    store::guarantees!(store::certify);
}
