//! A watch as a stream of events: splits the body into lines and decodes each once.
//!
//! Not here: what to do when it ends (the reflector of [`crate::Informers`]).

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Body, Cached, Error, TransportError};

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent<K> {
    /// The object is new (or newly matches the selector).
    Added(K),
    /// The object changed.
    Modified(K),
    /// The object is gone (or no longer matches); this is its last state.
    Deleted(K),
    /// Nothing changed up to this revision.
    Bookmark {
        /// The revision.
        resource_version: String,
        /// It ends the initial events of a streaming list (`k8s.io/initial-events-end`).
        initial_events_end: bool,
    },
}

/// The events of one watch.
pub struct WatchStream<K> {
    body: Body,
    buffer: BytesMut,
    /// Bytes at the start of `buffer` known to hold no line end, so that a long line is scanned once.
    scanned: usize,
    object: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkObject {
    metadata: api::meta::ObjectMeta,
}

impl<K: Cached> WatchStream<K> {
    pub(crate) fn new(body: Body) -> WatchStream<K> {
        WatchStream { body, buffer: BytesMut::new(), scanned: 0, object: PhantomData }
    }

    /// The next event, or `None` when the server has ended the watch. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<K>, Error>> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(decode(&line));
            }
            match self.body.frame().await {
                // A stream that ends within a line was cut: the reflector continues from the last whole event.
                None => return None,
                Some(Err(error)) => return Some(Err(TransportError::Exchange(error).into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        // The server's shared frames are usually one whole line: take it without a copy.
                        if data.len() > 1
                            && self.buffer.is_empty()
                            && data.iter().position(|&b| b == b'\n') == Some(data.len() - 1)
                        {
                            return Some(decode(&data));
                        }
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        match self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.scanned + at + 1).freeze();
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                if self.scanned == 0 {
                    // Do not keep the room of the largest object ever seen.
                    self.buffer = BytesMut::new();
                }
                None
            }
        }
    }
}

fn decode<K: Cached>(line: &[u8]) -> Result<WatchEvent<K>, Error> {
    let error = |source| Error::Decode { what: "watch event".to_owned(), source };
    let frame: Frame = serde_json::from_slice(line).map_err(error)?;
    let object = || serde_json::from_str::<K>(frame.object.get()).map_err(error);
    Ok(match frame.kind {
        "ADDED" => WatchEvent::Added(object()?),
        "MODIFIED" => WatchEvent::Modified(object()?),
        "DELETED" => WatchEvent::Deleted(object()?),
        "BOOKMARK" => {
            let bookmark: BookmarkObject = serde_json::from_str(frame.object.get()).map_err(error)?;
            WatchEvent::Bookmark {
                resource_version: bookmark.metadata.resource_version.unwrap_or_default(),
                initial_events_end: bookmark
                    .metadata
                    .annotations
                    .is_some_and(|all| all.get("k8s.io/initial-events-end").is_some_and(|v| v == "true")),
            }
        }
        "ERROR" => {
            let value: serde_json::Value = serde_json::from_str(frame.object.get()).map_err(error)?;
            let status = api::Status::from_json(&value)
                .unwrap_or_else(|| api::Status::internal(format!("watch error: {value}")));
            return Err(status.into());
        }
        other => return Err(Error::Request(format!("watch event of unknown type {other:?}"))),
    })
}
