//! The two threads that block on a member's disk: one makes the log durable, one writes checkpoints and tidies up.
//!
//! The first takes all that waits and makes it durable with one sync. When the disk refuses, it tries again until it
//! does not, and nothing that depends on it is said meanwhile; the consensus goes on without it. Not here: what is
//! written (`keeper`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use foundation::SharedClock;
use parking_lot::{Condvar, Mutex};
use store::Error;
use store::embedded::log::Upkeep;
use store::embedded::replica::Replica;

use super::health::Health;
use super::inbox::{Inbox, Input};
use crate::core::Persist;
use crate::keeper::Keeper;

/// The pause after the disk has refused.
const AGAIN: Duration = Duration::from_secs(1);

/// What the first thread is to do.
pub(super) enum Job {
    Persist(Persist),
    Release(u64),
}

/// What the second thread is to do.
enum Chore {
    Upkeep { checkpoint: bool },
    Spare,
    Release(u64),
}

/// A queue between two threads.
struct Queue<T> {
    state: Mutex<(VecDeque<T>, bool)>,
    arrived: Condvar,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { state: Mutex::new((VecDeque::new(), false)), arrived: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn push(&self, item: T) {
        self.state.lock().0.push_back(item);
        self.arrived.notify_one();
    }

    fn close(&self) {
        self.state.lock().1 = true;
        self.arrived.notify_one();
    }

    /// What waits. Empty once it is closed and nothing does.
    fn take(&self) -> VecDeque<T> {
        let mut state = self.state.lock();
        while state.0.is_empty() && !state.1 {
            self.arrived.wait(&mut state);
        }
        std::mem::take(&mut state.0)
    }

    /// Waits for a while. Says whether it is closed.
    fn pause(&self, wait: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.1 {
            // An arrival wakes it early: no harm.
            self.arrived.wait_for(&mut state, wait);
        }
        state.1
    }
}

/// The threads.
pub(super) struct DiskThreads {
    jobs: Arc<Queue<Job>>,
    chores: Arc<Queue<Chore>>,
    handles: Vec<JoinHandle<()>>,
    /// Which file the snapshot with an index is in.
    received: Arc<Mutex<HashMap<u64, PathBuf>>>,
}

impl DiskThreads {
    pub fn start(
        keeper: Keeper,
        replica: Arc<Replica>,
        inbox: Arc<Inbox>,
        health: Arc<Health>,
        clock: SharedClock,
    ) -> std::io::Result<Self> {
        let (jobs, chores) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        let received = Arc::new(Mutex::new(HashMap::new()));
        let files = keeper.upkeep();
        let mut threads = Self { jobs, chores, handles: Vec::new(), received };
        let log = LogThread {
            keeper,
            jobs: threads.jobs.clone(),
            chores: threads.chores.clone(),
            inbox: inbox.clone(),
            health,
            clock,
            received: threads.received.clone(),
        };
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        threads.handles.push(named("raft-log").spawn(move || log.run())?);
        let chores = threads.chores.clone();
        threads.handles.push(named("raft-upkeep").spawn(move || tidy(&chores, &replica, &files, &inbox))?);
        Ok(threads)
    }

    pub fn job(&self, job: Job) {
        self.jobs.push(job);
    }

    /// A checkpoint has come, in this file. Gives the file back if there is one with this index already.
    pub fn take_in(&self, index: u64, file: PathBuf) -> Option<PathBuf> {
        match self.received.lock().entry(index) {
            Entry::Occupied(_) => Some(file),
            Entry::Vacant(vacant) => {
                vacant.insert(file);
                None
            }
        }
    }

    /// The checkpoint with this index is not going to be installed.
    pub fn pass_over(&self, index: u64) {
        if let Some(file) = self.received.lock().remove(&index) {
            give_up(&file);
        }
    }

    pub fn upkeep(&self, checkpoint: bool) {
        self.chores.push(Chore::Upkeep { checkpoint });
    }

    /// Carries out what waits, and ends.
    pub fn stop(&mut self) {
        self.jobs.close();
        for (place, handle) in self.handles.drain(..).enumerate() {
            if place > 0 {
                self.chores.close();
            }
            // A panic in it has been printed; the files are as a crash would leave them.
            let _ = handle.join();
        }
    }
}

/// Removes a checkpoint that has come. One that stays only takes up room, until the next start.
pub(super) fn give_up(file: &Path) {
    let _ = std::fs::remove_file(file);
}

struct LogThread {
    keeper: Keeper,
    jobs: Arc<Queue<Job>>,
    chores: Arc<Queue<Chore>>,
    inbox: Arc<Inbox>,
    health: Arc<Health>,
    clock: SharedClock,
    received: Arc<Mutex<HashMap<u64, PathBuf>>>,
}

impl LogThread {
    fn run(mut self) {
        loop {
            let jobs = self.jobs.take();
            if jobs.is_empty() {
                return;
            }
            let (mut work, mut released) = (Vec::new(), None);
            for job in jobs {
                match job {
                    Job::Persist(persist) => work.push(persist),
                    Job::Release(index) => released = Some(index),
                }
            }
            if let Some(last) = work.last().map(|persist| persist.number) {
                let received = self.received.clone();
                let file = |index: u64| received.lock().get(&index).cloned();
                let Some(position) = self.until_done(|keeper| keeper.persist(&work, file)) else { return };
                if let Some(position) = &position {
                    // Its file is the checkpoint now; what came before it is of no use.
                    self.received.lock().retain(|index, path| {
                        let keep = *index > position.index;
                        if !keep {
                            // The one that was installed has another name by now.
                            give_up(path);
                        }
                        keep
                    });
                }
                self.health.written(work.iter().map(|persist| persist.entries.len()).sum());
                self.inbox.push(Input::Persisted(last, position));
            }
            if let Some(index) = released {
                let Some(batch) = self.until_done(|keeper| keeper.release(index)) else { return };
                if let Some(batch) = batch {
                    self.chores.push(Chore::Release(batch));
                }
            }
            if self.keeper.wants_spare() {
                self.chores.push(Chore::Spare);
            }
        }
    }

    /// Tries until the disk does it. `None`: told to stop before.
    fn until_done<T>(&mut self, mut attempt: impl FnMut(&mut Keeper) -> Result<T, Error>) -> Option<T> {
        loop {
            let began = self.clock.monotonic();
            self.health.begin(began);
            let done = attempt(&mut self.keeper);
            self.health.end(began, self.clock.monotonic(), done.as_ref().err());
            if let Ok(done) = done {
                return Some(done);
            }
            if self.jobs.pause(AGAIN) {
                return None;
            }
        }
    }
}

fn tidy(chores: &Queue<Chore>, replica: &Replica, files: &Upkeep, inbox: &Inbox) {
    loop {
        let waiting = chores.take();
        if waiting.is_empty() {
            return;
        }
        for chore in waiting {
            let done = match chore {
                Chore::Upkeep { checkpoint } => {
                    replica.drop_compacted();
                    match checkpoint.then(|| replica.checkpoint()).transpose() {
                        Ok(position) => drop(inbox.push(Input::UpkeepDone(position))),
                        Err(error) => {
                            inbox.push(Input::UpkeepFailed);
                            tracing::warn!(%error, "the store's checkpoint failed; it is tried again after a pause");
                        }
                    }
                    Ok(())
                }
                Chore::Spare => files.make_spare(),
                Chore::Release(batch) => files.release(batch),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "the store's upkeep failed; it is tried again later");
            }
        }
    }
}
