//! Says when files were changed, without looking at them again and again.
//!
//! Watches the files' directories by inotify, because editors, and volumes of a cluster, replace a file instead of
//! writing to it; where a file is a link, the directory of what it leads to as well. A file that is only begun is no
//! change: what writes it closes it.
//! Not here: reading the files, and what to do when a directory goes away (`changed` says so).

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// How many links are followed from one to the next.
const MOST_LINKS: usize = 16;

/// The watch on some files.
pub struct FileWatch {
    files: Vec<PathBuf>,
    ready: AsyncFd<std::os::fd::OwnedFd>,
    inotify: Inotify,
    directories: HashMap<WatchDescriptor, PathBuf>,
}

impl FileWatch {
    /// Watches `files`, whose directories must exist.
    pub fn new(files: &[PathBuf]) -> anyhow::Result<Self> {
        let make = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            // The reactor wants a descriptor of its own; both are the same watch.
            let descriptor = inotify.as_fd().try_clone_to_owned()?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe; an OwnedFd keeps the promise it asks for"
            )]
            let ready = AsyncFd::new(descriptor)?;
            std::io::Result::Ok((ready, inotify))
        };
        let (ready, inotify) = make().context("changes of files cannot be watched")?;
        let mut watch = Self { files: files.to_vec(), ready, inotify, directories: HashMap::new() };
        for file in files {
            watch.follow(file).with_context(|| format!("{} cannot be watched", parent(file).display()))?;
        }
        Ok(watch)
    }

    /// Watches the directory of a file, and those of the links that it leads through.
    fn follow(&mut self, file: &Path) -> std::io::Result<()> {
        self.add(parent(file))?;
        let mut at = file.to_owned();
        for _ in 0..MOST_LINKS {
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = parent(&at).join(target);
            // A link that leads nowhere is a file that is not there.
            let _missing = self.add(parent(&at));
        }
        Ok(())
    }

    fn add(&mut self, directory: &Path) -> std::io::Result<()> {
        let kinds = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF;
        // A directory that is watched already keeps its number.
        let number = self.inotify.add_watch(directory, kinds | AddWatchFlags::IN_ONLYDIR)?;
        self.directories.insert(number, directory.to_owned());
        Ok(())
    }

    /// Returns once something in the directories has changed since the last call.
    ///
    /// # Errors
    /// A directory of the files is gone: nothing more will be seen, and a new watch is to be made.
    pub async fn changed(&mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.ready.readable().await?;
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            drop(ready);
            let mut changed = false;
            for event in &events {
                if event.mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF) {
                    let gone = self.directories.remove(&event.wd);
                    if gone.is_some_and(|gone| self.files.iter().any(|file| parent(file) == gone)) {
                        return Err(std::io::ErrorKind::NotFound.into());
                    }
                    // Where a link led to before; its other end is followed below.
                    changed = true;
                }
                changed |= self.is_change(event);
            }
            if changed {
                for file in self.files.clone() {
                    self.follow(&file)?;
                }
                return Ok(());
            }
        }
    }

    fn is_change(&self, event: &InotifyEvent) -> bool {
        if !event.mask.contains(AddWatchFlags::IN_CREATE) {
            return true;
        }
        // Whoever writes a new file closes it, and is seen then. Nobody writes a link.
        let made = self.directories.get(&event.wd).zip(event.name.as_ref());
        made.is_none_or(|(directory, name): (&PathBuf, &OsString)| {
            let found = std::fs::symlink_metadata(directory.join(name));
            found.is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
        })
    }
}

/// The directory that a file is in.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn watch(path: &Path) -> FileWatch {
        FileWatch::new(&[path.to_owned()]).unwrap()
    }

    #[tokio::test]
    async fn writing_and_replacing_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "1").unwrap();
        let mut watch = watch(&path);
        std::fs::write(&path, "2").unwrap();
        watch.changed().await.unwrap();
        let other = directory.path().join("other");
        std::fs::write(&other, "3").unwrap();
        std::fs::rename(&other, &path).unwrap();
        watch.changed().await.unwrap();
        assert!(FileWatch::new(&["/nowhere/file".into()]).is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_only_begun_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut watch = watch(&path);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        let events = watch.inotify.read_events().unwrap();
        assert!(!events.is_empty() && events.iter().all(|event| !watch.is_change(event)), "{events:?}");
        drop(file);
        watch.changed().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_watched_too() {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (directory.path().join("here"), directory.path().join("there"));
        for made in [&here, &there] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(there.join("first"), "1").unwrap();
        let path = here.join("file");
        symlink("../there/first", &path).unwrap();
        let mut watch = watch(&path);
        std::fs::write(there.join("first"), "2").unwrap();
        watch.changed().await.unwrap();
        // `ln -sf` to somewhere else, which is followed from then on.
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("second"), "1").unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(elsewhere.join("second"), &path).unwrap();
        watch.changed().await.unwrap();
        std::fs::write(elsewhere.join("second"), "2").unwrap();
        watch.changed().await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_goes_away_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let mut watch = watch(&inner.join("file"));
        std::fs::rename(&inner, directory.path().join("aside")).unwrap();
        assert!(watch.changed().await.is_err());
        std::fs::create_dir(&inner).unwrap();
        let mut watch = self::watch(&inner.join("file"));
        std::fs::remove_dir(&inner).unwrap();
        assert!(watch.changed().await.is_err());
    }
}
