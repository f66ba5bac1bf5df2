//! What a client says first: whether it speaks HTTP/2, and by what name it calls the server.
//!
//! The port is for gRPC and for pages that anybody asks for by HTTP/1.1: the first bytes tell. And clients of etcd 3.4
//! name the whole URL `http://host:port` as the authority of their calls where the URL of a single endpoint is written so.
//! That is no authority (RFC 9113, 8.3.1), and `h2` resets such calls; etcd never looks at it. Nor does anything here, so
//! another one is put in its place, in the compressed headers on their way to `h2`. Their compression stays in step: what
//! is put there is shorter, so the table of the reader loses no entry that the writer still counts on. Nothing is looked at
//! any more from the first call on of a client that names itself as it should.
//! Not here: the calls (`connection`), the pages (`pages`).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// The largest frame that `h2` takes unless it is told otherwise.
const LARGEST: usize = 16 << 10;
/// The kind of a frame that begins a call.
const HEADERS: u8 = 1;
/// Flags of such a frame: all headers are in it; it is padded; a priority stands before them.
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of a priority.
const PRIORITY_SIZE: usize = 5;
/// The number of the name `:authority` in the table that all know (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// What no authority begins with, as it is, and the first 40 of the 41 bits of its Huffman code (RFC 7541,
/// appendix B); the last one is 0.
const SCHEME: &[u8] = b"http://";
const SCHEME_CODE: [u8; 5] = [0x9d, 0x29, 0xae, 0xe3, 0x0c];
/// What is put in its place: shorter than whatever begins so.
const INSTEAD: &[u8] = b"etcd";

/// A connection whose first bytes have been looked at.
pub(crate) struct Opened<IO> {
    io: IO,
    /// What is read next, before the connection itself.
    ready: BytesMut,
    /// While names may have to be put right.
    frames: Option<Frames>,
}

