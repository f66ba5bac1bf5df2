//! Brings a directory back to the state of its newest durable batch: checkpoint, then log.
//!
//! Removes what a crash has left half made (`checkpoint.tmp`, spares) and drops a torn tail; logs what it
//! found. Refuses a directory that contradicts itself, saying what and where.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::wal::replay::{replay, segments};
use super::wal::{Files, Wal};
use super::{Options, State, checkpoint};
use crate::error::Error;

/// A state with the log to go on with.
pub(super) struct Recovered {
    pub state: State,
    pub files: Arc<Files>,
    pub wal: Wal,
    pub checkpoint_bytes: u64,
}

/// Opens what is in a directory, or makes a new store in an empty one.
pub(super) fn recover(directory: &Path, options: &Options, now: Duration) -> Result<Recovered, Error> {
    let started = Instant::now();
    let disk = &options.disk;
    let mut state = State::new();
    let temporary = directory.join("checkpoint.tmp");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("removing {}", temporary.display()), error));
        }
        _ => {}
    }
    let numbers = segments(&**disk, directory)?;
    let loaded = checkpoint::load(disk, directory, &mut state, now)?;
    let checkpoint_bytes = loaded.map_or(0, |(_, bytes)| bytes);
    if numbers.is_empty() && loaded.is_none() {
        let store_id = options.randomness.u64();
        let files = Arc::new(Files::new(disk.clone(), directory, store_id, options.segment_bytes));
        let wal = Wal::create(files.clone())?;
        return Ok(Recovered { state, files, wal, checkpoint_bytes });
    }
    let after = state.batch;
    let store_id = loaded.map(|(head, _)| head.store_id);
    let end = replay(disk, directory, &numbers, store_id, Some(after), |_, mut payload| {
        let entry = Entry::decode(&mut payload, |key| state.mvcc.interned(key));
        let Some(entry) = entry.filter(|_| payload.is_empty()) else { return false };
        state.apply(entry, now, |_| ());
        true
    })?;
    state.batch = end.batch;
    if let Some((path, offset)) = &end.torn {
        tracing::warn!(path = %path.display(), offset, "dropped the torn tail of the store's log");
    }
    tracing::info!(
        revision = state.mvcc.revision,
        keys = state.mvcc.keys,
        checkpoint_batch = after,
        batches_replayed = end.batch - after,
        took = ?started.elapsed(),
        "recovered the store"
    );
    let files = Arc::new(Files::new(disk.clone(), directory, end.store_id, options.segment_bytes));
    let wal = Wal::resume(files.clone(), end)?;
    Ok(Recovered { state, files, wal, checkpoint_bytes })
}
