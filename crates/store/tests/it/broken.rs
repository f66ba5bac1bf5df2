//! Each guarantee broken on purpose: the test of its name must fail.
//!
//! A store that is sound but for one thing, by [`How`], is given to each test of the suite. What fails it must be the
//! breakage and not the wrapper: the same wrapper that breaks nothing passes, and a breakage that never came about does
//! not count. Not here: the sound engine under the suite (`embedded`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use foundation::ManualClock;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use store::suite::{self, Factory};
use store::{
    Error, LeaseId, LeaseInfo, Op, OpResult, PutValue, Range, RangeResponse, Relation, Revision, Status,
    Store, Txn, TxnResponse, WatchBatch, WatchRequest, WatchStream,
};

use super::embedded::Embedded;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    NotAtAll,
    CountsIdleTransactions,
    ForgetsVersions,
    IgnoresComparisons,
    TakesGreaterForEqual,
    IgnoresInnerComparisons,
    KeepsHalfOfWhatItRefuses,
    ReadsBeforeItWrites,
    TakesKeysTwice,
    StampsNothing,
    ReadsTheLastButOne,
    TurnsRangesRound,
    ReadsNowForThen,
    ReadsNowForTheFuture,
    TearsWhatItKnows,
    ForgetsWhatItKnew,
    TellsTwice,
    TellsOutOfOrder,
    DropsAnEvent,
    TellsOfThePast,
    SplitsRevisions,
    ForgetsWhatWasBefore,
    SaysItIsFurther,
    SaysNothingOfProgress,
    KeepsQuietAboutCompaction,
    NeverCompacts,
    WatchesFromLater,
    CompactsBackwards,
    RevokesNothing,
    KnowsEveryLease,
    ListsOneLease,
    KeepsNothingAlive,
    ForgetsLeasesAtRestart,
    LosesTheLastWrite,
    ForgetsHistoryAtRestart,
}

/// Which breakages the test of a guarantee must find.
fn breakages(guarantee: &str) -> &'static [How] {
    match guarantee {
        "revisions_count_writing_transactions" => &[How::CountsIdleTransactions],
        "keys_carry_their_own_revisions" => &[How::ForgetsVersions],
        "comparisons_decide_a_transaction" => &[How::IgnoresComparisons],
        "comparisons_know_order_and_ranges" => &[How::TakesGreaterForEqual],
        "transactions_nest" => &[How::IgnoresInnerComparisons],
        "a_refused_transaction_changes_nothing" => &[How::KeepsHalfOfWhatItRefuses],
        "operations_see_the_ones_before" => &[How::ReadsBeforeItWrites],
        "a_key_is_written_once_per_transaction" => &[How::TakesKeysTwice],
        "one_of_many_racing_writers_wins" => &[How::IgnoresComparisons],
        "a_stamped_value_carries_its_revision" => &[How::StampsNothing],
        "a_read_sees_every_acknowledged_write" => &[How::ReadsTheLastButOne],
        "ranges_are_ordered_limited_and_counted" => &[How::TurnsRangesRound],
        "the_past_can_be_read" => &[How::ReadsNowForThen],
        "the_future_cannot_be_read" => &[How::ReadsNowForTheFuture],
        "a_serializable_read_is_whole_and_never_goes_back" => {
            &[How::TearsWhatItKnows, How::ForgetsWhatItKnew]
        }
        "a_watch_delivers_every_change_once_in_order" => {
            &[How::TellsTwice, How::TellsOutOfOrder, How::DropsAnEvent]
        }
        "a_watch_from_now_starts_after_the_present" => &[How::TellsOfThePast],
        "a_revision_is_never_split" => &[How::SplitsRevisions],
        "a_watch_tells_deletions_and_what_was_before" => &[How::ForgetsWhatWasBefore],
        "a_watch_says_how_far_it_has_come" => &[How::SaysItIsFurther, How::SaysNothingOfProgress],
        "a_slow_watcher_holds_up_nobody" => &[How::KeepsQuietAboutCompaction, How::DropsAnEvent],
        "compaction_forgets_the_past_only" => &[How::NeverCompacts],
        "a_watch_before_the_compaction_is_refused" => &[How::WatchesFromLater],
        "compaction_moves_forward_only" => &[How::CompactsBackwards],
        "revoking_a_lease_deletes_its_keys" => &[How::RevokesNothing],
        "a_lease_must_exist" => &[How::KnowsEveryLease],
        "leases_are_listed" => &[How::ListsOneLease],
        "an_expired_lease_deletes_its_keys" => &[How::KeepsNothingAlive],
        "what_was_acknowledged_survives" => &[How::ForgetsLeasesAtRestart, How::LosesTheLastWrite],
        "a_watch_resumes_after_a_restart" => &[How::ForgetsHistoryAtRestart],
        other => panic!("no breakage of {other} is known: add one"),
    }
}

