//! Which of a cluster's servers a client uses, as a pure decision: state, time and randomness in, an order out.
//!
//! A client stays with one server, so that all its requests share one connection, and chooses it at random, so that many
//! clients spread. What fails is left at once and avoided for a while, longer each time. When servers are added a client
//! moves to one of them with the probability that makes all of them equally loaded again. Not here: sending.

use std::time::Duration;

use foundation::Randomness;

/// How long a server that has failed once is avoided, and how long at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

struct Server {
    base: String,
    /// Only where no other is left: what a person named, which need not be a server any more.
    last_resort: bool,
    failures: u32,
    /// Avoided until then.
    until: Duration,
}

/// The servers that are known, and the one in use.
pub(super) struct Choice {
    servers: Vec<Server>,
    current: usize,
}

impl Choice {
    /// Chooses among `servers`, or among those of the last resort where there are no others.
    pub(super) fn new(servers: &[String], last_resort: &[String], random: &dyn Randomness) -> Choice {
        let mut choice = Choice { servers: Vec::new(), current: 0 };
        choice.replace(servers, last_resort, random);
        choice
    }

    /// Takes another list of servers. What is known of those that stay is kept.
    pub(super) fn replace(&mut self, servers: &[String], last_resort: &[String], random: &dyn Randomness) {
        let mut known = std::mem::take(&mut self.servers);
        let current = known.get(self.current).map(|server| server.base.clone());
        let (mut all, mut added): (Vec<Server>, Vec<usize>) = (Vec::new(), Vec::new());
        let ranked = servers.iter().map(|base| (base, false)).chain(last_resort.iter().map(|b| (b, true)));
        for (base, last_resort) in ranked {
            if all.iter().any(|server| &server.base == base) {
                continue;
            }
            let old = known.iter().position(|server| &server.base == base).map(|at| known.swap_remove(at));
            // One that was named is as good as a new one when it turns out to be a server.
            if !last_resort && old.as_ref().is_none_or(|old| old.last_resort) {
                added.push(all.len());
            }
            let fresh = || Server { base: base.clone(), last_resort, failures: 0, until: Duration::ZERO };
            all.push(old.map_or_else(fresh, |old| Server { last_resort, ..old }));
        }
        self.servers = all;
        let first = self.servers.iter().filter(|server| !server.last_resort).count();
        let stays = current.and_then(|base| self.servers.iter().position(|server| server.base == base));
        self.current = match stays {
            Some(current) if !self.servers[current].last_resort => {
                let moves = random.below(first.max(1) as u64) < added.len() as u64;
                if moves { added[random.below(added.len() as u64) as usize] } else { current }
            }
            // Those of the first rank stand first.
            _ if first > 0 => random.below(first as u64) as usize,
            Some(current) => current,
            None => random.below(self.servers.len().max(1) as u64) as usize,
        };
    }

    /// In which order to try: the one in use, then the others that are well, at random, then those of the last resort,
    /// then those that have failed, the one that may be tried again soonest first.
    pub(super) fn order(&self, now: Duration, random: &dyn Randomness) -> Vec<String> {
        let mut order: Vec<(u8, Duration, u64, &Server)> = Vec::with_capacity(self.servers.len());
        for (at, server) in self.servers.iter().enumerate() {
            let rank = match server {
                server if server.until > now => 3,
                server if server.last_resort && at != self.current => 2,
                _ if at != self.current => 1,
                _ => 0,
            };
            let until = if rank == 3 { server.until } else { Duration::ZERO };
            order.push((rank, until, random.u64(), server));
        }
        order.sort_by_key(|(rank, until, shuffle, _)| (*rank, *until, *shuffle));
        order.into_iter().map(|(.., server)| server.base.clone()).collect()
    }

    /// A server has answered. It is used from now on, if the one in use has failed. Returns whether this changes it.
    pub(super) fn succeeded(&mut self, base: &str, now: Duration) -> bool {
        let Some(at) = self.servers.iter().position(|server| server.base == base) else { return false };
        (self.servers[at].failures, self.servers[at].until) = (0, Duration::ZERO);
        let leaves = at != self.current && self.servers[self.current].until > now;
        if leaves {
            self.current = at;
        }
        leaves
    }

