//! Large answers in gzip, for clients that take it: lists above all.
//!
//! The body is compressed piece by piece as the client reads it. A watch that begins with all objects there are
//! (`sendInitialEvents`) is a list too, and is compressed from its beginning to its end, each piece so that the client can
//! read it at once. Of these, pieces of less than 16 KiB, single events above all, are stored as they are, each followed by
//! an empty block that flushes it; large ones are compressed.
//! Not here: other watches and streams, which are not compressed; what the answers are.
//! Upstream: apiserver/pkg/endpoints/handlers/responsewriters/writers.go (APIResponseCompression),
//! apiserver/pkg/endpoints/handlers/watch.go (WatchListCompression).

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
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

/// Smaller pieces of a stream, single events above all, go as they are in blocks of their own: a compressor for each would
/// cost every watcher more than the bytes do.
const STORED: usize = 16 * 1024;

/// What a member of gzip begins with: deflate, no name, no time, the fastest level, no system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// A stored block with nothing in it, which ends every piece.
const FLUSHED: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// The last block of a deflate stream, with nothing in it.
const LAST: [u8; 2] = [0x03, 0x00];

/// Whether the client takes gzip, and what it asks for may be large.
pub(super) fn wanted(headers: &HeaderMap, info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "get" | "list") && !info.is_long_running() && is_taken(headers)
}

/// Whether the client takes gzip.
pub(crate) fn is_taken(headers: &HeaderMap) -> bool {
    let takes = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|one| one.split(';').next().is_some_and(|name| name.trim() == "gzip"))
        })
    };
    headers.get_all(header::ACCEPT_ENCODING).iter().any(takes)
}

/// The stream in gzip; each piece can be read as soon as it is there.
///
/// One member, as there are clients that do not read a second one. Its blocks do not refer to one another across pieces,
/// so that a watch that waits holds no compressor. (Upstream makes a member of each piece, for the same reason.)
pub(crate) fn stream(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    name(headers);
    response.map(|body| {
        let state = Some((BodyStream::new(body), Member::default()));
        let chunks = futures::stream::unfold(state, |state| async move {
            let (mut body, mut member) = state?;
            loop {
                match body.next().await {
                    Some(Ok(frame)) => {
                        let piece = frame.into_data().unwrap_or_default();
                        if !piece.is_empty() {
                            let written = member.piece(&piece).map_err(client::BoxError::from);
                            return Some((written.map(Frame::data), Some((body, member))));
                        }
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => return Some((Ok(Frame::data(member.end())), None)),
                }
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    })
}

fn name(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A member of gzip, written piece by piece.
#[derive(Default)]
struct Member {
    sum: Crc,
    begun: bool,
}

impl Member {
    fn head(&mut self) -> Vec<u8> {
        if std::mem::replace(&mut self.begun, true) { Vec::new() } else { HEAD.to_vec() }
    }

    /// A piece, ending at a whole byte.
    fn piece(&mut self, piece: &[u8]) -> Result<Bytes, flate2::CompressError> {
        let mut out = self.head();
        out.reserve(piece.len() / 3 + 64);
        self.sum.update(piece);
        if piece.len() < STORED {
            // A block that is stored: its kind, how long it is, and the same inverted.
            let length = piece.len() as u16;
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(piece);
            // Go's reader hands on what a stored block held when the next one begins: an empty one, as a flush makes.
            out.extend_from_slice(&FLUSHED);
            return Ok(out.into());
        }
        let mut compressor = Compress::new(Compression::new(LEVEL), false);
        loop {
            let done = usize::try_from(compressor.total_in()).unwrap_or(piece.len());
            compressor.compress_vec(&piece[done..], &mut out, FlushCompress::Sync)?;
            // Room that is left says that everything is written.
            if compressor.total_in() == piece.len() as u64 && out.len() < out.capacity() {
                return Ok(out.into());
            }
            out.reserve(piece.len() / 3 + 64);
        }
    }

    fn end(&mut self) -> Bytes {
        let mut out = self.head();
        out.extend_from_slice(&LAST);
        out.extend_from_slice(&self.sum.sum().to_le_bytes());
        out.extend_from_slice(&self.sum.amount().to_le_bytes());
        out.into()
    }
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
    name(&mut head.headers);
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn pieces_are_one_member_and_each_is_read_when_it_is_there() {
        let mut noise = 1_u64;
        let mut random = |n: usize| -> Vec<u8> {
            let mut next = || {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            };
            (0..n).map(|_| next()).collect()
        };
        let pieces = [b"{}\n".to_vec(), vec![b'a'; 70_000], random(100_000), b"x".to_vec(), random(33)];
        let mut member = Member::default();
        let (mut sent, mut plain) = (Vec::new(), Vec::new());
        for piece in &pieces {
            sent.extend_from_slice(&member.piece(piece).unwrap());
            // What Go's reader waits for before it hands on what it has.
            assert!(sent.ends_with(&FLUSHED[1..]), "after {} bytes", plain.len());
            plain.extend_from_slice(piece);
            // All that was sent so far is read, though the end is not there.
            let mut read = vec![0; plain.len()];
            flate2::read::GzDecoder::new(&sent[..]).read_exact(&mut read).unwrap();
            assert!(read == plain, "after {} bytes", plain.len());
        }
        sent.extend_from_slice(&member.end());
        let mut read = Vec::new();
        let mut decoder = flate2::bufread::GzDecoder::new(&sent[..]);
        decoder.read_to_end(&mut read).unwrap();
        assert!(read == plain && decoder.into_inner().is_empty(), "one member and nothing after it");
    }

    #[test]
    fn a_stream_of_nothing_is_a_member_of_nothing() {
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&Member::default().end()[..]).read_to_end(&mut read).unwrap();
        assert!(read.is_empty());
    }
}
