//! Makes a store of what a backup holds.
//!
//! Writes a directory beside the one wanted and renames it, so that there is either the whole store or none. The new
//! store has another identity than the one that was backed up, no history, and a revision of its own: what was watched
//! or read as of a revision before it is compacted, so that everybody notices and reads anew. Not here: what a backup
//! is (`etcd::snapshot`).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

use super::mvcc::Record;
use super::wal::{Files, Wal};
use super::{Options, State, checkpoint};
use crate::error::Error;
use crate::types::{KeyValue, LeaseId, Revision};

/// Makes the store `directory`, which must not be there or be empty, of keys and of leases with their full lengths in
/// seconds. `revision` is where it goes on from; it must be later than every key's.
pub fn restore(
    directory: &Path,
    options: &Options,
    revision: Revision,
    keys: Vec<KeyValue>,
    leases: impl Iterator<Item = (LeaseId, i64)>,
) -> Result<(), Error> {
    let context = |what: &str, path: &Path| format!("{what} {}", path.display());
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Invalid("the directory to restore into is not empty"));
    }
    if keys.iter().any(|kv| kv.mod_revision >= revision) {
        return Err(Error::Invalid("the restored store's revision must be later than every key's"));
    }
    let mut state = State::new();
    for (id, ttl) in leases {
        state.leases.grant(id, ttl, ttl, Duration::ZERO);
    }
    for kv in keys {
        let record = Arc::new(Record {
            key: Bytes::copy_from_slice(&kv.key),
            value: Bytes::copy_from_slice(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        });
        state.leases.attach(record.lease, &record.key);
        state.mvcc.load(record);
    }
    state.mvcc.revision = revision;
    state.mvcc.compact_revision = revision;

    let mut name = directory.as_os_str().to_owned();
    name.push(".restoring");
    let making = Path::new(&name);
    match fs::remove_dir_all(making) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(context("removing", making), error));
        }
        _ => {}
    }
    fs::create_dir_all(making).map_err(|error| Error::io(context("making", making), error))?;
    let store_id = options.randomness.u64();
    let files = Arc::new(Files::new(options.disk.clone(), making, store_id, options.segment_bytes));
    // Its first segment, which recovery wants to find.
    drop(Wal::create(files)?);
    checkpoint::write(&options.disk, making, store_id, &RwLock::new(state))?;
    if directory.exists() {
        fs::remove_dir(directory).map_err(|error| Error::io(context("replacing", directory), error))?;
    }
    fs::rename(making, directory).map_err(|error| Error::io(context("renaming", making), error))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    options.disk.sync_directory(parent).map_err(|error| Error::io(context("syncing", parent), error))
}
