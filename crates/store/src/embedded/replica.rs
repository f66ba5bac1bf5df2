//! The engine's memory as the state machine of a replicated log: without a log and without a clock of its own.
//!
//! Every member of a cluster applies the same commands in the same order and so comes to the same state, revision for
//! revision. What a command needs to know beside the state, the time above all, is in the [`Step`] that carries it.
//! Writes `checkpoint`, the format of the engine's with a head of its own. Not here: the log, who decides what is in it
//! (`store-raft`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::{Disk, Lock};
use super::entry::{Change, Entry, array};
use super::memory::Memory;
use super::plan::Planner;
use super::policy::Policy;
use super::{Options, State, checkpoint, recovery, watch};
use crate::WatchStream;
use crate::error::Error;
use crate::types::{
    LeaseId, LeaseInfo, Range, RangeResponse, Revision, Status, Txn, TxnResponse, WatchRequest,
};

/// Changes dropped under one lock.
const STEPS: usize = 256;

/// A write that the members of a cluster agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A transaction.
    Txn(Txn),
    /// A new lease; the id is chosen already.
    Grant {
        /// Its name.
        id: LeaseId,
        /// Its length in seconds.
        ttl: i64,
    },
    /// Sets what is left of a lease back to its length.
    KeepAlive {
        /// The lease.
        id: LeaseId,
    },
    /// Ends a lease with its keys.
    Revoke {
        /// The lease.
        id: LeaseId,
    },
    /// Ends the leases whose time is up at the step's time.
    Expire,
    /// Forgets what is older.
    Compact {
        /// The oldest revision to keep.
        revision: Revision,
    },
}

/// What a [`Command`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of a lease that was made or kept alive.
    Lease(LeaseInfo),
    /// Of everything else.
    Done,
}

/// One entry of the replicated log.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its place, counted from 1.
    pub index: u64,
    /// Under whose leadership it was written.
    pub term: u64,
    /// The time that the leader gave it, in whole milliseconds. The replica's time is the latest it has seen.
    pub time: Duration,
    /// What to do; nothing for an entry that concerns others.
    pub command: Option<Command>,
}

/// How far a replica, or a checkpoint of one, has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The newest entry that is in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// What the caller keeps beside the keys (who the members are).
    pub attachment: Bytes,
}

/// What a replica knows beside the keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Replicated {
    pub time: Duration,
    pub term: u64,
    pub attachment: Bytes,
}

impl Replicated {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.time.as_millis() as u64).to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.attachment);
    }

    pub fn decode(mut input: &[u8]) -> Option<Self> {
        let time = Duration::from_millis(u64::from_le_bytes(array(&mut input)?));
        let term = u64::from_le_bytes(array(&mut input)?);
        Some(Self { time, term, attachment: Bytes::copy_from_slice(input) })
    }
}

/// A state machine with its readers and watchers. Commands are applied by one caller at a time.
pub struct Replica {
    memory: Arc<Memory>,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Not identity, which the log has: only what the checkpoint's checksums start from.
    store_id: u64,
    policy: Mutex<Policy>,
    /// Held by whoever writes a checkpoint, drops history or replaces the state: none may see another at it.
    upkeep: Mutex<u64>,
    /// Of the directory, until it is closed.
    lock: Mutex<Option<Lock>>,
}

/// Keeps others out of a directory.
fn lock(directory: &Path, options: &Options) -> Result<Lock, Error> {
    options.disk.lock(directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: directory.to_owned() },
        _ => Error::io(format!("opening {}", directory.display()), error),
    })
}

