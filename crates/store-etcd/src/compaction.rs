//! Compacts an etcd that several servers share: what is older than an interval is forgotten.
//!
//! Reads and writes one key, by which the servers agree on who does it: its version is the round, its value the revision as
//! of which that round began. Works over any [`Store`]. Upstream: apiserver/pkg/storage/etcd3/compact.go, with the same key,
//! so that upstream's servers on the same etcd take part.

use std::time::Duration;

use foundation::SharedClock;
use store::{Compare, Error, Op, OpResult, PutValue, Range, Revision, Store, Target, Txn};

/// The key.
const KEY: &str = "compact_rev_key";
/// What upstream's servers do.
pub const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The last round that is known of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Round {
    /// How often the key was written.
    version: u64,
    /// Where the store stood.
    revision: Revision,
}

/// Does so until it is dropped.
pub async fn run(store: &dyn Store, clock: SharedClock, interval: Duration) {
    let mut known = Round::default();
    loop {
        clock.sleep(interval).await;
        match next(store, known).await {
            Ok(round) => known = round,
            Err(error) => tracing::warn!(%error, "the store cannot be compacted, trying again later"),
        }
    }
}

/// Begins the round after the one that is known, and forgets what was before that one; or learns of a newer one.
async fn next(store: &dyn Store, known: Round) -> Result<Round, Error> {
    let value = PutValue::Plain(known.revision.to_string().into());
    let txn = Txn {
        compare: vec![Compare::equal(KEY, Target::Version(known.version))],
        success: vec![Op::Put { key: KEY.into(), value, lease: 0 }],
        failure: vec![Op::Range(Range { keys_only: true, ..Range::key(KEY) })],
    };
    let answer = store.txn(txn).await?;
    let round = match answer.results.into_iter().next() {
        Some(OpResult::Put { kv, .. }) => Round { version: kv.version, revision: answer.revision },
        Some(OpResult::Range(found)) => {
            // Another server is ahead: it compacts, unless it is gone by the next round.
            let version = found.kvs.first().map_or(0, |kv| kv.version);
            return Ok(Round { version, revision: answer.revision });
        }
        _ => return Err(Error::Unavailable("the store answered a put with something else")),
    };
    if known.revision > 0 {
        match store.compact(known.revision).await {
            // By somebody else, further.
            Ok(()) | Err(Error::Compacted { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, revision = known.revision, "the store was not compacted");
            }
        }
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::{ManualClock, SystemClock};
    use store::embedded::Engine;

    use super::*;

    async fn put(store: &dyn Store) -> Revision {
        store.txn(Txn::of(vec![Op::put("k", "v")])).await.unwrap().revision
    }

    async fn readable(store: &dyn Store, revision: Revision) -> bool {
        store.range(Range::key("k").at(revision)).await.is_ok()
    }

    fn engine() -> (tempfile::TempDir, Arc<Engine>) {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(directory.path(), Default::default(), SystemClock::shared()).unwrap();
        (directory, engine)
    }

    #[tokio::test]
    async fn one_of_two_servers_forgets_what_is_older_than_a_round() {
        let (_directory, store) = engine();
        let old = put(&*store).await;
        put(&*store).await;
        let (mut one, mut other) = (Round::default(), Round::default());
        // Nobody knows yet how old anything is.
        one = next(&*store, one).await.unwrap();
        other = next(&*store, other).await.unwrap();
        assert_eq!(one.version, other.version, "the second learns of the first's round");
        assert!(readable(&*store, old).await);
        let recent = put(&*store).await;
        put(&*store).await;
        // The next round: one of them does it, whoever comes first.
        other = next(&*store, other).await.unwrap();
        one = next(&*store, one).await.unwrap();
        assert_eq!((one.version, other.version), (2, 2));
        assert!(!readable(&*store, old).await, "older than the round before");
        assert!(readable(&*store, recent).await, "written since");
        // The other one vanishes: the first goes on.
        one = next(&*store, one).await.unwrap();
        assert_eq!(one.version, 3);
        assert!(!readable(&*store, recent).await);
    }

    #[tokio::test]
    async fn rounds_come_with_the_clock() {
        let (_directory, store) = engine();
        let clock = ManualClock::default();
        let old = put(&*store).await;
        let running = tokio::spawn({
            let (store, clock) = (store.clone(), Arc::new(clock.clone()));
            async move { run(&*store, clock, INTERVAL).await }
        });
        let mut rounds = store.watch(store::WatchRequest::prefix(KEY, 1)).await.unwrap();
        for _ in 0..2 {
            put(&*store).await;
            clock.wait_for_sleepers(1).await;
            clock.advance(INTERVAL);
            futures::StreamExt::next(&mut rounds).await.unwrap().unwrap();
        }
        clock.wait_for_sleepers(1).await;
        assert!(!readable(&*store, old).await);
        running.abort();
    }
}
