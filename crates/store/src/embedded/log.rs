//! A log of anybody's records in the engine's segments: for a store whose log is not the engine's own.
//!
//! Writes `<number>.wal` and `spare-<n>` files in a directory. The unit of durability is the batch, as in the
//! engine's log, whose format, recovery and reuse of files it shares. Not here: what the records mean.

use std::path::Path;
use std::sync::Arc;

use super::Options;
use super::disk::{Disk, HostDisk};
use super::wal::replay::{numbers, replay, segments};
use super::wal::{Files, Wal};
use crate::error::Error;

/// A number for a batch of records, from 1 and without gaps.
pub type Batch = u64;

/// The writing end of a log.
pub struct Log {
    wal: Wal,
    files: Arc<Files>,
}

/// The files of a log, for the thread that looks after them.
#[derive(Clone)]
pub struct Upkeep(Arc<Files>);

impl Upkeep {
    /// Makes the file that the log goes on in when the present one is full, unless it is there.
    pub fn make_spare(&self) -> Result<(), Error> {
        if self.0.wants_spare() { self.0.make_spare() } else { Ok(()) }
    }

    /// Gives up the files that hold nothing after `batch`.
    pub fn release(&self, batch: Batch) -> Result<(), Error> {
        self.0.release(batch)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

impl Log {
    /// Opens the log in a directory, or makes one; gives every record that is there to `found`, in order, which says
    /// `false` to one that it does not understand. What was given up before is missing at the front: the caller must
    /// be able to tell.
    pub fn open(
        directory: &Path,
        options: &Options,
        found: impl FnMut(Batch, &[u8]) -> bool,
    ) -> Result<Self, Error> {
        let numbers = segments(&*options.disk, directory)?;
        let new = |store_id| {
            let files = Files::new(options.disk.clone(), directory, store_id, options.segment_bytes);
            Arc::new(files.in_order())
        };
        if numbers.is_empty() {
            let files = new(options.randomness.u64());
            let wal = Wal::create(files.clone())?;
            return Ok(Self { wal, files });
        }
        let end = replay(&options.disk, directory, &numbers, None, None, found)?;
        if let Some((path, offset)) = &end.torn {
            tracing::warn!(path = %path.display(), offset, "dropped the torn tail of the store's log");
        }
        let files = new(end.store_id);
        let wal = Wal::resume(files.clone(), end)?;
        Ok(Self { wal, files })
    }

    /// Makes a batch of `count` records durable, each written by `encode` to the buffer it is given. After an error
    /// they count as not written; trying again is allowed.
    pub fn append(&mut self, count: usize, encode: impl Fn(usize, &mut Vec<u8>)) -> Result<Batch, Error> {
        self.wal.append_payloads(count, encode)?;
        Ok(self.wal.batch())
    }

    /// Whether [`Upkeep::make_spare`] has something to do.
    pub fn wants_spare(&self) -> bool {
        self.wal.is_half_full() && self.files.wants_spare()
    }

    /// For the thread that looks after the files.
    pub fn upkeep(&self) -> Upkeep {
        Upkeep(self.files.clone())
    }
}

/// Reads a log of the host's disk and leaves it as it is; `found` as for [`Log::open`]. Gives the bytes of its files.
///
/// # Errors
/// As [`Log::open`].
pub fn read(directory: &Path, found: impl FnMut(Batch, &[u8]) -> bool) -> Result<u64, Error> {
    let disk: Arc<dyn Disk> = Arc::new(HostDisk);
    let numbers = numbers(&*disk, directory)?;
    if numbers.is_empty() {
        return Ok(0);
    }
    Ok(replay(&disk, directory, &numbers, None, None, found)?.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_with_their_batches_and_the_front_can_be_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 256 << 10, ..Options::default() };
        let read = || {
            let mut found = Vec::new();
            let log = Log::open(directory.path(), &options, |batch, bytes| {
                found.push((batch, bytes.to_vec()));
                true
            });
            (log.unwrap(), found)
        };
        let (mut log, found) = read();
        assert!(found.is_empty());
        // Three to a segment of 256 KiB.
        let payload = |batch: u64| vec![batch as u8; 80 << 10];
        for batch in 1..=9 {
            let written = log.append(2, |index, out| match index {
                0 => out.extend_from_slice(&payload(batch)),
                _ => out.push(0),
            });
            assert_eq!(written.unwrap(), batch);
        }
        log.upkeep().release(4).unwrap();
        drop(log);
        let (mut log, found) = read();
        let first = found[0].0;
        assert!((2..=5).contains(&first), "whole files only, and none that is needed: {first}");
        let batches: Vec<_> = found.iter().step_by(2).map(|(batch, bytes)| (*batch, bytes.clone())).collect();
        assert_eq!(batches, (first..=9).map(|batch| (batch, payload(batch))).collect::<Vec<_>>());
        assert_eq!(log.append(1, |_, out| out.push(1)).unwrap(), 10);
    }
}
