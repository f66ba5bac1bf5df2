//! The embedded engine passes the suite, and gives back what it no longer needs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use foundation::ManualClock;
use futures::StreamExt;
use store::embedded::{Engine, Options};
use store::suite::Factory;
use store::{Error, Op, PutValue, Range, Store, Txn, WatchRequest};
use tempfile::TempDir;

pub struct Embedded {
    directory: TempDir,
    clock: ManualClock,
    options: Options,
}

impl Embedded {
    fn open(&self) -> Result<Arc<Engine>, Error> {
        Engine::open(self.directory.path(), self.options.clone(), Arc::new(self.clock.clone()))
    }
}

#[async_trait]
impl Factory for Embedded {
    async fn create(&self) -> Arc<dyn Store> {
        self.open().unwrap()
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(store);
        Some(self.open().unwrap())
    }

    fn clock(&self) -> Option<ManualClock> {
        Some(self.clock.clone())
    }
}

pub fn factory() -> Embedded {
    let options = Options::default();
    Embedded { directory: TempDir::new().unwrap(), clock: ManualClock::default(), options }
}

store::guarantees!(store::certify);

/// The same guarantees with small files, so that segments are reused and checkpoints written all the time.
mod with_small_files {
    use super::Embedded;

    fn factory() -> Embedded {
        let mut factory = super::factory();
        factory.options.segment_bytes = 8 << 10;
        factory.options.checkpoint_bytes = 1;
        factory
    }

    store::guarantees!(store::certify);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let factory = factory();
    let first = factory.open().unwrap();
    let Err(error) = factory.open() else { panic!("opened twice") };
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    first.shutdown();
    let result = first.range(Range::key("a")).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    let result = first.txn(Txn::of(vec![Op::put("a", "1")])).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    factory.open().unwrap();
}

#[tokio::test]
async fn a_transaction_has_a_limit() {
    let mut factory = factory();
    factory.options.max_txn_bytes = 1000;
    let store = factory.open().unwrap();
    let result = store.txn(Txn::of(vec![Op::put("a", vec![0; 1000])])).await;
    assert!(matches!(result, Err(Error::TooLarge { bytes: 1001, limit: 1000 })), "{result:?}");
    store.txn(Txn::of(vec![Op::put("a", vec![0; 999])])).await.unwrap();
}

#[tokio::test]
async fn history_is_bounded_by_age_and_size() {
    let mut factory = factory();
    factory.options.history_age = Duration::from_secs(80);
    factory.options.history_bytes = 1 << 20;
    let store = factory.open().unwrap();
    let put =
        async |size: usize| store.txn(Txn::of(vec![Op::put("a", vec![1; size])])).await.unwrap().revision;
    let old = put(10).await;
    factory.clock.advance(Duration::from_secs(15));
    put(10).await;
    store.range(Range::key("a").at(old)).await.unwrap();
    factory.clock.advance(Duration::from_secs(81));
    put(10).await;
    put(10).await;
    let result = store.range(Range::key("a").at(old - 1)).await;
    assert!(matches!(result, Err(Error::Compacted { .. })), "{result:?}");
    for _ in 0..100 {
        put(100_000).await;
    }
    let status = store.status().await.unwrap();
    // The upkeep runs beside the writer: wait for it.
    let mut left = status.history_bytes;
    while left > 2 << 20 {
        tokio::task::yield_now().await;
        left = store.status().await.unwrap().history_bytes;
    }
    assert!(status.compact_revision > old);
}

