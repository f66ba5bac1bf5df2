//! The leases: how long each has left and which keys end with it.
//!
//! Pure; deadlines are in the injected clock's monotonic time, so a jump of the wall clock changes
//! nothing. A recovery gives a lease what the log has noted of it: its full length, or less once housekeeping has noted
//! how much is left. Keeping a lease alive is not written, except when what is noted is less than what it then has, so
//! that a crash never shortens a lease. Not here: the timer (`expiry`), the deletion of the keys (`plan`).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::mvcc::Change;
use crate::error::Error;
use crate::types::{LeaseId, LeaseInfo};

struct Lease {
    ttl: i64,
    deadline: Duration,
    /// What a recovery would give it, in seconds.
    noted: i64,
    /// Its end is being written: it cannot be kept alive any more.
    ending: bool,
    keys: BTreeSet<Bytes>,
}

/// Every lease there is.
#[derive(Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Duration, LeaseId)>,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0) as u64)
}

impl Leases {
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Every lease, in order.
    pub fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.leases.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Makes a lease, or notes how much of one is left without changing what it has: it may have been kept alive since
    /// the note was made.
    pub fn grant(&mut self, id: LeaseId, ttl: i64, remaining: i64, now: Duration) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.noted = remaining;
            return;
        }
        let deadline = now + seconds(remaining);
        self.leases
            .insert(id, Lease { ttl, deadline, noted: remaining, ending: false, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
    }

    /// Sets the end of a lease exactly.
    pub fn set_deadline(&mut self, id: LeaseId, deadline: Duration) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.deadlines.remove(&(lease.deadline, id));
            lease.deadline = deadline;
            self.deadlines.insert((deadline, id));
        }
    }

    /// Every lease with its end.
    pub fn deadlines(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.deadlines.iter().map(|(deadline, id)| (*id, *deadline))
    }

    /// Gives every lease what is noted of it, from `now` on: after a recovery.
    pub fn restart(&mut self, now: Duration) {
        self.deadlines.clear();
        for (id, lease) in &mut self.leases {
            lease.deadline = now + seconds(lease.noted);
            self.deadlines.insert((lease.deadline, *id));
        }
    }

    /// Forgets a lease; its keys must be gone already.
    pub fn revoke(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.deadline, id));
        }
    }

    /// Gives a lease its full length again. Says whether that must be noted.
    pub fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<(LeaseInfo, bool), Error> {
        let lease = self.leases.get_mut(&id).filter(|lease| !lease.ending);
        let lease = lease.ok_or(Error::LeaseNotFound { id })?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        let info = LeaseInfo { id, granted_ttl: lease.ttl, ttl: lease.ttl, keys: Vec::new() };
        Ok((info, lease.noted < lease.ttl))
    }

    /// The full length of a lease.
    pub fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// Marks leases as ending, or, when their end could not be written, as living on.
    pub fn mark_ending(&mut self, ids: &[LeaseId], ending: bool) {
        for id in ids {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.ending = ending;
            }
        }
    }

    pub fn info(&self, id: LeaseId, now: Duration) -> Result<LeaseInfo, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound { id })?;
        let keys = lease.keys.iter().cloned().collect();
        Ok(LeaseInfo { id, granted_ttl: lease.ttl, ttl: lease.remaining(now), keys })
    }

    /// The keys that end with a lease.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.leases.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    /// Moves a changed key from its old lease to its new one.
    pub fn follow(&mut self, change: &Change) {
        if let Some(prev) = &change.prev
            && let Some(lease) = self.leases.get_mut(&prev.lease)
        {
            lease.keys.remove(&prev.key);
        }
        self.attach(change.record.lease, &change.record.key);
    }

    /// Attaches a key, if there is such a lease.
    pub fn attach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    /// When a lease expires.
    #[cfg(test)]
    pub fn deadline(&self, id: LeaseId) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.deadline)
    }

    /// When the next lease expires.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases whose time is up, earliest first.
    pub fn due(&self, now: Duration) -> Vec<LeaseId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    /// Every lease with its length and what is noted of it, in seconds.
    pub fn noted(&self) -> Vec<(LeaseId, i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl, lease.noted)).collect()
    }

    /// Every lease with its length and what is left of it, in seconds.
    pub fn remaining(&self, now: Duration) -> Vec<(LeaseId, i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl, lease.remaining(now))).collect()
    }
}

impl Lease {
    fn remaining(&self, now: Duration) -> i64 {
        let left = self.deadline.saturating_sub(now);
        (left.as_secs() + u64::from(left.subsec_nanos() > 0)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_comes_late_does_not_shorten_a_lease_that_was_kept_alive() {
        let at = Duration::from_secs;
        let mut leases = Leases::default();
        leases.grant(1, 10, 10, at(0));
        // Housekeeping looks, the lease is kept alive while the note is written, then the note takes effect.
        let [(id, ttl, remaining)] = leases.remaining(at(8))[..] else { panic!("one lease") };
        assert_eq!(remaining, 2);
        leases.keep_alive(1, at(9)).unwrap();
        leases.grant(id, ttl, remaining, at(9));
        assert_eq!(leases.next_deadline(), Some(at(19)));
        // Now the log knows of two seconds only: the next time must be noted, and then no more.
        assert!(leases.keep_alive(1, at(10)).unwrap().1);
        leases.grant(1, 10, 10, at(10));
        assert!(!leases.keep_alive(1, at(11)).unwrap().1);
    }

    #[test]
    fn a_lease_that_is_ending_cannot_be_kept_alive() {
        let mut leases = Leases::default();
        leases.grant(1, 10, 10, Duration::ZERO);
        leases.mark_ending(&[1], true);
        assert!(matches!(leases.keep_alive(1, Duration::ZERO), Err(Error::LeaseNotFound { id: 1 })));
        leases.mark_ending(&[1], false);
        leases.keep_alive(1, Duration::ZERO).unwrap();
    }
}
