//! Keeps one cache equal to the server: list, then watch from the list's revision; when the watch ends, watch on from
//! the last revision seen; when that revision is too old, list again.
//!
//! Waits only after failures, longer each time, with jitter. Upstream: `client-go/tools/cache/reflector.go`.

use std::sync::Arc;
use std::time::Duration;

use foundation::{SharedClock, SharedRandomness};

use super::cache::Cache;
use crate::{Accept, Cached, Client, Endpoint, Error, ListOptions, WatchEvent};

/// The first wait after a failure. Upstream waits 800 ms; in one process the server is often only some milliseconds
/// from being ready.
const BACKOFF_FIRST: Duration = Duration::from_millis(25);
/// Upstream's longest wait.
const BACKOFF_LONGEST: Duration = Duration::from_secs(30);
/// A watch that ended sooner than this without an event counts as a failure, lest a server that closes each watch at
/// once is asked without end.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// The server is asked to end a watch after one to two of these, so that load spreads over its replicas. Upstream asks for
/// five to ten minutes; silence is worth more to us, and dead connections are found by the transport.
const WATCH_SECONDS: u32 = 1800;

pub(super) struct Reflector<K> {
    pub(super) client: Client,
    pub(super) clock: SharedClock,
    pub(super) randomness: SharedRandomness,
    pub(super) page: u32,
    pub(super) endpoint: Endpoint,
    pub(super) namespace: Option<String>,
    pub(super) select: ListOptions,
    pub(super) list_as: Accept,
    pub(super) watch_as: Accept,
    pub(super) cache: Arc<Cache<K>>,
}

/// What to do after a watch.
enum Next {
    /// Watch on from the last revision.
    Watch,
    /// The revision is too old: list.
    List,
}

impl<K: Cached> Reflector<K> {
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            if let Err(error) = self.list().await {
                self.failed(&mut failures, &error).await;
                continue;
            }
            failures = 0;
            loop {
                let started = self.clock.monotonic();
                match self.watch(&mut failures).await {
                    Ok(Next::List) => break,
                    Ok(Next::Watch) => {
                        if self.clock.monotonic().saturating_sub(started) < SHORTEST_WATCH {
                            self.wait(&mut failures).await;
                        }
                    }
                    Err(error) if error.is_expired() => break,
                    Err(error) => {
                        let seen = self.clock.monotonic().saturating_sub(started);
                        if seen >= SHORTEST_WATCH {
                            failures = 0;
                        }
                        self.failed(&mut failures, &error).await;
                    }
                }
            }
        }
    }

    /// Lists everything, page by page, and makes the cache equal to it.
    async fn list(&self) -> Result<(), Error> {
        let mut options = ListOptions { limit: Some(self.page), ..self.select.clone() };
        let mut objects: Vec<Arc<K>> = Vec::new();
        loop {
            let namespace = self.namespace.as_deref();
            let page = match self.client.list_as::<K>(&self.endpoint, namespace, &options, self.list_as).await
            {
                // The list took longer than the server keeps history: once more, in one piece.
                Err(error) if error.is_expired() && options.continue_token.is_some() => {
                    objects.clear();
                    options = self.select.clone();
                    continue;
                }
                other => other?,
            };
            objects.reserve(page.items.len());
            objects.extend(page.items.into_iter().map(|object| self.cache.trim(object)));
            match page.continue_token {
                Some(token) => options.continue_token = Some(token),
                None => {
                    self.cache.replace(objects, page.resource_version);
                    return Ok(());
                }
            }
        }
    }

    async fn watch(&self, failures: &mut u32) -> Result<Next, Error> {
        let from = self.cache.read().resource_version.clone();
        let timeout = WATCH_SECONDS + self.randomness.below(u64::from(WATCH_SECONDS)) as u32;
        let options = ListOptions { timeout_seconds: Some(timeout), ..self.select.clone() };
        let namespace = self.namespace.as_deref();
        let mut events =
            self.client.watch_as::<K>(&self.endpoint, namespace, &options, &from, self.watch_as).await?;
        while let Some(event) = events.next().await {
            let event = match event {
                Err(error) if error.is_expired() => return Ok(Next::List),
                // An event that cannot be decoded would come again with each watch from here; only a list gets past it.
                Err(error @ Error::Decode { .. }) => {
                    tracing::warn!(endpoint = ?self.endpoint, %error, "undecodable watch event, listing again");
                    self.wait(failures).await;
                    return Ok(Next::List);
                }
                other => other?,
            };
            *failures = 0;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let revision = revision(&object);
                    self.cache.upsert(object, revision);
                }
                WatchEvent::Deleted(object) => {
                    let revision = revision(&object);
                    self.cache.delete(object, revision);
                }
                WatchEvent::Bookmark { resource_version, .. } => self.cache.advance(resource_version),
            }
        }
        Ok(Next::Watch)
    }

    async fn failed(&self, failures: &mut u32, error: &Error) {
        // A server that is just starting (or a kind not served yet) is not worth a warning.
        if *failures < 5 {
            tracing::debug!(endpoint = ?self.endpoint, %error, "informer");
        } else {
            tracing::warn!(endpoint = ?self.endpoint, %error, "informer");
        }
        self.wait(failures).await;
    }

    async fn wait(&self, failures: &mut u32) {
        let base = BACKOFF_FIRST.saturating_mul(1 << (*failures).min(11)).min(BACKOFF_LONGEST);
        *failures += 1;
        self.clock.sleep(base.mul_f64(1.0 + self.randomness.unit())).await;
    }
}

fn revision<K: Cached>(object: &K) -> String {
    object.meta().resource_version.clone().unwrap_or_default()
}
