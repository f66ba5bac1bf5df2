//! Says when a file was changed, without looking at it again and again.
//!
//! Watches the file's directory by inotify, because editors, and volumes of a cluster, replace a file instead of
//! writing to it. Not here: reading the file.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// The watch on one file.
pub struct FileWatch(AsyncFd<std::os::fd::OwnedFd>, Inotify);

impl FileWatch {
    /// Watches `path`, whose directory must exist.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let make = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let kinds = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
            inotify.add_watch(directory, kinds)?;
            // The reactor wants a descriptor of its own; both are the same watch.
            let descriptor = inotify.as_fd().try_clone_to_owned()?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe; an OwnedFd keeps the promise it asks for"
            )]
            let registered = AsyncFd::new(descriptor)?;
            std::io::Result::Ok(Self(registered, inotify))
        };
        make().with_context(|| format!("{} cannot be watched", directory.display()))
    }

    /// Returns once something in the directory has changed since the last call.
    pub async fn changed(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.1.read_events() {
                Ok(events) if !events.is_empty() => return Ok(()),
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_and_replacing_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "1").unwrap();
        let watch = FileWatch::new(&path).unwrap();
        std::fs::write(&path, "2").unwrap();
        watch.changed().await.unwrap();
        let other = directory.path().join("other");
        std::fs::write(&other, "3").unwrap();
        std::fs::rename(&other, &path).unwrap();
        watch.changed().await.unwrap();
        assert!(FileWatch::new(Path::new("/nowhere/file")).is_err());
    }
}
