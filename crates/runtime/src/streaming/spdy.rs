//! SPDY/3.1 frames, as much of them as Kubernetes' streams use: the server's side of streams that the client opens.
//! Pure: bytes in, frames out, and back; `connection` does the reading and writing.
//!
//! Header blocks that come in are decompressed with the protocol's dictionary, in one context for the whole connection.
//! Those that go out are "compressed" into stored blocks, which any inflater reads: they are four bytes long. There is
//! no flow control, as upstream's library has none: its windows are never looked at.
//!
//! Upstream: github.com/moby/spdystream; the protocol is SPDY draft 3.1.

pub(super) mod connection;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};

/// What both sides' header compression starts from: the names and values that HTTP has most (SPDY draft 3, 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy/dictionary");
/// A frame of headers is small: three headers of a few bytes each.
const MAX_CONTROL: usize = 64 * 1024;
/// Headers after decompression.
const MAX_HEADERS: usize = 64 * 1024;
/// The most data that a client of Kubernetes puts into one frame is 32 KiB; this bounds the memory of a hostile one.
const MAX_DATA: usize = super::backlog::MOST_MESSAGE;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const STREAM: u32 = 0x7fff_ffff;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It opens a stream.
    Open { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// It sends bytes, perhaps its last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// It gives a stream up.
    Reset { stream: u32 },
    /// It wants the same frame back.
    Ping { id: u32 },
    /// It will open no more streams.
    GoAway,
    /// Settings, windows, headers that come late: nothing to us.
    Ignored,
}

/// Bytes that are no SPDY.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A frame larger than anybody sends.
    #[error("a frame of {0} bytes is too large")]
    Large(usize),
    /// Another version of the protocol.
    #[error("version {0} of SPDY is not spoken")]
    Version(u16),
    /// A frame that is shorter than its kind.
    #[error("a frame of type {0} is cut off")]
    Short(u16),
    /// Headers that cannot be read.
    #[error("the headers cannot be read")]
    Headers,
}

/// Takes frames from the bytes of a connection.
pub(super) struct Reader {
    buffer: BytesMut,
    inflate: Decompress,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), inflate: Decompress::new(true) }
    }

    /// Where the connection's bytes go.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, once it is there as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some(head) = self.buffer.first_chunk::<8>().copied() else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        let control = head[0] & 0x80 != 0;
        if length > if control { MAX_CONTROL } else { MAX_DATA } {
            return Err(Error::Large(length));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        let mut body = self.buffer.split_to(length).freeze();
        let fin = head[4] & FIN != 0;
        if !control {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) & STREAM;
            return Ok(Some(Frame::Data { stream, bytes: body, fin }));
        }
        let version = u16::from_be_bytes([head[0], head[1]]) & 0x7fff;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let least = match kind {
            1 => 10,
            3 => 8,
            2 | 6 | 8 => 4,
            _ => 0,
        };
        if body.len() < least {
            return Err(Error::Short(kind));
        }
        Ok(Some(match kind {
            1 => {
                let stream = body.get_u32() & STREAM;
                body.advance(6); // the stream it belongs to, and its priority
                Frame::Open { stream, headers: self.headers(&body)?, fin }
            }
            // Read for the sake of the compression's context.
            2 | 8 => {
                self.headers(&body[4..])?;
                Frame::Ignored
            }
            3 => Frame::Reset { stream: body.get_u32() & STREAM },
            6 => Frame::Ping { id: body.get_u32() },
            7 => Frame::GoAway,
            _ => Frame::Ignored,
        }))
    }

    fn headers(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut text = Vec::with_capacity(1024);
        while !block.is_empty() {
            if text.len() >= MAX_HEADERS {
                return Err(Error::Headers);
            }
            if text.len() == text.capacity() {
                text.reserve(1024);
            }
            let (before, length) = (self.inflate.total_in(), text.len());
            let result = self.inflate.decompress_vec(block, &mut text, FlushDecompress::Sync);
            let taken = usize::try_from(self.inflate.total_in() - before).map_err(|_| Error::Headers)?;
            block = block.get(taken..).ok_or(Error::Headers)?;
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| Error::Headers)?;
                }
                Err(_) => return Err(Error::Headers),
                Ok(_) if taken == 0 && text.len() == length && text.len() < text.capacity() => {
                    return Err(Error::Headers);
                }
                Ok(_) => {}
            }
        }
        pairs(&text).ok_or(Error::Headers)
    }
}

fn pairs(mut text: &[u8]) -> Option<Vec<(String, String)>> {
    let count = text.try_get_u32().ok()?;
    let mut pairs = Vec::new();
    let mut word = || {
        let length = usize::try_from(text.try_get_u32().ok()?).ok()?;
        let (word, rest) = text.split_at_checked(length)?;
        text = rest;
        String::from_utf8(word.to_vec()).ok()
    };
    for _ in 0..count {
        pairs.push((word()?, word()?));
    }
    Some(pairs)
}

/// Makes the frames of one connection.
#[derive(Default)]
pub(super) struct Writer {
    replied: bool,
}

