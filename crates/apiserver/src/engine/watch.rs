//! WATCH: a stream of changes.
//!
//! The stream pulls: it takes the next change when the client has taken the one before, so a slow client
//! costs its queue and nothing else, and one that stops reading is ended (`unread`). Whole JSON objects are frames
//! shared with every other watcher.
//! Upstream: apiserver/pkg/endpoints/handlers/watch.go, apiserver/pkg/storage/cacher/cache_watcher.go.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::selection::{self, Selection, When};
use super::{Call, read};
use crate::cache::{Cached, Change, EventType, Subscription};
use crate::fairness::width::Counted;
use crate::filters::compression;
use crate::metrics::streams::{self, Events};
use crate::negotiation::{Encoding, Form};
use crate::output;
use crate::response::{self, Response};
use crate::server::Server;
use crate::websocket::{self, Handshake};

/// How often a watch with bookmarks is told how far it is, if there is anything to tell.
const BOOKMARK: Duration = Duration::from_secs(60);
/// So much of what is ready is sent together.
const CHUNK: usize = 32 * 1024;
/// So many times in a row a watch that never runs dry is not asked whether its time is over.
const BUSY: u32 = 64;
/// A frame of protobuf begins with its length, in so many bytes.
const PROTOBUF_LENGTH: usize = 4;

/// How a watch begins.
struct Start {
    when: When,
    /// Send the present objects first.
    initial: bool,
    /// Then say by a bookmark that they are complete.
    announce: bool,
}

fn start(call: &Call) -> Result<Start, Status> {
    let query = &call.query;
    let text = query.get("resourceVersion").unwrap_or_default();
    let initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    selection::legal(query, true)?;
    let revision = selection::parse_revision(text)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    Ok(match (initial, revision) {
        (Some(true), None) => Start { when: When::Newest, initial: true, announce: bookmarks },
        (Some(true), Some(0)) => Start { when: When::Any, initial: true, announce: bookmarks },
        (Some(true), Some(n)) => Start { when: When::NotOlderThan(n), initial: true, announce: bookmarks },
        (Some(false), None | Some(0)) => Start { when: When::Newest, initial: false, announce: false },
        // Upstream takes these for the same as `sendInitialEvents=true`.
        (None, None) => Start { when: When::Newest, initial: true, announce: bookmarks },
        (None, Some(0)) => Start { when: When::Any, initial: true, announce: bookmarks },
        (_, Some(n)) => Start { when: When::Exact(n), initial: false, announce: false },
    })
}

pub(super) async fn watch(mut call: Call) -> Result<Response, Status> {
    let encoding = call.accepted.encoding;
    let started = call.server.clock.monotonic();
    let start = start(&call)?;
    let taken = compression::is_taken(&call.headers);
    let selection = Selection::of(&call)?;
    let socket = match websocket::is_requested(&call.headers) {
        true => Some(websocket::watch(&call.headers, call.upgrade.take())?),
        false => None,
    };
    let hub = call.server.hub.clone();
    let from = match start.when {
        When::Exact(revision) => Some(revision),
        when => {
            read::settle(&call, when).await?;
            (!start.initial).then(|| hub.revision())
        }
    };
    let now = hub.revision();
    let cache = read::cache(&call, &selection).await?;
    if let Some(from) = from {
        hub.recall(&call.resource.view, &cache, from).await;
    }
    let opened = cache.watch(selection.interest.clone(), &selection.wanted(), from, now, |object| {
        selection.matches(object)
    });
    // Upstream answers 200 and puts the error into the stream: informers expect it there.
    let (snapshot, subscription) = match opened {
        Ok(opened) => opened,
        Err(too_old) => {
            let error = crate::encoding::to_json(&Status::expired(too_old.to_string()).to_json());
            let frame = output::watch_frame(encoding, "ERROR", &error, None);
            return Ok(respond(&call.server, socket, encoding, futures::stream::iter([frame])));
        }
    };
    let seconds = match call.query.get("timeoutSeconds").and_then(|text| text.parse::<u64>().ok()) {
        Some(seconds) if seconds > 0 => seconds,
        _ => {
            let least = call.server.options.min_request_timeout.as_secs();
            least + call.server.randomness.below(least.max(1))
        }
    };
    cache.counters.initial.add(snapshot.objects.len() as u64);
    let sent = subscription.after;
    let server = call.server.clone();
    // A message is one event.
    let chunk = if socket.is_some() { 1 } else { CHUNK };
    let watching = Watching {
        timeout: call.server.clock.sleep(Duration::from_secs(seconds)),
        bookmark: call.query.flag("allowWatchBookmarks").then(|| call.server.clock.sleep(BOOKMARK)),
        shutdown: call.server.draining.clone(),
        initial: snapshot.objects.into_iter(),
        announce: start.announce.then_some(snapshot.revision),
        started,
        selection,
        subscription,
        sent,
        chunk,
        header: true,
        ended: false,
        busy: 0,
        events: Events::of(&call.info),
        gauge: streams::running(&call.info),
        _counted: call.server.fairness.watches.count(&call.info, &call.query),
        call,
    };
    let frames = futures::stream::unfold(watching, |mut watching| async move {
        let frame = watching.next().await?;
        Some((frame, watching))
    });
    let frames = server.readers.guard(frames, crate::listen::own_connection());
    let compress = start.announce && socket.is_none() && taken;
    let response = respond(&server, socket, encoding, frames);
    Ok(if compress { compression::stream(response) } else { response })
}

