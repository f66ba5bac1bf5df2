//! Caches of versions that somebody else has to be asked for: the objects of custom resources with a conversion webhook.
//!
//! The hub hands such a cache the changes as they are stored; a task of its own has them converted, as many at a time
//! as there are, and applies them in their order. So a webhook that is slow holds up nobody else's cache, and every
//! change is converted once, however many watch. When a conversion fails, the watches get the error and end, as
//! upstream's; the objects stay, and the conversion is tried again when a request wants the cache (nobody polls).
//! What did not get through by then is converted in its last state only, and the changes before it are forgotten.
//! Not here: how objects are converted (`registry::conversion`).
//! Upstream: apiserver/pkg/storage/cacher (a reflector that fails and lists again), storage/etcd3/watcher.go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use api::Status;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use super::Cache;

/// Turns stored bytes into those of the version that is served, at once.
pub type Convert = Arc<dyn Fn(&Bytes) -> Bytes + Send + Sync>;

/// Has stored bytes turned into those of the version that is served, by somebody who may fail.
#[async_trait]
pub trait Ask: Send + Sync {
    /// The same objects, in their order.
    async fn served(&self, stored: Vec<Bytes>) -> Result<Vec<Bytes>, Status>;
}

/// How stored bytes become those of the version that is served.
#[derive(Clone)]
pub enum Conversion {
    /// They are the same.
    Same,
    /// By a function.
    Here(Convert),
    /// By asking.
    Asked(Arc<dyn Ask>),
}

/// Changes of one revision: keys, and values as they are stored.
type Changes = Vec<(Bytes, Option<Bytes>)>;

/// Revisions that may wait for their conversion before the cache is dropped, to be filled anew at its next use.
const QUEUE: usize = 4_096;
/// Bytes of them.
const QUEUE_BYTES: usize = 64 << 20;

/// How far the conversion of a cache's changes is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Revisions handed over. Counted before the hub's revision tells of them.
    offered: AtomicU64,
    /// Bytes handed over that wait.
    bytes: AtomicUsize,
    reached: watch::Sender<Reached>,
    /// Somebody waits, so what failed is to be tried again.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Reached {
    done: u64,
    failures: u64,
    failure: Option<Status>,
    ended: bool,
}

impl Progress {
    /// Whether changes wait for their conversion.
    pub(super) fn is_behind(&self) -> bool {
        self.reached.borrow().done < self.offered.load(Ordering::Acquire)
    }

    /// Nothing more will be converted: the cache is closed, and whoever waits is to ask for another one.
    pub(super) fn end(&self) {
        self.reached.send_modify(|reached| reached.ended = true);
    }

    /// Waits until every change handed over by now is in the cache, or the cache is closed.
    pub(super) async fn settle(&self) -> Result<(), Status> {
        let wanted = self.offered.load(Ordering::Acquire);
        let mut reached = self.reached.subscribe();
        let before = {
            let now = reached.borrow();
            if now.done >= wanted {
                return Ok(());
            }
            now.failures
        };
        self.wanted.notify_one();
        let decided = |now: &Reached| now.done >= wanted || now.failures > before || now.ended;
        // The sender lives in `self`, so there is always something to wait for.
        let Ok(now) = reached.wait_for(decided).await else { return Ok(()) };
        match &now.failure {
            Some(failure) if now.done < wanted && !now.ended => Err(failure.clone()),
            _ => Ok(()),
        }
    }
}

/// The way into a cache for changes that are to be converted first.
pub(super) struct Inlet {
    sender: mpsc::Sender<(u64, Changes)>,
    progress: Arc<Progress>,
    /// The revision of the list that the cache was filled with.
    filled_at: u64,
}

impl Inlet {
    /// Hands over the changes of a revision; false if too many wait already.
    ///
    /// What the list has already is left out: the watch may lag behind it, and whoever wants the cache would wait for a
    /// conversion of which nothing is used.
    pub(super) fn offer(&self, revision: u64, changes: Changes) -> bool {
        if revision <= self.filled_at {
            return true;
        }
        self.progress.offered.fetch_add(1, Ordering::AcqRel);
        let size = weight(&changes);
        // One that is larger than all may be goes in where nothing else waits.
        let waiting = self.progress.bytes.fetch_add(size, Ordering::AcqRel);
        (waiting == 0 || waiting + size <= QUEUE_BYTES) && self.sender.try_send((revision, changes)).is_ok()
    }
}

/// How many bytes changes are.
fn weight(changes: &Changes) -> usize {
    changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
}

