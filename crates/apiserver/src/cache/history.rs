//! Changes from before a cache was filled.
//!
//! A cache is filled when its resource is first asked for, so a client that kept a resourceVersion (from a write, or
//! from before the server was started again) may want changes that the cache never heard of. As long as the store has
//! not compacted them they are read from there, once, and put before those in the ring.
//! Not here: when that is tried (`engine/watch.rs`).
//! Upstream: its watch cache is filled when the server starts, and falls back on etcd before that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use store::{Error, EventKind, WatchRequest};

use super::change::OVERHEAD;
use super::{Cache, Change, Hub, RING, RING_BYTES, View};

/// How long the history may take: objects may have to be converted.
const PATIENCE: Duration = Duration::from_secs(30);

impl Hub {
    /// Makes `cache` able to serve a watch from `from` on, if the store still has every change since and they are not
    /// too many to keep. If not, the cache stays as it is, and the watch is too old.
    pub async fn recall(&self, view: &View, cache: &Cache, from: u64) {
        if cache.missing(from).is_none() {
            return;
        }
        // Whoever waited finds what the first has read, or that it is of no use to try.
        let failures = *cache.recalls_failed.lock();
        let _alone = cache.recalling.lock().await;
        let Some(until) = cache.missing(from) else { return };
        // One wait is enough, whichever part of the history it was for: the next would wait for as long.
        if *cache.recalls_failed.lock() > failures {
            return;
        }
        let history = tokio::select! {
            history = self.history(view, cache, from, until) => history,
            () = self.clock.sleep(PATIENCE) => Err(Error::Unavailable("it takes too long")),
        };
        match history {
            Ok(Some(changes)) => cache.prepend(from, until, changes),
            Ok(None) | Err(Error::Compacted { .. }) => cache.out_of_reach(from),
            Err(error) => {
                tracing::debug!(%error, "the history of a resource could not be read");
                *cache.recalls_failed.lock() += 1;
            }
        }
    }

    /// What changed after `from` up to `until`; `None`: too much to keep, or not all of it is known.
    async fn history(
        &self,
        view: &View,
        cache: &Cache,
        from: u64,
        until: u64,
    ) -> Result<Option<Vec<Arc<Change>>>, Error> {
        let request = WatchRequest {
            prev_kv: true,
            progress: true,
            ..WatchRequest::prefix(view.prefix.clone(), from + 1)
        };
        let mut stream = self.store.watch(request).await?;
        let (mut changes, mut values, mut weight) = (Vec::new(), Vec::new(), 0);
        'reading: loop {
            let batch = stream.next().await.ok_or(Error::Unavailable("the watch ended"))??;
            for event in batch.events {
                if event.kv.mod_revision > until {
                    break 'reading;
                }
                let current = matches!(event.kind, EventKind::Put).then_some(&event.kv);
                let previous = event.prev.as_ref();
                // What was before is compacted: nobody can say what the change means to a selector.
                let first = current.is_some() && event.kv.version == 1;
                if previous.is_none() && !first {
                    return Ok(None);
                }
                weight += current.or(previous).map_or(0, |kv| OVERHEAD + 2 * kv.value.len());
                values.extend(current.into_iter().chain(previous).map(|kv| kv.value.clone()));
                let at = |kv: &store::KeyValue| kv.mod_revision;
                let key = event.kv.key.slice(view.prefix.len()..);
                changes.push((event.kv.mod_revision, key, current.map(at), previous.map(at)));
            }
            if changes.len() > RING || weight > RING_BYTES {
                return Ok(None);
            }
            if batch.revision >= until {
                break;
            }
        }
        let served = view.all_served(values).await;
        let mut served =
            served.map_err(|_| Error::Unavailable("its objects cannot be converted"))?.into_iter();
        let mut lost = false;
        let mut cached = |key: &Bytes, revision| {
            let object = cache.object(key.clone(), served.next()?, revision);
            lost |= object.is_none();
            object
        };
        let changes = changes.into_iter().map(|(revision, key, current, previous)| {
            let current = current.and_then(|revision| cached(&key, revision));
            let previous = previous.and_then(|revision| cached(&key, revision));
            Arc::new(Change::new(revision, current, previous))
        });
        let changes: Vec<_> = changes.collect();
        // A change of what is no object can be shown to nobody.
        Ok((!lost).then_some(changes))
    }
}

impl Cache {
    /// Where the ring begins, if it is later than `from` only because the cache was filled later.
    fn missing(&self, from: u64) -> Option<u64> {
        let state = self.state.read();
        let wanted = !state.closed && !state.forgot && from < state.ring_after && from > state.out_of_reach;
        wanted.then_some(state.ring_after)
    }

    /// Notes that what came after `from` cannot be had.
    fn out_of_reach(&self, from: u64) {
        let mut state = self.state.write();
        state.out_of_reach = state.out_of_reach.max(from);
    }

    /// Puts the changes after `from` up to `until` before the ring, if it still begins there.
    fn prepend(&self, from: u64, until: u64, changes: Vec<Arc<Change>>) {
        let mut state = self.state.write();
        let weight: usize = changes.iter().map(|change| change.weight()).sum();
        let fits = state.ring.len() + changes.len() <= RING && state.ring_bytes + weight <= RING_BYTES;
        if state.forgot || state.ring_after != until || !fits {
            return;
        }
        state.ring_bytes += weight;
        for change in changes.into_iter().rev() {
            state.ring.push_front(change);
        }
        state.ring_after = from;
    }
}
