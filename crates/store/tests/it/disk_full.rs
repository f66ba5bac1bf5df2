//! A disk that is full, or refuses a sync: writes fail clearly, reads and watches go on, and writes work
//! again once the reason has gone.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foundation::SystemClock;
use futures::StreamExt;
use parking_lot::Mutex;
use store::embedded::disk::{Disk, File, HostDisk, Lock};
use store::embedded::{Engine, Options};
use store::{Error, Op, Range, Store, Txn, WatchRequest};
use tempfile::TempDir;

#[derive(Default)]
struct Faults {
    /// Bytes there is room for.
    room: AtomicU64,
    refuse_sync: AtomicBool,
    sizes: Mutex<HashMap<PathBuf, u64>>,
}

#[derive(Clone, Default)]
struct FaultyDisk(Arc<Faults>);

struct FaultyFile {
    inner: Box<dyn File>,
    path: Mutex<PathBuf>,
    faults: Arc<Faults>,
}

impl Faults {
    fn resize(&self, path: &Path, size: u64) -> io::Result<()> {
        let mut sizes = self.sizes.lock();
        let before = sizes.get(path).copied().unwrap_or(0);
        let used: u64 = sizes.values().sum();
        if size > before && used - before + size > self.room.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        sizes.insert(path.to_owned(), size.max(before));
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn lock(&self, directory: &Path) -> io::Result<Lock> {
        HostDisk.lock(directory)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.0.sizes.lock().insert(path.to_owned(), 0);
        self.wrap(HostDisk.create(path)?, path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.wrap(HostDisk.open(path)?, path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read(path)
    }
    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        HostDisk.reader(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        HostDisk.list(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sizes = self.0.sizes.lock();
        if let Some(size) = sizes.remove(from) {
            sizes.insert(to.to_owned(), size);
        }
        HostDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.sizes.lock().remove(path);
        HostDisk.remove(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        HostDisk.sync_directory(directory)
    }
}

impl FaultyDisk {
    fn wrap(&self, inner: Box<dyn File>, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FaultyFile { inner, path: Mutex::new(path.to_owned()), faults: self.0.clone() }))
    }
}

impl File for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let path = self.path.lock().clone();
        // A renamed file keeps its blocks: only files that grow need room.
        if self.faults.sizes.lock().contains_key(&path) {
            self.faults.resize(&path, offset + bytes.len() as u64)?;
        }
        self.inner.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        if self.faults.refuse_sync.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.sync()
    }
}

fn open(directory: &TempDir, disk: &FaultyDisk) -> Arc<Engine> {
    let disk = Arc::new(disk.clone());
    let options = Options { segment_bytes: 256 << 10, checkpoint_bytes: 1 << 20, disk, ..Options::default() };
    Engine::open(directory.path(), options, SystemClock::shared()).unwrap()
}

async fn put(store: &Engine, key: &str) -> Result<u64, Error> {
    let ops = vec![Op::put(key.to_owned(), vec![b'x'; 20_000])];
    store.txn(Txn::of(ops)).await.map(|response| response.revision)
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let directory = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    disk.0.room.store(3 << 20, Ordering::SeqCst);
    let store = open(&directory, &disk);
    let mut watch = store.watch(WatchRequest::prefix("k/", 0)).await.unwrap();
    let (mut written, mut refused) = (0, 0);
    // Until it is refused twice in a row: a checkpoint that is under way at the first time may still make room.
    while refused < 2 {
        match put(&store, &format!("k/{written}")).await {
            Ok(_) => (written, refused) = (written + 1, 0),
            Err(error) => {
                assert!(matches!(error, Error::NoSpace), "{error}");
                disk.0.room.store(0, Ordering::SeqCst);
                refused += 1;
            }
        }
        assert!(written < 1000, "the disk never filled up");
    }
    assert_eq!(store.status().await.unwrap().alarm.as_deref(), Some("no space left on the store's disk"));
    // Reads and watches go on, and show nothing that was refused.
    assert_eq!(store.range(Range::prefix("k/")).await.unwrap().count, written);
    let mut seen = 0;
    while seen < written {
        seen += watch.next().await.unwrap().unwrap().events.len() as u64;
    }
    disk.0.room.store(64 << 20, Ordering::SeqCst);
    put(&store, "k/again").await.unwrap();
    assert_eq!(store.status().await.unwrap().alarm, None);
    let events = watch.next().await.unwrap().unwrap().events;
    assert_eq!((events.len(), &events[0].kv.key[..]), (1, &b"k/again"[..]));
    drop((watch, store));
    let store = open(&directory, &disk);
    assert_eq!(store.range(Range::prefix("k/")).await.unwrap().count, written + 1);
}

#[tokio::test]
async fn a_refused_sync_fails_the_write_and_not_the_store() {
    let directory = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    disk.0.room.store(u64::MAX / 2, Ordering::SeqCst);
    let store = open(&directory, &disk);
    let mut last = put(&store, "k/0").await.unwrap();
    for round in 1..20 {
        disk.0.refuse_sync.store(true, Ordering::SeqCst);
        let result = put(&store, "k/refused").await;
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
        assert_eq!(store.range(Range::key("k/refused")).await.unwrap().count, 0);
        disk.0.refuse_sync.store(false, Ordering::SeqCst);
        let revision = put(&store, &format!("k/{round}")).await.unwrap();
        assert_eq!(revision, last + 1);
        last = revision;
    }
    drop(store);
    // What was refused and then written over by something acknowledged stays refused.
    let store = open(&directory, &disk);
    let found = store.range(Range::prefix("k/")).await.unwrap();
    assert_eq!((found.count, found.revision), (20, last));
}
