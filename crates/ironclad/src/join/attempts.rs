//! How often an address may be wrong about a secret before it has to wait.
//!
//! Pure: time is handed in. A handful at once, then one more as time goes by. Addresses are remembered up to a bound; when
//! there are more, those that have waited longest are forgotten first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Wrong attempts that an address has at once.
const AT_ONCE: u32 = 5;
/// How long it takes until one more is forgiven.
const FORGIVEN: Duration = Duration::from_secs(10);
/// Addresses that are remembered.
const REMEMBERED: usize = 1024;

/// The wrong attempts of a while.
#[derive(Debug, Default)]
pub struct Attempts {
    /// For each address, when all is forgiven.
    until: HashMap<IpAddr, Duration>,
}

impl Attempts {
    /// How long an address has to wait before it may try, if it has to.
    pub fn must_wait(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let until = *self.until.get(&address)?;
        let allowed = now + FORGIVEN * (AT_ONCE - 1);
        until.checked_sub(allowed).filter(|wait| !wait.is_zero())
    }

    /// An address was wrong.
    pub fn was_wrong(&mut self, address: IpAddr, now: Duration) {
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= REMEMBERED && !self.until.contains_key(&address) {
            let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
            if let Some(first) = first {
                self.until.remove(&first);
            }
        }
        let until = self.until.entry(address).or_insert(now);
        *until = (*until).max(now) + FORGIVEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(n).into()
    }

    #[test]
    fn who_guesses_has_to_wait_and_others_do_not() {
        let (mut attempts, at) = (Attempts::default(), Duration::from_secs);
        for _ in 0..5 {
            assert_eq!(attempts.must_wait(address(1), at(100)), None);
            attempts.was_wrong(address(1), at(100));
        }
        assert_eq!(attempts.must_wait(address(1), at(100)), Some(at(10)));
        assert_eq!(attempts.must_wait(address(2), at(100)), None);
        assert_eq!(attempts.must_wait(address(1), at(109)), Some(at(1)));
        assert_eq!(attempts.must_wait(address(1), at(110)), None);
        attempts.was_wrong(address(1), at(110));
        assert!(attempts.must_wait(address(1), at(110)).is_some(), "one for each time that passes");
        assert_eq!(attempts.must_wait(address(1), at(1000)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut attempts, at) = (Attempts::default(), Duration::from_secs);
        for _ in 0..10 {
            attempts.was_wrong(address(1), at(0));
        }
        for n in 2..5000 {
            attempts.was_wrong(address(n), at(0));
        }
        assert_eq!(attempts.until.len(), REMEMBERED);
        assert!(attempts.must_wait(address(1), at(0)).is_some(), "the worst is not forgotten for the others");
    }
}
