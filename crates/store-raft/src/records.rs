//! What of Raft is in the files of the log, and how it is read back.
//!
//! Records are what was to be made durable, one after the other: term, vote and commitment; entries; that a checkpoint
//! has taken the place of everything before. Reading them in order gives what was there when the last one was written.
//! Not here: the files (`store::embedded::log`), who writes them (`keeper`).

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use store::embedded::replica::Position;

use crate::core::Persist;

const HARD: u8 = 1;
const ENTRY: u8 = 2;
const RESTORED: u8 = 3;

/// One record, to be written.
pub(crate) enum Record<'a> {
    Hard(&'a HardState),
    Entry(&'a Entry),
    /// A checkpoint up to this index and term has replaced the log.
    Restored(u64, u64),
}

impl Record<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let written = match self {
            Self::Hard(hard) => {
                out.push(HARD);
                hard.write_to_vec(out)
            }
            Self::Entry(entry) => {
                out.push(ENTRY);
                entry.write_to_vec(out)
            }
            Self::Restored(index, term) => {
                out.push(RESTORED);
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&term.to_le_bytes());
                Ok(())
            }
        };
        // Writing into memory fails for messages that lack a required field only, and these have none.
        debug_assert!(written.is_ok());
    }
}

/// The records of what is to be made durable, in order.
pub(crate) fn records(work: &[Persist]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    for persist in work {
        if let Some(snapshot) = &persist.snapshot {
            records.push(Record::Restored(snapshot.index, snapshot.term));
        }
        records.extend(persist.entries.iter().map(Record::Entry));
    }
    // The newest holds for all of them: they become durable together.
    records.extend(work.last().map(|persist| Record::Hard(&persist.hard)));
    records
}

/// What the records say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub hard: HardState,
    /// Without a gap.
    pub entries: Vec<Entry>,
    /// The last checkpoint that replaced the log.
    restored: (u64, u64),
    /// A checkpoint has replaced what is in the log, which does not say so: a crash came between the two.
    pub replaced: bool,
}

impl Found {
    /// Takes up the next record. `false`: it makes no sense.
    pub fn take(&mut self, record: &[u8]) -> bool {
        match record.split_first() {
            Some((&HARD, bytes)) => {
                // Anew: what is 0 is not in the bytes.
                self.hard = HardState::default();
                self.hard.merge_from_bytes(bytes).is_ok()
            }
            Some((&ENTRY, bytes)) => {
                let mut entry = Entry::default();
                if entry.merge_from_bytes(bytes).is_err() {
                    return false;
                }
                // Not a view into the whole segment.
                entry.data = Bytes::copy_from_slice(&entry.data);
                if let Some(first) = self.entries.first() {
                    let Some(kept) = entry.index.checked_sub(first.index) else {
                        self.entries.clear();
                        self.entries.push(entry);
                        return true;
                    };
                    if kept as usize > self.entries.len() {
                        return false;
                    }
                    self.entries.truncate(kept as usize);
                }
                self.entries.push(entry);
                true
            }
            Some((&RESTORED, bytes)) => {
                let (Some(index), Some(term)) = (bytes.get(..8), bytes.get(8..16)) else { return false };
                let number =
                    |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                self.restored = (number(index), number(term));
                self.entries.clear();
                true
            }
            _ => false,
        }
    }

    /// Brings what was found together with the checkpoint beside it, which may be newer than what the log knows of:
    /// then a crash came between the two. `false`: entries between the two are missing.
    pub fn settle(&mut self, checkpoint: &Position) -> bool {
        if self.restored.0 > checkpoint.index {
            return false;
        }
        let same = |entry: &Entry| entry.index != checkpoint.index || entry.term == checkpoint.term;
        let first = self.entries.first().map_or(checkpoint.index + 1, |entry| entry.index);
        let last = self.entries.last().map_or(checkpoint.index, |entry| entry.index);
        if last < checkpoint.index || !self.entries.iter().all(same) {
            // Another leader's entries, which the checkpoint has replaced, or older ones.
            self.replaced = !self.entries.is_empty();
            self.entries.clear();
        } else if first > checkpoint.index + 1 {
            return false;
        }
        self.entries.retain(|entry| entry.index > checkpoint.index);
        if self.hard.term < checkpoint.term {
            (self.hard.term, self.hard.vote) = (checkpoint.term, 0);
        }
        let last = checkpoint.index + self.entries.len() as u64;
        self.hard.commit = self.hard.commit.clamp(checkpoint.index, last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![1, 2, 3].into(), ..Entry::default() }
    }

    fn found(work: &[Persist]) -> Found {
        let mut found = Found::default();
        for persist in work {
            for record in records(std::slice::from_ref(persist)) {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                assert!(found.take(&bytes));
            }
        }
        found
    }

    fn persist(term: u64, commit: u64, entries: Vec<Entry>) -> Persist {
        let hard = HardState { term, commit, vote: 9, ..HardState::default() };
        Persist { hard, entries, ..Persist::default() }
    }

    fn terms(found: &Found) -> Vec<(u64, u64)> {
        found.entries.iter().map(|entry| (entry.index, entry.term)).collect()
    }

    fn at(index: u64, term: u64) -> Position {
        Position { index, term, ..Position::default() }
    }

    #[test]
    fn the_log_and_the_checkpoint_come_together() {
        let log = || {
            found(&[
                persist(2, 0, vec![entry(5, 2), entry(6, 2), entry(7, 2)]),
                persist(3, 6, vec![entry(7, 3), entry(8, 3)]),
            ])
        };
        assert_eq!(terms(&log()), [(5, 2), (6, 2), (7, 3), (8, 3)]);
        for (checkpoint, sound, left, commit) in [
            (at(4, 1), true, vec![(5, 2), (6, 2), (7, 3), (8, 3)], 6),
            (at(6, 2), true, vec![(7, 3), (8, 3)], 6),
            (at(7, 3), true, vec![(8, 3)], 7),
            // The log has entries of a leader that lost.
            (at(7, 4), true, vec![], 7),
            (at(20, 4), true, vec![], 20),
            (at(3, 1), false, vec![], 0),
        ] {
            let mut found = log();
            assert_eq!(found.settle(&checkpoint), sound, "{checkpoint:?}");
            if sound {
                assert_eq!(found.replaced, found.entries.is_empty(), "{checkpoint:?}");
                assert_eq!((terms(&found), found.hard.commit), (left, commit), "{checkpoint:?}");
                assert_eq!(found.hard.vote, if checkpoint.term > 3 { 0 } else { 9 }, "{checkpoint:?}");
            }
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let mut found = found(&[persist(1, 0, vec![entry(5, 1)])]);
        let mut bytes = Vec::new();
        Record::Entry(&entry(7, 1)).encode(&mut bytes);
        assert!(!found.take(&bytes) && !found.take(&[9]) && !found.take(&[]));
    }
}