impl Replica {
    /// Opens what the checkpoint in a directory holds; the empty store, before any entry, if there is none. Nobody else
    /// can open the directory until this is closed or dropped.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, Error> {
        let lock = lock(directory, options)?;
        let temporary = directory.join("checkpoint.tmp");
        match options.disk.remove(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", temporary.display()), error));
            }
            _ => {}
        }
        let mut state = State::new();
        let loaded = checkpoint::load(&options.disk, directory, &mut state, Duration::ZERO)?;
        let bytes = loaded.map_or(0, |(_, bytes)| bytes);
        state.replicated.get_or_insert_default();
        Ok(Self::of(state, directory, options, bytes, lock))
    }

    fn of(state: State, directory: &Path, options: &Options, bytes: u64, lock: Lock) -> Self {
        let time = state.replicated.as_ref().map_or(Duration::ZERO, |replicated| replicated.time);
        Self {
            memory: Arc::new(Memory::new(state)),
            disk: options.disk.clone(),
            directory: directory.to_owned(),
            store_id: options.randomness.u64(),
            policy: Mutex::new(Policy::new(options, time)),
            upkeep: Mutex::new(bytes),
            lock: Mutex::new(Some(lock)),
        }
    }

    /// Makes the first checkpoint of a replica in `directory`, as of `position`, with what the embedded store in `from`
    /// holds, or nothing. Both directories are locked meanwhile.
    pub fn found(
        directory: &Path,
        options: &Options,
        position: &Position,
        from: Option<&Path>,
    ) -> Result<(), Error> {
        let own = lock(directory, options)?;
        let mut state = match from {
            Some(from) => {
                let _theirs = lock(from, options)?;
                recovery::recover(from, options, Duration::ZERO)?.state
            }
            None => State::new(),
        };
        state.batch = position.index;
        state.replicated = Some(Replicated {
            time: Duration::ZERO,
            term: position.term,
            attachment: position.attachment.clone(),
        });
        Self::of(state, directory, options, 0, own).checkpoint().map(|_| ())
    }

    /// Carries out commands, in order. What they changed is visible, and its watchers are told, when it returns.
    pub fn apply(&self, steps: Vec<Step>) -> Vec<Result<Outcome, Error>> {
        let mut changes = Vec::new();
        let (outcomes, revision) = {
            let mut state = self.memory.state.write();
            debug_assert!(!state.gone, "nothing is applied until the checkpoint is taken in");
            let outcomes = carry_out_all(&mut state, steps, &mut changes);
            (outcomes, state.mvcc.revision)
        };
        if !changes.is_empty() {
            self.memory.watchers.publish(&changes, revision);
        }
        outcomes
    }

    /// Keeps something else beside the keys, as of the newest entry.
    pub fn attach(&self, attachment: Bytes) {
        self.memory.state.write().replicated.get_or_insert_default().attachment = attachment;
    }

    /// How far it has come.
    pub fn position(&self) -> Position {
        position(&self.memory.state.read())
    }

    /// The latest time that a step has brought.
    pub fn time(&self) -> Duration {
        self.memory.state.read().replicated.as_ref().map_or(Duration::ZERO, |replicated| replicated.time)
    }

    /// When the first lease ends, in the time of the steps.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.memory.state.read().leases.next_deadline()
    }

    /// What should be forgotten at `now`, by age and size of the history: for the leader to propose.
    pub fn due_compaction(&self, now: Duration) -> Option<Revision> {
        self.policy.lock().compaction(&self.memory.state.read(), now)
    }

    /// Whether [`Replica::drop_compacted`] has something to do.
    pub fn has_compacted(&self) -> bool {
        self.memory.state.read().mvcc.has_compacted()
    }

    /// Gives back the memory of what was compacted, without holding up anybody for long.
    pub fn drop_compacted(&self) {
        let _upkeep = self.upkeep.lock();
        while !self.memory.state.write().mvcc.drop_compacted(STEPS) {
            std::thread::yield_now();
        }
    }

    /// Bytes of keys and values that exist now.
    pub fn live_bytes(&self) -> u64 {
        self.memory.state.read().mvcc.live_bytes
    }

    /// Writes a checkpoint while commands go on. Returns where it stands.
    pub fn checkpoint(&self) -> Result<Position, Error> {
        let mut upkeep = self.upkeep.lock();
        // Whoever has the directory by now would lose its own.
        self.memory.check_open()?;
        // An empty one must not take the place of what is to be gone back to.
        drop(self.memory.read()?);
        let (_, bytes) = checkpoint::write(&self.disk, &self.directory, self.store_id, &self.memory.state)?;
        *upkeep = bytes;
        drop(upkeep);
        // Of the file and not of the state, which has gone on.
        self.read_checkpoint()?
            .map(|(position, _)| position)
            .ok_or(Error::Unavailable("the checkpoint has vanished"))
    }

    /// The checkpoint there is, to be sent to another member, and where it stands.
    pub fn read_checkpoint(&self) -> Result<Option<(Position, Box<dyn std::io::Read + Send>)>, Error> {
        let path = checkpoint::path(&self.directory);
        let file = match self.disk.reader(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("opening {}", path.display()), error)),
        };
        let (head, replicated, file) = checkpoint::describe(file, &path)?;
        let replicated = replicated.unwrap_or_default();
        let position =
            Position { index: head.batch, term: replicated.term, attachment: replicated.attachment };
        Ok(Some((position, file)))
    }

    /// Replaces the state by a checkpoint that another member has written, and keeps that as its own. While it is read,
    /// readers are refused and watchers wait. After an error the position says whether the state was replaced: then only
    /// [`Replica::settle`] is left to be done, else all of this.
    pub fn install(&self, received: &Path) -> Result<Position, Error> {
        let mut upkeep = self.upkeep.lock();
        self.memory.check_open()?;
        const VANISHED: Error = Error::Unavailable("the received checkpoint has vanished");
        // Two states may be more than there is memory for. So the old one goes first, once it is certain that the file is
        // sound; if it cannot be read after all, there is nothing here until it can.
        checkpoint::check(&self.disk, received)?.ok_or(VANISHED)?;
        self.memory.make_room();
        let mut state = State::new();
        let loaded = checkpoint::load_from(&self.disk, received, &mut state, Duration::ZERO)?;
        let (_, bytes) = loaded.ok_or(VANISHED)?;
        let path = checkpoint::path(&self.directory);
        let renamed = self.disk.rename(received, &path);
        renamed.map_err(|error| Error::io(format!("renaming {}", received.display()), error))?;
        let (revision, position) = (state.mvcc.revision, position(&state));
        // Before the names are durable: under its own name the file is not found a second time.
        *self.memory.state.write() = state;
        *upkeep = bytes;
        self.memory.watchers.replaced(revision);
        self.settle()?;
        Ok(position)
    }

    /// Makes durable that the checkpoint there is has taken the place of the one before.
    pub fn settle(&self) -> Result<(), Error> {
        let synced = self.disk.sync_directory(&self.directory);
        synced.map_err(|error| Error::io(format!("syncing {}", self.directory.display()), error))
    }

    /// Reads what is here, which may be behind the other members.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.memory.range(range).await
    }

    /// Carries out a transaction that only reads.
    pub fn read_txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        self.memory.check_open()?;
        read_txn(&self.memory, txn)?.ok_or(Error::Invalid("the transaction writes"))
    }

    /// Watches what is applied here.
    pub fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        watch::open(&self.memory, request)
    }

    /// Ends every watch that is open now, with an error. Others may be opened.
    pub fn end_watches(&self, why: &Error) {
        self.memory.watchers.end(why);
    }

    /// A lease, as of a moment in the time of the steps.
    pub fn lease(&self, id: LeaseId, now: Duration) -> Result<LeaseInfo, Error> {
        self.memory.check_open()?;
        self.memory.read()?.leases.info(id, now)
    }

    /// Every lease, in order.
    pub fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.memory.check_open()?;
        Ok(self.memory.read()?.leases.ids())
    }

    /// Where it stands; `db_size` is that of the checkpoint alone.
    pub fn status(&self) -> Result<Status, Error> {
        self.memory.check_open()?;
        let db_size = self.upkeep.try_lock().map_or(0, |bytes| *bytes);
        self.memory.status(db_size)
    }

    /// Refuses everything from now on, ends the watches, and gives the directory free. Blocks for a checkpoint that is
    /// being written.
    pub fn close(&self) {
        self.memory.close();
        self.memory.watchers.close();
        let _upkeep = self.upkeep.lock();
        drop(self.lock.lock().take());
    }
}

