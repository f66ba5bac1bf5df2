//! The part of the log that is kept in memory: what is not in the newest checkpoint, and a little before it.
//!
//! Pure; [`raft::Storage`] over entries whose proof is on the disk (`keeper`). A follower that needs what is no longer
//! here gets the checkpoint. Not here: when to forget (`core`).

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// What an entry costs beside its data.
const ENTRY_COST: u64 = 96;

fn cost(entry: &Entry) -> u64 {
    ENTRY_COST + entry.data.len() as u64
}

/// The log, as Raft sees it.
#[derive(Default)]
pub(crate) struct Tail {
    /// The entry before the first one here.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Bytes of the entries that are in no checkpoint.
    fresh: u64,
    /// Term, vote and commitment as they were last told.
    pub hard: HardState,
    /// The members as of the checkpoint that the state was loaded from.
    initial: ConfState,
    /// The newest checkpoint on the disk.
    checkpoint: SnapshotMetadata,
    /// A follower cannot be brought on with the checkpoint there is.
    wanted: Cell<bool>,
}

impl Tail {
    /// The log after a start: `entries` are without a gap, and begin at the latest right after the checkpoint.
    pub fn new(hard: HardState, checkpoint: SnapshotMetadata, entries: Vec<Entry>) -> Self {
        let mut tail = Self {
            before: (checkpoint.index, checkpoint.term),
            initial: checkpoint.get_conf_state().clone(),
            hard,
            checkpoint,
            ..Self::default()
        };
        tail.append(&entries);
        tail
    }

    fn first(&self) -> u64 {
        self.before.0 + 1
    }

    pub fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// Takes entries up, in the place of those that were there from the first one's index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let kept = first.index.saturating_sub(self.first()) as usize;
        for gone in self.entries.drain(kept.min(self.entries.len())..) {
            self.bytes -= cost(&gone);
            if gone.index > self.checkpoint.index {
                self.fresh -= cost(&gone);
            }
        }
        for entry in entries.iter().filter(|entry| entry.index > self.before.0) {
            debug_assert_eq!(entry.index, self.last() + 1, "the log has a gap");
            self.bytes += cost(entry);
            if entry.index > self.checkpoint.index {
                self.fresh += cost(entry);
            }
            self.entries.push_back(entry.clone());
        }
    }

    /// Begins anew after a checkpoint that another member has sent.
    pub fn restore(&mut self, checkpoint: &SnapshotMetadata) {
        self.before = (checkpoint.index, checkpoint.term);
        self.entries.clear();
        (self.bytes, self.fresh) = (0, 0);
        self.checkpoint = checkpoint.clone();
    }

    /// A checkpoint is on the disk. Forgets what is in it, but for about `keep` bytes, for followers that are a little
    /// behind. Returns the last entry forgotten.
    pub fn checkpointed(&mut self, checkpoint: SnapshotMetadata, keep: u64) -> u64 {
        if checkpoint.index >= self.checkpoint.index {
            self.checkpoint = checkpoint;
        }
        self.wanted.set(false);
        let fresh = self.entries.iter().filter(|entry| entry.index > self.checkpoint.index);
        self.fresh = fresh.map(cost).sum();
        while self.bytes > self.fresh + keep
            && let Some(first) = self.entries.front().filter(|first| first.index <= self.checkpoint.index)
        {
            self.before = (first.index, first.term);
            self.bytes -= cost(first);
            self.entries.pop_front();
        }
        self.before.0
    }

    /// Bytes of the entries that are in no checkpoint.
    pub fn bytes_after_checkpoint(&self) -> u64 {
        self.fresh
    }

    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The index of the newest checkpoint.
    pub fn checkpoint_index(&self) -> u64 {
        self.checkpoint.index
    }

    /// Whether a follower waits for a newer checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        self.wanted.get()
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.initial.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let (limit, mut bytes) = (max_size.into().unwrap_or(u64::MAX), 0);
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += cost(entry);
            first || bytes <= limit
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.first()) as usize);
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let conf = self.checkpoint.get_conf_state();
        let known = conf.voters.contains(&to) || conf.learners.contains(&to);
        // Raft refuses one that does not know its receiver, which came after it.
        if !known || self.checkpoint.index < request_index || self.checkpoint.index == 0 {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.checkpoint.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    fn checkpoint(index: u64, term: u64) -> SnapshotMetadata {
        let mut metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        metadata.mut_conf_state().voters.push(1);
        metadata
    }

    #[test]
    fn entries_are_replaced_forgotten_and_restored() {
        let entries = (4..=9).map(|index| entry(index, 2)).collect();
        let mut tail = Tail::new(HardState::default(), checkpoint(5, 2), entries);
        assert_eq!((tail.first(), tail.last()), (6, 9), "what is in the checkpoint is passed over");
        tail.append(&[entry(8, 3)]);
        assert_eq!((tail.last(), tail.term(8).unwrap(), tail.term(5).unwrap()), (8, 3, 2));
        assert!(tail.term(4).is_err() && tail.term(9).is_err());
        let get = |tail: &Tail, limit: u64| {
            tail.entries(6, 9, limit, GetEntriesContext::empty(false)).unwrap().len()
        };
        assert_eq!((get(&tail, 0), get(&tail, 400), get(&tail, u64::MAX)), (1, 2, 3));
        assert!(tail.snapshot(0, 1).is_ok() && !tail.wants_checkpoint());
        assert!(tail.snapshot(0, 2).is_err() && tail.wants_checkpoint());
        assert_eq!(tail.checkpointed(checkpoint(8, 3), 200), 7, "one entry is kept");
        assert_eq!((tail.first(), tail.last(), tail.bytes_after_checkpoint()), (8, 8, 0));
        assert!(!tail.wants_checkpoint());
        tail.restore(&checkpoint(20, 4));
        assert_eq!((tail.first(), tail.last(), tail.bytes()), (21, 20, 0));
    }
}
