//! How long to wait before a container is restarted or an image is pulled again.
//! Upstream: `client-go/util/flowcontrol/backoff.go` with the kubelet's 10 s and 5 min.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MOST: SignedDuration = SignedDuration::from_secs(300);

/// The back-off of one container or image. It doubles with every failure and is forgotten after ten quiet minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    entry: Option<(SignedDuration, Timestamp)>,
}

impl BackOff {
    /// Until when to wait, if the last failure was at `failed`; with the length of the wait.
    pub fn until(&self, failed: Timestamp, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let (delay, updated) = self.entry?;
        if expired(failed, updated) {
            return None;
        }
        let until = failed + delay;
        (now < until).then_some((until, delay))
    }

    /// Another attempt is made now, after the failure at `failed`.
    pub fn next(&mut self, failed: Timestamp, now: Timestamp) {
        let delay = match self.entry {
            Some((delay, updated)) if !expired(failed, updated) => MOST.min(delay * 2),
            _ => FIRST,
        };
        self.entry = Some((delay, now));
    }

    /// The attempt worked.
    pub fn reset(&mut self) {
        self.entry = None;
    }
}

fn expired(event: Timestamp, updated: Timestamp) -> bool {
    event.duration_since(updated) > MOST * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes_and_forgets() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut backoff = BackOff::default();
        assert_eq!(backoff.until(at(0), at(0)), None, "the first restart is at once");
        let mut delays = Vec::new();
        let mut now = 0;
        for _ in 0..7 {
            backoff.next(at(now), at(now));
            let (until, delay) = backoff.until(at(now), at(now)).unwrap();
            delays.push(delay.as_secs());
            now = until.as_second();
            assert_eq!(backoff.until(at(now - delay.as_secs()), at(now)), None);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.until(at(now + 601), at(now + 601)), None, "it ran for ten minutes");
    }
}
