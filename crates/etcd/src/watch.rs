//! The service Watch: many watches over one stream.
//!
//! Each watch is a task that reads a watch of the store and hands its batches to the stream's one channel, which is
//! bounded: a client that does not read holds up its own watches and nobody else. Every watch of the store is opened
//! with progress, so that it is known at any time how far each has come; a request for progress is answered once all
//! watches of the stream have been told of everything up to the revision it came at.
//!
//! Upstream: etcd's `server/etcdserver/api/v3rpc/watch.go`.

use std::collections::HashMap;

use bytes::Bytes;
use foundation::SharedClock;
use futures::StreamExt;
use futures::future::{Either, select};
use prost::Message;
use store::{Error, EventKind, Revision, WatchBatch, WatchRequest as StoreWatch, WatchStream};
use tokio::sync::{mpsc, watch as latest};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::wire::etcdserverpb::watch_create_request::FilterType;
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::watch_server::Watch;
use crate::wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::wire::mvccpb;
use crate::{Server, convert, leader, refusal};

/// Answers that may wait for a client.
const WAITING: usize = 16;
/// The largest answer in bytes to a client that can put pieces together; etcd's limit of a request.
const FRAGMENT: usize = 1536 << 10;
/// The watch that answers to the whole stream carry.
const NO_WATCH: i64 = -1;

type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