/// The task that converts for one cache.
pub(super) struct Converter {
    cache: Arc<Cache>,
    ask: Arc<dyn Ask>,
    receiver: mpsc::Receiver<(u64, Changes)>,
    progress: Arc<Progress>,
    waiting: Vec<(u64, Changes)>,
    taken: u64,
    /// Whether changes were left out, so that the cache's history has a gap.
    gap: bool,
}

impl Drop for Converter {
    fn drop(&mut self) {
        // Whoever waits is to ask for another cache.
        self.cache.close();
    }
}

impl Converter {
    /// For `cache`, filled as of revision `filled_at`, whose changes come in by the inlet.
    pub(super) fn new(cache: Arc<Cache>, filled_at: u64, ask: Arc<dyn Ask>) -> (Self, Inlet) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let progress = cache.progress.get_or_init(Progress::shared).clone();
        let inlet = Inlet { sender, progress: progress.clone(), filled_at };
        (Self { cache, ask, receiver, progress, waiting: Vec::new(), taken: 0, gap: false }, inlet)
    }

    /// Converts until there is no way in any more, or too much waits.
    pub(super) async fn run(mut self) {
        while self.waiting.len() < QUEUE {
            if self.waiting.is_empty() {
                let Some(first) = self.receiver.recv().await else { return };
                self.take(first);
            }
            while self.waiting.len() < QUEUE
                && let Ok(next) = self.receiver.try_recv()
            {
                self.take(next);
            }
            let values = self.waiting.iter().flat_map(|(_, changes)| changes);
            let stored: Vec<Bytes> = values.filter_map(|(_, value)| value.clone()).collect();
            match self.ask.served(stored).await {
                Ok(served) => self.apply(served),
                Err(failure) => {
                    self.fail(failure);
                    tokio::select! {
                        () = self.progress.wanted.notified() => {}
                        next = self.receiver.recv() => match next {
                            Some(next) => self.take(next),
                            None => return,
                        },
                    }
                }
            }
        }
    }

    fn take(&mut self, next: (u64, Changes)) {
        self.waiting.push(next);
        self.taken += 1;
        if self.gap {
            self.collapse();
        }
    }

    fn apply(&mut self, served: Vec<Bytes>) {
        let mut served = served.into_iter();
        let mut last = 0;
        for (revision, changes) in self.waiting.drain(..) {
            last = revision;
            self.progress.bytes.fetch_sub(weight(&changes), Ordering::AcqRel);
            let changes = changes.into_iter().map(|(key, value)| (key, value.and_then(|_| served.next())));
            self.cache.apply(revision, changes);
        }
        if std::mem::take(&mut self.gap) {
            self.cache.forget_history(last);
        }
        let done = self.taken;
        self.progress.reached.send_modify(|reached| reached.done = done);
    }

    fn fail(&mut self, failure: Status) {
        self.gap = true;
        self.collapse();
        self.cache.interrupt(&failure);
        self.progress.reached.send_modify(|reached| {
            reached.failures += 1;
            reached.failure = Some(failure);
        });
    }

    /// Keeps only the last change of each key: a state that nobody can see any more must not stand in the way.
    fn collapse(&mut self) {
        let mut last: HashMap<Bytes, u64> = HashMap::new();
        for (revision, changes) in &self.waiting {
            last.extend(changes.iter().map(|(key, _)| (key.clone(), *revision)));
        }
        for (revision, changes) in &mut self.waiting {
            let before = weight(changes);
            changes.retain(|(key, _)| last.get(key) == Some(revision));
            self.progress.bytes.fetch_sub(before - weight(changes), Ordering::AcqRel);
        }
        // The newest stays even if it is empty: its revision is the one that is reached.
        let newest = self.waiting.last().map(|(revision, _)| *revision);
        self.waiting.retain(|(revision, changes)| !changes.is_empty() || Some(*revision) == newest);
    }
}

