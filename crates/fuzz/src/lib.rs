//! Fuzz targets: what any client can send, against what reads it. One function per target; `fuzz/targets` at the top of the
//! project, a workspace of its own, calls them.
//!
//! Read these first: [`bodies`], [`patches`], [`expressions`], [`framing`]; [`seeds`] is what they start from.
//! Each takes the bytes as they come and panics when a promise is broken. Memory and time are libFuzzer's to bound: see
//! `fuzz/run.sh`.
//!
//! A new target is a function here and its line in [`TARGETS`], a seed, and in `fuzz/` three lines in `targets/` and a
//! `[[bin]]`. The tests have each take its seeds.
//! Not here: the same properties with generated inputs, which run with the ordinary tests (`crates/*/tests/it`).

pub mod bodies;
pub mod expressions;
pub mod framing;
pub mod patches;
/// Objects of every kind, drawn from bytes.
#[path = "../../schema/tests/it/sample.rs"]
pub mod sample;
pub mod seeds;
pub mod selectors;

/// The frames of crate `runtime`, which keeps them to itself: its sources, compiled once more.
#[allow(dead_code, missing_docs, reason = "only their reading is used here")]
#[path = "../../runtime/src/streaming"]
mod streaming {
    pub(crate) mod backlog;
    pub(crate) mod channels;
    pub(crate) mod spdy;

    /// Reads frames until the bytes end or are none; how many there were.
    pub(crate) fn frames(data: &[u8]) -> usize {
        let mut reader = spdy::Reader::new();
        let mut read = 0;
        // Pieces of an odd size, as a network gives them.
        for piece in data.chunks(7) {
            reader.buffer().extend_from_slice(piece);
            loop {
                match reader.next() {
                    Ok(Some(spdy::Frame::Open { headers, .. })) => {
                        let held: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                        assert!(held <= 66 * 1024, "{held} bytes of headers in one frame");
                        read += 1;
                    }
                    Ok(Some(_)) => read += 1,
                    Ok(None) => break,
                    Err(_) => return read,
                }
            }
        }
        read
    }
}

/// A target: it takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 14] = [
    ("apply", patches::apply),
    ("cbor", bodies::cbor),
    ("cel", expressions::cel),
    ("forms", bodies::forms),
    ("json", bodies::json),
    ("json_patch", patches::json),
    ("merge_patch", patches::merge),
    ("protobuf", bodies::protobuf),
    ("quantity", selectors::quantity),
    ("selector", selectors::selector),
    ("spdy", framing::spdy),
    ("strategic_patch", patches::strategic),
    ("websocket", framing::websocket),
    ("yaml", bodies::yaml),
];

/// The input's parts: texts between zero bytes, of which JSON, YAML and CEL have none.
pub fn parts<const N: usize>(data: &[u8]) -> Option<[&[u8]; N]> {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    let found: Vec<&[u8]> = parts.by_ref().collect();
    found.try_into().ok()
}
