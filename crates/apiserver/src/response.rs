//! Responses: a head, and a body that shares its bytes with whoever holds them.

use std::pin::Pin;
use std::task::{Context, Poll};

use api::Status;
use bytes::{Bytes, BytesMut};
use client::Body;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited, StreamBody};

/// What every handler returns.
pub type Response = http::Response<Body>;

/// An extension of answers that are somebody else's, and only passed on: their bodies mean nothing to this server, and may
/// never come.
#[derive(Clone, Copy, Debug)]
pub struct PassedOn;

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// A response with these bytes.
pub fn bytes(code: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(client::full_body(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A response that says nothing.
pub fn no_content() -> Response {
    let mut response = http::Response::new(client::empty_body());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The whole of a body that another server sent, if it is no longer than `limit` bytes.
///
/// Boxed here: inside of a larger future the compiler cannot see that the body's errors may be sent.
pub fn read(body: Body, limit: usize) -> BoxFuture<'static, Result<Bytes, client::BoxError>> {
    Limited::new(body, limit).collect().map(|read| read.map(|whole| whole.to_bytes())).boxed()
}

/// A response of plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response {
    let mut response = bytes(code, "text/plain; charset=utf-8", body);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A response of JSON.
pub fn json(code: u16, value: &serde_json::Value) -> Response {
    bytes(code, JSON, crate::encoding::to_json(value))
}

/// A failure.
pub fn failure(status: &Status) -> Response {
    let mut response = json(status.code, &status.to_json());
    if let Some(seconds) = status.retry_after_seconds().filter(|seconds| *seconds > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A response whose body comes piece by piece, of known length or not.
pub fn stream(
    code: u16,
    media_type: &'static str,
    chunks: impl Stream<Item = Result<Bytes, client::BoxError>> + Send + 'static,
) -> Response {
    let mut response =
        http::Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks.map(|c| c.map(Frame::data)))));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A body that keeps something until it has ended, or is let go.
pub(crate) fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = client::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, client::BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of buffers that are copied together a chunk at a time, as the reader takes them: a list of a
/// gigabyte costs its reader's pace one chunk, not a second gigabyte.
pub fn concatenation(media_type: &'static str, head: Bytes, items: Vec<Bytes>, tail: Bytes) -> Response {
    const CHUNK: usize = 64 * 1024;
    let commas = items.len().saturating_sub(1);
    let total = head.len() + items.iter().map(Bytes::len).sum::<usize>() + commas + tail.len();
    let mut parts = std::iter::once(head)
        .chain(
            items
                .into_iter()
                .enumerate()
                .flat_map(|(at, item)| (at > 0).then(|| Bytes::from_static(b",")).into_iter().chain([item])),
        )
        .chain([tail]);
    let mut chunk = move || {
        let mut out = BytesMut::with_capacity(CHUNK.min(total));
        for part in parts.by_ref() {
            out.extend_from_slice(&part);
            if out.len() >= CHUNK {
                break;
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    };
    if total <= CHUNK {
        return bytes(200, media_type, chunk().unwrap_or_default());
    }
    let mut response = stream(200, media_type, futures::stream::iter(std::iter::from_fn(chunk).map(Ok)));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    response
}