    /// A server could not be reached, or has lost a request. What fails while it is avoided already counts once: many
    /// requests share a connection.
    pub(super) fn failed(&mut self, base: &str, now: Duration, random: &dyn Randomness) {
        let Some(server) = self.servers.iter_mut().find(|server| server.base == base) else { return };
        if server.until > now {
            return;
        }
        let longest = BACKOFF.0.saturating_mul(1 << server.failures.min(16)).min(BACKOFF.1);
        // Half of it by chance, lest all clients come back at the same moment.
        server.until = now + longest.mul_f64(0.5 + random.unit() / 2.0);
        server.failures += 1;
    }

    /// The servers, as they were given.
    pub(super) fn servers(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.base.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foundation::SeededRandomness;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn clients_spread_and_each_stays() {
        let mut used: BTreeMap<String, u32> = BTreeMap::new();
        for seed in 0..300 {
            let random = SeededRandomness::new(seed);
            let choice = Choice::new(&names(&["a", "b", "c"]), &[], &random);
            let first = choice.order(NOW, &random)[0].clone();
            for _ in 0..10 {
                assert_eq!(choice.order(NOW, &random)[0], first);
            }
            *used.entry(first).or_default() += 1;
        }
        assert!(used.values().all(|count| (70..130).contains(count)), "{used:?}");
    }

    #[test]
    fn what_fails_is_left_and_avoided_longer_each_time() {
        let random = SeededRandomness::new(1);
        let mut choice = Choice::new(&names(&["a"]), &names(&["b"]), &random);
        assert_eq!(choice.order(NOW, &random), ["a", "b"]);
        choice.failed("a", NOW, &random);
        let once = choice.servers[0].until - NOW;
        choice.failed("a", NOW, &random);
        assert_eq!(choice.servers[0].until - NOW, once, "requests of one connection counted each");
        assert_eq!(choice.order(NOW, &random), ["b", "a"]);
        assert!(choice.succeeded("b", NOW), "it stays with the one that fails");
        assert!(!choice.succeeded("b", NOW));
        // It may be tried again later, but is not moved back to.
        let later = NOW + BACKOFF.0;
        assert_eq!(choice.order(later, &random), ["b", "a"]);
        let mut now = later;
        for _ in 0..20 {
            choice.failed("a", now, &random);
            now = choice.servers[0].until;
        }
        choice.failed("a", now, &random);
        let longest = choice.servers[0].until - now;
        assert!(longest >= BACKOFF.1 / 2 && longest <= BACKOFF.1, "{longest:?}");
        choice.succeeded("a", now);
        choice.failed("a", now, &random);
        assert!(choice.servers[0].until - now <= BACKOFF.0, "what answers is forgiven");
    }

    #[test]
    fn added_servers_get_their_share() {
        let mut moved = 0;
        for seed in 0..300 {
            let random = SeededRandomness::new(seed);
            let mut choice = Choice::new(&names(&["a", "b"]), &[], &random);
            let before = choice.order(NOW, &random)[0].clone();
            choice.replace(&names(&["c", "b", "a"]), &[], &random);
            let after = choice.order(NOW, &random)[0].clone();
            assert!(after == before || after == "c", "moved from {before} to {after}");
            moved += u32::from(after == "c");
        }
        assert!((70..130).contains(&moved), "{moved}");
    }

    #[test]
    fn lists_are_replaced() {
        for (what, learnt, named, allowed) in [
            ("the same", vec!["a", "b"], vec![], vec!["a"]),
            ("the one in use is gone", vec!["c", "d"], vec![], vec!["c", "d"]),
            ("only those that were named", vec![], vec!["x"], vec!["x"]),
            ("it is named and a server", vec!["a"], vec!["a"], vec!["a"]),
            ("it is only named now", vec!["b"], vec!["a"], vec!["b"]),
        ] {
            for seed in 0..20 {
                let random = SeededRandomness::new(seed);
                let mut choice = Choice::new(&names(&["a"]), &[], &random);
                choice.replace(&names(&["a", "b"]), &[], &random);
                choice.current = 0;
                choice.replace(&names(&learnt), &names(&named), &random);
                let first = choice.order(NOW, &random)[0].clone();
                assert!(allowed.contains(&first.as_str()), "{what}: {first}");
            }
        }
        let random = SeededRandomness::new(1);
        assert!(Choice::new(&[], &[], &random).order(NOW, &random).is_empty());
    }

    #[test]
    fn what_is_known_of_a_server_outlives_a_new_list() {
        let random = SeededRandomness::new(3);
        let mut choice = Choice::new(&names(&["a", "b"]), &[], &random);
        choice.failed("a", NOW, &random);
        choice.replace(&names(&["b", "a"]), &[], &random);
        assert_eq!(choice.order(NOW, &random), ["b", "a"]);
    }
}
