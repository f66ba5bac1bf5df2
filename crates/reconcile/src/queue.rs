//! The queue of a controller: which keys are to be planned, one worker per key, back-off, and one timer per key.
//!
//! Pure but for its lock and one wake-up; time is given. Upstream: `client-go/util/workqueue`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Key;

/// Upstream's ItemExponentialFailureRateLimiter: 5 ms, doubling, at most 1000 s.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1000);

#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    /// Since when those have waited, as far as it was noted.
    waiting: VecDeque<Duration>,
    entries: HashMap<Key, Entry>,
    /// Earliest first. An item whose time is not its entry's `due` is outdated.
    timers: BinaryHeap<Reverse<(Duration, Key)>>,
    added: u64,
}

#[derive(Default)]
struct Entry {
    queued: bool,
    running: bool,
    /// It was added while it ran: it runs once more.
    dirty: bool,
    failures: u32,
    /// When it becomes ready though nobody adds it.
    due: Option<Duration>,
}

impl Entry {
    fn is_idle(&self) -> bool {
        !self.queued && !self.running && !self.dirty && self.failures == 0 && self.due.is_none()
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded; look again at this monotonic time, if given.
    Done(Option<Duration>),
    /// It failed; its back-off begins now.
    Failed,
    /// It could not be planned yet; its failures still count. Look again at this time at the latest.
    Parked(Duration),
}

impl Queue {
    /// Makes a key ready.
    pub(crate) fn add(&self, key: Key) {
        let mut inner = self.inner.lock();
        inner.add(key);
        drop(inner);
        self.wake.notify_one();
    }

    /// Notes when what was added since the last time began to wait: whoever adds does not know the time.
    pub(crate) fn note(&self, now: Duration) {
        let mut inner = self.inner.lock();
        let ready = inner.ready.len();
        inner.waiting.resize(ready, now);
    }

    /// The next key that is ready at `now`, which from here on is running, and since when it waited.
    pub(crate) fn take(&self, now: Duration) -> Option<(Key, Duration)> {
        let mut inner = self.inner.lock();
        inner.expire(now);
        let key = inner.ready.pop_front()?;
        let since = inner.waiting.pop_front().unwrap_or(now);
        let entry = inner.entries.get_mut(&key)?;
        entry.queued = false;
        entry.running = true;
        entry.due = None;
        Some((key, since))
    }

    /// A run has ended.
    pub(crate) fn finish(&self, key: &Key, outcome: Outcome, now: Duration) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entries.get_mut(key) else { return };
        entry.running = false;
        let due = match outcome {
            Outcome::Done(due) => {
                entry.failures = 0;
                due
            }
            Outcome::Failed => {
                let wait = BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(20)).min(BACKOFF_LONGEST);
                entry.failures += 1;
                Some(now + wait)
            }
            Outcome::Parked(due) => Some(due),
        };
        let dirty = std::mem::take(&mut entry.dirty);
        entry.due = due;
        if let Some(due) = due {
            inner.timers.push(Reverse((due, key.clone())));
        }
        if dirty {
            inner.add(key.clone());
        } else if inner.entries.get(key).is_some_and(Entry::is_idle) {
            inner.entries.remove(key);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// When the next timer is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.inner.lock().next_due()
    }

    /// Waits for the queue to have changed since the last wait. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Keys that are ready.
    pub(crate) fn depth(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// Additions so far, after deduplication.
    pub(crate) fn added(&self) -> u64 {
        self.inner.lock().added
    }

    /// Keys that anything is remembered about.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.inner.lock().entries.len()
    }
}

