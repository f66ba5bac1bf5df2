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
/// Bytes between two looks at the file system, at the most.
const STEP: u64 = 32 << 20;
/// What a key takes beside its name and value: numbers of its own, and an element of a page.
const EACH: u64 = 80;

/// Figures of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
struct Disk {
    size: u64,
    free: u64,
}

/// What the system says of the disk of a directory.
fn figures(directory: &Path) -> Result<Disk, Error> {
    let stat = statvfs(directory).map_err(std::io::Error::from)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Disk { size: bytes(stat.blocks()), free: bytes(stat.blocks_available()) })
}

/// Decides whether so much may be written. Gives how much more may be beside it.
fn decide(disk: Disk, more: u64) -> Result<u64, Error> {
    let needed = more.saturating_add(MARGIN.min(disk.size / 16));
    // Some file systems say nothing of their size.
    match disk.free.checked_sub(needed) {
        _ if disk.size == 0 => Ok(u64::MAX),
        Some(left) => Ok(left),
        None => Err(Error::NoRoom { needed, free: disk.free }),
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
    Room::at(scratch).look(read.saturating_add(pages(read))).map(drop)
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

    /// Says whether so many bytes may be written, and how many beside them.
    pub fn look(&self, more: u64) -> Result<u64, Error> {
        decide(figures(&self.directory)?, more)
    }

    /// So much is about to be written: from time to time it is looked whether it may be.
    pub fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.take_of(bytes, figures)
    }

    fn take_of(&mut self, bytes: u64, disk: impl FnOnce(&Path) -> Result<Disk, Error>) -> Result<(), Error> {
        self.written += bytes;
        if self.written >= self.next {
            let left = decide(disk(&self.directory)?, bytes)?;
            // Others write there too: again at half of it, at the latest.
            self.next = self.written + STEP.min(left / 2);
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
                Ok(left) => {
                    let margin = (128 * mib).min(size / 16);
                    assert_eq!(left, if size == 0 { u64::MAX } else { free - margin - more });
                    None
                }
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
    fn a_small_disk_is_not_filled_between_two_looks() {
        let kib = 1u64 << 10;
        // The margin, what is free, and what is written to it at once, in KiB. Before, 32 MiB were written without a look.
        for (margin, free, piece) in
            [(16 << 10, 20 << 10, 64), (1 << 10, 1500, 1), (128 << 10, 200 << 10, 256)]
        {
            let (size, before) = (margin * 16 * kib, free * kib);
            let (mut free, mut looks) = (before, 0);
            let mut room = Room::at(None);
            let refused = loop {
                let disk = |_: &Path| {
                    looks += 1;
                    Ok(Disk { size, free })
                };
                if let Err(error) = room.take_of(piece * kib, disk) {
                    break error;
                }
                free -= piece * kib;
            };
            assert!(matches!(refused, Error::NoRoom { .. }), "{refused}");
            assert_eq!(free, margin * kib, "all but the margin, and no more");
            assert!(looks < 40, "{looks} looks for {} KiB", (before - free) / kib);
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
