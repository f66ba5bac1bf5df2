//! The tests that certify a backend: one per guarantee of the contract, over a [`Factory`].
//!
//! `store::certify!(factory)` in a test module makes a `#[tokio::test]` of each. A test that the backend
//! cannot be put through (it has no virtual clock, it cannot be restarted) is passed over only where the
//! factory says so. Not here: faults and crashes, which each backend tests with its own means.

#![expect(clippy::unwrap_used, reason = "these functions are tests: a failure is to panic where it happens")]
#![allow(missing_docs, reason = "each function is named and described in the contract")]

mod compaction;
mod durability;
mod leases;
pub mod linearizable;
mod reads;
mod transactions;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foundation::ManualClock;
use futures::StreamExt;

use crate::{
    Event, KeyValue, Op, OpResult, Range, Revision, Store, Txn, TxnResponse, WatchBatch, WatchStream,
};

pub use compaction::*;
pub use durability::*;
pub use leases::*;
pub use reads::*;
pub use transactions::*;
pub use watches::*;

/// Makes the backend under test.
#[async_trait]
pub trait Factory: Send + Sync {
    /// An empty store.
    async fn create(&self) -> Arc<dyn Store>;

    /// Closes the only store that [`Factory::create`] has made and opens it again with what it had
    /// stored. `None`: this backend cannot be restarted by a test.
    async fn reopen(&self, store: Arc<dyn Store>) -> Option<Arc<dyn Store>>;

    /// The clock that the store's leases run on. `None`: it is the real one.
    fn clock(&self) -> Option<ManualClock>;

    /// Lets so many seconds pass for the leases. A backend whose clocks a test can put forward does not have to wait.
    async fn pass(&self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        match self.clock() {
            Some(clock) => {
                clock.wait_for_sleepers(1).await;
                clock.advance(time);
            }
            None => tokio::time::sleep(time).await,
        }
    }
}

/// Calls a macro with the name of every guarantee.
#[macro_export]
macro_rules! guarantees {
    ($($callback:tt)+) => {
        $($callback)+! {
            revisions_count_writing_transactions
            keys_carry_their_own_revisions
            comparisons_decide_a_transaction
            comparisons_know_order_and_ranges
            transactions_nest
            a_refused_transaction_changes_nothing
            operations_see_the_ones_before
            a_key_is_written_once_per_transaction
            one_of_many_racing_writers_wins
            a_stamped_value_carries_its_revision
            a_read_sees_every_acknowledged_write
            ranges_are_ordered_limited_and_counted
            the_past_can_be_read
            the_future_cannot_be_read
            a_serializable_read_is_whole_and_never_goes_back
            a_watch_delivers_every_change_once_in_order
            a_watch_from_now_starts_after_the_present
            a_revision_is_never_split
            a_watch_tells_deletions_and_what_was_before
            a_watch_says_how_far_it_has_come
            a_slow_watcher_holds_up_nobody
            compaction_forgets_the_past_only
            a_watch_before_the_compaction_is_refused
            compaction_moves_forward_only
            revoking_a_lease_deletes_its_keys
            a_lease_must_exist
            leases_are_listed
            an_expired_lease_deletes_its_keys
            what_was_acknowledged_survives
            a_watch_resumes_after_a_restart
        }
    };
}

/// Makes a test of every guarantee, in a module that has a `fn factory() -> impl Factory`.
#[macro_export]
macro_rules! certify {
    ($($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::suite::whole($crate::suite::$name(&factory())).await;
            }
        )+
    };
}

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a test may take: whatever a store that does not answer keeps waiting, it fails, and the others have their turn.
const WHOLE: Duration = Duration::from_secs(300);

tokio::task_local! {
    static PATIENCE: Duration;
}

/// Runs a test that waits for `patience` where it would wait for half a minute: to see a broken store fail.
pub async fn with_patience<T>(patience: Duration, test: impl Future<Output = T>) -> T {
    PATIENCE.scope(patience, test).await
}

/// A whole test.
pub async fn whole(test: impl Future<Output = ()>) {
    tokio::time::timeout(WHOLE, test)
        .await
        .expect("the store did not answer before the deadline of the whole test");
}

/// Something that must happen soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let patience = PATIENCE.try_with(|patience| *patience).unwrap_or(DEADLINE);
    tokio::time::timeout(patience, future).await.expect("nothing happened before the deadline")
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    commit(store, vec![Op::put(key.to_owned(), value.to_owned())]).await.revision
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    commit(store, vec![Op::delete(key.to_owned())]).await.revision
}

async fn commit(store: &dyn Store, ops: Vec<Op>) -> TxnResponse {
    store.txn(Txn::of(ops)).await.unwrap()
}

async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.range(Range::key(key.to_owned())).await.unwrap().kvs.into_iter().next()
}

async fn revision(store: &dyn Store) -> Revision {
    store.range(Range::key("none")).await.unwrap().revision
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `key=value` of each key found.
fn pairs(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}

/// `revision key=value` or `revision key deleted` of an event.
fn line(event: &Event) -> String {
    let (revision, key) = (event.kv.mod_revision, text(&event.kv.key));
    match event.kind {
        crate::EventKind::Put => format!("{revision} {key}={}", text(&event.kv.value)),
        crate::EventKind::Delete => format!("{revision} {key} deleted"),
    }
}

async fn batch(watch: &mut WatchStream) -> WatchBatch {
    soon(watch.next()).await.expect("the watch has ended").unwrap()
}

/// The next `count` events of a watch.
async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(batch(watch).await.events);
    }
    events
}

async fn lines(watch: &mut WatchStream, count: usize) -> Vec<String> {
    events(watch, count).await.iter().map(line).collect()
}

fn put_of(result: &OpResult) -> (&KeyValue, Option<&KeyValue>) {
    match result {
        OpResult::Put { kv, prev } => (kv, prev.as_ref()),
        other => panic!("not a put: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    macro_rules! names {
        ($($name:ident)+) => { [$(stringify!($name)),+] };
    }

    #[test]
    fn the_prose_and_the_suite_agree() {
        let prose: Vec<_> = include_str!("../CONTRACT.md")
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .map(|line| line.split('`').nth(1).unwrap())
            .collect();
        assert_eq!(prose, guarantees!(names));
    }
}
