//! Mounts: the classic calls, and the file-descriptor ones that let a mount be taken before a change of
//! root and put in its place after it.
//!
//! Writes the mount table of the calling process's mount namespace, reads `/proc/self/mountinfo`.
//! Needs Linux 5.12 (`mount_setattr`). Not here: which mounts a container has (`container`).

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use nix::mount::MsFlags as Flags;

/// A mount call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", .path.display())]
pub struct Error {
    /// What was tried: "mount proc at", "unmount" …
    pub what: String,
    /// Where.
    pub path: PathBuf,
    /// What the kernel says.
    #[source]
    pub source: io::Error,
}

fn fail(what: impl Into<String>, path: &Path, source: impl Into<io::Error>) -> Error {
    Error { what: what.into(), path: path.to_owned(), source: source.into() }
}

/// mount(2) of a filesystem type.
pub fn mount(kind: &str, source: &str, target: &Path, flags: Flags, data: &str) -> Result<(), Error> {
    let data = (!data.is_empty()).then_some(data);
    nix::mount::mount(Some(source), target, Some(kind), flags, data)
        .map_err(|e| fail(format!("mount {kind} at"), target, e))
}

/// Binds a file or a directory (not what is mounted below it).
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    nix::mount::mount(Some(source), target, None::<&str>, Flags::MS_BIND, None::<&str>)
        .map_err(|e| fail(format!("bind {} to", source.display()), target, e))
}

/// Changes the flags of an existing mount.
pub fn remount(target: &Path, flags: Flags) -> Result<(), Error> {
    nix::mount::mount(None::<&str>, target, None::<&str>, flags | Flags::MS_REMOUNT, None::<&str>)
        .map_err(|e| fail("remount", target, e))
}

/// How mount events travel between a mount and its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the origin to the copy.
    Slave,
    /// Both ways.
    Shared,
}

/// Sets the propagation of everything mounted at and below `target`.
pub fn propagation(target: &Path, propagation: Propagation) -> Result<(), Error> {
    let flag = match propagation {
        Propagation::Private => Flags::MS_PRIVATE,
        Propagation::Slave => Flags::MS_SLAVE,
        Propagation::Shared => Flags::MS_SHARED,
    };
    nix::mount::mount(None::<&str>, target, None::<&str>, flag | Flags::MS_REC, None::<&str>)
        .map_err(|e| fail("set the propagation of", target, e))
}

/// Unmounts now from the tree, really when the last user is gone (MNT_DETACH).
pub fn detach(target: &Path) -> Result<(), Error> {
    nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| fail("unmount", target, e))
}

/// A copy of a mount tree that is attached nowhere yet.
#[derive(Debug)]
pub struct Detached(OwnedFd);

fn syscall_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result of these calls is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

impl Detached {
    /// Copies what is mounted at `source` (with what is below, if `recursive`). Symbolic links are followed.
    pub fn copy(source: &Path, recursive: bool) -> Result<Self, Error> {
        let path = c_path(source)?;
        let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= libc::AT_RECURSIVE as u32;
        }
        // SAFETY: the path is a NUL-terminated string that outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        syscall_fd(result).map(Self).map_err(|e| fail("open", source, e))
    }

    /// Copies the mount of an open file or directory, at that file.
    pub fn copy_of(source: &impl AsFd) -> Result<Self, Error> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
        let fd = source.as_fd().as_raw_fd();
        // SAFETY: the path is an empty string: the descriptor alone names the source.
        let result = unsafe { libc::syscall(libc::SYS_open_tree, fd, c"".as_ptr(), flags) };
        let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
        syscall_fd(result).map(Self).map_err(|e| fail("open", &path, e))
    }

    /// Sets and clears attributes (`MOUNT_ATTR_*`) and the propagation, on the whole tree if `recursive`.
    pub fn set(&self, set: u64, clear: u64, propagation: Propagation, recursive: bool) -> io::Result<()> {
        let propagation = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        };
        let mut attributes = [set, clear, propagation, 0u64];
        let mut flags = libc::AT_EMPTY_PATH;
        if recursive {
            flags |= libc::AT_RECURSIVE;
        }
        // SAFETY: `attributes` has the layout and size of `struct mount_attr` (four u64).
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> io::Result<bool> {
        let stat = nix::sys::stat::fstat(&self.0)?;
        Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
    }

    /// Attaches the tree on an open file or directory; `target` is its path, for the error.
    pub fn attach_on(&self, place: &impl AsFd, target: &Path) -> Result<(), Error> {
        // SAFETY: both paths are empty strings: the descriptors alone name what is moved where.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                place.as_fd().as_raw_fd(),
                c"".as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        if result == 0 { Ok(()) } else { Err(fail("attach a mount at", target, io::Error::last_os_error())) }
    }

    /// Attaches the tree. `target` exists and is resolved in the caller's root.
    pub fn attach(&self, target: &Path) -> Result<(), Error> {
        let path = c_path(target)?;
        // SAFETY: both paths are NUL-terminated strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_SYMLINKS,
            )
        };
        if result == 0 { Ok(()) } else { Err(fail("attach a mount at", target, io::Error::last_os_error())) }
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| fail("a NUL byte in", path, io::ErrorKind::InvalidInput))
}

