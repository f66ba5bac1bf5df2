//! Time as a parameter: the wall clock, a monotonic clock and sleeping, real or virtual.
//!
//! Reads the operating system's clocks (only in [`SystemClock`]). Not here: timers that repeat; a
//! component computes its next deadline and sleeps once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A clock that several components share.
pub type SharedClock = Arc<dyn Clock>;

/// Where a component gets its time from.
pub trait Clock: Send + Sync {
    /// The wall clock: for what is written into objects. It may jump.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary origin, which never goes back: for measuring and for deadlines.
    fn monotonic(&self) -> Duration;

    /// Completes once `duration` of this clock's time has passed. Dropping the future cancels it.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The operating system's clocks. Sleeping needs a tokio runtime with its timer.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl SystemClock {
    /// The system clock, ready to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        ORIGIN.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Virtual time for tests: it stands still until [`ManualClock::advance`] moves it.
///
/// Clones share the same time.
#[derive(Clone)]
pub struct ManualClock {
    state: Arc<Mutex<Virtual>>,
    sleepers: watch::Sender<usize>,
}

struct Virtual {
    start: Timestamp,
    elapsed: Duration,
    next_id: u64,
    /// Ordered by deadline, then by who went to sleep first.
    waiting: BTreeMap<(Duration, u64), Waker>,
}

impl Default for ManualClock {
    fn default() -> Self {
        // 2026-01-01T00:00:00Z: any fixed, plausible moment does.
        Self::new(Timestamp::constant(1_767_225_600, 0))
    }
}

impl ManualClock {
    /// A clock that shows `start` and stands still.
    pub fn new(start: Timestamp) -> Self {
        let state = Virtual { start, elapsed: Duration::ZERO, next_id: 0, waiting: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), sleepers: watch::Sender::new(0) }
    }

    /// Moves time forward by `duration` and wakes every sleeper whose deadline has come, earliest first.
    ///
    /// The woken tasks run when the runtime gets to them, after this returns, and see the new time. To
    /// let a task sleep several times in between, advance by [`ManualClock::next_deadline`] steps.
    pub fn advance(&self, duration: Duration) {
        let mut due = Vec::new();
        {
            let mut state = self.state.lock();
            state.elapsed += duration;
            let now = state.elapsed;
            while let Some(entry) = state.waiting.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                due.push(entry.remove());
            }
            self.sleepers.send_replace(state.waiting.len());
        }
        for waker in due {
            waker.wake();
        }
    }

    /// How long until the next sleeper is due; `None` when nobody sleeps.
    pub fn next_deadline(&self) -> Option<Duration> {
        let state = self.state.lock();
        state.waiting.first_key_value().map(|((deadline, _), _)| deadline.saturating_sub(state.elapsed))
    }

    /// Completes once at least `count` futures sleep on this clock: what a test waits for before it
    /// advances, so that no sleeper is missed.
    pub async fn wait_for_sleepers(&self, count: usize) {
        let mut sleepers = self.sleepers.subscribe();
        // The sender lives in `self`, so waiting cannot fail before the condition holds.
        let _ = sleepers.wait_for(|now| *now >= count).await;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let state = self.state.lock();
        let elapsed = SignedDuration::try_from(state.elapsed).unwrap_or(SignedDuration::MAX);
        state.start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().elapsed
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock();
        let key = (state.elapsed.saturating_add(duration), state.next_id);
        state.next_id += 1;
        drop(state);
        Box::pin(VirtualSleep { clock: self.clone(), key })
    }
}

struct VirtualSleep {
    clock: ManualClock,
    key: (Duration, u64),
}

impl Future for VirtualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state.lock();
        if state.elapsed >= self.key.0 {
            return Poll::Ready(());
        }
        state.waiting.insert(self.key, context.waker().clone());
        self.clock.sleepers.send_replace(state.waiting.len());
        Poll::Pending
    }
}

impl Drop for VirtualSleep {
    fn drop(&mut self) {
        let mut state = self.clock.state.lock();
        if state.waiting.remove(&self.key).is_some() {
            self.clock.sleepers.send_replace(state.waiting.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn virtual_time_moves_only_when_told() {
        let clock = ManualClock::default();
        let before = clock.now();
        let task = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(10)).await;
                clock.monotonic()
            }
        });
        clock.wait_for_sleepers(1).await;
        assert_eq!(clock.next_deadline(), Some(Duration::from_secs(10)));
        clock.advance(Duration::from_secs(9));
        assert!(!task.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(task.await.unwrap(), Duration::from_secs(10));
        assert_eq!(clock.now().duration_since(before).as_secs(), 10);
    }

    #[tokio::test]
    async fn a_dropped_sleeper_is_forgotten() {
        let clock = ManualClock::default();
        let mut sleep = clock.sleep(Duration::from_secs(1));
        assert!(futures::poll!(&mut sleep).is_pending());
        drop(sleep);
        assert_eq!(clock.next_deadline(), None);
    }
}