/// The frames in the body of the answer, or each as a message of a WebSocket: text where the encoding is.
fn respond(
    server: &Arc<Server>,
    socket: Option<Handshake>,
    encoding: Encoding,
    frames: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    let Some(socket) = socket else {
        return response::stream(200, encoding.watch_media_type(), frames.map(Ok));
    };
    let messages = frames.map(move |frame| match encoding {
        // A message says itself how long it is.
        Encoding::Protobuf => Message::Binary(frame.slice(PROTOBUF_LENGTH.min(frame.len())..)),
        Encoding::Cbor => Message::Binary(frame),
        Encoding::Json | Encoding::Yaml => match Utf8Bytes::try_from(frame.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(frame),
        },
    });
    let mut response = websocket::serve(server, socket, messages);
    let media_type = http::HeaderValue::from_static(encoding.watch_media_type());
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}

struct Watching {
    call: Call,
    /// Priority and fairness knows who is told of writes.
    _counted: Option<Counted>,
    selection: Selection,
    initial: std::vec::IntoIter<Arc<Cached>>,
    /// The revision to announce once the initial objects are sent.
    announce: Option<u64>,
    /// When it was asked for, on the clock that only goes forward.
    started: Duration,
    subscription: Subscription,
    timeout: BoxFuture<'static, ()>,
    bookmark: Option<BoxFuture<'static, ()>>,
    shutdown: foundation::CancellationToken,
    /// The last revision that the client knows of.
    sent: u64,
    /// Ready events are sent together up to about this many bytes.
    chunk: usize,
    header: bool,
    ended: bool,
    /// How often in a row there was something to send without waiting.
    busy: u32,
    events: Events,
    #[expect(dead_code, reason = "counts this watch for as long as it lives")]
    gauge: streams::Running,
}

impl Watching {
    /// A change that waits already. The timeout is looked at only now and then, a server that stops at once.
    fn ready(&mut self) -> Option<Bytes> {
        if self.ended || self.shutdown.is_cancelled() {
            return None;
        }
        while self.busy < BUSY {
            let change = self.subscription.receiver.take()?;
            self.busy += 1;
            if let Some(frame) = self.frame(&change) {
                return Some(self.with_more(frame));
            }
        }
        None
    }

