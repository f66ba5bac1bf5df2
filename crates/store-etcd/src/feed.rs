//! One stream of all changes, shared by every watch.
//!
//! etcd tells a watch what changed, but not, in versions before 3.5.13, how far it has come when nothing did. So one
//! watch follows the whole key space: every revision changes some key, and what has not been told by a revision's end
//! has not happened. The watches of this process read from a ring of the latest changes, each at its own pace, and
//! drop what is not theirs: as an API server watches everything anyway, that is no more traffic than watches of their
//! own would be. A watch that begins before the ring, or falls behind it, follows a stream of its own until it meets
//! the ring.
//!
//! A stream that breaks is opened again, on another endpoint, from the revision after the last whole one: nothing is
//! missed and nothing comes twice. It asks for a leader, so that a member that is cut off ends it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd::wire::etcdserverpb::watch_client::WatchClient;
use etcd::wire::etcdserverpb::watch_create_request::FilterType;
use etcd::wire::etcdserverpb::watch_request::RequestUnion;
use etcd::wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use etcd::{convert, stamp};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use store::{Error, Event, Revision, WatchBatch, WatchStream};
use tokio::sync::watch;
use tonic::{Request, Status, Streaming};

use crate::endpoints::{Connection, Endpoints, Pauses};

/// Changes that the ring keeps, at most, and their bytes.
const RING: (usize, usize) = (16 << 10, 8 << 20);
/// About how many changes one batch has.
const BATCH: usize = 256;

/// The stream of changes.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    /// The task that follows etcd, once there has been a watch.
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

struct Shared {
    endpoints: Arc<Endpoints>,
    ring: Mutex<Ring>,
    /// The latest revision in the ring.
    latest: watch::Sender<Revision>,
}

#[derive(Default)]
struct Ring {
    /// Every change from this revision on is in the ring.
    first: Revision,
    latest: Revision,
    batches: VecDeque<Arc<WatchBatch>>,
    events: usize,
    bytes: usize,
}

fn size(batch: &WatchBatch) -> usize {
    let of = |event: &Event| {
        event.kv.key.len() + event.kv.value.len() + event.prev.as_ref().map_or(0, |prev| prev.value.len())
    };
    batch.events.iter().map(of).sum()
}

impl Ring {
    fn push(&mut self, batch: WatchBatch) {
        self.latest = batch.revision;
        self.events += batch.events.len();
        self.bytes += size(&batch);
        self.batches.push_back(Arc::new(batch));
        while (self.events > RING.0 || self.bytes > RING.1) && self.batches.len() > 1 {
            let Some(oldest) = self.batches.pop_front() else { return };
            self.first = oldest.revision + 1;
            self.events -= oldest.events.len();
            self.bytes -= size(&oldest);
        }
    }

    /// The batches that hold revisions from `next` on.
    fn since(&self, next: Revision) -> impl Iterator<Item = &Arc<WatchBatch>> {
        let first = self.batches.partition_point(|batch| batch.revision < next);
        self.batches.range(first..)
    }
}

impl Feed {
    pub fn new(endpoints: Arc<Endpoints>) -> Self {
        let latest = watch::Sender::new(0);
        Self {
            shared: Arc::new(Shared { endpoints, ring: Mutex::default(), latest }),
            task: Mutex::default(),
        }
    }

    /// A watch. `now` is a revision that the store has reached; a watch from 0 begins after it.
    pub fn watch(self: &Arc<Self>, request: store::WatchRequest, now: Revision) -> WatchStream {
        self.start(now);
        let next = if request.start_revision == 0 { now + 1 } else { request.start_revision };
        let reader = Reader {
            latest: self.shared.latest.subscribe(),
            feed: self.clone(),
            request,
            next,
            reported: next - 1,
            own: None,
            ended: false,
        };
        stream::unfold(reader, |mut reader| async move {
            if reader.ended {
                return None;
            }
            let item = reader.next().await;
            reader.ended = item.is_err();
            Some((item, reader))
        })
        .boxed()
    }

    fn start(&self, now: Revision) {
        let mut task = self.task.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        {
            let mut ring = self.shared.ring.lock();
            *ring = Ring { first: now + 1, latest: now, ..Ring::default() };
            self.shared.latest.send_replace(now);
        }
        *task = Some(tokio::spawn(follow(self.shared.clone())));
    }
}

