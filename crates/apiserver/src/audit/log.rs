//! The audit log: a file of JSON lines that is rotated by size.
//!
//! Writes what waits in one go, on a thread where that may block. A full file becomes `<name>-<time>.<ext>`; old
//! ones are removed by number and age.
//! Upstream: apiserver/plugin/pkg/audit/log, with lumberjack's file names.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use foundation::{CancellationToken, SharedClock};
use tokio::sync::mpsc;

/// Events written in one go.
const BATCH: usize = 400;
/// Upstream's size where none is set: 100 MiB.
const SIZE: u64 = 100 << 20;

/// Where and how much.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Old files older than this are removed; `None`: never.
    pub max_age: Option<Duration>,
    /// How many old files are kept; 0: all.
    pub max_backups: usize,
    /// The size in bytes at which a file is full; 0: 100 MiB.
    pub max_size: u64,
}

/// The open file.
pub struct Writer {
    options: Options,
    file: Option<File>,
    size: u64,
    clock: SharedClock,
}

/// Writes events until there will be no more.
pub(super) async fn run(mut writer: Writer, mut events: mpsc::Receiver<Bytes>, token: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let count = tokio::select! {
            biased;
            count = events.recv_many(&mut batch, BATCH) => count,
            () = token.cancelled() => 0,
        };
        if count == 0 {
            return;
        }
        let lines = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        let written = tokio::task::spawn_blocking(move || {
            if let Err(error) = writer.write(&lines) {
                tracing::error!(%error, lost = lines.len(), "audit events could not be written");
            }
            writer
        });
        // A panic in there is a bug that must not stop the server.
        let Ok(back) = written.await else { return };
        writer = back;
    }
}

impl Writer {
    /// Opens the file, making its directory.
    ///
    /// # Errors
    /// A sentence about why it cannot be written.
    pub fn open(options: &Options, clock: SharedClock) -> Result<Self, String> {
        let mut writer = Self { options: options.clone(), file: None, size: 0, clock };
        if options.path != Path::new("-") {
            writer.reopen().map_err(|error| {
                format!("the audit log {} cannot be opened: {error}", options.path.display())
            })?;
        }
        Ok(writer)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        if let Some(directory) = self.options.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.options.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes one line each.
    pub fn write(&mut self, events: &[Bytes]) -> std::io::Result<()> {
        let mut lines = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum());
        let limit = if self.options.max_size == 0 { SIZE } else { self.options.max_size };
        for event in events {
            let more = event.len() as u64 + 1;
            let pending = self.size + lines.len() as u64;
            if self.file.is_some() && pending > 0 && pending + more > limit {
                self.flush(&mut lines)?;
                self.rotate()?;
            }
            lines.extend_from_slice(event);
            lines.push(b'\n');
        }
        self.flush(&mut lines)
    }

    fn flush(&mut self, lines: &mut Vec<u8>) -> std::io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(lines)?,
            None => std::io::stdout().write_all(lines)?,
        }
        self.size += lines.len() as u64;
        lines.clear();
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let path = &self.options.path;
        let now = self.clock.now();
        let stamp = now.strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string();
        let mut old = self.backup(&stamp);
        // Two in one millisecond must not replace each other.
        for more in 1.. {
            if !old.exists() {
                break;
            }
            old = self.backup(&format!("{stamp}-{more}"));
        }
        std::fs::rename(path, old)?;
        self.reopen()?;
        self.clean(now)
    }

    fn backup(&self, stamp: &str) -> PathBuf {
        let (stem, extension) = self.name();
        self.options.path.with_file_name(format!("{stem}-{stamp}{extension}"))
    }

    /// The file's name and its extension, dot included.
    fn name(&self) -> (String, String) {
        let part = |text: Option<&std::ffi::OsStr>| text.map(|text| text.to_string_lossy().into_owned());
        let extension = part(self.options.path.extension()).map(|ext| format!(".{ext}")).unwrap_or_default();
        (part(self.options.path.file_stem()).unwrap_or_default(), extension)
    }

    /// Removes what is too old or too much. The names carry the time, so their order is that of age.
    fn clean(&self, now: jiff::Timestamp) -> std::io::Result<()> {
        let (stem, extension) = self.name();
        let prefix = format!("{stem}-");
        let directory = self.options.path.parent().filter(|path| !path.as_os_str().is_empty());
        let mut old: Vec<String> = std::fs::read_dir(directory.unwrap_or(Path::new(".")))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix) && name.ends_with(&extension))
            .collect();
        old.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = self.options.max_age.and_then(|age| {
            let since = now.checked_sub(jiff::SignedDuration::try_from(age).ok()?).ok()?;
            Some(format!("{prefix}{}", since.strftime("%Y-%m-%dT%H-%M-%S")))
        });
        for (at, name) in old.iter().enumerate() {
            let many = self.options.max_backups > 0 && at >= self.options.max_backups;
            if many || oldest.as_ref().is_some_and(|oldest| name < oldest) {
                std::fs::remove_file(self.options.path.with_file_name(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::ManualClock;

    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::default();
        let options = Options {
            path: directory.path().join("logs/audit.log"),
            max_age: Some(Duration::from_secs(3600)),
            max_backups: 2,
            max_size: 25,
        };
        let mut writer = Writer::open(&options, Arc::new(clock.clone())).unwrap();
        let names = || {
            let entries = std::fs::read_dir(directory.path().join("logs")).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let ten = || Bytes::from_static(b"0123456789");
        writer.write(&[ten(), ten(), ten()]).unwrap();
        assert_eq!(names(), ["audit-2026-01-01T00-00-00.000.log", "audit.log"]);
        assert_eq!(std::fs::read_to_string(&options.path).unwrap(), "0123456789\n");
        for _ in 0..4 {
            clock.advance(Duration::from_secs(60));
            writer.write(&[ten(), ten()]).unwrap();
        }
        assert_eq!(names().len(), 3, "two old ones are kept: {:?}", names());
        clock.advance(Duration::from_secs(7200));
        writer.write(&[ten(), ten()]).unwrap();
        assert_eq!(names().len(), 2, "the others are too old: {:?}", names());
    }
}