impl Progress {
    fn shared() -> Arc<Self> {
        Arc::new(Self {
            offered: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            reached: watch::Sender::new(Reached::default()),
            wanted: Notify::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::super::{Interest, Limit, Wanted};
    use super::*;
    use crate::encoding::Extractor;

    /// Refuses whatever says so.
    struct Picky(Mutex<Vec<usize>>);

    #[async_trait]
    impl Ask for Picky {
        async fn served(&self, stored: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
            self.0.lock().push(stored.len());
            if stored.iter().any(|value| value.as_ref() == b"\"bad\"") {
                return Err(Status::internal("no"));
            }
            Ok(stored)
        }
    }

    fn change(key: &'static str, value: Option<&'static str>) -> Changes {
        vec![(Bytes::from(key), value.map(Bytes::from))]
    }

    #[tokio::test]
    async fn a_failure_ends_the_watches_and_is_tried_again_when_somebody_wants_the_cache() {
        let cache = Arc::new(Cache::new(Arc::new(Extractor::new([])), b""));
        cache.fill(1, Default::default());
        let asked = Arc::new(Picky(Mutex::default()));
        let (converter, inlet) = Converter::new(cache.clone(), 1, asked.clone());
        tokio::spawn(converter.run());
        let (_, mut watcher) = cache.watch(Interest::All, &Wanted::default(), Some(1), 1, |_| true).unwrap();
        assert!(inlet.offer(2, change("a", Some("{}"))));
        cache.settled().await.unwrap();
        assert_eq!(watcher.receiver.recv().await.unwrap().revision, 2);
        assert!(!watcher.is_behind());

        assert!(inlet.offer(3, change("b", Some("\"bad\""))));
        assert_eq!(cache.settled().await.unwrap_err().message, Status::internal("no").message);
        assert!(watcher.receiver.recv().await.is_none());
        assert_eq!(watcher.failure().unwrap().code, 500);
        assert!(cache.get("a").is_some() && !cache.is_closed(), "what was there stays");

        assert!(inlet.offer(4, change("b", Some("{}"))));
        cache.settled().await.unwrap();
        assert!(cache.get("b").is_some());
        assert!(
            cache.watch(Interest::All, &Wanted::default(), Some(2), 4, |_| true).is_err(),
            "revision 3 was never seen"
        );
        let found = cache.snapshot(&Interest::All, &Wanted::default(), 4, None, Limit::default(), |_| true);
        assert_eq!((found.revision, found.objects.len()), (4, 2));
        let largest = asked.0.lock().iter().copied().max();
        assert_eq!(largest, Some(1), "what nobody can see any more is not asked for");
    }

    #[tokio::test]
    async fn what_the_list_has_already_is_not_asked_for() {
        let cache = Arc::new(Cache::new(Arc::new(Extractor::new([])), b""));
        cache.fill(5, Default::default());
        // Nobody converts: whoever waited for it would wait for ever.
        let (converter, inlet) = Converter::new(cache.clone(), 5, Arc::new(Picky(Mutex::default())));
        for revision in [4, 5] {
            assert!(inlet.offer(revision, change("a", Some("{}"))));
            assert!(!converter.progress.is_behind());
        }
        assert!(inlet.offer(6, change("a", Some("{}"))));
        assert!(converter.progress.is_behind());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_dropped_cache_is_let_go() {
        let cache = Arc::new(Cache::new(Arc::new(Extractor::new([])), b""));
        let (converter, inlet) = Converter::new(cache.clone(), 1, Arc::new(Picky(Mutex::default())));
        assert!(inlet.offer(2, change("a", Some("{}"))));
        drop((converter, inlet));
        cache.settled().await.unwrap();
        assert!(cache.is_closed());
    }

    #[tokio::test]
    async fn a_cache_that_falls_too_far_behind_lets_its_readers_go() {
        let cache = Arc::new(Cache::new(Arc::new(Extractor::new([])), b""));
        // Nobody converts, and the task that would is still there.
        let (_converter, inlet) = Converter::new(cache.clone(), 1, Arc::new(Picky(Mutex::default())));
        let taken = (2..).take_while(|revision| inlet.offer(*revision, change("a", Some("{}")))).count();
        assert_eq!(taken, QUEUE);
        cache.close();
        cache.settled().await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let cache = Arc::new(Cache::new(Arc::new(Extractor::new([])), b""));
        let (mut converter, inlet) = Converter::new(cache.clone(), 1, Arc::new(Picky(Mutex::default())));
        let large = Bytes::from(vec![b' '; QUEUE_BYTES / 2]);
        let offer = |revision| inlet.offer(revision, vec![(Bytes::new(), Some(large.clone()))]);
        assert!(offer(2) && offer(3) && !offer(4));
        let progress = converter.progress.clone();
        while let Ok(next) = converter.receiver.try_recv() {
            converter.take(next);
        }
        converter.fail(Status::internal("no"));
        // The last state is kept of each object, and what was refused above is not there.
        assert_eq!(
            progress.bytes.load(Ordering::Acquire),
            2 * large.len(),
            "one that waits, and the refused one"
        );
    }
}
