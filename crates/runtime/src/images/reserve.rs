//! The part of a disk that images must leave free: the log of the cluster's store may be on the same one.
//!
//! Reads the file system's figures. A layer says how long it is only when it has been unpacked, so what is unpacked is
//! watched as it grows.

use std::io::{self, Read};
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Bytes between two looks at the file system.
const STEP: u64 = 32 << 20;
/// The most that is kept free, in bytes; of small disks it is a twentieth.
const MOST: u64 = 1 << 30;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserve<'a> {
    directory: &'a Path,
}

impl<'a> Reserve<'a> {
    /// Of the disk that a directory is on.
    pub(super) fn of(directory: &'a Path) -> Self {
        Self { directory }
    }

    /// Fails where less is left than is to be kept.
    pub(super) fn check(self) -> io::Result<()> {
        let stat = statvfs(self.directory)?;
        let (size, free) =
            (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size());
        if free < (size / 20).min(MOST) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("no space left for images: {} MiB of {} MiB are free", free >> 20, size >> 20),
            ));
        }
        Ok(())
    }

    /// The same content, whose reading fails when the disk that it is written to gets too full.
    pub(super) fn guard<R: Read>(self, inner: R) -> Guarded<'a, R> {
        Guarded { reserve: self, inner, read: 0, next: 0 }
    }
}

/// See [`Reserve::guard`].
pub(super) struct Guarded<'a, R> {
    reserve: Reserve<'a>,
    inner: R,
    read: u64,
    /// When to look again.
    next: u64,
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.next {
            self.reserve.check()?;
            self.next = self.read + STEP;
        }
        let length = self.inner.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}
