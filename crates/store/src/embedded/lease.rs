//! The leases: how long each has left and which keys end with it.
//!
//! Pure; deadlines are in the injected clock's monotonic time, so a jump of the wall clock changes
//! nothing. Not here: the timer (`expiry`), the deletion of the keys (`plan`).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::mvcc::Change;
use crate::error::Error;
use crate::types::{LeaseId, LeaseInfo};

struct Lease {
    ttl: i64,
    deadline: Duration,
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

    /// Makes a lease, or sets what is left of one.
    pub fn grant(&mut self, id: LeaseId, ttl: i64, remaining: i64, now: Duration) {
        let deadline = now + seconds(remaining);
        let lease = self.leases.entry(id).or_insert_with(|| Lease { ttl, deadline, keys: BTreeSet::new() });
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = deadline;
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

    /// Forgets a lease; its keys must be gone already.
    pub fn revoke(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.deadline, id));
        }
    }

    pub fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<LeaseInfo, Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound { id })?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        Ok(LeaseInfo { id, granted_ttl: lease.ttl, ttl: lease.ttl, keys: Vec::new() })
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

    /// When the next lease expires.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases whose time is up, earliest first.
    pub fn due(&self, now: Duration) -> Vec<LeaseId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
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
