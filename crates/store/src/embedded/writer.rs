//! The one thread that writes: takes what is queued, plans it, makes it durable, applies it, answers.
//!
//! A thread of its own and not a task: it blocks in `fdatasync` for most of its life, which would hold a
//! worker of the runtime, and it must outlive whatever runtime its callers come from. It sleeps on a
//! condition variable, without a time limit.
//!
//! Group commit adapts by itself: while one batch is being synced the next one queues up, and a lone writer finds the
//! thread waiting and is never delayed. Where many write, the thread waits for as many as lately came within about the time
//! of a sync (`gathering`): it is woken once for all of them, and they share a sync.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::entry::{Change, Entry};
use super::gathering::Gathering;
use super::metrics::CommitMetrics;
use super::plan::Planner;
use super::policy::Policy;
use super::wal::Wal;
use super::{Shared, State};
use crate::error::Error;
use crate::types::{LeaseId, LeaseInfo, Revision, Txn, TxnResponse};

/// Transactions in one batch.
const BATCH: usize = 1024;
/// The longest wait for company, however slow the disk is.
const PATIENCE: Duration = Duration::from_millis(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What can be asked of the writer.
pub(super) enum Request {
    Txn {
        txn: Txn,
        reply: Reply<TxnResponse>,
        slot: OwnedSemaphorePermit,
    },
    Grant {
        id: LeaseId,
        ttl: i64,
        reply: Reply<LeaseInfo>,
    },
    Revoke {
        id: LeaseId,
        reply: Reply<()>,
    },
    /// Notes that a lease has its full length again.
    Renew {
        id: LeaseId,
        reply: Reply<()>,
    },
    /// Ends every lease whose time is up.
    Expire {
        reply: Reply<()>,
    },
    Compact {
        revision: Revision,
        reply: Reply<()>,
    },
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    arrived: Condvar,
}

#[derive(Default)]
struct QueueState {
    requests: std::collections::VecDeque<Request>,
    /// How many the writer waits for; 0: it is at work.
    wanted: usize,
    closed: bool,
}

impl Queue {
    /// Hands a request to the writer; dropped, which its sender sees, when the store is shut down.
    pub fn push(&self, request: Request) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.requests.push_back(request);
        let enough = state.wanted != 0 && state.requests.len() >= state.wanted;
        drop(state);
        if enough {
            self.arrived.notify_one();
        }
    }

    /// Refuses new requests; those that wait are still carried out.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    fn discard(&self) {
        self.state.lock().requests.clear();
    }

    /// Waits for `wanted` requests, but for more than one no longer than `patience`, and takes a batch of what is there.
    /// Empty once the queue is closed.
    fn take(&self, wanted: usize, patience: Duration) -> Vec<Request> {
        let mut state = self.state.lock();
        if state.requests.len() < wanted && wanted > 1 {
            let deadline = Instant::now() + patience;
            state.wanted = wanted;
            while state.requests.len() < wanted && !state.closed {
                if self.arrived.wait_until(&mut state, deadline).timed_out() {
                    break;
                }
            }
        }
        state.wanted = 1;
        while state.requests.is_empty() && !state.closed {
            self.arrived.wait(&mut state);
        }
        state.wanted = 0;
        let count = state.requests.len().min(BATCH);
        state.requests.drain(..count).collect()
    }
}

/// Runs until the queue is closed and empty.
pub(super) fn run(shared: &Arc<Shared>, wal: Wal) {
    let policy = Policy::new(&shared.options, shared.clock.monotonic());
    let metrics = CommitMetrics::default();
    let mut writer = Writer { shared: shared.clone(), wal, policy, metrics, synced_in: Duration::ZERO };
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut gathering = Gathering::default();
        loop {
            // As long as a sync takes they would wait anyway, did they come one after the other.
            let patience = (writer.synced_in * 2).min(PATIENCE);
            let requests = shared.queue.take(gathering.wanted(), patience);
            if requests.is_empty() {
                return;
            }
            gathering.came(requests.len());
            writer.carry_out(requests);
        }
    }));
    if ended.is_err() {
        // What it was about to write is not acknowledged. Everybody is told; nothing can be written.
        tracing::error!("the store's writer panicked: writes are refused from now on");
        *shared.alarm.lock() = Some(crate::Status::LOST.to_owned());
        shared.queue.close();
        shared.queue.discard();
    }
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub wal: Wal,
    pub policy: Policy,
    pub metrics: CommitMetrics,
    /// How long the last batch took to become durable.
    pub synced_in: Duration,
}

/// An answer that waits for its batch to be durable.
type Answer = Box<dyn FnOnce(Result<(), Error>)>;

fn answer<T: 'static>(reply: Reply<T>, value: T) -> Answer {
    // A caller that has gone away does not want to know.
    Box::new(move |result| drop(reply.send(result.map(|()| value))))
}

impl Writer {
    /// Carries out requests, in order.
    pub fn carry_out(&mut self, requests: Vec<Request>) {
        let mut txns = Vec::new();
        for request in requests {
            match request {
                Request::Txn { txn, reply, slot } => txns.push((txn, reply, slot)),
                // What concerns leases or compaction is planned on durable state alone: rare, and simpler.
                other => {
                    self.txns(&mut txns);
                    self.single(other);
                }
            }
        }
        self.txns(&mut txns);
    }