struct BrokenFactory {
    sound: Embedded,
    how: How,
    struck: Arc<AtomicBool>,
    /// What the last write did, so that it can be undone.
    inner: parking_lot::Mutex<Option<Arc<dyn Store>>>,
}

impl BrokenFactory {
    fn wrap(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        *self.inner.lock() = Some(inner.clone());
        Arc::new(Broken { inner, how: self.how, struck: self.struck.clone() })
    }
}

#[async_trait]
impl Factory for BrokenFactory {
    async fn create(&self) -> Arc<dyn Store> {
        self.wrap(self.sound.create().await)
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        drop(store);
        let inner = self.inner.lock().take()?;
        let store = self.sound.reopen(inner).await?;
        let struck = || self.struck.store(true, Ordering::SeqCst);
        match self.how {
            How::ForgetsLeasesAtRestart => {
                for id in store.leases().await.ok()? {
                    store.lease_revoke(id).await.ok()?;
                    struck();
                }
            }
            How::LosesTheLastWrite => {
                // As near as a store comes to it that is sound: the newest key is gone.
                let all = store.range(Range::prefix("")).await.ok()?;
                let newest = all.kvs.iter().max_by_key(|kv| kv.mod_revision)?;
                store.txn(Txn::of(vec![Op::delete(newest.key.clone())])).await.ok()?;
                struck();
            }
            How::ForgetsHistoryAtRestart => {
                store.compact(store.revision().await.ok()?).await.ok()?;
                struck();
            }
            _ => {}
        }
        Some(self.wrap(store))
    }

    fn clock(&self) -> Option<ManualClock> {
        self.sound.clock()
    }
}

struct Broken {
    inner: Arc<dyn Store>,
    how: How,
    struck: Arc<AtomicBool>,
}

impl Broken {
    fn is(&self, how: How) -> bool {
        self.how == how
    }

    /// Says that the breakage has come about.
    fn strike(&self) {
        self.struck.store(true, Ordering::SeqCst);
    }

    /// Notes a breakage if `broken`, and passes it on.
    fn struck_if(&self, broken: bool) -> bool {
        self.struck.fetch_or(broken, Ordering::SeqCst);
        broken
    }

    fn distort(&self, txn: &mut Txn) {
        match self.how {
            How::IgnoresComparisons => {
                self.struck_if(!txn.compare.is_empty());
                txn.compare.clear();
            }
            How::TakesGreaterForEqual => {
                for compare in txn.compare.iter_mut().filter(|compare| compare.relation == Relation::Greater)
                {
                    compare.relation = Relation::Equal;
                    self.strike();
                }
            }
            How::IgnoresInnerComparisons => {
                for op in &mut txn.success {
                    if let Op::Txn(inner) = op {
                        inner.compare.clear();
                        self.strike();
                    }
                }
            }
            How::TakesKeysTwice => {
                let mut seen = std::collections::BTreeSet::new();
                let new = |op: &Op| match op {
                    Op::Put { key, .. } => seen.insert(key.clone()),
                    _ => true,
                };
                let before = txn.success.len();
                txn.success.retain(new);
                self.struck_if(txn.success.len() < before);
            }
            How::StampsNothing => {
                for op in &mut txn.success {
                    if let Op::Put { value, .. } = op
                        && let PutValue::Stamped { head, tail } = &*value
                    {
                        *value = PutValue::Plain([&head[..], &tail[..]].concat().into());
                        self.strike();
                    }
                }
            }
            _ => {}
        }
    }

