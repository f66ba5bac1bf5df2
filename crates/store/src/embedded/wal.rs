//! The write-ahead log: batches of entries in numbered, pre-zeroed segments, one `fdatasync` each.
//!
//! Writes `<number>.wal` and `spare-<n>` files. A segment is a zeroed file that is overwritten in
//! place, so that a sync has no metadata to write; one that a checkpoint has made superfluous becomes a
//! spare and is used again. The unit of durability is the *batch*: its records carry its number, the last
//! one says so, and a batch is never split over two segments. Not here: reading it back (`replay`), when to
//! make spares and remove segments (`maintenance`).
//!
//! After a failed write nobody knows what the segment's tail holds, so it is abandoned: the next segment
//! says in its header that it starts with the same batch, which makes whatever the tail holds void.
//!
//! Layout of a segment, little-endian: magic, version u32, number u64, store id u64, first batch u64,
//! CRC-32 u32 of what is before it; zeros up to 4096; records. Version 1 has no first batch.

mod record;
pub(super) mod replay;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::disk::{Disk, File};
use super::entry::Entry;
use crate::error::Error;
use record::{HEADER, Seed};

/// The format written; older ones are read.
pub(super) const VERSION: u32 = 2;
/// The first segment of a store, and the step in which zeros are written: what a disk takes in about a
/// millisecond, so that a small store starts at once and stays small. Less if segments are to be smaller.
const STEP: u64 = 256 << 10;
const MAGIC: &[u8; 8] = b"ICSTLOG\n";
/// Records start here, on a block of their own.
const START: u64 = 4096;
/// Where a header's checksum is, by version.
const SUM_AT: [usize; 2] = [28, 36];

/// A number for the newest batch whose entries are in the log.
pub(super) type Batch = u64;

/// The files of the log, shared between the writer and the maintenance.
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub store_id: u64,
    /// The largest segment.
    largest: u64,
    /// The smallest.
    step: u64,
    /// See [`Files::in_order`].
    ordered: bool,
    state: Mutex<FilesState>,
    /// Held by whoever gives up segments: two at once could leave a gap.
    releasing: Mutex<()>,
    /// Bytes of all segments and spares.
    bytes: AtomicU64,
    names: AtomicU64,
}

#[derive(Default)]
struct FilesState {
    /// At most one: a zeroed or used file that can become the next segment.
    spare: Option<Spare>,
    /// How large the next segment should be.
    next_size: u64,
    /// Segments that are full or abandoned, oldest first.
    closed: Vec<Closed>,
    /// The newest segment there is: it stays though it may be abandoned, for a store without a log does not open.
    newest: u64,
}

struct Spare {
    path: PathBuf,
    size: u64,
}

