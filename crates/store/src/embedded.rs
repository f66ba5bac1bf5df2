//! The embedded engine: all keys and their recent history in memory, a write-ahead log as the proof.
//!
//! The way of a write: [`Engine`] queues it → `writer` (one thread) plans it on the durable state (`plan`),
//! makes its batch durable (`wal`), applies it to memory (`mvcc`, `lease`), tells the watchers (`watch`),
//! answers. A read looks at memory, which holds durable revisions only. `maintenance` writes checkpoints
//! and drops what was compacted, on a thread that exists only then; `expiry` is a task that exists only
//! while there are leases. So an idle engine makes no system call and has no timer.
//!
//! [`replica`] is the same memory under a log that several machines agree on, [`log`] the files of that log; [`view`] is
//! either of them stopped, and only looked at.
//!
//! Files of the directory: `LOCK`, `checkpoint`, `<number>.wal`, `spare-<n>`.

mod ahead;
pub mod check;
mod checkpoint;
pub mod disk;
mod entry;
mod expiry;
mod gathering;
mod lease;
pub mod log;
mod maintenance;
mod memory;
pub mod metrics;
mod mvcc;
mod plan;
mod policy;
mod recovery;
pub mod replica;
mod restore;
#[cfg(test)]
mod simulation;
pub mod slowness;
pub mod view;
mod wal;
mod watch;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use foundation::{SharedClock, SharedRandomness, SystemRandomness};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::error::Error;
use crate::types::{
    LeaseId, LeaseInfo, Range, RangeResponse, Revision, Status, Txn, TxnResponse, WatchRequest,
};
use crate::{Store, WatchStream};
pub use recovery::Recovery;
pub use restore::restore;

use disk::{Disk, HostDisk, Lock};
use memory::Memory;
use writer::{Queue, Request};

/// Transactions that may wait for the writer; more wait for their turn to be queued.
const QUEUED: usize = 4096;

/// How an engine is to behave. The default suits a cluster of any size.
#[derive(Clone)]
pub struct Options {
    /// History older than this is forgotten (at the next write).
    pub history_age: Duration,
    /// History larger than this, and than half of what is alive, is halved.
    pub history_bytes: u64,
    /// The largest transaction: bytes of the keys and values it writes.
    pub max_txn_bytes: usize,
    /// The largest segment of the log.
    pub segment_bytes: u64,
    /// A checkpoint is written once the log is this long and longer than the state is large.
    pub checkpoint_bytes: u64,
    /// Where the store's id and the leases' come from.
    pub randomness: SharedRandomness,
    /// What lies under the files.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_age: Duration::from_secs(300),
            history_bytes: 32 << 20,
            max_txn_bytes: 8 << 20,
            segment_bytes: 16 << 20,
            checkpoint_bytes: 16 << 20,
            randomness: Arc::new(SystemRandomness),
            disk: Arc::new(HostDisk),
        }
    }
}

/// What readers see: durable, whole batches.
struct State {
    mvcc: mvcc::Mvcc,
    leases: lease::Leases,
    /// The newest batch applied; of a replica, the index of the newest entry.
    batch: wal::Batch,
    /// What a replica knows beside the keys.
    replicated: Option<replica::Replicated>,
    /// What was here has made room for what is about to come: there is nothing to be read.
    gone: bool,
}

impl State {
    /// The empty store.
    fn new() -> Self {
        Self {
            mvcc: mvcc::Mvcc::new(),
            leases: lease::Leases::default(),
            batch: 0,
            replicated: None,
            gone: false,
        }
    }

    /// Applies an entry that is durable.
    fn apply(&mut self, entry: entry::Entry, now: Duration, mut seen: impl FnMut(mvcc::Change)) {
        for change in entry.changes {
            match change {
                entry::Change::Key(record) => {
                    let change = self.mvcc.apply(record);
                    self.leases.follow(&change);
                    seen(change);
                }
                entry::Change::Grant { id, ttl, remaining } => self.leases.grant(id, ttl, remaining, now),
                entry::Change::Revoke { id } => self.leases.revoke(id),
                entry::Change::Until { id, deadline } => self.leases.set_deadline(id, deadline),
                entry::Change::Compact { revision } => self.mvcc.compact(revision),
            }
        }
    }

    /// Loads an entry of a checkpoint's first part: keys without a history.
    fn load(&mut self, entry: entry::Entry, now: Duration) {
        for change in entry.changes {
            match change {
                entry::Change::Key(record) => {
                    self.leases.attach(record.lease, &record.key);
                    self.mvcc.load(record);
                }
                other => {
                    self.apply(entry::Entry { revision: 0, changes: vec![other] }, now, |_| ());
                }
            }
        }
    }
}

struct Shared {
    memory: Arc<Memory>,
    queue: Queue,
    slots: Arc<Semaphore>,
    files: Arc<wal::Files>,
    maintenance: maintenance::Maintenance,
    lease_timer: Mutex<Option<tokio::task::JoinHandle<()>>>,
    lease_changed: Arc<Notify>,
    /// How long the disk takes.
    slowness: slowness::Slowness,
    /// Why the last batch could not be written.
    alarm: Mutex<Option<String>>,
    clock: SharedClock,
    options: Options,
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.memory.is_closed()
    }
}

