//! Reads the log back after a stop or a crash, and tells a torn tail from corruption.
//!
//! A batch is written only after the one before it is durable. So whatever follows the newest whole batch
//! may be torn, and is dropped; but if a sound record of a *later* batch than the torn one exists, or a segment that
//! starts later, the disk has lost something that was durable, and the store refuses to open. (Damage to the very
//! last batch cannot be told from a torn write, in this log as in any other.)
//!
//! A segment's header says with which batch it starts: what earlier ones hold from there on was never acknowledged, and
//! is void. In version 1 the first record said so.
//!
//! Not here: what the entries mean (`recovery`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{Found, Seed};
use super::{Batch, Closed, MAGIC, START, SUM_AT, VERSION};
use crate::embedded::disk::Disk;
use crate::error::Error;

/// Where the log ends: what the writer goes on from.
pub(in crate::embedded) struct End {
    pub number: u64,
    pub size: u64,
    pub offset: u64,
    pub batch: Batch,
    pub closed: Vec<Closed>,
    pub store_id: u64,
    /// Where a torn tail was dropped.
    pub torn: Option<(PathBuf, u64)>,
    /// The newest batch as it is in the log: file, offset, bytes.
    pub last: Option<(PathBuf, u64, Vec<u8>)>,
    /// Bytes of all segments that were read.
    pub bytes: u64,
}

/// A segment that has been read.
struct Segment {
    number: u64,
    /// The batch it starts with, if it says so.
    first: Option<Batch>,
    path: PathBuf,
    bytes: Vec<u8>,
    seed: Seed,
    records: Vec<Found>,
    /// Where the sound records end.
    stop: usize,
}

/// The numbers of the segments in a directory, ascending, after removing what a crash has left half made.
pub(in crate::embedded) fn segments(disk: &dyn Disk, directory: &Path) -> Result<Vec<u64>, Error> {
    for (path, _) in listed(disk, directory)? {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("spare-")) {
            disk.remove(&path).map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
        }
    }
    numbers(disk, directory)
}

/// The numbers of the segments in a directory, ascending.
pub(in crate::embedded) fn numbers(disk: &dyn Disk, directory: &Path) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    for (path, _) in listed(disk, directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".wal") {
            let number = u64::from_str_radix(number, 16)
                .map_err(|_| corrupt(&path, 0, "the name is not that of a segment"))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn listed(disk: &dyn Disk, directory: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    disk.list(directory).map_err(|error| Error::io(format!("listing {}", directory.display()), error))
}

/// Gives every payload after batch `after` to `apply`, in order and with its batch. `apply` says `false` to bytes
/// that are no entry. Without `after` it begins with the first batch that is there: then the caller must know by what
/// is in it that nothing is missing before.
pub(in crate::embedded) fn replay(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    numbers: &[u64],
    store_id: Option<u64>,
    after: Option<Batch>,
    mut apply: impl FnMut(Batch, &[u8]) -> bool,
) -> Result<End, Error> {
    let batch = after.unwrap_or(0);
    let mut reader = Reader {
        store_id,
        begun: after.is_some(),
        after: batch,
        batch,
        closed: Vec::new(),
        last: None,
        bytes: 0,
    };
    // The newest segment so far of which it is known where it starts, and those of version 1 after it that are empty.
    let mut held: Option<Segment> = None;
    let mut empty: Vec<Segment> = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let path = super::segment_path(directory, *number);
        let segment = reader.load(&**disk, *number, path)?;
        if segment.first.is_none() && index > 0 && numbers[index - 1] + 1 != *number {
            let detail = format!("segment {:016x} before it is missing", number - 1);
            return Err(corrupt(&segment.path, 0, detail));
        }
        let Some(limit) = segment.first.or(segment.records.first().map(|found| found.batch)) else {
            empty.push(segment);
            continue;
        };
        match held.replace(segment) {
            Some(earlier) => reader.finish(earlier, limit, &mut apply)?,
            None if limit > reader.after + 1 => {
                let detail = format!("batches {} to {} are missing", reader.after + 1, limit - 1);
                return Err(corrupt(&super::segment_path(directory, *number), 0, detail));
            }
            None => {}
        }
        for segment in empty.drain(..) {
            reader.close(&segment);
        }
    }
    let Some(last) = held.or_else(|| (!empty.is_empty()).then(|| empty.remove(0))) else {
        return Err(corrupt(directory, 0, "the log is missing"));
    };
    reader.tail(last, empty, apply)
}

