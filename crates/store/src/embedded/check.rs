//! Whether the files of a store are sound: looked at without opening it, also while somebody has it open and writes.
//!
//! Reads the checkpoint and the log as a recovery does, with their checksums, their order and what they hold; takes no
//! lock, changes nothing, keeps nothing in memory. What is being written meanwhile is a torn tail to it, as it would be
//! after a crash. Not here: whether what is in memory makes sense, which whoever has it open can tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint;
use super::disk::{Disk, HostDisk};
use super::entry::Entry;
use super::wal::replay::{numbers, replay};
use crate::error::Error;

/// How often is looked again before what is found is believed: files come and go under a running store.
const ATTEMPTS: usize = 10;

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// An [`Engine`](super::Engine)'s.
    Engine,
    /// A [`Replica`](super::replica::Replica)'s, beside a [`Log`](super::log::Log) whose records are not known here.
    Replica,
}

/// Files that were found to be sound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of the checkpoint; 0 if there is none.
    pub checkpoint_bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Bytes of those segments.
    pub log_bytes: u64,
    /// The file and the offset at which the last write is torn, or under way.
    pub torn: Option<(PathBuf, u64)>,
}

/// Reads everything in a directory of the host.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Format`] as opening the store would give them, [`Error::Io`].
pub fn check(directory: &Path, owner: Owner) -> Result<Checked, Error> {
    let disk: Arc<dyn Disk> = Arc::new(HostDisk);
    let mut last = String::new();
    let mut attempts = 0;
    loop {
        attempts += 1;
        match look(&disk, directory, owner) {
            Ok(checked) => return Ok(checked),
            Err(error) => {
                // A segment is read in pieces while it is written, and a checkpoint takes the place of segments: what is
                // damaged is so twice in the same manner.
                let said = error.to_string();
                if said == last || attempts == ATTEMPTS {
                    return Err(error);
                }
                last = said;
            }
        }
    }
}

fn look(disk: &Arc<dyn Disk>, directory: &Path, owner: Owner) -> Result<Checked, Error> {
    let checked = checkpoint::check(disk, &checkpoint::path(directory))?;
    let (head, checkpoint_bytes) = checked.map_or((None, 0), |(head, bytes)| (Some(head), bytes));
    let numbers = numbers(&**disk, directory)?;
    if numbers.is_empty() && head.is_none() {
        return Ok(Checked::default());
    }
    let end = match owner {
        Owner::Engine => {
            let (id, after) = (head.map(|head| head.store_id), head.map_or(0, |head| head.batch));
            replay(disk, directory, &numbers, id, Some(after), |_, mut payload| {
                Entry::decode(&mut payload, |_| None).is_some() && payload.is_empty()
            })?
        }
        Owner::Replica => replay(disk, directory, &numbers, None, None, |_, _| true)?,
    };
    Ok(Checked { checkpoint_bytes, segments: numbers.len(), log_bytes: end.bytes, torn: end.torn })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use foundation::SystemClock;

    use super::*;
    use crate::embedded::{Engine, Options};
    use crate::{Op, Store, Txn};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn damage_is_found_under_a_running_store_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 << 10, checkpoint_bytes: 64 << 10, ..Options::default() };
        let store = Engine::open(directory.path(), options, SystemClock::shared()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (store, stop) = (store.clone(), stop.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        let put = Op::put(format!("k/{writer}"), vec![b'x'; 3000]);
                        store.txn(Txn::of(vec![put])).await.unwrap();
                    }
                })
            })
            .collect();
        let look = || check(directory.path(), Owner::Engine);
        // Through checkpoints and segments that come and go.
        for _ in 0..50 {
            tokio::task::block_in_place(look).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        store.defragment().await.unwrap();
        store.txn(Txn::of(vec![Op::put("last", vec![b'y'; 100])])).await.unwrap();
        let sound = look().unwrap();
        assert!(sound.checkpoint_bytes > 0 && sound.segments > 0 && sound.torn.is_none(), "{sound:?}");
        let file = checkpoint::path(directory.path());
        let bytes = std::fs::read(&file).unwrap();
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        std::fs::write(&file, &damaged).unwrap();
        let found = look().unwrap_err();
        assert!(matches!(&found, Error::Corrupt { path, .. } if *path == file), "{found}");
        std::fs::write(&file, &bytes).unwrap();
        look().unwrap();
    }
}