impl<IO: AsyncRead + Unpin> Opened<IO> {
    /// Reads until it is known whether the client speaks HTTP/2, and says so. Nothing is lost of what was read.
    pub(crate) async fn new(mut io: IO) -> std::io::Result<(Self, bool)> {
        let mut ready = BytesMut::with_capacity(1024);
        let is_http2 = loop {
            let seen = ready.len().min(PREFACE.len());
            if ready[..seen] != PREFACE[..seen] {
                break false;
            }
            if seen == PREFACE.len() {
                break true;
            }
            if io.read_buf(&mut ready).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let mut opened = Self { io, ready, frames: None };
        if is_http2 {
            let first = opened.ready.split_off(PREFACE.len());
            opened.frames = Some(Frames::default());
            opened.take_in(&first);
        }
        Ok((opened, is_http2))
    }

    /// Has what was read be read on, put right where it has to be.
    fn take_in(&mut self, input: &[u8]) {
        let Some(frames) = &mut self.frames else { return self.ready.extend_from_slice(input) };
        if !frames.pass(input, &mut self.ready) {
            self.frames = None;
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Opened<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let size = this.ready.len().min(into.remaining());
                into.put_slice(&this.ready[..size]);
                this.ready.advance(size);
                return Poll::Ready(Ok(()));
            }
            if this.frames.is_none() {
                return Pin::new(&mut this.io).poll_read(context, into);
            }
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            std::task::ready!(Pin::new(&mut this.io).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                // What was begun will not be whole any more.
                return Poll::Ready(Ok(()));
            }
            this.take_in(piece.filled());
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Opened<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The frames of a client, on their way.
#[derive(Default)]
struct Frames {
    /// A frame that begins a call, or the head of any, as far as it has come.
    begun: BytesMut,
    /// Bytes still to come of a frame that is passed on as it is.
    passing: usize,
    /// A call was put right: there may be more.
    mended: bool,
}

impl Frames {
    /// Passes on what has come. Says whether it wants to see more; if not, everything has been passed on.
    fn pass(&mut self, mut input: &[u8], out: &mut BytesMut) -> bool {
        loop {
            let passing = self.passing.min(input.len());
            out.extend_from_slice(&input[..passing]);
            input.advance(passing);
            self.passing -= passing;
            if !take(&mut self.begun, HEAD, &mut input) {
                return true;
            }
            let head = &self.begun[..HEAD];
            let size = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            if kind != HEADERS {
                out.extend_from_slice(&self.begun.split());
                self.passing = size;
                continue;
            }
            if size <= LARGEST && !take(&mut self.begun, HEAD + size, &mut input) {
                return true;
            }
            let mended = if flags & (END_HEADERS | PADDED) == END_HEADERS && size <= LARGEST {
                let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_SIZE };
                authority(&self.begun, HEAD + priority)
            } else {
                None
            };
            let mut frame = self.begun.split();
            if let Some((value, end)) = mended {
                let rest = frame.split_off(end);
                frame.truncate(value);
                frame.put_u8(INSTEAD.len() as u8);
                frame.extend_from_slice(INSTEAD);
                frame.extend_from_slice(&rest);
                let size = (frame.len() - HEAD) as u32;
                frame[..3].copy_from_slice(&size.to_be_bytes()[1..]);
                self.mended = true;
            }
            out.extend_from_slice(&frame);
            // One that is too large is passed on as well: `h2` says what it thinks of it.
            self.passing = (HEAD + size).saturating_sub(frame.len()) * usize::from(size > LARGEST);
            if !self.mended {
                out.extend_from_slice(input);
                return false;
            }
        }
    }
}

/// Fills up to a size. Says whether there was enough.
fn take(begun: &mut BytesMut, size: usize, input: &mut &[u8]) -> bool {
    let missing = size.saturating_sub(begun.len()).min(input.len());
    begun.extend_from_slice(&input[..missing]);
    input.advance(missing);
    begun.len() >= size
}

/// Where in compressed headers, which begin at a place, the value of an authority is that has a scheme: from its length to
/// its end. `None` if there is none, or if the headers are not understood, which `h2` will say.
fn authority(frame: &[u8], mut at: usize) -> Option<(usize, usize)> {
    while let Some(&first) = frame.get(at) {
        let name = match first {
            // A whole header that was sent before; a new size of the table.
            0x80.. | 0x20..0x40 => {
                let bits = if first >= 0x80 { 7 } else { 5 };
                at = number(frame, at, bits)?.1;
                continue;
            }
            // A value that is to be remembered; one that is not.
            0x40..0x80 => number(frame, at, 6)?,
            0x00..0x20 => number(frame, at, 4)?,
        };
        at = name.1;
        if name.0 == 0 {
            at = text(frame, at)?.1;
        }
        let value = at;
        let (found, end) = text(frame, at)?;
        if name.0 == AUTHORITY {
            let coded = frame[value] & 0x80 != 0;
            let next = found.get(SCHEME_CODE.len()).is_some_and(|byte| byte & 0x80 == 0);
            let is_url =
                if coded { found.starts_with(&SCHEME_CODE) && next } else { found.starts_with(SCHEME) };
            return is_url.then_some((value, end));
        }
        at = end;
    }
    None
}

/// A number that begins in the lowest bits of a byte, and where it ends (RFC 7541, 5.1).
fn number(frame: &[u8], mut at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*frame.get(at)?) & most;
    at += 1;
    if value < most {
        return Some((value, at));
    }
    for shift in [0, 7, 14] {
        let byte = *frame.get(at)?;
        at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// A text, perhaps in Huffman code, and where it ends (RFC 7541, 5.2).
fn text(frame: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (size, at) = number(frame, at, 7)?;
    Some((frame.get(at..at + size)?, at + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u32).to_be_bytes();
        [&size[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn literal(first: u8, value: &[u8]) -> Vec<u8> {
        [&[first, value.len() as u8], value].concat()
    }

    /// What comes out if it comes in pieces of a size, and whether more is wanted.
    fn passed(input: &[u8], size: usize) -> (Vec<u8>, bool) {
        let (mut frames, mut out) = (Some(Frames::default()), BytesMut::new());
        for piece in input.chunks(size) {
            let looks_on = match &mut frames {
                Some(looking) => looking.pass(piece, &mut out),
                None => {
                    out.extend_from_slice(piece);
                    false
                }
            };
            frames = frames.filter(|_| looks_on);
        }
        (out.to_vec(), frames.is_some())
    }

    #[test]
    fn only_a_url_in_the_place_of_a_name_is_put_right() {
        // `http://127.0.0.1:2379`, in Huffman code.
        let coded =
            [0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x09, 0x97, 0x5f];
        let coded = [&[0x41, 0x80 | coded.len() as u8][..], &coded].concat();
        let instead = literal(0x41, INSTEAD);
        // The method, a path, and a header with a name of its own; then what comes after the authority.
        let around = |authority: &[u8]| {
            [&[0x83, 0x3f, 0x01][..], &literal(0x44, b"/a"), b"\x00\x01x\x01y", authority, &[0x86]].concat()
        };
        let priority = [0; PRIORITY_SIZE];
        for (what, flags, before, given, expected) in [
            ("plain", 0x4, &[][..], literal(0x41, b"http://a:1"), Some(&instead)),
            ("not remembered", 0x4, &[], literal(0x01, b"http://a:1"), Some(&literal(0x01, INSTEAD))),
            ("in code", 0x5, &[], coded, Some(&instead)),
            ("behind a priority", 0x24, &priority, literal(0x41, b"http://a:1"), Some(&instead)),
            ("a name", 0x4, &[], literal(0x41, b"a:1"), None),
            ("another header", 0x4, &[], literal(0x42, b"http://a:1"), None),
            ("remembered whole", 0x4, &[], vec![0xbe], None),
            ("cut off", 0x4, &[], vec![0x41, 0x7f], None),
            ("in two frames", 0x0, &[], literal(0x41, b"http://a:1"), None),
        ] {
            let call = |authority: &[u8]| frame(HEADERS, flags, &[before, &around(authority)].concat());
            let (settings, data) = (frame(4, 0, b"123456"), frame(0, 1, &[7; 300]));
            let all = |authority: &[u8]| [settings.clone(), call(authority), data.clone()].concat();
            let wanted = all(expected.unwrap_or(&given));
            for size in [1, 7, 10_000] {
                let (out, looks_on) = passed(&all(&given), size);
                assert_eq!(out, wanted, "{what}, {size} bytes at once");
                assert_eq!(looks_on, expected.is_some(), "{what}");
            }
        }
    }

    #[test]
    fn once_one_was_put_right_all_are() {
        let url = frame(HEADERS, 4, &literal(0x41, b"http://a:1"));
        let (name, known) = (frame(HEADERS, 4, &literal(0x41, b"a:1")), frame(HEADERS, 4, &[0xbe]));
        let mended = frame(HEADERS, 4, &literal(0x41, INSTEAD));
        let large = frame(HEADERS, 4, &[0; LARGEST + 1]);
        let given = [&url, &known, &large, &name, &url].map(Vec::as_slice).concat();
        let wanted = [&mended, &known, &large, &name, &mended].map(Vec::as_slice).concat();
        for size in [1, 5, given.len()] {
            assert_eq!(passed(&given, size), (wanted.clone(), true));
        }
    }

    #[tokio::test]
    async fn both_protocols_are_told_from_the_first_bytes() {
        for (said, is_http2) in [
            (&b"GET /health HTTP/1.1\r\n\r\n"[..], Some(false)),
            (b"PUT /x HTTP/1.1\r\n\r\n", Some(false)),
            (PREFACE, Some(true)),
            (b"PRI * HTTP", None),
            (b"", None),
        ] {
            match (Opened::new(said).await, is_http2) {
                (Ok((mut opened, found)), Some(expected)) => {
                    let mut all = Vec::new();
                    opened.read_to_end(&mut all).await.unwrap();
                    assert_eq!((all.as_slice(), found), (said, expected));
                }
                (Err(_), None) => {}
                (found, _) => panic!("{said:?}: {:?}", found.map(|found| found.1)),
            }
        }
    }
}
