//! What the caches must show before a key is planned again: the results of the key's own writes.
//!
//! A cache lags behind the server. A plan made from a cache that does not show the last creations would create them
//! again. Upstream counts expected creations and deletions; resourceVersions are ordered, so we wait for each cache to
//! have reached the revision of our last write to its kind, which covers updates as well.

use std::collections::HashMap;
use std::time::Duration;

use client::Endpoint;
use parking_lot::Mutex;

use crate::{Caches, Key};

/// Upstream's ExpectationsTimeout: a watch that is silent for so long is broken, and acting on what there is is better
/// than never acting again.
const PATIENCE: Duration = Duration::from_secs(300);

/// One thing to be seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expectation {
    /// The cache of a kind has reached a revision.
    Revision(Endpoint, u64),
    /// The object of a key is gone, is another one, or is marked for deletion.
    Gone(Endpoint, String, String),
}

impl Expectation {
    fn is_met(&self, caches: &Caches) -> bool {
        match self {
            Expectation::Revision(endpoint, revision) => {
                caches.progress(endpoint).is_none_or(|cache| cache.revision() >= *revision)
            }
            Expectation::Gone(endpoint, key, uid) => caches.progress(endpoint).is_none_or(|cache| {
                cache.uid(key).is_none_or(|(cached, deleting)| cached != *uid || deleting)
            }),
        }
    }
}

#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<Key, Held>>);

struct Held {
    unmet: Vec<Expectation>,
    since: Duration,
}

impl Held {
    /// Of the revisions of one kind only the highest is waited for: whoever has it has the others.
    fn add(&mut self, expectation: Expectation) {
        if let Expectation::Revision(endpoint, revision) = &expectation {
            let known = self.unmet.iter_mut().find_map(|known| match known {
                Expectation::Revision(of, highest) if of == endpoint => Some(highest),
                _ => None,
            });
            if let Some(highest) = known {
                *highest = (*highest).max(*revision);
                return;
            }
        }
        self.unmet.push(expectation);
    }
}

impl Expectations {
    /// Notes what a key's writes will lead to; replaces nothing.
    pub(crate) fn expect(&self, key: &Key, expected: Vec<Expectation>, caches: &Caches, now: Duration) {
        let unmet: Vec<_> = expected.into_iter().filter(|expectation| !expectation.is_met(caches)).collect();
        if unmet.is_empty() {
            return;
        }
        let mut held = self.0.lock();
        let held = held.entry(key.clone()).or_insert(Held { unmet: Vec::new(), since: now });
        held.since = now;
        for expectation in unmet {
            held.add(expectation);
        }
    }

    /// Whether a key may be planned.
    pub(crate) fn is_met(&self, key: &Key, caches: &Caches, now: Duration) -> bool {
        let mut all = self.0.lock();
        let Some(held) = all.get_mut(key) else { return true };
        held.unmet.retain(|expectation| !expectation.is_met(caches));
        if !held.unmet.is_empty() && now.saturating_sub(held.since) < PATIENCE {
            return false;
        }
        all.remove(key);
        true
    }

    /// After a change of some cache: the keys that may be planned now and could not before.
    pub(crate) fn released(&self, caches: &Caches) -> Vec<Key> {
        let mut all = self.0.lock();
        if all.is_empty() {
            return Vec::new();
        }
        let mut released = Vec::new();
        all.retain(|key, held| {
            held.unmet.retain(|expectation| !expectation.is_met(caches));
            if held.unmet.is_empty() {
                released.push(key.clone());
            }
            !held.unmet.is_empty()
        });
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_writes_of_one_kind_are_one_thing_to_wait_for() {
        let (pods, maps) = (Endpoint::new("", "v1", "pods"), Endpoint::new("", "v1", "configmaps"));
        let mut held = Held { unmet: Vec::new(), since: Duration::ZERO };
        for revision in [3, 500, 7] {
            held.add(Expectation::Revision(pods.clone(), revision));
        }
        held.add(Expectation::Revision(maps.clone(), 4));
        for name in ["a/x", "a/y"] {
            held.add(Expectation::Gone(pods.clone(), name.to_owned(), "u".to_owned()));
        }
        assert_eq!(
            held.unmet,
            [
                Expectation::Revision(pods.clone(), 500),
                Expectation::Revision(maps, 4),
                Expectation::Gone(pods.clone(), "a/x".to_owned(), "u".to_owned()),
                Expectation::Gone(pods, "a/y".to_owned(), "u".to_owned()),
            ]
        );
    }
}
