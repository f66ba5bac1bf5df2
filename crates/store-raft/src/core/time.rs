//! The time that the members share.
//!
//! Pure. Not here: whose leases end by it (`duties`).

use std::time::Duration;

/// The time of the replicated state. The leader's counts: it starts, with every leadership anew, from the latest that is
/// in the state, so that it may stand still between two leaders and never jumps ahead of what an earlier one has given
/// leases. What the others make of it is for information only.
#[derive(Debug, Default)]
pub(super) struct SharedTime {
    time: Duration,
    seen: Duration,
}

impl SharedTime {
    /// Begins at `time`.
    pub fn from(time: Duration, now: Duration) -> Self {
        Self { time, seen: now }
    }

    pub fn at(&self, now: Duration) -> Duration {
        Duration::from_millis((self.time + now.saturating_sub(self.seen)).as_millis() as u64)
    }

    /// An entry has brought this time.
    pub fn observe(&mut self, time: Duration, now: Duration) {
        if time > self.at(now) {
            *self = Self { time, seen: now };
        }
    }
}
