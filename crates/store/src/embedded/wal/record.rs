//! One record of the log: a checksummed header and a payload, padded to eight.
//!
//! Layout, little-endian: magic u32, payload length u32, batch u64, flags u32, CRC-32 u32, payload. The
//! checksum also covers the store's id and the segment's number, so that what an older use of the
//! file has left behind is never taken for a record.

use super::Batch;

const MAGIC: u32 = 0x1c0d_e10e;
/// The last record of its batch.
const LAST: u32 = 1;
/// Bytes before the payload.
pub(super) const HEADER: usize = 24;
const SUM_AT: usize = 20;

/// What the checksums of a segment start from.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    pub store_id: u64,
    pub segment: u64,
}

/// A record that was found to be sound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub batch: Batch,
    pub last: bool,
    /// Where it starts.
    pub start: usize,
    /// Where its payload is in the segment.
    pub payload: (usize, usize),
    /// Where the next record starts.
    pub next: usize,
}

/// Where in some bytes a record may start.
pub(super) fn beginnings(bytes: &[u8]) -> impl Iterator<Item = usize> {
    const BYTES: &[u8] = &MAGIC.to_le_bytes();
    memchr::memmem::find_iter(bytes, BYTES)
}

/// Appends a record without its checksum, which [`Seed::seal`] fills in once the segment is known.
pub(super) fn append(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>), batch: Batch, last: bool) {
    let start = out.len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&(if last { LAST } else { 0 }).to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    payload(out);
    let length = (out.len() - start - HEADER) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
}

impl Seed {
    /// Fills in the checksums of a buffer of records.
    pub fn seal(self, records: &mut [u8]) {
        let mut at = 0;
        while at < records.len() {
            let length = number(records, at + 4) as usize;
            let sum = self.sum(&records[at..at + HEADER + length]);
            records[at + SUM_AT..at + HEADER].copy_from_slice(&sum.to_le_bytes());
            at += (HEADER + length).next_multiple_of(8);
        }
    }

    fn sum(self, record: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.store_id.to_le_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&record[..SUM_AT]);
        hasher.update(&record[HEADER..]);
        hasher.finalize()
    }

    /// The record at an offset, if a sound one is there.
    pub fn find(self, segment: &[u8], at: usize) -> Option<Found> {
        let rest = segment.get(at..)?;
        if rest.len() < HEADER || number(rest, 0) != MAGIC {
            return None;
        }
        let length = number(rest, 4) as usize;
        let record = rest.get(..HEADER.checked_add(length)?)?;
        if self.sum(record) != number(record, SUM_AT) {
            return None;
        }
        let batch = u64::from(number(record, 8)) | u64::from(number(record, 12)) << 32;
        Some(Found {
            batch,
            last: number(record, 16) & LAST != 0,
            start: at,
            payload: (at + HEADER, at + HEADER + length),
            next: (at + HEADER + length).next_multiple_of(8),
        })
    }
}

/// The 32-bit number at an offset that the caller knows to be inside.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
