//! What a member keeps on its disk: the log since the checkpoint, and the checkpoint (by its [`Replica`]).
//!
//! Blocks on the disk and owns no thread: `member` calls it from one of its own, a simulation from its only one. Not
//! here: what is written when (`core`).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use raft::eraftpb::HardState;
use store::Error;
use store::embedded::Options;
use store::embedded::log::{Batch, Log, Upkeep};
use store::embedded::replica::{Position, Replica};

use crate::core::Persist;
use crate::records::{Found, Record, records};

/// The writing end.
pub struct Keeper {
    log: Log,
    replica: Arc<Replica>,
    hard: HardState,
    /// The last entry of each batch, oldest first, since the last release.
    batches: VecDeque<(Batch, u64)>,
}

/// What a member was when it stopped.
pub struct Recovered {
    /// The state as of the checkpoint.
    pub replica: Arc<Replica>,
    /// The disk.
    pub keeper: Keeper,
    /// Term, vote and commitment.
    pub hard: HardState,
    /// What the log has after the checkpoint.
    pub entries: Vec<raft::eraftpb::Entry>,
}

impl Keeper {
    /// Opens what is in a directory.
    pub fn open(directory: &Path, options: &Options) -> Result<Recovered, Error> {
        let began = Instant::now();
        let replica = Arc::new(Replica::open(directory, options)?);
        let mut found = Found::default();
        let mut batches: VecDeque<(Batch, u64)> = VecDeque::new();
        let mut log = Log::open(directory, options, |batch, record| {
            let sound = found.take(record);
            let last = found.entries.last().map_or(0, |entry| entry.index);
            match batches.back_mut() {
                Some((same, index)) if *same == batch => *index = last.max(*index),
                _ => batches.push_back((batch, last)),
            }
            sound
        })?;
        let position = replica.position();
        if !found.settle(&position) {
            return Err(Error::Corrupt {
                path: directory.to_owned(),
                offset: 0,
                detail: format!(
                    "the log does not go on where the checkpoint ends, at entry {}",
                    position.index
                ),
            });
        }
        let Found { hard, entries, replaced, .. } = found;
        if replaced {
            // What is written next does not go on where the log ends: without this, it would be taken for damage, or
            // for what another leader has written.
            let records = [Record::Restored(position.index, position.term), Record::Hard(&hard)];
            let batch = log.append(records.len(), |index, out| records[index].encode(out))?;
            batches.push_back((batch, 0));
        }
        let status = replica.status()?;
        // (A torn tail has been told of by whoever dropped it.)
        tracing::info!(
            checkpoint = position.index,
            revision = status.revision,
            keys = status.keys,
            checkpoint_bytes = status.db_size,
            entries = entries.len(),
            log_bytes = log.upkeep().bytes(),
            term = hard.term,
            checkpoint_came = replaced,
            took = ?began.elapsed(),
            "opened the member's log"
        );
        let keeper = Self { log, replica: replica.clone(), hard: hard.clone(), batches };
        Ok(Recovered { replica, keeper, hard, entries })
    }

    /// Makes durable, in order and with one sync as far as no snapshot is among it. `received` says which file a
    /// snapshot is in. Gives where the state stands if it was replaced. After an error all of it is to be tried again.
    pub fn persist(
        &mut self,
        work: &[Persist],
        received: impl Fn(u64) -> Option<PathBuf>,
    ) -> Result<Option<Position>, Error> {
        let mut installed = None;
        for persist in work {
            let Some(snapshot) = &persist.snapshot else { continue };
            let at = self.replica.position();
            if at.index >= snapshot.index {
                // Done before something else failed, which may have been the last step of it.
                self.replica.settle()?;
                installed = Some(at);
                continue;
            }
            let path =
                received(snapshot.index).ok_or(Error::Unavailable("the received checkpoint is lost"))?;
            installed = Some(self.replica.install(&path)?);
        }
        let records = records(work);
        let batch = self.log.append(records.len(), |index, out| records[index].encode(out))?;
        let entries = work.iter().flat_map(|persist| &persist.entries);
        self.batches.push_back((batch, entries.map(|entry| entry.index).max().unwrap_or(0)));
        if let Some(last) = work.last() {
            self.hard = last.hard.clone();
        }
        Ok(installed)
    }

    /// Gives up what of the log is in a checkpoint: entries up to `index`. Gives the batch whose files may go.
    pub fn release(&mut self, index: u64) -> Result<Option<Batch>, Error> {
        let gone = self.batches.iter().take_while(|(_, last)| *last <= index).count();
        // One batch alone is not worth the sync below.
        let Some((batch, _)) = gone.checked_sub(1).and_then(|last| self.batches.get(last).copied()) else {
            return Ok(None);
        };
        // What was promised to candidates must not go with them.
        let hard = self.hard.clone();
        let written = self.log.append(1, |_, out| Record::Hard(&hard).encode(out))?;
        self.batches.drain(..gone);
        self.batches.push_back((written, 0));
        Ok(Some(batch))
    }

    /// Whether the next file should be made ready.
    pub fn wants_spare(&self) -> bool {
        self.log.wants_spare()
    }

    /// For the thread that looks after the files.
    pub fn upkeep(&self) -> Upkeep {
        self.log.upkeep()
    }
}