pub(super) struct Closed {
    pub number: u64,
    pub last_batch: Batch,
    pub size: u64,
    /// The spare that an attempt to give it up was to make of it: another attempt goes on with that.
    pub spare: Option<PathBuf>,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, store_id: u64, largest: u64) -> Self {
        let largest = largest.next_multiple_of(START).max(2 * START);
        let step = STEP.min(largest);
        let state = FilesState { next_size: step, ..FilesState::default() };
        Self {
            disk,
            directory: directory.to_owned(),
            store_id,
            ordered: false,
            largest,
            step,
            state: Mutex::new(state),
            releasing: Mutex::new(()),
            bytes: AtomicU64::new(0),
            names: AtomicU64::new(0),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn wants_spare(&self) -> bool {
        self.state.lock().spare.is_none()
    }

    /// Makes a zeroed file for the next segment, in steps, so that the writer's syncs between them stay
    /// short.
    pub fn make_spare(&self) -> Result<(), Error> {
        let size = self.state.lock().next_size;
        let spare = self.zeroed(size)?;
        let mut state = self.state.lock();
        state.next_size = (size * 2).min(self.largest);
        let unused = match &state.spare {
            None => {
                state.spare = Some(spare);
                None
            }
            Some(_) => Some(spare),
        };
        drop(state);
        unused.map_or(Ok(()), |spare| self.remove(&spare.path, spare.size))
    }

    fn zeroed(&self, size: u64) -> Result<Spare, Error> {
        let path = self.spare_path();
        let make = || {
            let file = self.disk.create(&path)?;
            let zeros = vec![0; self.step as usize];
            let mut offset = 0;
            while offset < size {
                let step = self.step.min(size - offset);
                file.write_at(&zeros[..step as usize], offset)?;
                file.sync()?;
                offset += step;
            }
            Ok(())
        };
        match make() {
            Ok(()) => {
                self.bytes.fetch_add(size, Ordering::Relaxed);
                Ok(Spare { path, size })
            }
            Err(error) => {
                // What was written of it would only take up the room that is missing.
                let _ = self.disk.remove(&path);
                Err(Error::io(format!("writing {}", path.display()), error))
            }
        }
    }

    fn spare_path(&self) -> PathBuf {
        self.directory.join(format!("spare-{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    fn remove(&self, path: &Path, size: u64) -> Result<(), Error> {
        self.disk.remove(path).map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Ok(())
    }

    /// Makes each segment that is given up vanish for good before the next one is: for a log that cannot tell by anything
    /// else what was given up, and so must have no gap.
    pub fn in_order(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Gives up the segments that hold nothing after `batch`: keeps one as a spare, removes the rest.
    pub fn release(&self, batch: Batch) -> Result<(), Error> {
        let _turn = self.releasing.lock();
        loop {
            let mut state = self.state.lock();
            // Oldest first and never past one that is needed, so that what is left has no gap.
            let superfluous = |closed: &&Closed| closed.last_batch <= batch && closed.number < state.newest;
            if state.closed.first().filter(superfluous).is_none() {
                return Ok(());
            }
            let mut closed = state.closed.remove(0);
            if closed.spare.is_none() && state.spare.is_none() && closed.size >= state.next_size / 2 {
                closed.spare = Some(self.spare_path());
            }
            drop(state);
            if let Err(error) = self.give_up(&closed) {
                let path = segment_path(&self.directory, closed.number);
                // Those after it stay as long as it does.
                self.state.lock().closed.insert(0, closed);
                return Err(Error::io(format!("giving up {}", path.display()), error));
            }
            let size = closed.size;
            let Some(path) = closed.spare else {
                self.bytes.fetch_sub(size, Ordering::Relaxed);
                continue;
            };
            let mut state = self.state.lock();
            if state.spare.is_none() {
                state.spare = Some(Spare { path, size });
            } else {
                drop(state);
                self.remove(&path, size)?;
            }
        }
    }

    /// Removes a segment, or makes it the spare that it says.
    fn give_up(&self, closed: &Closed) -> std::io::Result<()> {
        let path = segment_path(&self.directory, closed.number);
        let gone = match &closed.spare {
            Some(spare) => self.disk.rename(&path, spare),
            None => self.disk.remove(&path),
        };
        // Then an earlier attempt went further than it seemed.
        let missing = matches!(&gone, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
        if !missing {
            gone?;
        }
        if closed.spare.is_some() || missing || self.ordered {
            // Or a crash brings the old name back, over what the file is used for next, or before a gap.
            self.disk.sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// A zeroed or used file of at least `needed` bytes.
    fn ready(&self, needed: u64) -> Result<Spare, Error> {
        let ready = {
            let mut state = self.state.lock();
            match state.spare.take() {
                Some(spare) if spare.size >= needed => Some(spare),
                other => {
                    state.spare = other;
                    None
                }
            }
        };
        match ready {
            Some(spare) => Ok(spare),
            // The writer waits for this one: no larger than it must be.
            None => self.zeroed(needed.next_multiple_of(self.step)),
        }
    }

    /// Makes a segment of a file that is ready. It starts with batch `first`: whatever an earlier segment holds from
    /// there on is void from now on, also if this fails.
    fn activate(&self, spare: Spare, number: u64, first: Batch) -> Result<Segment, Error> {
        let path = segment_path(&self.directory, number);
        let activate = || {
            let file = self.disk.open(&spare.path)?;
            file.write_at(&self.header(number, first), 0)?;
            file.sync()?;
            self.disk.rename(&spare.path, &path)?;
            self.disk.sync_directory(&self.directory)?;
            Ok(file)
        };
        match activate() {
            Ok(file) => {
                self.state.lock().newest = number;
                Ok(Segment { number, file, size: spare.size, end: START })
            }
            Err(error) => {
                // Under either name; what cannot be removed is found and judged by the next recovery.
                let _ = self.disk.remove(&spare.path);
                let _ = self.disk.remove(&path);
                self.bytes.fetch_sub(spare.size, Ordering::Relaxed);
                Err(Error::io(format!("activating {}", path.display()), error))
            }
        }
    }

    fn header(&self, number: u64, first: Batch) -> Vec<u8> {
        let mut header = Vec::with_capacity(START as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&self.store_id.to_le_bytes());
        header.extend_from_slice(&first.to_le_bytes());
        let sum = crc32fast::hash(&header);
        header.extend_from_slice(&sum.to_le_bytes());
        header.resize(START as usize + HEADER, 0);
        header
    }
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.wal"))
}

/// Makes durable what recovery has read: the process before may have written, but not synced it, and the cache does not
/// tell. Only the last batch can be concerned, and names. It is written again because a sync that failed has left it
/// where no later sync looks for it.
fn settle(files: &Files, end: &replay::End) -> std::io::Result<()> {
    if let Some((path, offset, bytes)) = &end.last {
        let file = files.disk.open(path)?;
        file.write_at(bytes, *offset)?;
        file.sync()?;
    }
    files.disk.sync_directory(&files.directory)
}

struct Segment {
    number: u64,
    file: Box<dyn File>,
    size: u64,
    end: u64,
}

/// The writing end of the log.
pub(super) struct Wal {
    files: Arc<Files>,
    /// `None` after a failed write, until the next one.
    segment: Option<Segment>,
    /// The newest segment number given out.
    number: u64,
    /// The newest durable batch.
    batch: Batch,
    buffer: Vec<u8>,
    /// Bytes of records since the store was opened.
    pub written: u64,
}

impl Wal {
    /// A new log, with its first segment.
    pub fn create(files: Arc<Files>) -> Result<Self, Error> {
        let segment = files.activate(files.ready(START)?, 1, 1)?;
        Ok(Self { files, segment: Some(segment), number: 1, batch: 0, buffer: Vec::new(), written: 0 })
    }

    /// The log as recovery has left it.
    pub fn resume(files: Arc<Files>, mut end: replay::End) -> Result<Self, Error> {
        {
            let mut state = files.state.lock();
            state.newest = end.number;
            state.closed = std::mem::take(&mut end.closed);
            state.next_size = (end.size * 2).clamp(files.step, files.largest);
            let bytes = state.closed.iter().map(|closed| closed.size).sum::<u64>() + end.size;
            files.bytes.store(bytes, Ordering::Relaxed);
        }
        let path = segment_path(&files.directory, end.number);
        let file = files
            .disk
            .open(&path)
            .map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
        settle(&files, &end).map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
        let segment = Segment { number: end.number, file, size: end.size, end: end.offset };
        let written = end.offset - START;
        Ok(Self {
            files,
            segment: Some(segment),
            number: end.number,
            batch: end.batch,
            buffer: Vec::new(),
            written,
        })
    }

    /// The newest durable batch.
    pub fn batch(&self) -> Batch {
        self.batch
    }

    /// Whether the current segment is half full, so that it is time to get the next one ready.
    pub fn is_half_full(&self) -> bool {
        self.segment.as_ref().is_none_or(|segment| segment.end > segment.size / 2)
    }

    /// Makes one batch durable: when it returns `Ok`, the entries are on disk. After an error they may be
    /// there or not, and count as not written.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.append_payloads(entries.len(), |index, out| entries[index].encode(out))
    }

    /// As [`Wal::append`], for payloads of another kind: each of `count` is written to the buffer it is given.
    pub fn append_payloads(
        &mut self,
        count: usize,
        encode: impl Fn(usize, &mut Vec<u8>),
    ) -> Result<(), Error> {
        let batch = self.batch + 1;
        self.buffer.clear();
        for index in 0..count {
            record::append(&mut self.buffer, |out| encode(index, out), batch, index + 1 == count);
        }
        let length = self.buffer.len() as u64;
        let fits = |segment: &Segment| segment.end + length <= segment.size;
        if !self.segment.as_ref().is_some_and(fits) {
            self.rotate(START + length)?;
        }
        let Some(segment) = &mut self.segment else {
            return Err(Error::Unavailable("the log has no segment"));
        };
        Seed { store_id: self.files.store_id, segment: segment.number }.seal(&mut self.buffer);
        // What an older use of the segment has left where the next record goes would look like a torn write.
        let room = segment.size - segment.end - length;
        self.buffer.resize(self.buffer.len() + (HEADER as u64).min(room) as usize, 0);
        let written = segment.file.write_at(&self.buffer, segment.end).and_then(|()| segment.file.sync());
        if let Err(error) = written {
            let number = segment.number;
            self.close();
            let path = segment_path(&self.files.directory, number);
            return Err(Error::io(format!("writing {}", path.display()), error));
        }
        segment.end += length;
        self.batch = batch;
        self.written += length;
        // A single huge batch must not keep its memory for ever.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    fn rotate(&mut self, needed: u64) -> Result<(), Error> {
        let spare = self.files.ready(needed)?;
        // From here on nothing may follow in the old one: see `Files::activate`.
        self.close();
        self.segment = Some(self.files.activate(spare, self.number + 1, self.batch + 1)?);
        self.number += 1;
        Ok(())
    }

    fn close(&mut self) {
        if let Some(segment) = self.segment.take() {
            let closed =
                Closed { number: segment.number, last_batch: self.batch, size: segment.size, spare: None };
            self.files.state.lock().closed.push(closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use foundation::SeededRandomness;

    use super::*;
    use crate::embedded::disk;
    use crate::embedded::disk::simulated::{Fault, SimulatedDisk};

    #[test]
    fn a_write_clears_the_place_of_the_next_record() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::new(Arc::new(disk::HostDisk), directory.path(), 7, STEP));
        let mut wal = Wal::create(files).unwrap();
        let path = segment_path(directory.path(), 1);
        // What an older use of the file might have left.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[START as usize..].fill(0xaa);
        std::fs::write(&path, &bytes).unwrap();
        wal.append(&[Entry::default()]).unwrap();
        let end = START as usize + wal.written as usize;
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[end..end + HEADER].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[end + HEADER], 0xaa, "and no more than that");
        assert_eq!(bytes.len() as u64, STEP, "the file keeps its size");
    }

    #[test]
    fn what_is_given_up_again_leaves_nothing_behind() {
        // Whichever call of giving up fails, and again when it is tried again.
        for (ordered, calls) in
            [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1), (true, 2), (true, 3)]
        {
            let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(1)));
            let mut files = Files::new(Arc::new(disk.clone()), Path::new("d"), 7, 2 * START);
            files.ordered = ordered;
            let files = Arc::new(files);
            let mut wal = Wal::create(files.clone()).unwrap();
            let payload = [1; 3000];
            for _ in 0..8 {
                wal.append_payloads(1, |_, out| out.extend_from_slice(&payload)).unwrap();
            }
            for _ in 0..2 {
                disk.arm(calls, Fault::Refused);
                let failed = files.release(wal.batch());
                assert!(failed.is_err(), "{calls}: {failed:?}");
            }
            disk.disarm();
            files.release(wal.batch()).unwrap();
            let what = format!("ordered: {ordered}, after {calls} calls");
            // The newest segment and a spare.
            assert_eq!(disk.list(Path::new("d")).unwrap().len(), 2, "{what}");
            assert_eq!(files.bytes(), disk.used(), "{what}");
            assert!(!files.wants_spare(), "{what}");
        }
    }
}