struct Reader {
    store_id: Option<u64>,
    /// Whether `after` is known.
    begun: bool,
    after: Batch,
    /// The newest batch applied.
    batch: Batch,
    closed: Vec<Closed>,
    last: Option<(PathBuf, u64, Vec<u8>)>,
    bytes: u64,
}

impl Reader {
    fn load(&mut self, disk: &dyn Disk, number: u64, path: PathBuf) -> Result<Segment, Error> {
        let context = || format!("reading {}", path.display());
        let bytes = disk.read(&path).map_err(|error| Error::io(context(), error))?;
        let header = bytes.get(..START as usize).unwrap_or(&bytes);
        if header.len() < START as usize || header[..8] != *MAGIC {
            return Err(corrupt(&path, 0, "not a segment of the log"));
        }
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(8) > VERSION {
            return Err(Error::Format { path, found: u32_at(8), known: VERSION });
        }
        let sum_at = (u32_at(8) as usize).checked_sub(1).and_then(|version| SUM_AT.get(version).copied());
        if sum_at.is_none_or(|at| crc32fast::hash(&header[..at]) != u32_at(at)) {
            return Err(corrupt(&path, 0, "the header's checksum is wrong"));
        }
        if u64_at(12) != number {
            return Err(corrupt(&path, 12, format!("the header says segment {:016x}", u64_at(12))));
        }
        let store_id = *self.store_id.get_or_insert(u64_at(20));
        if u64_at(20) != store_id {
            return Err(corrupt(&path, 20, "the segment belongs to another store"));
        }
        let first = (u32_at(8) > 1).then(|| u64_at(28));
        self.bytes += bytes.len() as u64;
        let seed = Seed { store_id, segment: number };
        let (mut records, mut stop) = (Vec::<Found>::new(), START as usize);
        while let Some(found) = seed.find(&bytes, stop) {
            // The rest of a longer batch that was overwritten by a shorter one is sound but void.
            if records.last().is_some_and(|before| found.batch != before.batch + u64::from(before.last)) {
                break;
            }
            stop = found.next;
            records.push(found);
        }
        let start = first.or(records.first().map(|found| found.batch));
        if let Some(start) = start.filter(|_| !self.begun) {
            (self.begun, self.after, self.batch) = (true, start - 1, start - 1);
        }
        Ok(Segment { number, first, path, bytes, seed, records, stop })
    }

    /// Applies the whole batches before `limit`. Returns where they end.
    fn apply(
        &mut self,
        segment: &Segment,
        limit: Batch,
        apply: &mut impl FnMut(Batch, &[u8]) -> bool,
    ) -> Result<usize, Error> {
        let mut whole = START as usize;
        let mut start = 0;
        let mut newest = None;
        for (index, found) in segment.records.iter().enumerate() {
            if found.batch >= limit {
                break;
            }
            if !found.last {
                continue;
            }
            let batch = &segment.records[start..=index];
            newest = Some(batch[0].start..found.next.min(segment.bytes.len()));
            (start, whole) = (index + 1, found.next);
            if found.batch <= self.after {
                continue;
            }
            if found.batch != self.batch + 1 {
                let detail = format!("batches {} to {} are missing", self.batch + 1, found.batch - 1);
                return Err(corrupt(&segment.path, batch[0].payload.0 as u64, detail));
            }
            for found in batch {
                if !apply(found.batch, &segment.bytes[found.payload.0..found.payload.1]) {
                    let detail = format!("batch {} holds no valid entry", found.batch);
                    return Err(corrupt(&segment.path, found.payload.0 as u64, detail));
                }
            }
            self.batch = found.batch;
        }
        if let Some(range) = newest {
            self.last = Some((segment.path.clone(), range.start as u64, segment.bytes[range].to_vec()));
        }
        Ok(whole)
    }