#[async_trait]
impl Watch for Server {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let leader_lost =
            leader::lost(leader::is_required(request.metadata().as_ref()), self.options.members.clone());
        let (answers, receiver) = mpsc::channel(WAITING);
        let (asked, questions) = latest::channel(Asked::default());
        tokio::spawn(answer_progress(self.clone(), answers.clone(), questions));
        let stream = Stream {
            server: self.clone(),
            answers: answers.clone(),
            watches: HashMap::new(),
            next: 0,
            asked,
        };
        // Ends with the client's stream, and its watches with it; also when the client no longer reads.
        tokio::spawn(async move {
            let gone = answers.clone();
            let ended = tokio::select! {
                ended = stream.run(request.into_inner()) => ended,
                () = leader_lost => Err(leader::missing()),
                // A client that has gone away does not want to know.
                () = gone.closed() => Ok(()),
            };
            if let Err(status) = ended {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One client's stream.
struct Stream {
    server: Server,
    answers: Answers,
    watches: HashMap<i64, Running>,
    /// The next number that the server chooses.
    next: i64,
    /// What was asked last about progress.
    asked: latest::Sender<Asked>,
}

/// Whether all of some watches have been told of everything up to a revision.
#[derive(Default, Clone)]
struct Asked {
    revision: Revision,
    told: Vec<latest::Receiver<Revision>>,
}

/// Answers questions about progress, one at a time: those that come meanwhile are one question more, however many they
/// are. Beside the stream's own work: a watch that is far behind must not keep others from being made.
async fn answer_progress(server: Server, answers: Answers, mut questions: latest::Receiver<Asked>) {
    while questions.changed().await.is_ok() {
        let Asked { revision, mut told } = questions.borrow_and_update().clone();
        for told in &mut told {
            let reached = told.wait_for(|told| *told >= revision);
            // A watch that has ended has nothing to be told.
            if let Either::Right(_) = select(std::pin::pin!(reached), std::pin::pin!(answers.closed())).await
            {
                return;
            }
        }
        let header = server.header(revision);
        let answer = WatchResponse { header, watch_id: NO_WATCH, ..WatchResponse::default() };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}

struct Running {
    task: JoinHandle<()>,
    /// What the client has been told of, all of it. Closed: the watch has ended.
    told: latest::Receiver<Revision>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) -> Result<(), Status> {
        while let Some(request) = requests.message().await? {
            let goes_on = match request.request_union {
                Some(RequestUnion::CreateRequest(request)) => self.create(request).await?,
                Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await?,
                Some(RequestUnion::ProgressRequest(_)) => self.progress().await?,
                None => true,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    async fn send(&self, answer: WatchResponse) -> bool {
        self.answers.send(Ok(answer)).await.is_ok()
    }

    async fn refuse(&self, revision: Revision, reason: impl Into<String>) -> bool {
        self.send(WatchResponse {
            header: self.server.header(revision),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.into(),
            ..WatchResponse::default()
        })
        .await
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<bool, Status> {
        // Watches that have ended give their numbers free.
        self.watches.retain(|_, running| !running.task.is_finished());
        let now = self.server.store.revision().await.map_err(refusal::status)?;
        let start = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        let end = convert::range_end(&start, &request.range_end);
        if !end.is_empty() && start >= end {
            return Ok(self.refuse(now, "mvcc: watcher range is empty").await);
        }
        let id = match request.watch_id {
            0 => {
                while self.watches.contains_key(&self.next) {
                    self.next += 1;
                }
                self.next += 1;
                self.next - 1
            }
            taken if self.watches.contains_key(&taken) => {
                return Ok(self.refuse(now, "mvcc: duplicate watch ID provided on the WatchStream").await);
            }
            free => free,
        };
        let start_revision = match u64::try_from(request.start_revision) {
            Ok(revision) if revision > 0 => revision,
            _ => now + 1,
        };
        let created = WatchResponse {
            header: self.server.header(now),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        if !self.send(created).await {
            return Ok(false);
        }
        let wanted = StoreWatch { start, end, start_revision, prev_kv: request.prev_kv, progress: true };
        let (tell, told) = latest::channel(start_revision - 1);
        let watcher = Watcher {
            id,
            server: self.server.clone(),
            answers: self.answers.clone(),
            no_puts: request.filters().any(|filter| filter == FilterType::Noput),
            no_deletions: request.filters().any(|filter| filter == FilterType::Nodelete),
            fragment: request.fragment,
            notify: request.progress_notify,
            tell,
        };
        let task = tokio::spawn(async move {
            let opened = watcher.server.store.watch(wanted).await;
            watcher.run(opened).await;
        });
        self.watches.insert(id, Running { task, told });
        Ok(true)
    }

    async fn cancel(&mut self, id: i64) -> Result<bool, Status> {
        let Some(mut running) = self.watches.remove(&id) else { return Ok(true) };
        running.task.abort();
        // Nothing may follow the answer: what the task was about to send is sent or not by then.
        let _ = (&mut running.task).await;
        let now = self.server.store.revision().await.map_err(refusal::status)?;
        let header = self.server.header(now);
        Ok(self.send(WatchResponse { header, watch_id: id, canceled: true, ..Default::default() }).await)
    }

    async fn progress(&mut self) -> Result<bool, Status> {
        let now = self.server.store.revision().await.map_err(refusal::status)?;
        let told = self.watches.values().map(|running| running.told.clone()).collect();
        self.asked.send_replace(Asked { revision: now, told });
        Ok(true)
    }
}

/// One watch.
struct Watcher {
    id: i64,
    server: Server,
    answers: Answers,
    no_puts: bool,
    no_deletions: bool,
    fragment: bool,
    notify: bool,
    tell: latest::Sender<Revision>,
}

impl Watcher {
    async fn run(self, opened: Result<WatchStream, Error>) {
        let ended = match opened {
            Ok(stream) => self.follow(stream).await,
            Err(error) => Some(error),
        };
        let Some(error) = ended else { return };
        let mut answer = WatchResponse { watch_id: self.id, canceled: true, ..WatchResponse::default() };
        match error {
            // Clients know it by the revision alone.
            Error::Compacted { revision } => answer.compact_revision = revision as i64,
            other => answer.cancel_reason = refusal::status(other).message().to_owned(),
        }
        answer.header = self.server.header(self.server.store.revision().await.unwrap_or_default());
        let _ = self.answers.send(Ok(answer)).await;
    }

    /// Passes on what happens, until the watch fails (the reason) or the client is gone.
    async fn follow(&self, mut stream: WatchStream) -> Option<Error> {
        let mut timer = self.timer();
        loop {
            let next = match select(stream.next(), &mut timer).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => {
                    timer = self.timer();
                    let told = *self.tell.borrow();
                    if !self.send(told, Vec::new(), false).await {
                        return None;
                    }
                    continue;
                }
            };
            match next {
                None => return Some(Error::Unavailable("the watch ended")),
                Some(Err(error)) => return Some(error),
                Some(Ok(batch)) => {
                    let revision = batch.revision;
                    let events = self.wanted(batch);
                    if !events.is_empty() {
                        if !self.pass_on(revision, events).await {
                            return None;
                        }
                        timer = self.timer();
                    }
                    self.tell.send_replace(revision);
                }
            }
        }
    }

    /// Ends when the client is to be told that nothing has happened, if it asked for that.
    fn timer(&self) -> futures::future::BoxFuture<'static, ()> {
        let clock: &SharedClock = &self.server.clock;
        if self.notify {
            clock.sleep(self.server.options.progress_interval)
        } else {
            Box::pin(std::future::pending())
        }
    }

    fn wanted(&self, batch: WatchBatch) -> Vec<mvccpb::Event> {
        let wanted = |kind| match kind {
            EventKind::Put => !self.no_puts,
            EventKind::Delete => !self.no_deletions,
        };
        batch.events.into_iter().filter(|event| wanted(event.kind)).map(convert::event_to_wire).collect()
    }

    async fn pass_on(&self, revision: Revision, mut events: Vec<mvccpb::Event>) -> bool {
        if self.fragment {
            while let Some(cut) = cut(&events) {
                let rest = events.split_off(cut);
                if !self.send(revision, std::mem::replace(&mut events, rest), true).await {
                    return false;
                }
            }
        }
        self.send(revision, events, false).await
    }

    async fn send(&self, revision: Revision, events: Vec<mvccpb::Event>, fragment: bool) -> bool {
        let header = self.server.header(revision);
        let answer =
            WatchResponse { header, watch_id: self.id, events, fragment, ..WatchResponse::default() };
        self.answers.send(Ok(answer)).await.is_ok()
    }
}

/// How many events make the first piece, if they are more than one piece.
fn cut(events: &[mvccpb::Event]) -> Option<usize> {
    let mut size = 0;
    let fits = |event: &mvccpb::Event| {
        size += event.encoded_len();
        size <= FRAGMENT
    };
    let fitting = events.iter().map(fits).take_while(|fits| *fits).count().max(1);
    (fitting < events.len()).then_some(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_are_cut() {
        let event = |size: usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { value: vec![0; size].into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(cut(&[event(10), event(10)]), None);
        assert_eq!(cut(&[event(1 << 20), event(1 << 20), event(10)]), Some(1));
        // One event is never cut.
        assert_eq!(cut(&[event(2 << 20)]), None);
        assert_eq!(cut(&[event(2 << 20), event(1)]), Some(1));
    }
}
