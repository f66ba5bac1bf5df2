//! A disk in memory that forgets at a crash what was not synced, but for a part of it that chance decides.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foundation::Randomness;
use parking_lot::Mutex;
use store::embedded::disk::{Disk, File, Lock};

type Shared = Arc<Mutex<Content>>;

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    /// Since the last sync.
    writes: Vec<(u64, Vec<u8>)>,
}

fn write(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let end = offset as usize + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(new);
}

impl Content {
    fn now(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, new) in &self.writes {
            write(&mut bytes, *offset, new);
        }
        bytes
    }

    fn sync(&mut self) {
        for (offset, new) in self.writes.drain(..) {
            write(&mut self.durable, offset, &new);
        }
    }
}

/// The disk. Clones are the same one. Names are durable at once.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Shared>>>);

impl MemoryDisk {
    /// Loses what was not synced; of the writes since, some may have come through, the last of them in part.
    pub fn crash(&self, randomness: &dyn Randomness) {
        for content in self.0.lock().values() {
            let mut content = content.lock();
            let mut kept = std::mem::take(&mut content.writes);
            kept.truncate(randomness.below(kept.len() as u64 + 1) as usize);
            if let Some((_, last)) = kept.last_mut() {
                last.truncate(randomness.below(last.len() as u64 + 1) as usize);
            }
            content.writes = kept;
            content.sync();
        }
    }

    fn get(&self, path: &Path) -> io::Result<Shared> {
        self.0.lock().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let content = Content { durable: bytes, writes: Vec::new() };
        self.0.lock().insert(path.to_owned(), Arc::new(Mutex::new(content)));
    }
}

struct Open(Shared);

impl File for Open {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.lock().writes.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.lock().sync();
        Ok(())
    }
}

impl Disk for MemoryDisk {
    /// Each disk is one member's: nobody else can come.
    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Box::new(()))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.put(path, Vec::new());
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(Open(self.get(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.get(path)?.lock().now())
    }

    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(path)?)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let files = self.0.lock();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(inside.map(|(path, content)| (path.clone(), content.lock().now().len() as u64)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
