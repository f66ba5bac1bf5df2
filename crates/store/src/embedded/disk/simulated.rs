//! A disk in memory that fails as real ones do, when it is told to and from a seed.
//!
//! Keeps of every file what has reached the medium and what is only in the cache, and of every directory which names
//! have; [`SimulatedDisk::lose_power`] leaves of the rest what a real machine might: each write that was not synced is
//! there, is not, or is torn into sectors of which some are there, and each name that was not synced is there or is
//! not. [`SimulatedDisk::arm`] makes a later call fail. Everything that is left to chance comes from the randomness
//! given, so that a test replays from its seed.
//!
//! Stricter than most file systems: names that were not synced survive independently of each other and of the files'
//! contents. After a failed sync the cache still shows what never reaches the medium, as Linux' does. Not here: what
//! the engine makes of it (its tests, here and in `tests/`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foundation::{Randomness, SharedRandomness};
use parking_lot::Mutex;

use super::{Disk, File, Lock};

/// What is written as a whole or not at all.
const SECTOR: usize = 512;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with an I/O error and changes nothing; a sync leaves some of what it should have made durable in
    /// the cache only, for good.
    Refused,
    /// A write stops in the middle with an I/O error.
    ShortWrite,
    /// A write stops in the middle, for the disk is full.
    Full,
    /// A sync says that all is well and does nothing.
    Lie,
    /// The machine loses its power: this call and every later one fails until [`SimulatedDisk::lose_power`].
    PowerLoss,
}

/// What is asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the methods")]
pub enum Call {
    Lock,
    Create,
    Open,
    Read,
    List,
    Rename,
    Remove,
    SyncDirectory,
    Write,
    Sync,
}

impl Fault {
    fn concerns(self, call: Call) -> bool {
        match self {
            Self::Refused => call != Call::Lock,
            Self::ShortWrite | Self::Full => call == Call::Write,
            Self::Lie => matches!(call, Call::Sync | Call::SyncDirectory),
            Self::PowerLoss => true,
        }
    }
}

type Observer = Arc<dyn Fn(Call, &Path) + Send + Sync>;

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct SimulatedDisk {
    medium: Arc<Mutex<Medium>>,
    observer: Arc<Mutex<Option<Observer>>>,
}

struct Medium {
    random: SharedRandomness,
    files: Vec<Contents>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not synced: what a name is to stand for, or `None` for nothing.
    pending_names: Vec<Vec<(PathBuf, Option<usize>)>>,
    locks: BTreeSet<PathBuf>,
    /// Faults, and after how many calls each comes.
    armed: Vec<(u64, Fault)>,
    calls: u64,
    struck: BTreeMap<&'static str, u64>,
    room: u64,
    /// Files that were opened in an earlier life of the process are closed.
    life: u64,
    off: bool,
}