    fn txns(&mut self, txns: &mut Vec<(Txn, Reply<TxnResponse>, OwnedSemaphorePermit)>) {
        if txns.is_empty() {
            return;
        }
        let mut entries = Vec::with_capacity(txns.len());
        let mut answers = Vec::with_capacity(txns.len());
        let mut slots = Vec::with_capacity(txns.len());
        {
            let State { mvcc, leases, .. } = &*self.shared.memory.state.read();
            let mut planner = Planner::new(mvcc, leases, self.shared.options.max_txn_bytes);
            for (txn, reply, slot) in txns.drain(..) {
                match planner.txn(txn) {
                    // Nothing was written and nothing is revealed.
                    Err(error) => drop(reply.send(Err(error))),
                    Ok((response, entry)) => {
                        if !entry.changes.is_empty() {
                            entries.push(entry);
                        }
                        answers.push((reply, response));
                    }
                }
                slots.push(slot);
            }
        }
        let result = self.commit(entries);
        for (reply, response) in answers {
            drop(reply.send(result.clone().map(|()| response)));
        }
    }

    fn single(&mut self, request: Request) {
        let ending = self.begin_ending(&request);
        let (entries, answer) = {
            let State { mvcc, leases, .. } = &*self.shared.memory.state.read();
            let mut planner = Planner::new(mvcc, leases, self.shared.options.max_txn_bytes);
            match request {
                Request::Txn { .. } => return,
                Request::Grant { id, ttl, reply } => {
                    if leases.contains(id) {
                        drop(reply.send(Err(Error::LeaseExists { id })));
                        return;
                    }
                    let info = LeaseInfo { id, granted_ttl: ttl, ttl, keys: Vec::new() };
                    let changes = vec![Change::Grant { id, ttl, remaining: ttl }];
                    (vec![Entry { revision: 0, changes }], answer(reply, info))
                }
                Request::Revoke { id, reply } => {
                    if !leases.contains(id) {
                        drop(reply.send(Err(Error::LeaseNotFound { id })));
                        return;
                    }
                    (vec![planner.revoke(id)], answer(reply, ()))
                }
                Request::Renew { id, reply } => {
                    // It may have ended since.
                    let change = leases.ttl(id).map(|ttl| Change::Grant { id, ttl, remaining: ttl });
                    let entries = change.map(|change| Entry { revision: 0, changes: vec![change] });
                    (entries.into_iter().collect(), answer(reply, ()))
                }
                Request::Expire { reply } => {
                    (ending.iter().map(|id| planner.revoke(*id)).collect(), answer(reply, ()))
                }
                Request::Compact { revision, reply } => {
                    let refused = match () {
                        () if revision > mvcc.revision => {
                            Some(Error::FutureRevision { current: mvcc.revision })
                        }
                        () if revision <= mvcc.compact_revision => {
                            Some(Error::Compacted { revision: mvcc.compact_revision })
                        }
                        () => None,
                    };
                    if let Some(error) = refused {
                        drop(reply.send(Err(error)));
                        return;
                    }
                    let changes = vec![Change::Compact { revision }];
                    (vec![Entry { revision: 0, changes }], answer(reply, ()))
                }
            }
        };
        let result = self.commit(entries);
        if result.is_err() && !ending.is_empty() {
            self.shared.memory.state.write().leases.mark_ending(&ending, false);
        }
        answer(result);
    }

    /// The leases that a request is about to end. From here on they cannot be kept alive: while their end is written
    /// nobody may be told that they live.
    fn begin_ending(&self, request: &Request) -> Vec<LeaseId> {
        if !matches!(request, Request::Revoke { .. } | Request::Expire { .. }) {
            return Vec::new();
        }
        let leases = &mut self.shared.memory.state.write().leases;
        let ending = match request {
            Request::Revoke { id, .. } => vec![*id],
            _ => leases.due(self.shared.clock.monotonic()),
        };
        leases.mark_ending(&ending, true);
        ending
    }

    /// Makes entries durable, then visible.
    fn commit(&mut self, mut entries: Vec<Entry>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let now = self.shared.clock.monotonic();
        entries.extend(self.policy.housekeeping(&self.shared.memory.state.read(), now));
        let started = Instant::now();
        self.shared.slowness.begin(now);
        let written = self.wal.append(&entries);
        self.slow(now);
        self.synced_in = started.elapsed();
        self.note(&written, self.synced_in);
        written?;
        self.metrics.batch.observe(entries.len() as f64);
        let mut changes = Vec::new();
        let (revision, lease_changed) = {
            let mut state = self.shared.memory.state.write();
            let deadline = state.leases.next_deadline();
            for entry in entries {
                state.apply(entry, now, |change| changes.push(change));
            }
            state.batch = self.wal.batch();
            (state.mvcc.revision, state.leases.next_deadline() != deadline)
        };
        self.shared.memory.watchers.publish(&changes, revision);
        if lease_changed {
            self.shared.lease_changed.notify_one();
        }
        self.shared.maintain(&self.wal);
        Ok(())
    }

    /// Says once that the disk is slow, and counts how often it is.
    fn slow(&self, began: Duration) {
        let now = self.shared.clock.monotonic();
        if let Some(took) = self.shared.slowness.end(began, now) {
            self.metrics.slow.inc();
            tracing::warn!(?took, "the store's disk is slow: writes wait for it");
        }
    }

    fn note(&self, written: &Result<(), Error>, took: Duration) {
        let mut alarm = self.shared.alarm.lock();
        match written {
            Ok(()) => {
                self.metrics.sync.observe_duration(took);
                if alarm.take().is_some() {
                    tracing::info!("the store writes again");
                }
            }
            Err(error) => {
                self.metrics.failures.inc();
                if alarm.is_none() {
                    tracing::error!(%error, "the store cannot write; reads and watches go on");
                }
                *alarm = Some(error.to_string());
            }
        }
    }
}
