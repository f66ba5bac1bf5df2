//! What volumes ask of the kernel beyond ordinary files: mounts.
//!
//! Behind a trait so that tests need no root. Not here: deciding what to mount.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The mounts that volumes need.
pub trait Host: Send + Sync {
    /// Mounts a tmpfs of at most `size` bytes on an existing directory.
    fn mount_tmpfs(&self, target: &Path, size: Option<u64>, mode: u32) -> io::Result<()>;
    /// Mounts `source` (a directory or a file) over the existing `target`.
    fn mount_bind(&self, source: &Path, target: &Path) -> io::Result<()>;
    /// Detaches what is mounted on `target`; nothing there is no error.
    fn unmount(&self, target: &Path) -> io::Result<()>;
    /// The mount points at and below `directory`, outermost first.
    fn mounts_below(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether something is mounted on `target` itself.
    fn is_mount_point(&self, target: &Path) -> io::Result<bool> {
        Ok(self.mounts_below(target)?.iter().any(|mount| mount == target))
    }
}

/// The kernel this process runs on.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemHost;

impl Host for SystemHost {
    fn mount_tmpfs(&self, target: &Path, size: Option<u64>, mode: u32) -> io::Result<()> {
        let mut data = format!("mode={mode:o}");
        if let Some(size) = size {
            data.push_str(&format!(",size={size}"));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data.as_str())).map_err(io::Error::from)
    }

    fn mount_bind(&self, source: &Path, target: &Path) -> io::Result<()> {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source), target, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: not a mount point.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn mounts_below(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        // A bind mount of the same file system has its parent's device number, so the table is what tells.
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
        Ok(points.filter(|point| point.starts_with(directory)).collect())
    }
}

/// A path as the kernel writes it in mountinfo: blanks and backslashes are `\ooo`.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
