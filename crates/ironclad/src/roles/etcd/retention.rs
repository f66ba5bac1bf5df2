//! `--auto-compaction-mode=revision`: forgets all but the latest revisions, now and then, as etcd does.
//!
//! Reads and compacts the store. Not here: forgetting by age, which the store does by itself (`store::embedded::Options`).
//! Upstream: etcd's `server/etcdserver/api/v3compactor/revision.go`.

use std::time::Duration;

use foundation::SharedClock;
use store::{Error, Store};

/// How often etcd looks.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Does so until it is dropped.
pub async fn keep(store: &dyn Store, clock: SharedClock, revisions: u64) {
    loop {
        clock.sleep(EVERY).await;
        if let Err(error) = forget(store, revisions).await {
            tracing::warn!(%error, "the store cannot be compacted, trying again later");
        }
    }
}

async fn forget(store: &dyn Store, revisions: u64) -> Result<(), Error> {
    let status = store.status().await?;
    let wanted = status.revision.saturating_sub(revisions);
    if wanted <= status.compact_revision {
        return Ok(());
    }
    match store.compact(wanted).await {
        // By a client, further.
        Ok(()) | Err(Error::Compacted { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::{ManualClock, SystemClock};
    use store::embedded::Engine;
    use store::{Op, Txn};

    use super::*;

    #[tokio::test]
    async fn the_latest_revisions_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(folder.path(), Default::default(), SystemClock::shared()).unwrap();
        let clock = ManualClock::default();
        let (store, shared): (Arc<Engine>, SharedClock) = (engine.clone(), Arc::new(clock.clone()));
        let keeping = tokio::spawn(async move { keep(&*store, shared, 10).await });
        for (writes, expected) in [(5, 0), (20, 16), (0, 16), (1, 17)] {
            for n in 0..writes {
                engine.txn(Txn::of(vec![Op::put("k", n.to_string())])).await.unwrap();
            }
            clock.wait_for_sleepers(1).await;
            clock.advance(EVERY);
            // It sleeps again once it is done.
            clock.wait_for_sleepers(1).await;
            let status = engine.status().await.unwrap();
            assert_eq!(status.compact_revision, expected, "at revision {}", status.revision);
        }
        keeping.abort();
    }
}