    fn distort_stream(&self, stream: WatchStream) -> WatchStream {
        let (how, struck) = (self.how, self.struck.clone());
        let mut count = 0;
        let distort = move |item: Result<WatchBatch, Error>| -> Vec<Result<WatchBatch, Error>> {
            let strike = |items| {
                struck.store(true, Ordering::SeqCst);
                items
            };
            let Ok(mut batch) = item else {
                return if how == How::KeepsQuietAboutCompaction { strike(Vec::new()) } else { vec![item] };
            };
            count += 1;
            let (empty, many) = (batch.events.is_empty(), batch.events.len() > 1);
            match how {
                How::TellsTwice if !empty => strike(vec![Ok(batch.clone()), Ok(batch)]),
                How::TellsOutOfOrder if many => {
                    batch.events.reverse();
                    strike(vec![Ok(batch)])
                }
                How::DropsAnEvent if count == 3 && !empty => {
                    batch.events.pop();
                    strike(vec![Ok(batch)])
                }
                How::SplitsRevisions if many => {
                    let one = |event| Ok(WatchBatch { revision: batch.revision, events: vec![event] });
                    strike(batch.events.into_iter().map(one).collect())
                }
                How::ForgetsWhatWasBefore => {
                    batch.events.iter_mut().for_each(|event| event.prev = None);
                    strike(vec![Ok(batch)])
                }
                How::SaysItIsFurther if empty => {
                    batch.revision += 1;
                    strike(vec![Ok(batch)])
                }
                How::SaysNothingOfProgress if empty => strike(Vec::new()),
                _ => vec![Ok(batch)],
            }
        };
        let mut distort = distort;
        stream.flat_map(move |item| futures::stream::iter(distort(item))).boxed()
    }
}

