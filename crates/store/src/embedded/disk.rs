//! The engine's view of a disk, so that tests can put a failing one under it.
//!
//! Only the operations that the engine needs, each as blunt as the system call behind it. Not here: what
//! is in the files (`wal`, `checkpoint`); a disk in memory that fails as real ones do ([`simulated`]).

pub mod simulated;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What keeps others out of a directory until it is dropped.
pub type Lock = Box<dyn Send + Sync>;

/// Where files are.
pub trait Disk: Send + Sync {
    /// Makes a directory if it is not there, and takes its lock. [`io::ErrorKind::WouldBlock`]: somebody has it.
    fn lock(&self, directory: &Path) -> io::Result<Lock>;
    /// Makes an empty file, or empties it. Only the owner can read it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file for writing into it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Opens a file to be read from its beginning.
    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>>;
    /// The files of a directory with their sizes, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn lock(&self, directory: &Path) -> io::Result<Lock> {
        fs::create_dir_all(directory)?;
        Ok(Box::new(FileLock::take(directory)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((entry.path(), metadata.len()));
            }
        }
        Ok(files)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        fs::File::open(directory)?.sync_all()
    }
}

/// The lock of a directory of the host: the file `LOCK` in it, which stays.
struct FileLock(fs::File);

impl FileLock {
    fn take(directory: &Path) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o600).open(directory.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Keeps a directory of the host from being opened for as long as it is only looked at; others may look too. Changes
/// nothing: a directory without the file has never been opened, and gets none.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]: somebody has it open.
pub(super) fn share(directory: &Path) -> io::Result<Option<Lock>> {
    let file = match fs::File::open(directory.join("LOCK")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Box::new(FileLock(file)))),
        Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started has the file too until it runs its program, and the
        // lock lasts as long as anybody has it open.
        let _ = self.0.unlock();
    }
}

impl File for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_up_though_a_process_being_started_still_has_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let lock = FileLock::take(directory.path()).unwrap();
        let refused = HostDisk.lock(directory.path()).err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
        let _inherited = lock.0.try_clone().unwrap();
        drop(lock);
        HostDisk.lock(directory.path()).unwrap();
    }
}
