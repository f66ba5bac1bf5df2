//! Work beside the writer: spare segments, dropping what was compacted, checkpoints, freeing segments.
//!
//! Runs on a thread that exists only while there is such work. Decides by comparing sizes, after each
//! batch; a failure (a full disk, most likely) is logged and tried again when there is more to do. Not
//! here: what each job does (`wal`, `mvcc`, `checkpoint`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::wal::Wal;
use super::{Shared, State, checkpoint};
use crate::error::Error;

/// Log written before a checkpoint is worth it, at least: what recovery reads in a few milliseconds.
const LOG_BEFORE_CHECKPOINT: u64 = 16 << 20;
/// Changes dropped under one lock.
const STEPS: usize = 256;

/// What is to be done and what is known about the disk.
#[derive(Default)]
pub(super) struct Maintenance {
    thread: Mutex<Thread>,
    /// Bytes of the checkpoint file.
    pub checkpoint_bytes: AtomicU64,
    /// `Wal::written` when the last checkpoint was begun.
    checkpointed_at: AtomicU64,
}

#[derive(Default)]
struct Thread {
    running: bool,
    stopped: bool,
    jobs: Jobs,
    /// Who waits for the checkpoint that is to be written.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jobs {
    spare: bool,
    compact: bool,
    checkpoint: bool,
}

impl Shared {
    /// Looks whether there is something to do, after a batch.
    pub(super) fn maintain(self: &Arc<Self>, wal: &Wal) {
        let mut jobs = Jobs { spare: wal.is_half_full() && self.files.wants_spare(), ..Jobs::default() };
        let live = {
            let State { mvcc, .. } = &*self.memory.state.read();
            jobs.compact = mvcc.has_compacted();
            mvcc.live_bytes + mvcc.history_bytes
        };
        let log = wal.written.saturating_sub(self.maintenance.checkpointed_at.load(Ordering::Relaxed));
        let file = self.maintenance.checkpoint_bytes.load(Ordering::Relaxed);
        let floor = LOG_BEFORE_CHECKPOINT.min(self.options.checkpoint_bytes);
        // As much log as state: recovery at most doubles, and so do the bytes written in all.
        jobs.checkpoint = log > floor.max(live) || (log > 0 && file > 4 * live + 4 * floor);
        if jobs == Jobs::default() {
            return;
        }
        if jobs.checkpoint {
            self.maintenance.checkpointed_at.store(wal.written, Ordering::Relaxed);
        }
        self.start(jobs);
    }

    /// Drops what a recovered state has compacted already.
    pub(super) fn start_compaction(self: &Arc<Self>) {
        self.start(Jobs { compact: true, ..Jobs::default() });
    }

    /// Drops what is compacted and writes a checkpoint, whether it is worth it or not; answers when that is done.
    pub(super) fn checkpoint_now(self: &Arc<Self>, done: oneshot::Sender<Result<(), Error>>) {
        self.maintenance.thread.lock().waiting.push(done);
        self.start(Jobs { compact: true, checkpoint: true, ..Jobs::default() });
    }

    fn start(self: &Arc<Self>, jobs: Jobs) {
        let mut thread = self.maintenance.thread.lock();
        thread.jobs.spare |= jobs.spare;
        thread.jobs.compact |= jobs.compact;
        thread.jobs.checkpoint |= jobs.checkpoint;
        if thread.stopped {
            thread.waiting.clear();
        }
        if thread.running || thread.stopped {
            return;
        }
        let shared = self.clone();
        let spawned =
            std::thread::Builder::new().name("store-upkeep".to_owned()).spawn(move || shared.work());
        match spawned {
            Ok(handle) => {
                thread.running = true;
                thread.handle = Some(handle);
            }
            Err(error) => tracing::warn!(%error, "no thread for the store's upkeep"),
        }
    }

    fn work(self: Arc<Self>) {
        loop {
            let (jobs, waiting) = {
                let mut thread = self.maintenance.thread.lock();
                let jobs = std::mem::take(&mut thread.jobs);
                if jobs == Jobs::default() || thread.stopped {
                    thread.running = false;
                    thread.waiting.clear();
                    return;
                }
                (jobs, if jobs.checkpoint { std::mem::take(&mut thread.waiting) } else { Vec::new() })
            };
            let outcome = self.carry_out(jobs);
            if let Err(error) = &outcome {
                tracing::warn!(%error, "the store's upkeep failed; it is tried again later");
            }
            for done in waiting {
                // Who asked may have gone away.
                let _ = done.send(outcome.clone());
            }
        }
    }

    pub(super) fn carry_out(&self, jobs: Jobs) -> Result<(), Error> {
        if jobs.compact {
            while !self.memory.state.write().mvcc.drop_compacted(STEPS) {
                std::thread::yield_now();
            }
        }
        if jobs.spare {
            self.files.make_spare()?;
        }
        if jobs.checkpoint {
            let files = &self.files;
            let (batch, bytes) =
                checkpoint::write(&files.disk, &files.directory, files.store_id, &self.memory.state)?;
            self.maintenance.checkpoint_bytes.store(bytes, Ordering::Relaxed);
            tracing::debug!(batch, bytes, "wrote a checkpoint");
            files.release(batch)?;
        }
        Ok(())
    }

    /// Lets the work at hand end and starts no more.
    pub(super) fn stop_maintenance(&self) {
        let handle = {
            let mut thread = self.maintenance.thread.lock();
            thread.stopped = true;
            thread.handle.take()
        };
        if let Some(handle) = handle {
            // A panic in it has been printed; the files are as a crash would leave them.
            let _ = handle.join();
        }
    }
}

/// For the simulation, which has no threads.
#[cfg(test)]
mod by_hand {
    use super::*;

    impl Maintenance {
        /// As if its thread were running: work is noted and left undone.
        pub fn by_hand() -> Self {
            let thread = Thread { running: true, ..Thread::default() };
            Self { thread: Mutex::new(thread), ..Self::default() }
        }
    }

    impl Shared {
        /// The work that was noted.
        pub fn take_jobs(&self) -> Option<Jobs> {
            let mut thread = self.maintenance.thread.lock();
            thread.waiting.clear();
            Some(std::mem::take(&mut thread.jobs)).filter(|jobs| *jobs != Jobs::default())
        }
    }

    impl Jobs {
        pub fn is_checkpoint(self) -> bool {
            self.checkpoint
        }
    }
}
