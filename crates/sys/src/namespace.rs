//! Namespaces: made, pinned to a file, joined.
//!
//! `unshare` and `setns` change the calling *thread*: call them in a process with one thread, or in a
//! thread made for it that ends afterwards; never on a tokio worker.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

pub use nix::sched::CloneFlags as Flags;

use crate::mount;

/// A namespace operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// unshare(2).
    #[error("make new namespaces")]
    Unshare(#[source] io::Error),
    /// setns(2).
    #[error("join namespace {}", .path.display())]
    Join {
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The file for a pinned namespace could not be made.
    #[error("create {}", .path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The bind mount.
    #[error("pin namespace")]
    Mount(#[from] mount::Error),
}

/// Moves the calling thread to new namespaces.
pub fn unshare(flags: Flags) -> Result<(), Error> {
    nix::sched::unshare(flags).map_err(|e| Error::Unshare(e.into()))
}

/// Moves the calling thread to the namespace at `path` (a file of `/proc/PID/ns`, or a pinned one).
/// For a PID namespace it is the future children that move.
pub fn join(path: &Path) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Join { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    enter(file.as_fd()).map_err(fail)
}

/// As [`join`], for an open file.
pub fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, Flags::empty())?)
}

/// Keeps a namespace alive beyond its processes: binds `/proc/self/ns/KIND` to a new file at `path`.
pub fn pin(kind: &str, path: &Path) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|source| Error::Create { path: path.to_owned(), source })?;
    // thread-self, not self: the caller may be a thread that was made to unshare.
    mount::bind(Path::new(&format!("/proc/thread-self/ns/{kind}")), path)?;
    Ok(())
}

/// Undoes [`pin`]; what is gone already is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    // A file that is no mount point answers EINVAL, a missing one ENOENT.
    let _ = mount::detach(path);
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a namespace is pinned at `path` (a deleted one leaves a plain file or nothing).
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
