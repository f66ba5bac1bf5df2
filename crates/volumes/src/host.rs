//! What volumes ask of the kernel beyond ordinary files: mounts.
//!
//! Behind a trait so that tests need no root. Not here: deciding what to mount.

use std::io;
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
        let mut points = sys::mount::below(directory)?;
        points.reverse();
        Ok(points)
    }
}