/// Whether an open file or directory is of the process filesystem.
pub fn is_proc(file: &impl AsFd) -> io::Result<bool> {
    let stat = nix::sys::statfs::fstatfs(file)?;
    Ok(stat.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Makes `new` the root of the calling process and drops the old root from its mount namespace.
pub fn pivot(new: &Path) -> Result<(), Error> {
    let step = |what: &str, e: nix::Error| fail(what, new, e);
    nix::unistd::chdir(new).map_err(|e| step("chdir to", e))?;
    // The classic trick: the old root is stacked on the new one, then taken away.
    nix::unistd::pivot_root(".", ".").map_err(|e| step("pivot_root to", e))?;
    nix::mount::mount(None::<&str>, ".", None::<&str>, Flags::MS_SLAVE | Flags::MS_REC, None::<&str>)
        .map_err(|e| step("set the propagation of the old root under", e))?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)
        .map_err(|e| step("unmount the old root under", e))?;
    nix::unistd::chdir("/").map_err(|e| step("chdir to", e))
}

/// Sets an extended attribute of a file or directory (overlayfs keeps its marks in them).
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: both strings are NUL-terminated, the value is given with its length.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mount points of the calling process at or below `prefix`, deepest and latest first: the order in
/// which they can be unmounted. A prefix that leads over symbolic links is followed, as the kernel's table names places
/// without them.
pub fn below(prefix: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = match fs::canonicalize(prefix) {
        Ok(real) => real,
        // A place that is gone may still be in the table under its old name.
        Err(_) => prefix.to_owned(),
    };
    let table = fs::read("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with(&prefix))
        .collect();
    found.reverse();
    Ok(found)
}

/// Detaches everything that is mounted below `directory`, but not a mount on itself. Goes on past failures; the first
/// one is the answer.
pub fn detach_below(directory: &Path) -> io::Result<()> {
    let own = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut first = Ok(());
    for point in below(directory)?.into_iter().filter(|point| *point != own) {
        if let Err(error) = detach(&point) {
            let failure = io::Error::new(error.source.kind(), format!("{error}: {}", error.source));
            first = first.and(Err(failure));
        }
    }
    first
}

/// Removes `directory` with everything in it, unless anything is mounted below: the removal would go through the mount
/// and take what is on the other side. A directory that something is mounted on itself is emptied and stays. What is
/// gone already is fine.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    let own = match fs::canonicalize(directory) {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mounts = below(&own)?;
    if let Some(point) = mounts.iter().find(|point| **point != own) {
        let text = format!("{} is not removed: {} is still mounted", directory.display(), point.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    if mounts.is_empty() {
        return fs::remove_dir_all(directory);
    }
    for entry in fs::read_dir(&own)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\' && tail.len() >= 3 {
            let octal = tail[..3].iter().fold(0u32, |n, d| n * 8 + u32::from(d.wrapping_sub(b'0') & 7));
            out.push(octal as u8);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_paths_are_unescaped() {
        for (field, path) in
            [("/a", "/a"), ("/a\\040b", "/a b"), ("/tab\\011", "/tab\t"), ("/x\\134y", "/x\\y")]
        {
            assert_eq!(unescape(field.as_bytes()), Path::new(path));
        }
    }

    /// Needs root; says so and passes without.
    #[test]
    fn nothing_is_removed_through_a_mount() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("skipped: needs root");
            return;
        }
        let directory = std::env::temp_dir().join(format!("ironclad mount {}", std::process::id()));
        let (precious, tree) = (directory.join("precious"), directory.join("a tree"));
        fs::create_dir_all(tree.join("x/target")).unwrap();
        fs::create_dir_all(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        bind(&precious, &tree.join("x/target")).unwrap();
        // By another name: the kernel's table knows only the real one.
        std::os::unix::fs::symlink(&tree, directory.join("link")).unwrap();
        for name in [&tree, &directory.join("link")] {
            let error = remove_tree(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
        }
        assert!(precious.join("file").exists());
        detach_below(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(precious.join("file").exists() && !tree.exists());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(below(Path::new("/")).unwrap().contains(&PathBuf::from("/")));
        assert!(below(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
