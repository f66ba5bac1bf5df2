//! The lock that gives a directory one owner.
//!
//! Reads and writes nothing but the file `LOCK`, which stays. Not here: what the owner does (`embedded`).

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::Error;

/// Held as long as the store is open.
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of `directory`, which is there; fails with [`Error::Locked`] if somebody has it.
    pub(super) fn take(directory: &Path) -> Result<Self, Error> {
        let context = |error| Error::io(format!("opening {}", directory.display()), error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(directory.join("LOCK"));
        let file = file.map_err(context)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(context(error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started has the file too until it runs its program, and the
        // lock lasts as long as anybody has it open.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_though_a_process_being_started_still_has_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        assert!(matches!(Lock::take(directory.path()), Err(Error::Locked { .. })));
        let _inherited = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::take(directory.path()).unwrap();
    }
}
