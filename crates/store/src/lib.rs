//! The memory of the cluster: the storage contract, an engine that keeps it, and the suite that
//! certifies an engine.
//!
//! The contract is etcd's data model (revisions, transactions, watches from a revision, compaction,
//! leases) as a trait, [`Store`], with the guarantees in numbered prose below. Read first: [`Txn`] (every
//! write is one), [`Range`], [`WatchRequest`], then [`embedded::Engine`] for how the guarantees are kept.
//!
//! To add a backend, implement [`Store`] in a crate of its own and run `store::certify!` over a
//! [`suite::Factory`] of it; to add a guarantee, add its paragraph to `CONTRACT.md` and a test of the
//! same name to [`suite`].
//!
//! **Invariants.** Nothing here knows what a Pod is: keys and values are bytes. No caller sees a
//! revision that is not durable. An idle store makes no system calls and owns no timer.
//!
#![doc = include_str!("../CONTRACT.md")]

pub mod embedded;
mod error;
mod overlap;
pub mod suite;
mod types;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use error::{Error, UNREADABLE, Unreadable, unavailable};
pub use types::{
    Compare, Event, EventKind, KeyValue, LeaseId, LeaseInfo, Op, OpResult, PutValue, Range, RangeResponse,
    Relation, Revision, Status, Target, Txn, TxnResponse, WatchBatch, WatchRequest, prefix_end,
};

/// What a watch yields: batches in the order of their revisions, or one error, after which it ends.
///
/// Dropping the stream ends the watch.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, Error>>;

/// A store that keeps the contract. Every method may be called concurrently.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a range of keys at one revision. Sees every write that was acknowledged before the call, unless it was asked
    /// for what is known here.
    async fn range(&self, range: Range) -> Result<RangeResponse, Error>;

    /// Compares and writes atomically. Once it returns `Ok`, its writes survive a crash.
    ///
    /// [`Error::NoSpace`], [`Error::Io`] and [`Error::Unavailable`] leave open whether the transaction
    /// took place; after every other error it did not.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error>;

    /// Delivers every change to a range of keys from a revision on, without gaps, in order.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error>;

    /// Forgets what is older than `revision`: reads and watches before it fail with
    /// [`Error::Compacted`] from now on, and its memory and disk are given back soon after.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Makes a lease of `ttl` seconds (at least one). An `id` of 0 lets the store choose one.
    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error>;

    /// Ends a lease and deletes the keys attached to it, in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error>;

    /// Sets the remaining time of a lease back to its full length.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error>;

    /// What is left of a lease, and which keys are attached to it.
    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error>;

    /// The latest revision, as of a moment after the call: what a reader must have seen to have seen every write that
    /// was acknowledged before.
    async fn revision(&self) -> Result<Revision, Error> {
        let range = Range { keys_only: true, limit: 1, uncounted: true, ..Range::key(&b"\0"[..]) };
        Ok(self.range(range).await?.revision)
    }

    /// Whether the value of a key is kept as a write of now would keep it. Not so in a store that transforms values (by
    /// encryption) once it has other means: who wants them used writes the same value again.
    async fn is_current(&self, _key: &[u8]) -> Result<bool, Error> {
        Ok(true)
    }

    /// Every lease there is, in order of its id.
    async fn leases(&self) -> Result<Vec<LeaseId>, Error>;

    /// Every lease with its length and what is left of it, as far as it is known here: what [`Range::serializable`] is to
    /// [`Store::range`].
    async fn leases_known(&self) -> Result<Vec<LeaseInfo>, Error> {
        let mut known = Vec::new();
        for id in self.leases().await? {
            match self.lease_time_to_live(id).await {
                Ok(lease) => known.push(lease),
                // It has ended meanwhile.
                Err(Error::LeaseNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }

    /// Gives back now the disk that what was forgotten still takes, without holding up readers or writers for it.
    async fn defragment(&self) -> Result<(), Error>;

    /// What is not as it should be though reads and watches go on, for people: a slow disk, writes that are refused.
    async fn warnings(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Where the store stands.
    async fn status(&self) -> Result<Status, Error>;
}
