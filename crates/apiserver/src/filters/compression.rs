//! Large answers in gzip, for clients that take it: lists above all.
//!
//! The body is compressed piece by piece as the client reads it. Not here: watches and streams, which are not
//! compressed; what the answers are.
//! Upstream: apiserver/pkg/endpoints/handlers/responsewriters/writers.go (APIResponseCompression).

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};

use crate::request::RequestInfo;
use crate::response::Response;

/// Smaller answers cost more to compress than they save (upstream's defaultGzipThresholdBytes).
const LEAST: u64 = 128 * 1024;
/// The fastest level: this is for networks of a data centre.
const LEVEL: u32 = 1;

/// Whether the client takes gzip, and what it asks for may be large.
pub(super) fn wanted(headers: &HeaderMap, info: &RequestInfo) -> bool {
    let takes = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|one| one.split(';').next().is_some_and(|name| name.trim() == "gzip"))
        })
    };
    matches!(info.verb.as_str(), "get" | "list")
        && !info.is_long_running()
        && headers.get_all(header::ACCEPT_ENCODING).iter().any(takes)
}

/// The response in gzip, if it is large enough.
pub(super) fn compress(response: Response) -> Response {
    let large = response.body().size_hint().lower() > LEAST
        || response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
            .is_some_and(|length| length > LEAST);
    if !large || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    let state = Some((BodyStream::new(body), encoder));
    let chunks = futures::stream::unfold(state, |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            let data = match body.next().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    let rest = encoder.finish().map(Bytes::from).map_err(client::BoxError::from);
                    return Some((rest.map(Frame::data), None));
                }
            };
            if let Err(error) = encoder.write_all(&data) {
                return Some((Err(error.into()), None));
            }
            let ready = std::mem::take(encoder.get_mut());
            if !ready.is_empty() {
                return Some((Ok(Frame::data(ready.into())), Some((body, encoder))));
            }
        }
    });
    http::Response::from_parts(head, StreamBody::new(chunks).boxed_unsync())
}
