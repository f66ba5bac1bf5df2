//! Brings a directory back to the state of its newest durable batch: checkpoint, then log.
//!
//! Removes what a crash has left half made (`checkpoint.tmp`, spares) and drops a torn tail; logs what it
//! found. Refuses a directory that contradicts itself, saying what and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ahead::ahead;
use super::disk::Disk;
use super::entry::Entry;
use super::wal::replay::{End, replay, segments};
use super::wal::{Batch, Files, Wal};
use super::{Options, State, checkpoint};
use crate::error::Error;
use crate::types::Revision;

/// A log of more segments is read, checked and decoded by a thread of its own, while this one carries it out.
const ALONE: usize = 2;
/// Entries that are handed over at once.
const TOGETHER: usize = 256;

/// What opening a store has found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The revision it goes on from.
    pub revision: Revision,
    /// Keys that exist.
    pub keys: u64,
    /// Leases that exist.
    pub leases: u64,
    /// Bytes of the checkpoint that was read; 0 if there was none.
    pub checkpoint_bytes: u64,
    /// Segments of the log, and their bytes.
    pub segments: usize,
    /// Bytes of those segments.
    pub log_bytes: u64,
    /// Batches of the log that the checkpoint did not hold, and that were carried out again.
    pub batches: u64,
    /// The file and the offset at which the last write was torn, and so dropped: it was never acknowledged.
    pub torn: Option<(PathBuf, u64)>,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} with {} keys and {} leases: ", self.revision, self.keys, self.leases)?;
        write!(f, "read a checkpoint of {} bytes and ", self.checkpoint_bytes)?;
        write!(f, "{} segments of {} bytes, ", self.segments, self.log_bytes)?;
        write!(f, "carried out {} batches, ", self.batches)?;
        match &self.torn {
            None => f.write_str("found nothing torn")?,
            Some((path, offset)) => write!(f, "dropped a torn write at {offset} of {}", path.display())?,
        }
        write!(f, ", in {:?}", self.took)
    }
}

/// A state with the log to go on with.
pub(super) struct Recovered {
    pub state: State,
    pub files: Arc<Files>,
    pub wal: Wal,
    pub checkpoint_bytes: u64,
    pub report: Recovery,
}

/// What a directory holds, read and left as it was.
pub(super) struct Loaded {
    pub state: State,
    pub checkpoint_bytes: u64,
    /// The newest batch that the checkpoint holds.
    after: Batch,
    /// Where the log ends. `None`: there is neither a checkpoint nor a log.
    pub end: Option<End>,
}

/// Reads the checkpoint and the segments of the log with these numbers.
pub(super) fn load(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    numbers: &[u64],
    now: Duration,
) -> Result<Loaded, Error> {
    let mut state = State::new();
    let loaded = checkpoint::load(disk, directory, &mut state, now)?;
    let checkpoint_bytes = loaded.map_or(0, |(_, bytes)| bytes);
    if numbers.is_empty() && loaded.is_none() {
        return Ok(Loaded { state, checkpoint_bytes, after: 0, end: None });
    }
    let after = state.batch;
    let store_id = loaded.map(|(head, _)| head.store_id);
    let decode = |mut payload: &[u8]| Entry::decode(&mut payload, |_| None).filter(|_| payload.is_empty());
    let mut carry_out = |mut entry: Entry| {
        entry.share_keys(|key| state.mvcc.interned(key));
        state.apply(entry, now, |_| ());
    };
    let end = if numbers.len() <= ALONE {
        replay(disk, directory, numbers, store_id, Some(after), |_, payload| {
            decode(payload).map(&mut carry_out).is_some()
        })?
    } else {
        let read = |send: &dyn Fn(Vec<Entry>)| {
            let mut entries = Vec::new();
            let end = replay(disk, directory, numbers, store_id, Some(after), |_, payload| {
                let Some(entry) = decode(payload) else { return false };
                entries.push(entry);
                if entries.len() == TOGETHER {
                    send(std::mem::take(&mut entries));
                }
                true
            });
            send(entries);
            end
        };
        ahead(read, |entries| entries.into_iter().for_each(&mut carry_out))??
    };
    state.batch = end.batch;
    Ok(Loaded { state, checkpoint_bytes, after, end: Some(end) })
}

/// Opens what is in a directory, or makes a new store in an empty one.
pub(super) fn recover(directory: &Path, options: &Options, now: Duration) -> Result<Recovered, Error> {
    let started = Instant::now();
    let disk = &options.disk;
    let temporary = directory.join("checkpoint.tmp");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("removing {}", temporary.display()), error));
        }
        _ => {}
    }
    let numbers = segments(&**disk, directory)?;
    let Loaded { mut state, checkpoint_bytes, after, end } = load(disk, directory, &numbers, now)?;
    let Some(end) = end else {
        let store_id = options.randomness.u64();
        let files = Arc::new(Files::new(disk.clone(), directory, store_id, options.segment_bytes));
        let wal = Wal::create(files.clone())?;
        let report =
            Recovery { revision: state.mvcc.revision, took: started.elapsed(), ..Recovery::default() };
        return Ok(Recovered { state, files, wal, checkpoint_bytes, report });
    };
    state.leases.restart(now);
    let files = Arc::new(Files::new(disk.clone(), directory, end.store_id, options.segment_bytes));
    let mut report = Recovery {
        revision: state.mvcc.revision,
        keys: state.mvcc.keys,
        leases: state.leases.len() as u64,
        checkpoint_bytes,
        segments: numbers.len(),
        log_bytes: end.bytes,
        batches: end.batch - after,
        torn: end.torn.clone(),
        took: Duration::ZERO,
    };
    let wal = Wal::resume(files.clone(), end)?;
    report.took = started.elapsed();
    match report.torn {
        None => tracing::info!("opened the store at {report}"),
        Some(_) => tracing::warn!("opened the store at {report}"),
    }
    Ok(Recovered { state, files, wal, checkpoint_bytes, report })
}
