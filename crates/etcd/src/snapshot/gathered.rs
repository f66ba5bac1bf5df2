//! A store read for a snapshot, whatever its size: the keys go into a file as they come, and only their places stay in
//! memory.
//!
//! A store is read in the order of its keys, and a snapshot is written in that of their revisions. Reads a
//! [`Store`]; writes a temporary file, and then the snapshot. Not here: how a snapshot is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use store::{KeyValue, LeaseId, LeaseInfo, Range, Revision, Store};

use super::room::{self, Room};
use super::{Error, SUM, bolt, known_revision, sum};
use crate::convert;
use crate::wire::leasepb;

/// Keys read at once, as upstream's lists.
const PAGE: usize = 500;
/// How often a snapshot is begun anew because what it was reading was compacted.
const ATTEMPTS: usize = 5;
/// Buckets that etcd expects to find, empty if there is nothing in them.
const EMPTY: [&[u8]; 7] =
    [b"alarm", b"auth", b"authRoles", b"authUsers", b"cluster", b"members", b"members_removed"];

/// A store as of one revision.
#[derive(Debug)]
pub struct Gathered {
    revision: Revision,
    file: File,
    /// That of the disk which the file is on.
    room: Room,
    /// Of every key, in the order of the revisions.
    places: Vec<Place>,
    leases: Vec<LeaseInfo>,
}

/// Where a key is in the temporary file, as it is to be in the snapshot.
#[derive(Debug)]
struct Place {
    revision: Revision,
    offset: u64,
    length: u32,
}

/// The temporary file while it is written.
struct Spool {
    file: BufWriter<File>,
    room: Room,
    offset: u64,
    places: Vec<Place>,
    /// The keys with a lease: which, and which.
    leased: Vec<(usize, LeaseId)>,
}

impl Spool {
    fn new(scratch: Option<&Path>) -> Result<Self, Error> {
        let file = scratch.map_or_else(tempfile::tempfile, tempfile::tempfile_in)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let room = Room::at(scratch);
        Ok(Self { file, room, offset: 0, places: Vec::new(), leased: Vec::new() })
    }

    fn add(&mut self, keys: Vec<KeyValue>) -> Result<(), Error> {
        for kv in keys {
            let (revision, lease) = (kv.mod_revision, kv.lease);
            let bytes = convert::to_wire(kv).encode_to_vec();
            self.room.take(bytes.len() as u64)?;
            self.file.write_all(&bytes)?;
            if lease != 0 {
                self.leased.push((self.places.len(), lease));
            }
            self.places.push(Place { revision, offset: self.offset, length: bytes.len() as u32 });
            self.offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn finish(mut self, revision: Revision, leases: Vec<LeaseInfo>) -> Result<Gathered, Error> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        // A lease that ended after the keys were read has taken its keys with it: without it they would stay for ever.
        let known: BTreeSet<_> = leases.iter().map(|lease| lease.id).collect();
        for (place, _) in self.leased.iter().filter(|(_, lease)| !known.contains(lease)) {
            self.places[*place].length = 0;
        }
        self.places.retain(|place| place.length > 0);
        // What one revision has changed stays in the order of the keys.
        self.places.sort_unstable_by_key(|place| (place.revision, place.offset));
        Ok(Gathered { revision, file, room: self.room, places: self.places, leases })
    }
}

/// Reads a whole store as of the latest revision that is known where it is read: the survivor of a majority that is lost
/// can be saved, too. The temporary file is made in `scratch`, or where the system keeps them.
pub async fn gather(store: &dyn Store, scratch: Option<&Path>) -> Result<Gathered, Error> {
    let mut attempt = 0;
    let (revision, spool) = loop {
        attempt += 1;
        match gather_keys(store, Spool::new(scratch)?).await {
            Err(Error::Store(store::Error::Compacted { .. })) if attempt < ATTEMPTS => {}
            other => break other?,
        }
    };
    let leases = store.leases_known().await?;
    blocking(move || spool.finish(revision, leases)).await
}

async fn gather_keys(store: &dyn Store, mut spool: Spool) -> Result<(Revision, Spool), Error> {
    let revision = known_revision(store).await?;
    let mut start = Bytes::new();
    loop {
        let range = Range { start, revision, limit: PAGE, uncounted: true, ..Range::default() };
        let found = store.range(range.serializable()).await?;
        let last = found.kvs.last().filter(|_| found.more).map(|kv| kv.key.clone());
        spool = blocking(move || spool.add(found.kvs).map(|()| spool)).await?;
        match last {
            Some(key) => start = convert::range_end(&key, &Bytes::new()),
            None => return Ok((revision, spool)),
        }
    }
}

/// Carries out what waits for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::from)?
}

/// The name of a version of a key: its revision, and its place among the changes of that revision.
fn name(revision: Revision, place: u64) -> Vec<u8> {
    let mut name = Vec::with_capacity(17);
    name.extend_from_slice(&revision.to_be_bytes());
    name.push(b'_');
    name.extend_from_slice(&place.to_be_bytes());
    name
}