/// Fills the ring, for as long as the feed lives.
async fn follow(shared: Arc<Shared>) {
    let mut pauses = Pauses::default();
    loop {
        let next = shared.ring.lock().latest + 1;
        match Own::open(&shared.endpoints, next).await {
            Ok(mut own) => {
                let ended = loop {
                    match own.next().await {
                        Ok(batch) => {
                            pauses = Pauses::default();
                            let revision = batch.revision;
                            shared.ring.lock().push(batch);
                            shared.latest.send_replace(revision);
                        }
                        Err(ended) => break ended,
                    }
                };
                match ended {
                    Ended::Compacted(revision) => {
                        // Watches that are as far behind find out the same by streams of their own.
                        tracing::warn!(revision, "changes were compacted before they could be followed");
                        let mut ring = shared.ring.lock();
                        *ring = Ring { first: revision, latest: revision - 1, ..Ring::default() };
                        shared.latest.send_replace(revision - 1);
                        continue;
                    }
                    Ended::Broken(reason) => {
                        tracing::debug!(reason, "etcd's stream of changes broke");
                        shared.endpoints.failed(&own.connection);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "etcd's stream of changes cannot be opened"),
        }
        pauses.wait(&shared.endpoints).await;
    }
}

/// One watch of this process.
struct Reader {
    feed: Arc<Feed>,
    latest: watch::Receiver<Revision>,
    request: store::WatchRequest,
    /// The first revision not yet looked at.
    next: Revision,
    /// The revision of the last batch delivered.
    reported: Revision,
    /// A stream of its own, while it is behind the ring.
    own: Option<Own>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<WatchBatch, Error> {
        let mut pauses = Pauses::default();
        loop {
            // Seen from here on, so that nothing that comes meanwhile is slept through.
            self.latest.mark_unchanged();
            if let Some(batch) = self.from_ring() {
                return Ok(batch);
            }
            if self.own.is_none() && self.next >= self.feed.shared.ring.lock().first {
                // The feed lives as long as this reader.
                if self.latest.changed().await.is_err() {
                    return Err(Error::Unavailable("the store is shut down"));
                }
                continue;
            }
            if let Some(batch) = self.from_own(&mut pauses).await? {
                return Ok(batch);
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let (start, end) = (&self.request.start, &self.request.end);
        event.kv.mod_revision >= self.next
            && *start <= event.kv.key
            && (end.is_empty() || event.kv.key < *end)
    }

    fn mine(&self, event: &Event) -> Event {
        let prev = if self.request.prev_kv { event.prev.clone() } else { None };
        Event { kind: event.kind, kv: event.kv.clone(), prev }
    }

    fn from_ring(&mut self) -> Option<WatchBatch> {
        let mut events = Vec::new();
        {
            let shared = self.feed.shared.clone();
            let ring = shared.ring.lock();
            if self.next < ring.first {
                return None;
            }
            self.own = None;
            let mut seen = self.next - 1;
            for batch in ring.since(self.next) {
                if events.len() >= BATCH {
                    break;
                }
                events.extend(
                    batch.events.iter().filter(|event| self.wants(event)).map(|event| self.mine(event)),
                );
                seen = seen.max(batch.revision);
            }
            self.next = seen + 1;
        }
        self.batch(events)
    }

    /// What to deliver once everything before `next` has been looked at.
    fn batch(&mut self, events: Vec<Event>) -> Option<WatchBatch> {
        let revision = self.next - 1;
        if events.is_empty() && !(self.request.progress && self.reported < revision) {
            return None;
        }
        self.reported = revision;
        Some(WatchBatch { revision, events })
    }

    /// The next batch of a stream of its own, if there is something in it for this watch.
    async fn from_own(&mut self, pauses: &mut Pauses) -> Result<Option<WatchBatch>, Error> {
        let own = match &mut self.own {
            Some(own) => own,
            None => match Own::open(&self.feed.shared.endpoints, self.next).await {
                Ok(own) => self.own.insert(own),
                Err(error) => {
                    tracing::debug!(%error, "a watch cannot catch up yet");
                    pauses.wait(&self.feed.shared.endpoints).await;
                    return Ok(None);
                }
            },
        };
        match own.next().await {
            Ok(batch) => {
                let events = batch.events.iter().filter(|event| self.wants(event));
                let events = events.map(|event| self.mine(event)).collect();
                self.next = self.next.max(batch.revision + 1);
                Ok(self.batch(events))
            }
            Err(Ended::Compacted(revision)) => Err(Error::Compacted { revision }),
            Err(Ended::Broken(reason)) => {
                tracing::debug!(reason, "a watch that catches up was cut");
                self.feed.shared.endpoints.failed(&own.connection);
                self.own = None;
                pauses.wait(&self.feed.shared.endpoints).await;
                Ok(None)
            }
        }
    }
}

/// Why a stream ended.
enum Ended {
    /// What it wanted is compacted up to here.
    Compacted(Revision),
    /// It may be opened again.
    Broken(String),
}

/// A watch of etcd over all keys.
struct Own {
    connection: Connection,
    /// Held open: its end would end the stream.
    _requests: tokio::sync::mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    /// Pieces of an answer that is not whole yet.
    pieces: Vec<Event>,
}

/// Opens etcd's watch stream with one watch in it.
async fn open(
    connection: &Connection,
    create: WatchCreateRequest,
) -> Result<(tokio::sync::mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), Status> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // There is room for one, and the receiver is here.
    let _ = sender.try_send(create);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    let mut client = WatchClient::new(connection.channel.clone()).max_decoding_message_size(usize::MAX);
    Ok((sender, client.watch(request).await?.into_inner()))
}

fn everything(start_revision: Revision) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        start_revision: start_revision as i64,
        ..WatchCreateRequest::default()
    }
}

impl Own {
    async fn open(endpoints: &Arc<Endpoints>, next: Revision) -> Result<Self, Error> {
        let connection = endpoints.connection().await?;
        let create = WatchCreateRequest { prev_kv: true, fragment: true, ..everything(next) };
        let opened = endpoints.within(endpoints.deadline(), open(&connection, create)).await;
        match opened.unwrap_or_else(|| Err(Status::deadline_exceeded("etcd takes too long"))) {
            Ok((requests, responses)) => {
                Ok(Self { connection, _requests: requests, responses, pieces: Vec::new() })
            }
            Err(status) => {
                tracing::debug!(%status, "etcd refuses a watch");
                endpoints.failed(&connection);
                Err(Error::Unavailable("etcd refuses a watch"))
            }
        }
    }

    /// The next whole revisions.
    async fn next(&mut self) -> Result<WatchBatch, Ended> {
        loop {
            let response = match self.responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(Ended::Broken("it ended".to_owned())),
                Err(status) => return Err(Ended::Broken(status.to_string())),
            };
            if response.compact_revision > 0 {
                return Err(Ended::Compacted(response.compact_revision as Revision));
            }
            if response.canceled {
                return Err(Ended::Broken(response.cancel_reason));
            }
            let events = response.events.into_iter().map(|event| {
                let event = convert::event_from_wire(event);
                Event { kv: stamp::opened(event.kv), prev: event.prev.map(stamp::opened), ..event }
            });
            self.pieces.extend(events);
            if response.fragment {
                continue;
            }
            let events = std::mem::take(&mut self.pieces);
            if let Some(last) = events.last() {
                return Ok(WatchBatch { revision: last.kv.mod_revision, events });
            }
        }
    }
}

/// The compact revision, which etcd tells nobody but a watch that begins before it. The caller knows that something
/// is compacted.
pub(crate) async fn compact_revision(endpoints: &Arc<Endpoints>) -> Result<Revision, Error> {
    let told = endpoints.within(endpoints.deadline(), ask_compact_revision(endpoints)).await;
    told.unwrap_or(Err(Error::Unavailable("etcd does not say what is compacted")))
}

async fn ask_compact_revision(endpoints: &Arc<Endpoints>) -> Result<Revision, Error> {
    let mut pauses = Pauses::default();
    loop {
        let connection = endpoints.connection().await?;
        let filters = vec![FilterType::Noput.into(), FilterType::Nodelete.into()];
        if let Ok((_requests, mut responses)) =
            open(&connection, WatchCreateRequest { filters, ..everything(1) }).await
        {
            while let Ok(Some(response)) = responses.message().await {
                if response.compact_revision > 0 {
                    return Ok(response.compact_revision as Revision);
                }
            }
        }
        endpoints.failed(&connection);
        pauses.wait(endpoints).await;
    }
}