pub(super) fn position(state: &State) -> Position {
    let replicated = state.replicated.clone().unwrap_or_default();
    Position { index: state.batch, term: replicated.term, attachment: replicated.attachment }
}

/// What a transaction that only reads finds; `None` if it writes.
pub(super) fn read_txn(memory: &Memory, txn: Txn) -> Result<Option<TxnResponse>, Error> {
    let state = memory.read()?;
    let (response, entry) = Planner::new(&state.mvcc, &state.leases, usize::MAX).txn(txn)?;
    Ok(entry.changes.is_empty().then_some(response))
}

/// Carries out commands, in order.
pub(super) fn carry_out_all(
    state: &mut State,
    steps: Vec<Step>,
    changes: &mut Vec<super::mvcc::Change>,
) -> Vec<Result<Outcome, Error>> {
    let mut outcomes = Vec::with_capacity(steps.len());
    for step in steps {
        let replicated = state.replicated.get_or_insert_default();
        replicated.time = replicated.time.max(step.time);
        replicated.term = step.term;
        let now = replicated.time;
        state.batch = step.index;
        outcomes.push(match step.command {
            Some(command) => carry_out(state, command, now, changes),
            None => Ok(Outcome::Done),
        });
    }
    outcomes
}

fn carry_out(
    state: &mut State,
    command: Command,
    now: Duration,
    changes: &mut Vec<super::mvcc::Change>,
) -> Result<Outcome, Error> {
    // The size was looked at before the command was proposed: members with other limits must not differ here.
    let mut planner = Planner::new(&state.mvcc, &state.leases, usize::MAX);
    let single = |change| vec![Entry { revision: 0, changes: vec![change] }];
    let (outcome, entries) = match command {
        Command::Txn(txn) => {
            let (response, entry) = planner.txn(txn)?;
            let entries = if entry.changes.is_empty() { Vec::new() } else { vec![entry] };
            (Outcome::Txn(response), entries)
        }
        Command::Grant { id, .. } if state.leases.contains(id) => return Err(Error::LeaseExists { id }),
        Command::Grant { id, ttl } => {
            let info = LeaseInfo { id, granted_ttl: ttl, ttl, keys: Vec::new() };
            (Outcome::Lease(info), single(Change::Grant { id, ttl, remaining: ttl }))
        }
        Command::KeepAlive { id } => {
            return Ok(Outcome::Lease(state.leases.keep_alive(id, now)?.0));
        }
        Command::Revoke { id } if !state.leases.contains(id) => return Err(Error::LeaseNotFound { id }),
        Command::Revoke { id } => (Outcome::Done, vec![planner.revoke(id)]),
        Command::Expire => {
            let due = state.leases.due(now);
            (Outcome::Done, due.into_iter().map(|id| planner.revoke(id)).collect())
        }
        Command::Compact { revision } if revision > state.mvcc.revision => {
            return Err(Error::FutureRevision { current: state.mvcc.revision });
        }
        Command::Compact { revision } if revision <= state.mvcc.compact_revision => {
            return Err(Error::Compacted { revision: state.mvcc.compact_revision });
        }
        Command::Compact { revision } => (Outcome::Done, single(Change::Compact { revision })),
    };
    for entry in entries {
        state.apply(entry, now, |change| changes.push(change));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests;
