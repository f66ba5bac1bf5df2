//! The files that `etcdctl snapshot save` makes: written from any store, and read, ours and etcd's own alike.
//!
//! A snapshot is the store as of one revision, in the file format of etcd (a bolt database and the SHA-256 of it), so
//! that etcd's tools can look at ours and restore it, and a cluster can move from one to the other by its backup.
//! Ours holds no history: to its reader it is a store that was compacted at its revision.
//!
//! Not here: the pages of the file (`bolt`), how a store is read for it (`gathered`), whether there is
//! room for it (`room`), what becomes of what was read
//! (`store::embedded::restore`). Upstream: etcd's `etcdutl/snapshot`, `server/storage/{mvcc,schema}`.

mod bolt;
mod gathered;
mod room;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use store::{KeyValue, LeaseId, LeaseInfo, Range, Revision, Store};

use crate::wire::{leasepb, mvccpb};
use crate::{convert, stamp};
pub use gathered::{Gathered, gather};
pub use room::check_room;

/// Bytes of the checksum at the end.
const SUM: u64 = 32;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused.
    #[error("the store cannot be read")]
    Store(#[from] store::Error),
    /// The system refused.
    #[error("the snapshot cannot be read or written")]
    Io(#[from] std::io::Error),
    /// The disk has no room for it beside what it must keep free.
    #[error("there is no room for a snapshot on the disk: {free} bytes are free, and {needed} have to be")]
    NoRoom {
        /// What has to be free.
        needed: u64,
        /// What is.
        free: u64,
    },
    /// The file is no snapshot, or is damaged.
    #[error("not a sound snapshot: {0}")]
    Damaged(&'static str),
}

/// What a file holds: a store as of one revision.
#[derive(Debug, Default)]
pub struct Contents {
    revision: Revision,
    /// In the order of `mod_revision`.
    keys: Vec<KeyValue>,
    leases: Vec<LeaseInfo>,
}

impl Contents {
    /// The revision it is as of.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Every key.
    pub fn keys(&self) -> &[KeyValue] {
        &self.keys
    }

    /// Every lease: its id and its full length in seconds.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, i64)> {
        self.leases.iter().map(|lease| (lease.id, lease.granted_ttl))
    }

    /// Gives the keys away.
    pub fn into_keys(self) -> Vec<KeyValue> {
        self.keys
    }
}

/// The latest revision that is known where the store is read.
pub(crate) async fn known_revision(store: &dyn Store) -> Result<Revision, store::Error> {
    let range = Range { keys_only: true, limit: 1, uncounted: true, ..Range::key(&b"\0"[..]) };
    Ok(store.range(range.serializable()).await?.revision)
}

fn sum(file: &mut File, size: u64) -> Result<[u8; 32], Error> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let step = left.min(chunk.len() as u64) as usize;
        file.read_exact(&mut chunk[..step])?;
        hasher.update(&chunk[..step]);
        left -= step as u64;
    }
    Ok(hasher.finalize().into())
}

