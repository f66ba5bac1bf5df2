//! Whether the disk is slow: what a health page says of it, while a write waits and for a while after.
//!
//! Pure. A slow disk is told of and nothing else: nobody is refused for it, and leases that are kept alive live on. Not
//! here: the metric and the log (whoever writes).

use std::time::Duration;

use parking_lot::Mutex;

/// A batch takes a fraction of a millisecond on a good disk, and some ten on a bad one; etcd warns at the same.
const SLOW: Duration = Duration::from_secs(1);
/// How long it is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of the disk's pace.
#[derive(Default)]
pub struct Slowness(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when a batch has been waiting.
    waiting: Option<Duration>,
    /// The last slow one: when it was done, how long it took.
    last: Option<(Duration, Duration)>,
}

impl Slowness {
    /// A batch is being written.
    pub fn begin(&self, now: Duration) {
        self.0.lock().waiting = Some(now);
    }

    /// It is done. How long it took, if that was long.
    pub fn end(&self, began: Duration, now: Duration) -> Option<Duration> {
        let mut known = self.0.lock();
        known.waiting = None;
        let took = now.saturating_sub(began);
        (took > SLOW).then(|| {
            known.last = Some((now, took));
            took
        })
    }

    /// What there is to say.
    pub fn warning(&self, now: Duration) -> Option<String> {
        let known = self.0.lock();
        let waiting = known.waiting.map(|since| now.saturating_sub(since)).filter(|waited| *waited > SLOW);
        let last = known.last.filter(|(when, _)| now.saturating_sub(*when) < REMEMBERED);
        match (waiting, last) {
            (Some(waited), _) => Some(format!("the disk is slow: a write has been waiting for {waited:.1?}")),
            (None, Some((_, took))) => Some(format!("the disk is slow: a write took {took:.1?}")),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_is_told_while_it_waits_and_for_a_minute() {
        let at = Duration::from_millis;
        let slowness = Slowness::default();
        slowness.begin(at(0));
        assert_eq!(slowness.warning(at(900)), None);
        let waiting = slowness.warning(at(1_500)).unwrap();
        assert_eq!(waiting, "the disk is slow: a write has been waiting for 1.5s");
        assert_eq!(slowness.end(at(0), at(2_000)), Some(at(2_000)));
        assert_eq!(slowness.warning(at(3_000)).unwrap(), "the disk is slow: a write took 2.0s");
        slowness.begin(at(4_000));
        assert_eq!(slowness.end(at(4_000), at(4_010)), None);
        assert_eq!(slowness.warning(at(63_000)), None);
    }
}