impl Writer {
    /// Accepts a stream, without headers.
    pub(super) fn reply(&mut self, stream: u32) -> Bytes {
        let mut block = Vec::new();
        if !std::mem::replace(&mut self.replied, true) {
            block.extend([0x78, 0x01]); // the one head of a zlib stream
        }
        // A stored block of no headers, and the empty one after which an inflater gives out what it has.
        block.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        block.extend([0, 0, 0, 0xff, 0xff]);
        control(2, &[&stream.to_be_bytes()[..], &block].concat())
    }
}

/// Bytes on a stream, perhaps the last.
pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend((stream & STREAM).to_be_bytes());
    frame.push(if fin { FIN } else { 0 });
    frame.extend(length(bytes));
    frame.extend(bytes);
    frame.into()
}

/// Refuses a stream.
pub(super) fn refuse(stream: u32) -> Bytes {
    const REFUSED_STREAM: u32 = 3;
    control(3, &[stream.to_be_bytes(), REFUSED_STREAM.to_be_bytes()].concat())
}

/// Answers a ping, or asks with one of our own: those have even numbers.
pub(super) fn ping(id: u32) -> Bytes {
    control(6, &id.to_be_bytes())
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(8 + body.len());
    frame.extend((0x8000 | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.push(0);
    frame.extend(length(body));
    frame.extend(body);
    frame.into()
}

/// 24 bits; all that is sent is far shorter than they can say.
fn length(bytes: &[u8]) -> [u8; 3] {
    let [.., a, b, c] = bytes.len().to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use foundation::{Randomness, SeededRandomness};

    use super::*;

    fn open(compress: &mut Compress, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut text = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for word in headers.iter().flat_map(|(name, value)| [name, value]) {
            text.extend(u32::try_from(word.len()).unwrap().to_be_bytes());
            text.extend(word.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        compress.compress_vec(&text, &mut block, FlushCompress::Sync).unwrap();
        control(1, &[&stream.to_be_bytes()[..], &[0; 6], &block].concat())
    }

    fn frames(reader: &mut Reader, bytes: &[u8]) -> Vec<Frame> {
        // One byte after the other: frames come in pieces.
        let mut frames = Vec::new();
        for byte in bytes {
            reader.buffer().extend_from_slice(&[*byte]);
            frames.extend(reader.next().unwrap());
        }
        frames
    }

    #[test]
    fn streams_are_opened_with_headers_that_share_a_context() {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(DICTIONARY).unwrap();
        let mut reader = Reader::new();
        for stream in [1, 3, 5] {
            let headers = [("streamtype", "data"), ("port", "8080"), ("requestid", "7")];
            let bytes = open(&mut compress, stream, &headers);
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            assert_eq!(frames(&mut reader, &bytes), [Frame::Open { stream, headers, fin: false }]);
        }
    }

    #[test]
    fn data_and_pings_go_both_ways() {
        let mut reader = Reader::new();
        let bytes = [data(1, b"ab", false), data(3, b"", true), ping(9), refuse(1)].concat();
        let expected = [
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"ab"), fin: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), fin: true },
            Frame::Ping { id: 9 },
            Frame::Reset { stream: 1 },
        ];
        assert_eq!(frames(&mut reader, &bytes), expected);
    }

    #[test]
    fn replies_are_headers_that_an_inflater_reads() {
        let (mut writer, mut reader) = (Writer::default(), Reader::new());
        for stream in [1, 3] {
            // A reader of replies, too, inflates them all in one context.
            assert_eq!(frames(&mut reader, &writer.reply(stream)), [Frame::Ignored]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let random = SeededRandomness::new(0x5b_d931);
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(DICTIONARY).unwrap();
        let opened = open(&mut compress, 1, &[("streamtype", "data"), ("port", "8080")]);
        let sound = [opened, data(1, b"abc", false), ping(9), refuse(1), data(1, b"", true)].concat();
        for _ in 0..2_000 {
            // Sound frames with some bytes changed, cut off somewhere; every fourth time just bytes.
            let mut bytes = sound.clone();
            if random.below(4) == 0 {
                random.fill(&mut bytes);
            }
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.u64() as u8;
            }
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            let mut reader = Reader::new();
            let mut read = 0;
            let piece = 1 + random.below(9) as usize;
            'reading: for piece in bytes.chunks(piece) {
                reader.buffer().extend_from_slice(piece);
                loop {
                    match reader.next() {
                        Ok(Some(_)) => read += 1,
                        Ok(None) => break,
                        Err(_) => break 'reading,
                    }
                }
            }
            // The smallest frame has eight bytes.
            assert!(read <= bytes.len() / 8, "{read} frames in {bytes:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [
            &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..], // version 2
            &[0x80, 3, 0, 1, 0, 0, 0, 1, 0],              // too short for a new stream
            &[0x80, 3, 0, 1, 0, 0xff, 0, 0],              // too large
            &[0, 0, 0, 1, 0, 0xff, 0, 0],
            &[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 1, 2], // no zlib
        ] {
            let mut reader = Reader::new();
            reader.buffer().extend_from_slice(bytes);
            assert!(reader.next().is_err(), "{bytes:?}");
        }
    }
}
