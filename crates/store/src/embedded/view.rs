//! A stopped store as it lies in its directory: read, and nothing of it changed.
//!
//! Reads the checkpoint and the log as opening the store would, and answers reads from memory. It writes no file, cuts
//! off no torn tail, and lets no lease end: its time stands still. Whoever has the store open is respected, and nobody can
//! open it meanwhile. Not here: the store as its owner has it ([`Engine`](super::Engine), [`Replica`]); what a member's
//! log says, which whoever knows its records has to tell.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::disk::{Disk, HostDisk, Lock, share};
use super::memory::Memory;
use super::replica::{Position, Step, carry_out_all, position, read_txn};
use super::wal::replay::numbers;
use super::{State, checkpoint, recovery};
use crate::error::Error;
use crate::types::{
    LeaseId, LeaseInfo, Range, RangeResponse, Revision, Status, Txn, TxnResponse, WatchRequest,
};
use crate::{Store, WatchStream};

const READ_ONLY: Error = Error::Invalid("the store is stopped and is only looked at");

/// What is in the files of a stopped store.
pub struct View {
    memory: Memory,
    /// The time of its leases.
    now: Duration,
    db_size: u64,
    _lock: Option<Lock>,
}

fn lock(directory: &Path) -> Result<Option<Lock>, Error> {
    share(directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: directory.to_owned() },
        _ => Error::io(format!("opening {}", directory.display()), error),
    })
}

impl View {
    /// Looks into the directory of an [`Engine`](super::Engine) that is stopped. Blocks as opening it would.
    ///
    /// # Errors
    /// As opening it gives them, and [`Error::Invalid`] where there is no store.
    pub fn of_engine(directory: &Path) -> Result<Self, Error> {
        let lock = lock(directory)?;
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let numbers = numbers(&*disk, directory)?;
        let loaded = recovery::load(&disk, directory, &numbers, Duration::ZERO)?;
        let Some(end) = loaded.end else { return Err(Error::Invalid("the directory holds no store")) };
        let mut state = loaded.state;
        state.leases.restart(Duration::ZERO);
        let db_size = loaded.checkpoint_bytes + end.bytes;
        Ok(Self { memory: Memory::new(state), now: Duration::ZERO, db_size, _lock: lock })
    }

    /// Looks into the directory of a [`Replica`](super::replica::Replica) that is stopped. `log` is told where the
    /// checkpoint stands, and gives the steps after it with the bytes of the files that they are from.
    ///
    /// # Errors
    /// As opening it gives them, and what `log` gives.
    pub fn of_replica(
        directory: &Path,
        log: impl FnOnce(&Position) -> Result<(Vec<Step>, u64), Error>,
    ) -> Result<Self, Error> {
        let lock = lock(directory)?;
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let mut state = State::new();
        let loaded = checkpoint::load(&disk, directory, &mut state, Duration::ZERO)?;
        let (steps, log_bytes) = log(&position(&state))?;
        // Nobody watches, and whoever asked for them has had the answer.
        drop(carry_out_all(&mut state, steps, &mut Vec::new()));
        let now = state.replicated.as_ref().map_or(Duration::ZERO, |replicated| replicated.time);
        let db_size = loaded.map_or(0, |(_, bytes)| bytes) + log_bytes;
        Ok(Self { memory: Memory::new(state), now, db_size, _lock: lock })
    }
}

#[async_trait]
impl Store for View {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.memory.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        read_txn(&self.memory, txn)?.ok_or(READ_ONLY)
    }

    async fn watch(&self, _: WatchRequest) -> Result<WatchStream, Error> {
        // Nothing is going to change.
        Err(READ_ONLY)
    }

    async fn compact(&self, _: Revision) -> Result<(), Error> {
        Err(READ_ONLY)
    }

    async fn lease_grant(&self, _: i64, _: LeaseId) -> Result<LeaseInfo, Error> {
        Err(READ_ONLY)
    }

    async fn lease_revoke(&self, _: LeaseId) -> Result<(), Error> {
        Err(READ_ONLY)
    }

    async fn lease_keep_alive(&self, _: LeaseId) -> Result<LeaseInfo, Error> {
        Err(READ_ONLY)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.memory.state.read().leases.info(id, self.now)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Ok(self.memory.state.read().leases.ids())
    }

    async fn defragment(&self) -> Result<(), Error> {
        Err(READ_ONLY)
    }

    async fn status(&self) -> Result<Status, Error> {
        self.memory.status(self.db_size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use foundation::SystemClock;

    use super::*;
    use crate::Op;
    use crate::embedded::{Engine, Options};

    /// Every file with its content and when it was written.
    fn files(directory: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
        let file = |entry: fs::DirEntry| {
            let written = entry.metadata().unwrap().modified().unwrap();
            (entry.file_name().into_string().unwrap(), (fs::read(entry.path()).unwrap(), written))
        };
        fs::read_dir(directory).unwrap().map(|entry| file(entry.unwrap())).collect()
    }

    async fn all(store: &dyn Store) -> (RangeResponse, Status) {
        (store.range(Range::prefix("")).await.unwrap(), store.status().await.unwrap())
    }

    #[tokio::test]
    async fn a_stopped_store_is_read_and_nothing_of_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("store");
        let open = || Engine::open(&directory, Options::default(), SystemClock::shared()).unwrap();
        let store = open();
        store.lease_grant(60, 7).await.unwrap();
        for value in ["one", "two"] {
            let leased =
                Op::Put { key: "leased".into(), value: crate::PutValue::Plain(value.into()), lease: 7 };
            store.txn(Txn::of(vec![Op::put("key", value), leased])).await.unwrap();
        }
        // A checkpoint with a log after it.
        store.defragment().await.unwrap();
        store.txn(Txn::of(vec![Op::put("late", "x")])).await.unwrap();
        let refused = View::of_engine(&directory).err();
        assert!(matches!(refused, Some(Error::Locked { .. })), "somebody has it open: {refused:?}");
        let (keys, status) = all(&*store).await;
        store.shutdown();
        // What a crash leaves: none of it may be tidied up.
        fs::write(directory.join("checkpoint.tmp"), "half").unwrap();
        fs::write(directory.join("spare-7"), "spare").unwrap();
        let before = files(&directory);

        let view = View::of_engine(&directory).unwrap();
        let second = View::of_engine(&directory).unwrap();
        let (seen, stands) = all(&view).await;
        assert_eq!(seen, keys);
        assert_eq!((stands.revision, stands.keys, stands.leases), (status.revision, status.keys, 1));
        let lease = view.lease_time_to_live(7).await.unwrap();
        assert_eq!((lease.granted_ttl, lease.ttl, lease.keys.len()), (60, 60, 1));
        let past = view.range(Range::key("key").at(keys.revision - 2)).await.unwrap();
        assert_eq!(past.kvs[0].value, "one", "with its history");
        for refused in [
            view.txn(Txn::of(vec![Op::put("key", "three")])).await.map(drop),
            view.compact(2).await,
            view.defragment().await,
            view.lease_revoke(7).await,
        ] {
            assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        }
        let opened = Engine::open(&directory, Options::default(), SystemClock::shared()).err();
        assert!(matches!(opened, Some(Error::Locked { .. })), "nobody opens it meanwhile: {opened:?}");
        drop((view, second));
        assert_eq!(files(&directory), before);
        assert_eq!(all(&*open()).await.0, keys);

        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(View::of_engine(&empty), Err(Error::Invalid(_))));
        assert!(files(&empty).is_empty());
    }
}