#[async_trait]
impl Store for Broken {
    async fn range(&self, mut range: Range) -> Result<RangeResponse, Error> {
        match self.how {
            How::ReadsTheLastButOne if range.revision == 0 => {
                let latest = self.inner.revision().await?;
                range.revision = latest.saturating_sub(1).max(1);
                self.strike();
            }
            How::ReadsNowForThen => {
                self.struck_if(range.revision != 0);
                range.revision = 0;
            }
            How::ForgetsWhatItKnew if range.serializable => {
                let latest = self.inner.revision().await?;
                let past = if latest.is_multiple_of(7) { latest - 3 } else { latest };
                self.struck_if(past < latest);
                let found = self.inner.range(range.at(past)).await?;
                return Ok(RangeResponse { revision: past, ..found });
            }
            _ => {}
        }
        let mut found = match self.inner.range(range.clone()).await {
            Err(Error::FutureRevision { .. }) if self.is(How::ReadsNowForTheFuture) => {
                self.strike();
                self.inner.range(range.clone().at(0)).await?
            }
            found => found?,
        };
        match self.how {
            How::ForgetsVersions => found.kvs.iter_mut().for_each(|kv| {
                self.struck_if(kv.version > 1);
                kv.version = kv.version.min(1);
            }),
            How::TearsWhatItKnows if range.serializable && found.kvs.len() > 1 => {
                let earlier = self.inner.range(range.at(found.revision - 1)).await?;
                if let Some(last) = earlier.kvs.get(1) {
                    self.strike();
                    found.kvs[1] = last.clone();
                }
            }
            How::TurnsRangesRound if found.kvs.len() > 1 => {
                found.kvs.reverse();
                self.strike();
            }
            _ => {}
        }
        Ok(found)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, Error> {
        self.distort(&mut txn);
        let mut early = Vec::new();
        if self.is(How::ReadsBeforeItWrites) {
            for op in &txn.success {
                if let Op::Range(range) = op {
                    early.push(OpResult::Range(self.inner.range(range.clone()).await?));
                }
            }
        }
        let idle = self.is(How::CountsIdleTransactions).then(|| Txn::of(vec![Op::put("uncalled-for", "")]));
        let kept = self.is(How::KeepsHalfOfWhatItRefuses).then(|| txn.clone());
        let before = self.inner.revision().await?;
        match self.inner.txn(txn).await {
            Ok(mut response) => {
                if let Some(idle) = idle.filter(|_| response.revision == before) {
                    self.strike();
                    response.revision = self.inner.txn(idle).await?.revision;
                }
                let mut early = early.into_iter();
                for result in
                    response.results.iter_mut().filter(|result| matches!(result, OpResult::Range(_)))
                {
                    if let Some(early) = early.next() {
                        self.struck_if(*result != early);
                        *result = early;
                    }
                }
                Ok(response)
            }
            Err(error) => {
                if let Some(mut kept) = kept {
                    kept.success.truncate(1);
                    self.struck_if(self.inner.txn(kept).await.is_ok());
                }
                Err(error)
            }
        }
    }

    async fn watch(&self, mut request: WatchRequest) -> Result<WatchStream, Error> {
        if self.is(How::TellsOfThePast) && request.start_revision == 0 {
            request.start_revision = 1;
            self.strike();
        }
        let stream = match self.inner.watch(request.clone()).await {
            Err(Error::Compacted { revision }) if self.is(How::WatchesFromLater) => {
                self.strike();
                self.inner.watch(WatchRequest { start_revision: revision, ..request }).await?
            }
            stream => stream?,
        };
        Ok(self.distort_stream(stream))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        if self.struck_if(self.is(How::NeverCompacts)) {
            return Ok(());
        }
        match self.inner.compact(revision).await {
            Err(_) if self.struck_if(self.is(How::CompactsBackwards)) => Ok(()),
            other => other,
        }
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_grant(ttl, id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        if self.struck_if(self.is(How::RevokesNothing)) {
            return Ok(());
        }
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        if self.struck_if(self.is(How::KeepsNothingAlive)) {
            let info = self.inner.lease_time_to_live(id).await?;
            return Ok(LeaseInfo { ttl: info.granted_ttl, ..info });
        }
        match self.inner.lease_keep_alive(id).await {
            Err(_) if self.struck_if(self.is(How::KnowsEveryLease)) => {
                Ok(LeaseInfo { id, granted_ttl: 1, ttl: 1, keys: Vec::new() })
            }
            other => other,
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_time_to_live(id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let mut leases = self.inner.leases().await?;
        if self.is(How::ListsOneLease) {
            self.struck_if(leases.len() > 1);
            leases.truncate(1);
        }
        Ok(leases)
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.inner.defragment().await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }
}

type Test = for<'a> fn(&'a dyn Factory) -> BoxFuture<'a, ()>;

/// Whether the test fails, and whether the breakage came about.
async fn outcome(test: Test, how: How) -> (bool, bool) {
    let struck = Arc::new(AtomicBool::new(false));
    let factory = BrokenFactory {
        sound: super::embedded::factory(),
        how,
        struck: struck.clone(),
        inner: Default::default(),
    };
    // A sound store on a loaded machine may take its time; what a broken one never says need not be waited for.
    let patience = Duration::from_secs(if how == How::NotAtAll { 30 } else { 3 });
    let ended = AssertUnwindSafe(suite::with_patience(patience, test(&factory))).catch_unwind().await;
    (ended.is_err(), struck.load(Ordering::SeqCst))
}

async fn check(guarantee: &'static str, test: Test) {
    assert_eq!(outcome(test, How::NotAtAll).await, (false, false), "{guarantee}: the wrapper itself");
    for how in breakages(guarantee) {
        let (failed, struck) = outcome(test, *how).await;
        assert!(struck, "{guarantee}: {how:?} never came about");
        assert!(failed, "{guarantee}: {how:?} was not noticed");
    }
}

macro_rules! each_is_noticed {
    ($($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                check(stringify!($name), |factory| Box::pin(suite::$name(factory))).await;
            }
        )+
    };
}

store::guarantees!(each_is_noticed);
