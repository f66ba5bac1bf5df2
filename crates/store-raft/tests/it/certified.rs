//! The suite over a cluster of three: through its leader over a network in memory, and through one that follows over TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use foundation::ManualClock;
use store::Store;
use store::suite::Factory;
use tokio::sync::Mutex;

use super::cluster::{Authority, Cluster, Network, Under};

struct Three {
    cluster: Mutex<Option<Cluster>>,
    how: How,
}

enum How {
    ThroughTheLeader,
    ThroughAFollowerOverTls,
}

impl Three {
    fn asked(&self, cluster: &Cluster) -> Arc<dyn Store> {
        let leader = cluster.leader();
        cluster.member(match self.how {
            How::ThroughTheLeader => leader,
            How::ThroughAFollowerOverTls => (leader + 1) % 3,
        })
    }
}

#[async_trait]
impl Factory for Three {
    async fn create(&self) -> Arc<dyn Store> {
        let under = match self.how {
            How::ThroughTheLeader => Under::Memory(Network::default()),
            How::ThroughAFollowerOverTls => Under::Tls(Authority::default()),
        };
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

    async fn pass(&self, seconds: u64) {
        let cluster = self.cluster.lock().await;
        for clock in &cluster.as_ref().unwrap().clocks {
            clock.fetch_add(seconds * 1000, Ordering::Relaxed);
        }
    }
}

mod through_the_leader {
    use super::{How, Three};

    fn factory() -> Three {
        Three { cluster: Default::default(), how: How::ThroughTheLeader }
    }

    store::guarantees!(store::certify);
}

mod through_a_follower_over_tls {
    use super::{How, Three};

    fn factory() -> Three {
        Three { cluster: Default::default(), how: How::ThroughAFollowerOverTls }
    }

    store::guarantees!(store::certify);
}
