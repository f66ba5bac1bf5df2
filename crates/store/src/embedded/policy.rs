//! Decides when to forget the past and when to note how much of the leases is left.
//!
//! Pure. What it decides rides along with a batch that is written anyway, so that an idle store stays
//! idle. Not here: dropping what was forgotten (`maintenance`).

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::{Change, Entry};
use super::{Options, State};
use crate::types::Revision;

/// How often what is left of the leases is noted: what a crash can add to a lease's life.
const LEASES_EVERY: Duration = Duration::from_secs(300);

/// When what was done last.
pub(super) struct Policy {
    age: Duration,
    bytes: u64,
    /// Which revision was the latest when, oldest first.
    marks: VecDeque<(Duration, Revision)>,
    leases_noted: Duration,
}

impl Policy {
    pub fn new(options: &Options, now: Duration) -> Self {
        let (age, bytes) = (options.history_age, options.history_bytes);
        Self { age, bytes, marks: VecDeque::new(), leases_noted: now }
    }

    /// What to add to a batch that is about to be written.
    pub fn housekeeping(&mut self, state: &State, now: Duration) -> Option<Entry> {
        let mut changes = Vec::new();
        if let Some(revision) = self.compaction(state, now) {
            changes.push(Change::Compact { revision });
        }
        if now.saturating_sub(self.leases_noted) >= LEASES_EVERY {
            self.leases_noted = now;
            let left = state.leases.remaining(now).into_iter();
            changes.extend(left.map(|(id, ttl, remaining)| Change::Grant { id, ttl, remaining }));
        }
        (!changes.is_empty()).then_some(Entry { revision: 0, changes })
    }

    /// What is old or large enough to be forgotten.
    pub fn compaction(&mut self, state: &State, now: Duration) -> Option<Revision> {
        let mvcc = &state.mvcc;
        // Eight marks per age: the history is at most an eighth older than it may be.
        if self.marks.back().is_none_or(|(when, _)| now.saturating_sub(*when) >= self.age / 8) {
            self.marks.push_back((now, mvcc.revision));
        }
        let mut wanted = None;
        while let Some((when, revision)) = self.marks.front()
            && now.saturating_sub(*when) > self.age
        {
            wanted = Some(*revision);
            self.marks.pop_front();
        }
        // A large store may keep more: its watchers have more to catch up with.
        if mvcc.kept_bytes > self.bytes.max(mvcc.live_bytes / 2) {
            wanted = wanted.max(Some(mvcc.middle()));
        }
        wanted.filter(|revision| *revision > mvcc.compact_revision)
    }
}