    /// A segment that is followed by one starting with batch `limit`.
    fn finish(
        &mut self,
        segment: Segment,
        limit: Batch,
        apply: &mut impl FnMut(Batch, &[u8]) -> bool,
    ) -> Result<(), Error> {
        let whole = self.apply(&segment, limit, apply)?;
        let last = segment.records.iter().rfind(|found| found.last && found.batch < limit);
        let reached = last.map_or(self.batch, |found| found.batch).max(self.batch);
        if reached + 1 < limit && limit > self.after + 1 {
            let detail = format!("batches {} to {} are damaged or missing", reached + 1, limit - 1);
            return Err(corrupt(&segment.path, whole as u64, detail));
        }
        self.close(&segment);
        Ok(())
    }

    fn close(&mut self, segment: &Segment) {
        let last_batch = segment.records.last().map_or(self.batch, |found| found.batch);
        let size = segment.bytes.len() as u64;
        self.closed.push(Closed { number: segment.number, last_batch, size, spare: None });
    }

    /// The last segment that holds anything, and the empty ones after it.
    fn tail(
        mut self,
        last: Segment,
        empty: Vec<Segment>,
        mut apply: impl FnMut(Batch, &[u8]) -> bool,
    ) -> Result<End, Error> {
        let whole = self.apply(&last, Batch::MAX, &mut apply)?;
        let before = last.first.map_or(self.batch, |first| first - 1);
        let newest = last.records.iter().rfind(|found| found.last).map_or(before, |found| found.batch);
        if newest < self.after && (last.first.is_some() || !last.records.is_empty()) {
            let detail = format!("the log ends with batch {newest}, but the checkpoint holds {}", self.after);
            return Err(corrupt(&last.path, whole as u64, detail));
        }
        let torn_batch = newest.max(self.batch) + 1;
        for segment in std::iter::once(&last).chain(&empty) {
            if let Some(at) = segment.later_than(torn_batch) {
                let detail = format!("batch {torn_batch} is damaged, but a later one is at offset {at}");
                return Err(corrupt(&last.path, whole as u64, detail));
            }
        }
        // Each write clears the place of the next record.
        let torn = (last.stop > whole || last.torn_at(whole)).then(|| (last.path.clone(), whole as u64));
        let end = match empty.last() {
            None => End {
                number: last.number,
                size: last.bytes.len() as u64,
                offset: whole as u64,
                batch: newest.max(self.batch),
                closed: Vec::new(),
                store_id: last.seed.store_id,
                torn,
                last: None,
                bytes: 0,
            },
            Some(newest_empty) => {
                self.close(&last);
                for segment in &empty[..empty.len() - 1] {
                    self.close(segment);
                }
                End {
                    number: newest_empty.number,
                    size: newest_empty.bytes.len() as u64,
                    offset: START,
                    batch: newest.max(self.batch),
                    closed: Vec::new(),
                    store_id: last.seed.store_id,
                    torn,
                    last: None,
                    bytes: 0,
                }
            }
        };
        Ok(End { closed: self.closed, last: self.last, bytes: self.bytes, ..end })
    }
}

impl Segment {
    /// Where a sound record of a later batch than `batch` is.
    fn later_than(&self, batch: Batch) -> Option<usize> {
        // Nearly all of it is zeros.
        super::record::beginnings(&self.bytes[self.stop..])
            .filter(|at| at % 8 == 0)
            .map(|at| self.stop + at)
            .find(|at| self.seed.find(&self.bytes, *at).is_some_and(|found| found.batch > batch))
    }

    /// Whether a write was begun at `offset`.
    fn torn_at(&self, offset: usize) -> bool {
        self.bytes[offset..].iter().take(super::HEADER).any(|byte| *byte != 0)
    }
}

fn corrupt(path: &Path, offset: u64, detail: impl Into<String>) -> Error {
    Error::Corrupt { path: path.to_owned(), offset, detail: detail.into() }
}
