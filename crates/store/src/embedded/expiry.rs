//! The timer of the leases: a task that exists only while there are leases.
//!
//! Sleeps on the injected clock until the first lease expires, then asks the writer to end what is due;
//! the writer looks again, so a lease renewed meanwhile lives on however slow the disk is.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::select;
use tokio::sync::oneshot;

use super::Shared;
use super::writer::Request;

/// The pause after the writer could not end a lease (the disk is full).
const AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Makes sure that the timer runs if there are leases. Needs a runtime, and without one waits for the
    /// first call that has one.
    pub(super) fn watch_leases(self: &Arc<Self>) {
        if self.memory.state.read().leases.len() == 0 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut timer = self.lease_timer.lock();
        if timer.as_ref().is_none_or(|timer| timer.is_finished()) {
            *timer = Some(runtime.spawn(run(Arc::downgrade(self))));
        }
    }
}

async fn run(shared: Weak<Shared>) {
    while let Some(now) = shared.upgrade() {
        if now.is_closed() {
            return;
        }
        let Some(deadline) = now.memory.state.read().leases.next_deadline() else {
            let mut timer = now.lease_timer.lock();
            // Looked at again under the lock that a new lease takes: it finds this task or starts another.
            if now.memory.state.read().leases.len() == 0 {
                *timer = None;
                return;
            }
            continue;
        };
        let wait = deadline.saturating_sub(now.clock.monotonic());
        if wait > Duration::ZERO {
            let sleep = now.clock.sleep(wait);
            let changed = now.lease_changed.clone();
            // Not held while asleep: the store may be dropped.
            drop(now);
            select(sleep, Box::pin(changed.notified())).await;
            continue;
        }
        let (reply, done) = oneshot::channel();
        let clock = now.clock.clone();
        now.queue.push(Request::Expire { reply });
        drop(now);
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => clock.sleep(AGAIN).await,
            Err(_) => return,
        }
    }
}
