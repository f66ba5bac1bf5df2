//! fsGroup: the files of a volume belong to the pod's group, which may read (and, unless the volume is read-only,
//! write) them, and new files inherit the group.
//!
//! Changes owners and modes below one directory. A running pod may write there meanwhile, so nothing is done by path:
//! every file is opened first, without following a link, and changed by its descriptor.
//! Upstream: `pkg/volume/volume_linux.go`.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, fchownat};

use crate::Error;

/// Whether the whole tree is gone through even if its root looks right already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always.
    Always,
    /// Only if the root's group or mode is not as it is to be.
    OnRootMismatch,
}

/// Gives `root` and everything below it to `group`.
pub fn apply(root: &Path, group: u32, read_only: bool, policy: Policy) -> Result<(), Error> {
    if policy == Policy::OnRootMismatch {
        let metadata = fs::symlink_metadata(root).map_err(|e| Error::host("read", root, e))?;
        let wanted = bits(true, read_only);
        if metadata.gid() == group && metadata.mode() & wanted == wanted {
            return Ok(());
        }
    }
    let top = open(None, root).map_err(|e| Error::host("open", root, e.into()))?;
    let rights = Rights { group, read_only };
    let directory = rights.give(&top).map_err(|e| Error::host("change the owner of", root, e))?;
    let mut left = if directory { vec![PathBuf::from(".")] } else { Vec::new() };
    while let Some(path) = left.pop() {
        let failed = |error| Error::host("change the owner of", root.join(&path), error);
        // A running pod may have taken away or replaced what was there a moment ago; that is then not ours to change.
        let Some(directory) = gone_is_none(beneath(&top, &path)).map_err(failed)? else { continue };
        let entries = Dir::from_fd(directory).map_err(|e| failed(e.into()))?;
        let mut names: Vec<CString> = Vec::new();
        let handle = entries.as_fd().try_clone_to_owned().map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(|e| failed(e.into()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            let name = Path::new(OsStr::from_bytes(name.to_bytes()));
            let Some(file) = gone_is_none(open(Some(&handle), name)).map_err(failed)? else { continue };
            if rights.give(&file).map_err(failed)? {
                left.push(path.join(name));
            }
        }
    }
    Ok(())
}

/// What the group is given.
struct Rights {
    group: u32,
    read_only: bool,
}

impl Rights {
    /// Gives one open file to the group, whatever its path leads to by now; whether it is a directory.
    fn give(&self, file: &OwnedFd) -> io::Result<bool> {
        let stat = nix::sys::stat::fstat(file)?;
        let kind = stat.st_mode & nix::libc::S_IFMT;
        let group = Some(Gid::from_raw(self.group));
        fchownat(file, Path::new(""), None, group, AtFlags::AT_EMPTY_PATH)?;
        let directory = kind == nix::libc::S_IFDIR;
        if kind != nix::libc::S_IFLNK {
            let mode = (stat.st_mode & 0o7777) | bits(directory, self.read_only);
            // The descriptor only names the file; the way to change it by that is this link of the kernel's.
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(link, fs::Permissions::from_mode(mode))?;
        }
        Ok(directory)
    }
}

/// A descriptor that names a file without following a link.
fn open(directory: Option<&OwnedFd>, name: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match directory {
        Some(directory) => openat(directory, name, flags, Mode::empty()),
        None => nix::fcntl::open(name, flags, Mode::empty()),
    }
}

/// A directory below the volume's root, found without any link.
fn beneath(top: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(top, path, how)
}

fn gone_is_none(result: nix::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match result {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The bits that the group must have.
fn bits(directory: bool, read_only: bool) -> u32 {
    let access = if read_only { 0o440 } else { 0o660 };
    if directory { access | 0o2110 } else { access }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_may_use_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        // The process's own group: works without root too.
        let group = fs::metadata(&file).unwrap().gid();
        apply(directory.path(), group, true, Policy::Always).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o440);
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o2110, 0o2110);
        apply(directory.path(), group, false, Policy::Always).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
    }

    #[test]
    fn links_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("v"), directory.path().join("outside"));
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        fs::create_dir(&outside).unwrap();
        for file in [outside.join("file"), volume.join("deep/er/file")] {
            fs::write(&file, "x").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, volume.join("deep/link")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), volume.join("file")).unwrap();
        let group = fs::metadata(&volume).unwrap().gid();
        apply(&volume, group, false, Policy::Always).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&outside.join("file")), mode(&volume.join("deep/er/file"))), (0o600, 0o660));
    }
}
