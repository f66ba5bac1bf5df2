//! Changes as something to await, with memory bounded by the number of objects: what happens to one object between
//! two looks of the consumer is one change.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cache::{Change, Listener};
use crate::{Cached, key_of};

/// The changes a consumer has not seen yet, one per object, in the order in which the objects first changed.
///
/// An object that came and went between two looks is not delivered; one that was replaced by another of its name is
/// delivered as deleted and added. Dropping the subscription ends it.
pub struct Subscription<K>(Arc<Inbox<K>>);

struct Inbox<K> {
    pending: Mutex<Pending<K>>,
    wake: Notify,
}

struct Pending<K> {
    order: VecDeque<Arc<str>>,
    objects: HashMap<Arc<str>, Unseen<K>>,
}

/// Between what the consumer last saw and what is there now.
struct Unseen<K> {
    seen: Option<Arc<K>>,
    now: Option<Arc<K>>,
}

pub(super) fn pair<K: Cached>() -> (Subscription<K>, Listener<K>) {
    let pending = Pending { order: VecDeque::new(), objects: HashMap::new() };
    let inbox = Arc::new(Inbox { pending: Mutex::new(pending), wake: Notify::new() });
    let weak = Arc::downgrade(&inbox);
    let listener: Listener<K> = Box::new(move |change| {
        let Some(inbox) = weak.upgrade() else { return false };
        inbox.pending.lock().add(change);
        inbox.wake.notify_one();
        true
    });
    (Subscription(inbox), listener)
}

impl<K: Cached> Pending<K> {
    fn add(&mut self, change: &Change<K>) {
        let key = key_of(&**change.object());
        let (seen, now) = match change {
            Change::Added(new) => (None, Some(new)),
            Change::Updated { old, new } => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        match self.objects.get_mut(&key) {
            Some(unseen) => unseen.now = now.cloned(),
            None => {
                self.order.push_back(key.clone());
                self.objects.insert(key, Unseen { seen: seen.cloned(), now: now.cloned() });
            }
        }
    }

    fn take(&mut self) -> Option<Change<K>> {
        loop {
            let key = self.order.pop_front()?;
            let Some(Unseen { seen, now }) = self.objects.remove(&key) else { continue };
            match (seen, now) {
                (None, None) => {}
                (None, Some(new)) => return Some(Change::Added(new)),
                (Some(old), None) => return Some(Change::Deleted(old)),
                (Some(old), Some(new)) if old.meta().uid != new.meta().uid => {
                    self.order.push_front(key.clone());
                    self.objects.insert(key, Unseen { seen: None, now: Some(new) });
                    return Some(Change::Deleted(old));
                }
                (Some(old), Some(new)) => return Some(Change::Updated { old, new }),
            }
        }
    }
}

impl<K: Cached> Subscription<K> {
    /// The next change; waits for one. Cancel safe.
    pub async fn recv(&mut self) -> Change<K> {
        loop {
            // `notify_one` leaves a permit when nobody waits, so no change between these lines is slept over.
            if let Some(change) = self.try_recv() {
                return change;
            }
            self.0.wake.notified().await;
        }
    }

    /// The next change, if there is one.
    pub fn try_recv(&mut self) -> Option<Change<K>> {
        self.0.pending.lock().take()
    }
}