impl Gathered {
    /// The revision it is as of.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.places.len()
    }

    /// Writes a snapshot file from its beginning, and syncs it. Returns its size. Blocks. The file is on the disk that the
    /// store was read to.
    ///
    /// # Errors
    /// [`Error::NoRoom`] there; what the system has against it.
    pub fn write(&self, file: &mut File) -> Result<u64, Error> {
        let mut room = self.room.clone();
        room.look(room::pages(self.places.iter().map(|kv| u64::from(kv.length)).sum()))?;
        {
            let mut writer = bolt::Writer::new(BufWriter::with_capacity(1 << 20, &mut *file))?;
            let (mut place, mut last, mut value) = (0, 0, Vec::new());
            for kv in &self.places {
                place = if kv.revision == last { place + 1 } else { 0 };
                last = kv.revision;
                value.resize(kv.length as usize, 0);
                self.file.read_exact_at(&mut value, kv.offset)?;
                room.take(u64::from(kv.length))?;
                writer.put(&name(kv.revision, place), &value)?;
            }
            writer.finish_bucket(b"key")?;
            for lease in &self.leases {
                let stored =
                    leasepb::Lease { id: lease.id, ttl: lease.granted_ttl, remaining_ttl: lease.ttl };
                writer.put(&lease.id.to_be_bytes(), &stored.encode_to_vec())?;
            }
            writer.finish_bucket(b"lease")?;
            let compacted = name(self.revision, 0);
            writer.put(b"consistent_index", &self.revision.to_be_bytes())?;
            writer.put(b"finishedCompactRev", &compacted)?;
            writer.put(b"scheduledCompactRev", &compacted)?;
            writer.put(b"term", &1u64.to_be_bytes())?;
            writer.finish_bucket(b"meta")?;
            for bucket in EMPTY {
                writer.finish_bucket(bucket)?;
            }
            writer.finish()?.flush()?;
        }
        let size = file.seek(SeekFrom::End(0))?;
        let sum = sum(file, size)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&sum)?;
        file.sync_all()?;
        Ok(size + SUM)
    }

    /// What a file is to hold, read in another order than that of the revisions.
    #[cfg(test)]
    pub(super) fn of(contents: &super::Contents) -> Self {
        let mut spool = Spool::new(None).unwrap();
        for keys in contents.keys.rchunks(7) {
            spool.add(keys.to_vec()).unwrap();
        }
        spool.finish(contents.revision, contents.leases.clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use foundation::SystemClock;
    use store::embedded::Engine;
    use store::{Op, RangeResponse, Status, Txn, TxnResponse, WatchRequest, WatchStream};
    use tonic::async_trait;

    use super::*;

    /// As an external store: every answer is a copy of its own. Counts those that somebody still has.
    struct Elsewhere {
        engine: Arc<Engine>,
        held: Arc<AtomicUsize>,
        most: AtomicUsize,
    }

    struct Held(Bytes, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Store for Elsewhere {
        async fn range(&self, range: Range) -> Result<RangeResponse, store::Error> {
            let mut found = self.engine.range(range).await?;
            for kv in &mut found.kvs {
                let held = self.held.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(held, Ordering::SeqCst);
                kv.value = Bytes::from_owner(Held(kv.value.clone(), self.held.clone()));
            }
            Ok(found)
        }

        async fn txn(&self, txn: Txn) -> Result<TxnResponse, store::Error> {
            self.engine.txn(txn).await
        }

        async fn watch(&self, request: WatchRequest) -> Result<WatchStream, store::Error> {
            self.engine.watch(request).await
        }

        async fn compact(&self, revision: Revision) -> Result<(), store::Error> {
            self.engine.compact(revision).await
        }

        async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, store::Error> {
            self.engine.lease_grant(ttl, id).await
        }

        async fn lease_revoke(&self, id: LeaseId) -> Result<(), store::Error> {
            self.engine.lease_revoke(id).await
        }

        async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, store::Error> {
            self.engine.lease_keep_alive(id).await
        }

        async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, store::Error> {
            self.engine.lease_time_to_live(id).await
        }

        /// One of them ends after the keys were read.
        async fn leases(&self) -> Result<Vec<LeaseId>, store::Error> {
            Ok(self.engine.leases().await?.into_iter().filter(|id| *id != 2).collect())
        }

        async fn defragment(&self) -> Result<(), store::Error> {
            self.engine.defragment().await
        }

        async fn status(&self) -> Result<Status, store::Error> {
            self.engine.status().await
        }
    }

    #[tokio::test]
    async fn however_large_a_store_is_a_page_of_it_is_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(directory.path(), Default::default(), SystemClock::shared()).unwrap();
        for lease in [1, 2] {
            engine.lease_grant(600, lease).await.unwrap();
            let value = store::PutValue::Plain("x".into());
            let put = Op::Put { key: format!("leased/{lease}").into(), value, lease };
            engine.txn(Txn::of(vec![put])).await.unwrap();
        }
        // The last keys first: the snapshot has another order than the store.
        for page in (0..40).rev() {
            let put = |n: usize| Op::put(format!("key/{:05}", page * 100 + n), format!("value {n}"));
            engine.txn(Txn::of((0..100).map(put).collect())).await.unwrap();
        }
        let elsewhere = Elsewhere { engine: engine.clone(), held: Arc::default(), most: AtomicUsize::new(0) };
        let gathered = gather(&elsewhere, Some(directory.path())).await.unwrap();
        assert_eq!(gathered.keys(), 4001, "without what went with the lease that ended");
        assert_eq!(elsewhere.held.load(Ordering::SeqCst), 0);
        let most = elsewhere.most.load(Ordering::SeqCst);
        assert!((PAGE..=2 * PAGE).contains(&most), "{most} values at once");
        let mut file = tempfile::tempfile().unwrap();
        gathered.write(&mut file).unwrap();
        let mut keys = super::super::read(&mut file).unwrap().into_keys();
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        let mut stored = engine.range(Range::prefix("")).await.unwrap().kvs;
        stored.retain(|kv| kv.lease != 2);
        assert_eq!(keys, stored);
    }
}