impl Inner {
    fn add(&mut self, key: Key) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.running {
            entry.dirty = true;
        } else if !entry.queued {
            entry.queued = true;
            self.added += 1;
            self.ready.push_back(key);
        }
    }

    /// Drops outdated timers from the front.
    fn next_due(&mut self) -> Option<Duration> {
        while let Some(Reverse((due, key))) = self.timers.peek() {
            if self.entries.get(key).and_then(|entry| entry.due) == Some(*due) {
                return Some(*due);
            }
            self.timers.pop();
        }
        None
    }

    fn expire(&mut self, now: Duration) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse((_, key))) = self.timers.pop() else { return };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = None;
            }
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn next(queue: &Queue, now: Duration) -> Option<Key> {
        queue.take(now).map(|(key, _)| key)
    }

    fn key(name: &str) -> Key {
        Key::cluster(name)
    }

    #[test]
    fn it_is_known_since_when_a_key_waits() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.note(NOW);
        queue.add(key("b"));
        queue.note(NOW + Duration::from_secs(1));
        let later = NOW + Duration::from_secs(9);
        assert_eq!(queue.take(later), Some((key("a"), NOW)));
        assert_eq!(queue.take(later), Some((key("b"), NOW + Duration::from_secs(1))));
        queue.add(key("c"));
        assert_eq!(queue.take(later), Some((key("c"), later)));
    }

    #[test]
    fn a_key_is_queued_once_and_runs_alone() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(next(&queue, NOW), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(next(&queue, NOW), Some(key("b")));
        assert_eq!(next(&queue, NOW), None, "a is running");
        queue.finish(&key("a"), Outcome::Done(None), NOW);
        assert_eq!(next(&queue, NOW), Some(key("a")), "it was added while it ran");
        queue.finish(&key("a"), Outcome::Done(None), NOW);
        queue.finish(&key("b"), Outcome::Done(None), NOW);
        assert_eq!(next(&queue, NOW), None);
        assert_eq!(queue.remembered(), 0, "idle keys cost nothing");
    }

    #[test]
    fn back_off_doubles_up_to_1000_s_and_ends_with_success() {
        let queue = Queue::default();
        queue.add(key("a"));
        let mut now = NOW;
        for expected in [5, 10, 20, 40] {
            assert_eq!(next(&queue, now), Some(key("a")));
            queue.finish(&key("a"), Outcome::Failed, now);
            assert_eq!(queue.next_due(), Some(now + Duration::from_millis(expected)));
            assert_eq!(next(&queue, now), None);
            now += Duration::from_millis(expected);
        }
        for _ in 0..40 {
            assert!(next(&queue, now).is_some());
            queue.finish(&key("a"), Outcome::Failed, now);
            now = queue.next_due().unwrap();
        }
        assert!(next(&queue, now).is_some());
        queue.finish(&key("a"), Outcome::Failed, now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1000)));
        now = queue.next_due().unwrap();
        assert!(next(&queue, now).is_some());
        queue.finish(&key("a"), Outcome::Done(None), now);
        queue.add(key("a"));
        assert!(next(&queue, now).is_some());
        queue.finish(&key("a"), Outcome::Failed, now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_millis(5)));
    }

    #[test]
    fn an_event_does_not_wait_for_the_back_off() {
        let queue = Queue::default();
        queue.add(key("a"));
        next(&queue, NOW);
        queue.finish(&key("a"), Outcome::Failed, NOW);
        queue.add(key("a"));
        assert_eq!(next(&queue, NOW), Some(key("a")));
        queue.finish(&key("a"), Outcome::Done(None), NOW);
        assert_eq!(queue.next_due(), None, "the old timer is outdated");
    }

    #[test]
    fn a_later_plan_replaces_the_time_to_look_again() {
        let queue = Queue::default();
        let at = |seconds| Outcome::Done(Some(NOW + Duration::from_secs(seconds)));
        queue.add(key("a"));
        next(&queue, NOW);
        queue.finish(&key("a"), at(10), NOW);
        queue.add(key("a"));
        next(&queue, NOW);
        queue.finish(&key("a"), at(20), NOW);
        assert_eq!(next(&queue, NOW + Duration::from_secs(10)), None);
        assert_eq!(next(&queue, NOW + Duration::from_secs(20)), Some(key("a")));
        queue.finish(&key("a"), Outcome::Done(None), NOW);
        assert_eq!(next(&queue, NOW + Duration::from_secs(99)), None, "it fires once");
        assert_eq!(queue.remembered(), 0);
    }
}
