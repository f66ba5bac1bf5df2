//! What of a quota has been given back since it was last counted, as far as it was seen.
//!
//! Fed by the caches' changes; read by the plan. An object that was counted and is gone was charged for, so what it used can
//! be taken off the quota at once, whatever else is being charged. Each is taken off once: a change that the last count has
//! seen is left out, by its revision. What cannot be told (a change found by a relist, what was charged for a write that
//! then failed) is left to the next count.
//! Not here: objects that shrink (admission takes that off).

use std::collections::HashMap;
use std::sync::Arc;

use api::quantity::Quantity;
use api::quota::Usage;
use client::Cached;
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::Key;

/// What is known of one quota. Lost with a restart, at the cost of waiting until it has been left alone.
#[derive(Default)]
struct Known {
    /// The state of the quota that was seen last, and since when.
    version: String,
    since: Timestamp,
    /// The last count has seen the changes up to this revision.
    counted_at: u64,
    /// When that was.
    counted: Timestamp,
    released: Usage,
    /// Of what was released: what a write that is under way takes off.
    taken: Usage,
}

/// See the module. Clones share.
#[derive(Clone, Default)]
pub(super) struct Releases(Arc<Mutex<HashMap<Key, Known>>>);

/// The revision an object was written or deleted at.
pub(super) fn revision<K: Cached>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Releases {
    /// An object that used this much was seen to go, at a revision. After `until` it was not counted any more.
    pub(super) fn add(&self, quota: &Key, revision: u64, until: Option<Timestamp>, usage: &Usage) {
        if let Some(known) = self.0.lock().get_mut(quota)
            && revision > known.counted_at
            && until.is_none_or(|until| until >= known.counted)
        {
            for (name, amount) in usage {
                *known.released.entry(name.clone()).or_default() += *amount;
            }
        }
    }

    /// Since when the quota is in this state. `revision` is that of the caches, `written` whether the last write went well.
    pub(super) fn since(
        &self,
        quota: &Key,
        version: &str,
        revision: u64,
        written: bool,
        now: Timestamp,
    ) -> Timestamp {
        let mut all = self.0.lock();
        let fresh = || Known {
            counted_at: revision,
            counted: now,
            since: now,
            version: version.to_owned(),
            ..Known::default()
        };
        let known = all.entry(quota.clone()).or_insert_with(fresh);
        let taken = std::mem::take(&mut known.taken);
        if written {
            for (name, amount) in taken {
                let left = known.released.get(&name).copied().unwrap_or_default() - amount;
                if left > Quantity::ZERO {
                    known.released.insert(name, left)
                } else {
                    known.released.remove(&name)
                };
            }
        }
        if known.version != version {
            (known.version, known.since) = (version.to_owned(), now);
        }
        known.since
    }

    /// What was released: a write is about to take it off.
    pub(super) fn take(&self, quota: &Key) -> Usage {
        let mut all = self.0.lock();
        let Some(known) = all.get_mut(quota) else { return Usage::new() };
        known.taken = known.released.clone();
        known.taken.clone()
    }

    /// The quota was counted from caches that were not beyond this revision; `right` if it says so already.
    pub(super) fn counted(&self, quota: &Key, revision: u64, now: Timestamp, right: bool) {
        if let Some(known) = self.0.lock().get_mut(quota) {
            (known.counted_at, known.counted) = (revision, now);
            if right {
                known.released.clear();
            } else {
                known.taken = known.released.clone();
            }
        }
    }

    /// The quota is gone.
    pub(super) fn forget(&self, quota: &Key) {
        self.0.lock().remove(quota);
    }
}