/// Reads a snapshot file: the keys as of its last revision, their values as they were meant ([`stamp`]). A copy of an
/// etcd's database file has no checksum, and is read too.
pub fn read(file: &mut File) -> Result<Contents, Error> {
    let size = file.seek(SeekFrom::End(0))?;
    // Databases are whole pages; what is more is the checksum.
    if size % 512 == SUM {
        let mut stored = [0; SUM as usize];
        let computed = sum(file, size - SUM)?;
        file.read_exact(&mut stored)?;
        if stored != computed {
            return Err(Error::Damaged("its checksum is wrong"));
        }
    }
    let mut reader = bolt::Reader::new(file)?;
    let mut keys: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
    let mut revision = 1;
    reader.bucket(b"key", &mut |name, value| {
        let (Some(main), Some(b'_')) = (name.first_chunk::<8>(), name.get(8)) else {
            return Err(Error::Damaged("a version of a key has no revision"));
        };
        let main = u64::from_be_bytes(*main);
        revision = revision.max(main);
        let kv = mvccpb::KeyValue::decode(value).map_err(|_| Error::Damaged("a key cannot be decoded"))?;
        // Deletions have a mark behind the revision.
        if name.get(17) == Some(&b't') {
            keys.remove(&kv.key);
        } else {
            keys.insert(kv.key.clone(), stamp::opened(convert::from_wire(kv)));
        }
        Ok(())
    })?;
    let mut leases = Vec::new();
    reader.bucket(b"lease", &mut |_, value| {
        let lease = leasepb::Lease::decode(value).map_err(|_| Error::Damaged("a lease cannot be decoded"))?;
        leases.push(LeaseInfo { id: lease.id, granted_ttl: lease.ttl, ttl: lease.ttl, keys: Vec::new() });
        Ok(())
    })?;
    // All that came after the last compaction may have been deletions that it forgot.
    reader.bucket(b"meta", &mut |name, value| {
        if let (b"finishedCompactRev", Some(main)) = (name, value.first_chunk::<8>()) {
            revision = revision.max(u64::from_be_bytes(*main));
        }
        Ok(())
    })?;
    let mut keys: Vec<_> = keys.into_values().collect();
    keys.sort_by_key(|kv| kv.mod_revision);
    Ok(Contents { revision, keys, leases })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(contents: &Contents, file: &mut File) -> Result<u64, Error> {
        Gathered::of(contents).write(file)
    }

    fn contents(keys: usize) -> Contents {
        let kv = |n: usize| KeyValue {
            key: format!("key/{n:06}").into(),
            // Some larger than a page.
            value: vec![n as u8; if n % 100 == 7 { 20_000 } else { n % 300 }].into(),
            create_revision: 2,
            // Two keys of every revision.
            mod_revision: 2 + n as u64 / 2,
            version: 3,
            lease: i64::from(n % 10 == 0) * 77,
        };
        let lease = LeaseInfo { id: 77, granted_ttl: 60, ttl: 12, keys: Vec::new() };
        Contents { revision: 2 + keys as u64, keys: (0..keys).map(kv).collect(), leases: vec![lease] }
    }

    #[test]
    fn what_is_written_is_read() {
        for keys in [0, 1, 50, 5_000] {
            let mut file = tempfile::tempfile().unwrap();
            let contents = contents(keys);
            let size = write(&contents, &mut file).unwrap();
            assert_eq!((size % 512, size), (32, file.metadata().unwrap().len()));
            let read = read(&mut file).unwrap();
            assert_eq!((read.revision, read.keys.len()), (contents.revision, keys));
            assert_eq!(read.keys, contents.keys);
            assert_eq!(read.leases().collect::<Vec<_>>(), [(77, 60)]);
        }
    }

    #[test]
    fn values_that_etcd_kept_for_a_cluster_carry_their_revision() {
        let mut contents = contents(1);
        let value = store::PutValue::Stamped { head: "{\"v\":\"".into(), tail: "\"}".into() };
        contents.keys[0].value = stamp::encode(value);
        contents.keys[0].mod_revision = 40;
        let mut file = tempfile::tempfile().unwrap();
        write(&contents, &mut file).unwrap();
        assert_eq!(read(&mut file).unwrap().keys[0].value, "{\"v\":\"40\"}");
    }

    #[test]
    fn damage_is_found() {
        let mut file = tempfile::tempfile().unwrap();
        let size = write(&contents(500), &mut file).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let damaged = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            read(&mut file)
        };
        for at in [0, 20, 5000, size as usize / 2, size as usize - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert!(matches!(damaged(&bytes), Err(Error::Damaged(_))), "at {at}");
        }
        // Without a checksum nothing may panic or run forever, whatever is found.
        for at in (0..size as usize - 32).step_by(1999) {
            let mut bytes = bytes[..size as usize - 32].to_vec();
            bytes[at] ^= 0xff;
            drop(damaged(&bytes));
        }
        for cut in [0, 1, 100, 4096, 9000] {
            assert!(damaged(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_save_under_full_write_load_is_restored_as_of_one_revision() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

        use foundation::SystemClock;
        use store::embedded::{Engine, restore};
        use store::{Op, Txn};

        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            Engine::open(directory.path().join(name), Default::default(), SystemClock::shared()).unwrap()
        };
        let store = open("saved");
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..64).map(|_| AtomicU64::new(0)).collect());
        let writers: Vec<_> = (0..64)
            .map(|writer| {
                let (store, stop, acknowledged) = (store.clone(), stop.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for count in 1.. {
                        // Two keys, far from each other, that are always the same.
                        let put = |side: &str| Op::put(format!("{side}/{writer:02}"), count.to_string());
                        store.txn(Txn::of(vec![put("a"), put("z")])).await.unwrap();
                        acknowledged[writer].store(count, Ordering::SeqCst);
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                })
            })
            .collect();
        while acknowledged.iter().any(|count| count.load(Ordering::SeqCst) < 3) {
            tokio::task::yield_now().await;
        }
        let before: Vec<u64> = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let mut file = tempfile::tempfile().unwrap();
        gather(&*store, Some(directory.path())).await.unwrap().write(&mut file).unwrap();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }

        let saved = read(&mut file).unwrap();
        let revision = store.revision().await.unwrap() + 1000;
        let (leases, target) = (saved.leases().collect::<Vec<_>>(), directory.path().join("restored"));
        restore(&target, &Default::default(), revision, saved.into_keys(), leases.into_iter()).unwrap();
        let restored = open("restored");
        let side = async |prefix: &str| -> Vec<u64> {
            let found = restored.range(Range::prefix(prefix.to_owned())).await.unwrap();
            found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).parse().unwrap()).collect()
        };
        let (a, z) = (side("a/").await, side("z/").await);
        assert_eq!(a, z, "no transaction is there in half");
        assert!(
            a.len() == 64 && a.iter().zip(&before).all(|(found, before)| found >= before),
            "{a:?} {before:?}"
        );
        assert_eq!(restored.revision().await.unwrap(), revision, "later than all that anybody saw");
    }
}
