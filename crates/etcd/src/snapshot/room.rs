//! Whether a disk has room for a save: the store's own log may be on it, and a save must not fill it.
//!
//! Reads the file system's figures, before a save and while it is written; what they mean is decided purely. Not here: what
//! the store does where its disk is full nevertheless (`store`).

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use store::Status;

use super::Error;

/// What stays free for the store, in bytes: some files of its log. Of small disks it is a sixteenth.
const MARGIN: u64 = 128 << 20;
/// Bytes between two looks at the file system.
const STEP: u64 = 32 << 20;
/// What a key takes beside its name and value: numbers of its own, and an element of a page.
const EACH: u64 = 80;

/// Figures of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
struct Disk {
    size: u64,
    free: u64,
}

/// Decides whether so much may be written.
fn decide(disk: Disk, more: u64) -> Result<(), Error> {
    let needed = more.saturating_add(MARGIN.min(disk.size / 16));
    // Some file systems say nothing of their size.
    match disk.size == 0 || disk.free >= needed {
        true => Ok(()),
        false => Err(Error::NoRoom { needed, free: disk.free }),
    }
}

/// About what the pages of a snapshot take that hold so many bytes of keys.
pub(super) fn pages(bytes: u64) -> u64 {
    // An entry is not parted: what it does not fill of a page stays empty.
    bytes.saturating_add(bytes / 4)
}

/// Refuses a save that there is no room for, before the store is read for it: the keys as they are read and the snapshot
/// of them are there at the same time for a moment. `scratch` is where it is built, as for [`gather`](super::gather).
///
/// # Errors
/// [`Error::NoRoom`]; what the system says of the disk.
pub fn check_room(scratch: Option<&Path>, status: &Status) -> Result<(), Error> {
    let read = status.live_bytes.saturating_add(status.keys.saturating_mul(EACH));
    Room::at(scratch).look(read.saturating_add(pages(read)))
}

/// The room on the disk that something is written to.
#[derive(Debug, Clone)]
pub(super) struct Room {
    directory: PathBuf,
    written: u64,
    /// When to look again.
    next: u64,
}

impl Room {
    /// Where temporary files are made.
    pub fn at(scratch: Option<&Path>) -> Self {
        let directory = scratch.map_or_else(std::env::temp_dir, Path::to_owned);
        Self { directory, written: 0, next: 0 }
    }

    /// Says whether so many bytes may be written.
    pub fn look(&self, more: u64) -> Result<(), Error> {
        let stat = statvfs(&self.directory).map_err(std::io::Error::from)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        decide(Disk { size: bytes(stat.blocks()), free: bytes(stat.blocks_available()) }, more)
    }

    /// So much is about to be written: from time to time it is looked whether it may be.
    pub fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.written += bytes;
        if self.written >= self.next {
            self.look(bytes)?;
            self.next = self.written + STEP;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_leaves_room_for_the_store() {
        let (mib, gib) = (1u64 << 20, 1u64 << 30);
        for (size, free, more, refused) in [
            (100 * gib, 50 * gib, gib, None),
            // To the byte.
            (100 * gib, gib + 128 * mib, gib, None),
            (100 * gib, gib + 128 * mib - 1, gib, Some(gib + 128 * mib)),
            (100 * gib, 128 * mib, 0, None),
            (100 * gib, 127 * mib, 0, Some(128 * mib)),
            // A small disk.
            (160 * mib, 20 * mib, 10 * mib, None),
            (160 * mib, 20 * mib - 1, 10 * mib, Some(20 * mib)),
            (0, 0, gib, None),
            (gib, gib, u64::MAX, Some(u64::MAX)),
        ] {
            let told = match decide(Disk { size, free }, more) {
                Ok(()) => None,
                Err(Error::NoRoom { needed, free: told }) => {
                    assert_eq!(told, free);
                    Some(needed)
                }
                Err(other) => panic!("{other}"),
            };
            assert_eq!(told, refused, "{size} {free} {more}");
        }
    }

    #[test]
    fn it_is_looked_at_now_and_then() {
        let mut room = Room::at(Some(Path::new("/nowhere/at/all")));
        room.next = 10;
        room.take(9).unwrap();
        assert!(matches!(room.take(1), Err(Error::Io(_))), "there is no such disk");
        let mut room = Room { directory: "/proc".into(), ..room };
        room.take(1).unwrap();
        assert_eq!((room.written, room.next), (11, 11 + STEP));
    }
}