    /// The next bytes to send; `None`: the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(frames) = self.initial_frames() {
            return Some(frames);
        }
        if let Some(revision) = self.announce.take() {
            if self.call.query.flag("sendInitialEvents") {
                let took = self.call.server.clock.monotonic().saturating_sub(self.started);
                streams::listed(&self.call.info, took);
            }
            return Some(self.bookmark_frame(revision, true));
        }
        while let Some(change) = self.subscription.missed.next() {
            if let Some(frame) = self.frame(&change) {
                return Some(frame);
            }
        }
        if let Some(frames) = self.ready() {
            return Some(frames);
        }
        self.busy = 0;
        while !self.ended {
            let due = async {
                match &mut self.bookmark {
                    Some(due) => due.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The end first: a watch that never runs dry must not outlive it.
                () = self.shutdown.cancelled() => return None,
                () = &mut self.timeout => {
                    self.ended = true;
                    // A last bookmark lets the client resume from here.
                    if self.bookmark.is_some() {
                        return self.progress();
                    }
                }
                change = self.subscription.receiver.recv() => {
                    let Some(change) = change else {
                        self.ended = true;
                        return self.failure_frame();
                    };
                    if let Some(frame) = self.frame(&change) {
                        return Some(self.with_more(frame));
                    }
                }
                () = due => {
                    self.bookmark = Some(self.call.server.clock.sleep(BOOKMARK));
                    if let Some(frame) = self.progress() {
                        return Some(frame);
                    }
                }
            }
        }
        None
    }

    /// A bookmark at the newest revision, unless the client is there or changes are on their way to it.
    fn progress(&mut self) -> Option<Bytes> {
        // Read first: whatever is dispatched up to here is in the queue by now, unless the cache was closed before. Then
        // changes have gone to another one, and the client would go on from behind them.
        let revision = self.call.server.hub.revision();
        if revision <= self.sent || self.subscription.is_behind() || self.subscription.receiver.has_ended() {
            return None;
        }
        Some(self.bookmark_frame(revision, false))
    }

    /// What ended the stream, where the client is to be told.
    fn failure_frame(&self) -> Option<Bytes> {
        let failure = crate::encoding::to_json(&self.subscription.failure()?.to_json());
        Some(self.counted(output::watch_frame(self.call.accepted.encoding, "ERROR", &failure, None)))
    }

    fn initial_frames(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < self.chunk {
            let Some(object) = self.initial.next() else { break };
            let frame = self.event("ADDED", &object.value);
            out.extend_from_slice(&self.counted(frame));
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Adds what else is ready, so that a burst is written with few system calls.
    fn with_more(&mut self, first: Bytes) -> Bytes {
        if self.subscription.receiver.is_empty() || first.len() >= self.chunk {
            return first;
        }
        let mut out = BytesMut::from(first);
        while out.len() < self.chunk {
            let Some(change) = self.subscription.receiver.take() else { break };
            if let Some(frame) = self.frame(&change) {
                out.extend_from_slice(&frame);
            }
        }
        out.freeze()
    }

    fn frame(&mut self, change: &Change) -> Option<Bytes> {
        self.sent = self.sent.max(change.revision);
        let event: EventType = change.seen_by(|object| self.selection.matches(object))?;
        let encoding = self.call.accepted.encoding;
        let frame = match self.call.accepted.form {
            Form::Whole if encoding == Encoding::Json => change.frame(event),
            Form::Whole => change.frame_in(encoding, event, |object| self.whole(event.as_str(), object)),
            _ => self.event(event.as_str(), &change.object(event)),
        };
        Some(self.counted(frame))
    }

    /// A frame that is sent now.
    fn counted(&self, frame: Bytes) -> Bytes {
        self.events.sent(frame.len());
        frame
    }

    /// An event with the object in the form the client wants.
    fn event(&mut self, event: &str, object: &Bytes) -> Bytes {
        if self.call.accepted.form == Form::Whole {
            return self.whole(event, object);
        }
        let header = std::mem::take(&mut self.header);
        let object = self.call.output().watched(object, header);
        output::watch_frame(self.call.accepted.encoding, event, &object, None)
    }

    fn whole(&self, event: &str, object: &Bytes) -> Bytes {
        output::watch_frame(self.call.accepted.encoding, event, object, Some(&self.call.resource.schema))
    }

    fn bookmark_frame(&mut self, revision: u64, initial_end: bool) -> Bytes {
        self.sent = revision;
        let descriptor = &self.call.resource.descriptor;
        let mut object = json!({
            "kind": descriptor.kind,
            "apiVersion": descriptor.group_version().to_string(),
            "metadata": {"resourceVersion": revision.to_string()},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        // Of a table it is a row, as any other object.
        let frame = self.event("BOOKMARK", &crate::encoding::to_json(&object));
        self.counted(frame)
    }
}
