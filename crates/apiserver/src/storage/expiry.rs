//! The leases of the store under which objects are written that go away by themselves: Events.
//!
//! Asks the store for leases. One lease serves what is written within a part of its time, for each costs a write of its
//! own; so an object may stay that much longer than it was to. Not here: which kinds expire (`api::kind::Descriptor`).
//! Upstream: apiserver/pkg/storage/etcd3/lease_manager.go.

use std::time::Duration;

use foundation::SharedClock;
use parking_lot::Mutex;
use store::{Error, LeaseId, Store};

/// The share of an object's time that its lease is given out for, and the most of it (upstream's numbers).
const SHARE: u32 = 20;
const LONGEST: Duration = Duration::from_secs(60);
/// How many objects share a lease: its end deletes them all in one go.
const OBJECTS: u32 = 1000;

/// How much longer a lease is given out while the store is slow to grant another: what is written then goes away that
/// much sooner.
const GRACE: Duration = Duration::from_secs(10);

/// Hands out leases.
pub struct Expiry {
    /// How long objects are kept; zero: for ever.
    kept: Duration,
    clock: SharedClock,
    held: Mutex<Option<Held>>,
    /// Held by the one who asks the store for the next lease.
    asking: tokio::sync::Mutex<()>,
}

struct Held {
    lease: LeaseId,
    /// On the monotonic clock: until when it is given out.
    until: Duration,
    objects: u32,
}

impl Expiry {
    /// For objects that are kept for `kept`, to the second; zero keeps them for ever.
    pub fn new(kept: Duration, clock: SharedClock) -> Self {
        Self { kept, clock, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// A lease that is there for about the time that objects are kept; 0, which is none, if they are kept for ever.
    ///
    /// # Errors
    /// The store's, where a new lease is needed.
    pub async fn lease(&self, store: &dyn Store) -> Result<LeaseId, Error> {
        if self.kept < Duration::from_secs(1) {
            return Ok(0);
        }
        if let Some(lease) = self.fresh() {
            return Ok(lease);
        }
        let _turn = match self.asking.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                // Nobody waits for a slow store as long as the last lease will do.
                if let Some(lease) = self.last() {
                    return Ok(lease);
                }
                self.asking.lock().await
            }
        };
        if let Some(lease) = self.fresh() {
            return Ok(lease);
        }
        let shared = self.shared();
        let asked = self.clock.monotonic();
        let seconds = (self.kept + shared).as_secs();
        let lease = store.lease_grant(i64::try_from(seconds).unwrap_or(i64::MAX), 0).await?.id;
        *self.held.lock() = Some(Held { lease, until: asked + shared, objects: 1 });
        Ok(lease)
    }

    /// For how long a lease is given out.
    fn shared(&self) -> Duration {
        (self.kept / SHARE).min(LONGEST)
    }

    /// The lease that is given out, for one object more.
    fn fresh(&self) -> Option<LeaseId> {
        let now = self.clock.monotonic();
        let mut held = self.held.lock();
        let held = held.as_mut().filter(|held| now < held.until && held.objects < OBJECTS)?;
        held.objects += 1;
        Some(held.lease)
    }

    /// The lease that was given out last, if that was not long ago.
    fn last(&self) -> Option<LeaseId> {
        let now = self.clock.monotonic();
        let grace = GRACE.min(self.shared());
        let held = self.held.lock();
        held.as_ref().filter(|held| now < held.until + grace).map(|held| held.lease)
    }

    /// Gives out another lease from now on: the store has lost this one.
    pub fn forget(&self, lease: LeaseId) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| held.lease == lease) {
            *held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::ManualClock;
    use store::embedded::{Engine, Options};

    use super::*;

    #[tokio::test]
    async fn a_lease_is_shared_for_a_while_and_by_so_many() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let shared: SharedClock = clock.clone();
        let store = Engine::open(directory.path(), Options::default(), shared.clone()).unwrap();
        let hour = Expiry::new(Duration::from_secs(3600), shared.clone());
        let first = hour.lease(&*store).await.unwrap();
        assert_eq!(store.lease_time_to_live(first).await.unwrap().granted_ttl, 3660);
        clock.advance(Duration::from_secs(59));
        assert_eq!(hour.lease(&*store).await.unwrap(), first);
        clock.advance(Duration::from_secs(1));
        let second = hour.lease(&*store).await.unwrap();
        assert_ne!(second, first, "what is written now is to stay for an hour");
        for _ in 1..OBJECTS {
            assert_eq!(hour.lease(&*store).await.unwrap(), second);
        }
        let third = hour.lease(&*store).await.unwrap();
        assert_ne!(third, second, "enough share it");
        hour.forget(second);
        assert_eq!(hour.lease(&*store).await.unwrap(), third);
        hour.forget(third);
        assert_ne!(hour.lease(&*store).await.unwrap(), third);
        assert_eq!(Expiry::new(Duration::ZERO, shared).lease(&*store).await.unwrap(), 0);
    }
}