#[derive(Default)]
struct Contents {
    durable: Vec<u8>,
    cached: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate,
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Truncate => to.clear(),
            Self::Write(offset, bytes) => write(to, *offset, bytes),
        }
    }

    /// As much of it as the medium may have got.
    fn tear(&self, to: &mut Vec<u8>, random: &dyn Randomness) {
        match (random.below(3), self) {
            (0, _) => {}
            (1, _) | (_, Self::Truncate) => self.apply(to),
            (_, Self::Write(offset, bytes)) => {
                let mut at = 0;
                while at < bytes.len() {
                    let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(bytes.len());
                    if random.below(2) == 0 {
                        write(to, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn write(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

fn refused() -> io::Error {
    io::Error::other("simulated input/output error")
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Medium {
    /// Counts a call, and says whether a fault strikes it.
    fn call(&mut self, call: Call) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(refused());
        }
        self.calls += 1;
        let calls = self.calls;
        let due = self.armed.iter().position(|(at, fault)| *at <= calls && fault.concerns(call));
        let Some(fault) = due.map(|at| self.armed.swap_remove(at).1) else { return Ok(None) };
        let name = match fault {
            Fault::Refused => "refused",
            Fault::ShortWrite => "short write",
            Fault::Full => "full",
            Fault::Lie => "lie",
            Fault::PowerLoss => "power loss",
        };
        *self.struck.entry(name).or_default() += 1;
        match fault {
            Fault::PowerLoss => self.off = true,
            Fault::Refused if !matches!(call, Call::Sync | Call::SyncDirectory) => return Err(refused()),
            _ => {}
        }
        Ok(Some(fault))
    }

    /// Gives up the contents of files that have no name left and cannot get one back.
    fn forget(&mut self) {
        let pending = self.pending_names.iter().flatten().filter_map(|(_, file)| *file);
        let named = self.names.values().chain(self.durable_names.values()).copied().chain(pending);
        let named: BTreeSet<_> = named.collect();
        let gone = (0..self.files.len()).filter(|file| !named.contains(file));
        for file in gone {
            self.files[file] = Contents::default();
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].cached.len() as u64).sum()
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn rename(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        apply_names(&mut self.names, &changes);
        self.pending_names.push(changes);
    }
}

fn apply_names(names: &mut BTreeMap<PathBuf, usize>, changes: &[(PathBuf, Option<usize>)]) {
    for (path, file) in changes {
        match file {
            Some(file) => names.insert(path.clone(), *file),
            None => names.remove(path),
        };
    }
}

impl SimulatedDisk {
    /// An empty disk with room for everything.
    pub fn new(random: SharedRandomness) -> Self {
        let medium = Medium {
            random,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            locks: BTreeSet::new(),
            armed: Vec::new(),
            calls: 0,
            struck: BTreeMap::new(),
            room: u64::MAX,
            life: 0,
            off: false,
        };
        Self { medium: Arc::new(Mutex::new(medium)), observer: Arc::default() }
    }

    /// Lets `fault` strike the first call that it can strike after `calls` more of any kind.
    pub fn arm(&self, calls: u64, fault: Fault) {
        let mut medium = self.medium.lock();
        let at = medium.calls + 1 + calls;
        medium.armed.push((at, fault));
    }

    /// Takes back the faults that have not struck.
    pub fn disarm(&self) {
        self.medium.lock().armed.clear();
    }

    /// How often each kind of fault has struck.
    pub fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.medium.lock().struck.clone()
    }

    /// Bytes that all files together may have.
    pub fn set_room(&self, bytes: u64) {
        self.medium.lock().room = bytes;
    }

    /// Bytes that all files together have.
    pub fn used(&self) -> u64 {
        self.medium.lock().used()
    }

    /// Whether the power is gone.
    pub fn is_off(&self) -> bool {
        self.medium.lock().off
    }

    /// Calls `observer` before each call is carried out, on the thread that makes it; it may wait, or use the disk.
    pub fn observe(&self, observer: impl Fn(Call, &Path) + Send + Sync + 'static) {
        *self.observer.lock() = Some(Arc::new(observer));
    }

    /// Ends what [`SimulatedDisk::observe`] began.
    pub fn unobserve(&self) {
        *self.observer.lock() = None;
    }

    /// The process ends: its files are closed and its locks are given up. The cache outlives it; what a failed sync has
    /// left in it only may be gone.
    pub fn kill(&self) {
        let mut medium = self.medium.lock();
        let medium = &mut *medium;
        medium.life += 1;
        medium.locks.clear();
        medium.forget();
        for file in &mut medium.files {
            if medium.random.below(2) == 0 {
                file.cached.clone_from(&file.durable);
                file.pending.iter().for_each(|change| change.apply(&mut file.cached));
            }
        }
    }

    /// The machine loses its power, and comes up again with what the medium has got.
    pub fn lose_power(&self) {
        let mut medium = self.medium.lock();
        let medium = &mut *medium;
        medium.life += 1;
        medium.locks.clear();
        medium.off = false;
        for changes in medium.pending_names.drain(..) {
            if medium.random.below(2) == 0 {
                apply_names(&mut medium.durable_names, &changes);
            }
        }
        medium.names.clone_from(&medium.durable_names);
        medium.forget();
        for file in &mut medium.files {
            for change in file.pending.drain(..) {
                change.tear(&mut file.durable, &*medium.random);
            }
            file.cached.clone_from(&file.durable);
        }
    }

    /// Turns over one bit of a file, chosen at random among all, on the medium and in the cache. Says which.
    pub fn flip(&self) -> Option<(PathBuf, usize, u8)> {
        let (path, at, bit) = {
            let medium = self.medium.lock();
            let below = |bound: usize| medium.random.below(bound as u64) as usize;
            let files: Vec<_> =
                medium.names.iter().filter(|(_, n)| !medium.files[**n].cached.is_empty()).collect();
            let (path, file) = *files.get(below(files.len()))?;
            let bytes = &medium.files[*file].cached;
            // Most of a segment is zeros that nobody looks at.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            let length = if below(8) == 0 { bytes.len() } else { used };
            (path.clone(), below(length), 1 << below(8))
        };
        self.flip_at(&path, at, bit);
        Some((path, at, bit))
    }

    /// Turns over the bits of one byte.
    pub fn flip_at(&self, path: &Path, at: usize, bits: u8) {
        let mut medium = self.medium.lock();
        let Ok(file) = medium.file(path) else { return };
        let Contents { durable, cached, .. } = &mut medium.files[file];
        for bytes in [durable, cached] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
        }
    }

    fn enter(&self, call: Call, path: &Path) -> parking_lot::MutexGuard<'_, Medium> {
        let observer = self.observer.lock().clone();
        if let Some(observer) = observer {
            observer(call, path);
        }
        self.medium.lock()
    }

    fn opened(&self, path: &Path, medium: &Medium, file: usize) -> Box<dyn File> {
        Box::new(OpenFile { disk: self.clone(), path: path.to_owned(), file, life: medium.life })
    }
}

struct Held {
    disk: SimulatedDisk,
    directory: PathBuf,
    life: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut medium = self.disk.medium.lock();
        if medium.life == self.life {
            medium.locks.remove(&self.directory);
        }
    }
}

impl Disk for SimulatedDisk {
    fn lock(&self, directory: &Path) -> io::Result<Lock> {
        let mut medium = self.enter(Call::Lock, directory);
        medium.call(Call::Lock)?;
        if !medium.locks.insert(directory.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Held { disk: self.clone(), directory: directory.to_owned(), life: medium.life }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut medium = self.enter(Call::Create, path);
        medium.call(Call::Create)?;
        let file = match medium.file(path) {
            Ok(file) => {
                medium.files[file].cached.clear();
                medium.files[file].pending.push(Change::Truncate);
                file
            }
            Err(_) => {
                medium.files.push(Contents::default());
                let file = medium.files.len() - 1;
                medium.rename(vec![(path.to_owned(), Some(file))]);
                file
            }
        };
        Ok(self.opened(path, &medium, file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut medium = self.enter(Call::Open, path);
        medium.call(Call::Open)?;
        let file = medium.file(path)?;
        Ok(self.opened(path, &medium, file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut medium = self.enter(Call::Read, path);
        medium.call(Call::Read)?;
        let file = medium.file(path)?;
        Ok(medium.files[file].cached.clone())
    }

    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(path)?)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut medium = self.enter(Call::List, directory);
        medium.call(Call::List)?;
        let within = medium.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(within.map(|(path, file)| (path.clone(), medium.files[*file].cached.len() as u64)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(Call::Rename, from);
        medium.call(Call::Rename)?;
        let file = medium.file(from)?;
        medium.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(file))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(Call::Remove, path);
        medium.call(Call::Remove)?;
        medium.file(path)?;
        medium.rename(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut medium = self.enter(Call::SyncDirectory, directory);
        match medium.call(Call::SyncDirectory)? {
            None => {
                let pending = std::mem::take(&mut medium.pending_names);
                for changes in pending {
                    if changes.iter().all(|(path, _)| path.parent() == Some(directory)) {
                        apply_names(&mut medium.durable_names, &changes);
                    } else {
                        medium.pending_names.push(changes);
                    }
                }
                Ok(())
            }
            Some(Fault::Lie) => Ok(()),
            Some(_) => Err(refused()),
        }
    }
}

struct OpenFile {
    disk: SimulatedDisk,
    path: PathBuf,
    file: usize,
    life: u64,
}

impl File for OpenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut medium = self.disk.enter(Call::Write, &self.path);
        let medium = &mut *medium;
        if medium.life != self.life {
            return Err(refused());
        }
        let fault = medium.call(Call::Write)?;
        let offset = offset as usize;
        let length = medium.files[self.file].cached.len() as u64;
        let free = medium.room.saturating_sub(medium.used());
        let fits = length.saturating_add(free).saturating_sub(offset as u64);
        let full = (bytes.len() as u64) > fits;
        let written = match fault {
            None if full => &bytes[..fits as usize],
            None | Some(Fault::PowerLoss) => bytes,
            Some(_) => &bytes[..medium.random.below(bytes.len() as u64) as usize],
        };
        if !written.is_empty() {
            let file = &mut medium.files[self.file];
            write(&mut file.cached, offset, written);
            file.pending.push(Change::Write(offset, written.to_vec()));
        }
        match fault {
            None if full => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(refused()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut medium = self.disk.enter(Call::Sync, &self.path);
        let medium = &mut *medium;
        if medium.life != self.life {
            return Err(refused());
        }
        let fault = medium.call(Call::Sync)?;
        let file = &mut medium.files[self.file];
        match fault {
            None => {
                for change in file.pending.drain(..) {
                    change.apply(&mut file.durable);
                }
                Ok(())
            }
            Some(Fault::Lie) => Ok(()),
            Some(Fault::Refused) => {
                for change in file.pending.drain(..) {
                    change.tear(&mut file.durable, &*medium.random);
                }
                Err(refused())
            }
            Some(_) => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foundation::SeededRandomness;

    /// What is in a file after the power was lost, of many disks.
    fn outcomes(act: impl Fn(&SimulatedDisk)) -> BTreeSet<Option<Vec<u8>>> {
        let outcome = |seed| {
            let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(seed)));
            act(&disk);
            disk.lose_power();
            disk.read(Path::new("d/a")).ok()
        };
        (0..200).map(outcome).collect()
    }

    fn written(disk: &SimulatedDisk) -> Box<dyn File> {
        let file = disk.create(Path::new("d/a")).unwrap();
        file.write_at(b"x", 0).unwrap();
        file
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_may() {
        let both = BTreeSet::from([None, Some(Vec::new()), Some(b"x".to_vec())]);
        assert_eq!(outcomes(|disk| drop(written(disk))), both);
        let named = outcomes(|disk| {
            written(disk);
            disk.sync_directory(Path::new("d")).unwrap();
        });
        assert_eq!(named, BTreeSet::from([Some(Vec::new()), Some(b"x".to_vec())]));
        let synced = |disk: &SimulatedDisk| {
            written(disk).sync().unwrap();
            disk.sync_directory(Path::new("d")).unwrap();
        };
        assert_eq!(outcomes(synced), BTreeSet::from([Some(b"x".to_vec())]));
        let lied = outcomes(|disk| {
            disk.arm(0, Fault::Lie);
            synced(disk);
        });
        assert_eq!(lied, BTreeSet::from([Some(Vec::new()), Some(b"x".to_vec())]));
        // A sync that failed is not made good by the next one, though the cache shows what was written.
        let failed = outcomes(|disk| {
            let file = written(disk);
            disk.arm(0, Fault::Refused);
            file.sync().unwrap_err();
            assert_eq!(disk.read(Path::new("d/a")).unwrap(), b"x");
            file.sync().unwrap();
            disk.sync_directory(Path::new("d")).unwrap();
        });
        assert_eq!(failed, BTreeSet::from([Some(Vec::new()), Some(b"x".to_vec())]));
    }

    #[test]
    fn a_long_write_tears_into_sectors() {
        let torn = outcomes(|disk| {
            let file = disk.create(Path::new("d/a")).unwrap();
            disk.sync_directory(Path::new("d")).unwrap();
            file.write_at(&[1; 2 * SECTOR], 0).unwrap();
        });
        let (one, zero) = (vec![1; SECTOR], vec![0; SECTOR]);
        for expected in [Vec::new(), one.clone(), [zero, one.clone()].concat(), [one.clone(), one].concat()] {
            assert!(torn.contains(&Some(expected)), "{} outcomes", torn.len());
        }
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(1)));
        disk.set_room(3);
        let file = disk.create(Path::new("d/a")).unwrap();
        assert_eq!(file.write_at(b"xxxxx", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read(Path::new("d/a")).unwrap(), b"xxx");
        file.write_at(b"yyy", 0).unwrap();
        assert_eq!(disk.used(), 3);
    }
}