#[tokio::test]
async fn compaction_gives_memory_and_disk_back() {
    let mut factory = factory();
    factory.options.checkpoint_bytes = 256 << 10;
    factory.options.segment_bytes = 1 << 20;
    let store = factory.open().unwrap();
    for round in 0..400 {
        store.txn(Txn::of(vec![Op::put(format!("a/{}", round % 10), vec![1; 50_000])])).await.unwrap();
    }
    let before = store.status().await.unwrap();
    store.compact(before.revision).await.unwrap();
    // A checkpoint is considered at a write.
    let mut after = before.clone();
    while after.history_bytes > 100_000 || after.db_size > before.db_size / 3 {
        store.txn(Txn::of(vec![Op::put("tick", "x")])).await.unwrap();
        after = store.status().await.unwrap();
    }
    let on_disk: u64 = std::fs::read_dir(factory.directory.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().map_or(0, |metadata| metadata.len()))
        .sum();
    assert!(on_disk < before.db_size / 2, "{on_disk} of {}", before.db_size);
    drop(store);
    let store = factory.open().unwrap();
    assert_eq!(store.range(Range::prefix("a/")).await.unwrap().count, 10);
}

#[tokio::test]
async fn dropping_a_watch_forgets_it() {
    let factory = factory();
    let store = factory.open().unwrap();
    let watch = store.watch(WatchRequest::prefix("a", 0)).await.unwrap();
    assert_eq!(store.watches(), 1);
    drop(watch);
    assert_eq!(store.watches(), 0);
}

#[tokio::test]
async fn a_deletion_at_the_compact_revision_can_be_watched() {
    let factory = factory();
    let store = factory.open().unwrap();
    store.txn(Txn::of(vec![Op::put("a", "1")])).await.unwrap();
    let gone = store.txn(Txn::of(vec![Op::delete("a")])).await.unwrap().revision;
    store.txn(Txn::of(vec![Op::put("b", "1")])).await.unwrap();
    store.compact(gone).await.unwrap();
    let mut watch = store.watch(WatchRequest::prefix("a", gone)).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.events[0].kv.mod_revision), (1, gone));
}

#[tokio::test]
async fn a_watcher_that_a_compaction_overtook_is_told() {
    let factory = factory();
    let store = factory.open().unwrap();
    let mut slow = store.watch(WatchRequest::prefix("a", 0)).await.unwrap();
    let mut latest = 0;
    for _ in 0..10 {
        latest = store.txn(Txn::of(vec![Op::put("a", "1")])).await.unwrap().revision;
    }
    store.compact(latest).await.unwrap();
    let result = slow.next().await.unwrap();
    assert!(matches!(result, Err(Error::Compacted { revision }) if revision == latest), "{result:?}");
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_restored_store_goes_on_from_a_later_revision() {
    let factory = factory();
    let store = factory.open().unwrap();
    let lease = store.lease_grant(60, 0).await.unwrap().id;
    let value = PutValue::Plain("1".into());
    store.txn(Txn::of(vec![Op::Put { key: "leased".into(), value, lease }])).await.unwrap();
    let last = store.txn(Txn::of(vec![Op::put("a", "1"), Op::put("b", "2")])).await.unwrap().revision;
    let before = store.range(Range::prefix("")).await.unwrap();

    let target = TempDir::new().unwrap();
    let directory = target.path().join("restored");
    let restore = |revision| {
        let leases = [(lease, 60)].into_iter();
        store::embedded::restore(&directory, &factory.options, revision, before.kvs.clone(), leases)
    };
    assert!(matches!(restore(last), Err(Error::Invalid(_))), "as old as its newest key");
    restore(last + 1000).unwrap();
    assert!(matches!(restore(last + 1000), Err(Error::Invalid(_))), "there is a store already");

    let clock = Arc::new(factory.clock.clone());
    let store = Engine::open(&directory, Options::default(), clock).unwrap();
    let after = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((after.kvs, after.revision), (before.kvs, last + 1000));
    assert_eq!(store.lease_time_to_live(lease).await.unwrap().keys, ["leased"]);
    let Err(error) = store.watch(WatchRequest::prefix("", last)).await else { panic!("it saw the past") };
    assert!(matches!(error, Error::Compacted { revision } if revision == last + 1000), "{error:?}");
    let next = store.txn(Txn::of(vec![Op::put("a", "3")])).await.unwrap().revision;
    assert_eq!(next, last + 1001);
    store.defragment().await.unwrap();
}