/// An open store. Dropping it shuts it down.
pub struct Engine {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Locked as long as it is open.
    lock: Mutex<Option<Lock>>,
    recovery: Recovery,
}

impl Engine {
    /// Opens the store in `directory`, making it if it is not there. Blocks while it recovers: a few
    /// milliseconds for a small store, up to seconds for gigabytes.
    pub fn open(
        directory: impl AsRef<Path>,
        options: Options,
        clock: SharedClock,
    ) -> Result<Arc<Self>, Error> {
        let directory = directory.as_ref();
        let lock = options.disk.lock(directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked { path: directory.to_owned() },
            _ => Error::io(format!("opening {}", directory.display()), error),
        })?;
        let recovered = recovery::recover(directory, &options, clock.monotonic())?;
        let shared = Arc::new(Shared {
            memory: Arc::new(Memory::new(recovered.state)),
            queue: Queue::default(),
            slots: Arc::new(Semaphore::new(QUEUED)),
            files: recovered.files,
            maintenance: maintenance::Maintenance::default(),
            lease_timer: Mutex::default(),
            lease_changed: Arc::default(),
            slowness: slowness::Slowness::default(),
            alarm: Mutex::default(),
            clock,
            options,
        });
        shared.maintenance.checkpoint_bytes.store(recovered.checkpoint_bytes, Ordering::Relaxed);
        if shared.memory.state.read().mvcc.has_compacted() {
            shared.start_compaction();
        }
        let writer = {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("store-writer".to_owned());
            let run = move || writer::run(&shared, recovered.wal);
            builder.spawn(run).map_err(|error| Error::io("starting the store's writer", error))?
        };
        shared.watch_leases();
        let (writer, lock) = (Mutex::new(Some(writer)), Mutex::new(Some(lock)));
        Ok(Arc::new(Self { shared, writer, lock, recovery: recovered.report }))
    }

    /// Carries out what is queued, ends the watches, and gives the directory free. Calls after it fail
    /// with [`Error::Unavailable`]. Blocks for the last sync.
    pub fn shutdown(&self) {
        self.shared.memory.close();
        self.shared.queue.close();
        self.shared.slots.close();
        if let Some(writer) = self.writer.lock().take() {
            // A panic in it has been logged.
            let _ = writer.join();
        }
        self.shared.stop_maintenance();
        self.shared.memory.watchers.close();
        if let Some(timer) = self.shared.lease_timer.lock().take() {
            timer.abort();
        }
        drop(self.lock.lock().take());
    }

    /// Identifies the data: chosen at random when the store was made, and never changed.
    pub fn id(&self) -> u64 {
        self.shared.files.store_id
    }

    /// What opening it has found and done.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.memory.watchers.len()
    }

    async fn ask<T>(&self, request: impl FnOnce(writer::Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(request(reply));
        answer.await.map_err(|_| Error::Unavailable("the store is shut down"))?
    }

    fn check_open(&self) -> Result<(), Error> {
        self.shared.memory.check_open()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[async_trait]
impl Store for Engine {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.shared.memory.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        let slot = self.shared.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| Error::Unavailable("the store is shut down"))?;
        self.ask(|reply| Request::Txn { txn, reply, slot }).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        watch::open(&self.shared.memory, request)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Request::Compact { revision, reply }).await
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        if ttl < 1 || id < 0 {
            return Err(Error::Invalid("a lease has a positive ttl and id"));
        }
        let chosen = match id {
            0 => (self.shared.options.randomness.u64() >> 1).max(1) as LeaseId,
            id => id,
        };
        let info = self.ask(|reply| Request::Grant { id: chosen, ttl, reply }).await?;
        self.shared.watch_leases();
        Ok(info)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Request::Revoke { id, reply }).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.check_open()?;
        self.shared.watch_leases();
        let now = self.shared.clock.monotonic();
        let (info, unnoted) = self.shared.memory.state.write().leases.keep_alive(id, now)?;
        if unnoted && let Err(error) = self.ask(|reply| Request::Renew { id, reply }).await {
            // It lives on; only a crash would make it end early.
            tracing::warn!(id, %error, "a lease that was kept alive could not be noted");
        }
        Ok(info)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.check_open()?;
        self.shared.watch_leases();
        let now = self.shared.clock.monotonic();
        self.shared.memory.state.read().leases.info(id, now)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.check_open()?;
        Ok(self.shared.memory.state.read().leases.ids())
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.check_open()?;
        let (done, written) = oneshot::channel();
        self.shared.checkpoint_now(done);
        written.await.map_err(|_| Error::Unavailable("the store is shut down"))?
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        self.check_open()?;
        let alarm = self.shared.alarm.lock().clone().map(|alarm| format!("writes are refused: {alarm}"));
        let slow = self.shared.slowness.warning(self.shared.clock.monotonic());
        Ok(alarm.into_iter().chain(slow).collect())
    }

    async fn status(&self) -> Result<Status, Error> {
        self.check_open()?;
        let checkpoint = self.shared.maintenance.checkpoint_bytes.load(Ordering::Relaxed);
        let status = self.shared.memory.status(self.shared.files.bytes() + checkpoint)?;
        Ok(Status { alarm: self.shared.alarm.lock().clone(), ..status })
    }
}
