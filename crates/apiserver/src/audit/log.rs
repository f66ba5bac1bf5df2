//! The audit log: a file of JSON lines that is rotated by size.
//!
//! Writes what waits in one go, on a thread where that may block. A full file becomes `<name>-<time>.<ext>`; old
//! ones are removed by number and age. Where that fails the open file is written on: losing events is worse than a
//! large file.
//! Upstream: apiserver/plugin/pkg/audit/log, with lumberjack's file names.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use foundation::metrics::Counter;
use foundation::{CancellationToken, SharedClock};
use tokio::sync::mpsc;

use super::Mode;
use super::sink::{Queued, Sink};

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
    /// What happens to events while the file cannot be written fast enough.
    pub mode: Mode,
}

/// The open file.
pub struct Writer {
    options: Options,
    file: Option<File>,
    size: u64,
    /// The size at which the file is put aside. Later than the settings say after that has failed.
    full: u64,
    clock: SharedClock,
    lost: Counter,
}

/// Writes events until there will be no more. `open` keeps the queue from ending before the server begins to stop.
pub(super) async fn run(
    mut writer: Writer,
    mut events: mpsc::UnboundedReceiver<Queued>,
    open: Sink,
    token: CancellationToken,
) {
    let mut open = Some(open);
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let count = tokio::select! {
            biased;
            count = events.recv_many(&mut batch, BATCH) => count,
            () = token.cancelled(), if open.is_some() => {
                open = None;
                continue;
            }
        };
        if count == 0 {
            return;
        }
        let (options, clock, lost) = (writer.options.clone(), writer.clock.clone(), writer.lost.clone());
        let written = tokio::task::spawn_blocking(move || {
            writer.write(&batch.iter().map(|queued| queued.event.clone()).collect::<Vec<_>>());
            writer
        });
        writer = match written.await {
            Ok(back) => back,
            // A panic in there is a bug, which must neither stop the server nor its audit.
            Err(error) => {
                lost.add(count as u64);
                tracing::error!(%error, lost = count, "audit events could not be written");
                match Writer::open(&options, clock, lost) {
                    Ok(writer) => writer,
                    Err(problem) => return tracing::error!(problem, "the audit log has ended"),
                }
            }
        };
    }
}

impl Writer {
    /// Opens the file, making its directory.
    ///
    /// # Errors
    /// A sentence about why it cannot be written.
    pub fn open(options: &Options, clock: SharedClock, lost: Counter) -> Result<Self, String> {
        let mut writer = Self { options: options.clone(), file: None, size: 0, full: 0, clock, lost };
        writer.full = writer.limit();
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

    fn limit(&self) -> u64 {
        if self.options.max_size == 0 { SIZE } else { self.options.max_size }
    }

    /// Writes one line each. What cannot be written is counted and told.
    pub fn write(&mut self, events: &[Bytes]) {
        let mut lines = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum());
        let mut count = 0;
        for event in events {
            let more = event.len() as u64 + 1;
            let pending = self.size + lines.len() as u64;
            if self.file.is_some() && pending > 0 && pending + more > self.full {
                self.flush(&mut lines, std::mem::take(&mut count));
                self.full = self.limit();
                if let Err(error) = self.rotate() {
                    tracing::error!(%error, "a full audit log could not be put aside and is written on");
                    self.full = self.size.saturating_add(self.limit());
                }
            }
            lines.extend_from_slice(event);
            lines.push(b'\n');
            count += 1;
        }
        self.flush(&mut lines, count);
    }

    fn flush(&mut self, lines: &mut Vec<u8>, count: u64) {
        let written = match &mut self.file {
            Some(file) => file.write_all(lines),
            None => std::io::stdout().write_all(lines),
        };
        if let Err(error) = written {
            self.lost.add(count);
            tracing::error!(%error, lost = count, "audit events could not be written");
        }
        self.size += lines.len() as u64;
        lines.clear();
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
        match std::fs::rename(path, old) {
            // Somebody else has put it aside.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.reopen()?;
        if let Err(error) = self.clean(now) {
            tracing::warn!(%error, "old audit logs could not be removed");
        }
        Ok(())
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
        let mut outcome = Ok(());
        for (at, name) in old.iter().enumerate() {
            let many = self.options.max_backups > 0 && at >= self.options.max_backups;
            if many || oldest.as_ref().is_some_and(|oldest| name < oldest) {
                // One that stays is no reason to keep the others.
                outcome = std::fs::remove_file(self.options.path.with_file_name(name)).and(outcome);
            }
        }
        outcome
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
            mode: Mode::Blocking,
        };
        let mut writer = Writer::open(&options, Arc::new(clock.clone()), Counter::default()).unwrap();
        let names = || {
            let entries = std::fs::read_dir(directory.path().join("logs")).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let ten = || Bytes::from_static(b"0123456789");
        writer.write(&[ten(), ten(), ten()]);
        assert_eq!(names(), ["audit-2026-01-01T00-00-00.000.log", "audit.log"]);
        assert_eq!(std::fs::read_to_string(&options.path).unwrap(), "0123456789\n");
        for _ in 0..4 {
            clock.advance(Duration::from_secs(60));
            writer.write(&[ten(), ten()]);
        }
        assert_eq!(names().len(), 3, "two old ones are kept: {:?}", names());
        clock.advance(Duration::from_secs(7200));
        writer.write(&[ten(), ten()]);
        assert_eq!(names().len(), 2, "the others are too old: {:?}", names());
    }

    #[test]
    fn nothing_is_lost_where_a_file_cannot_be_put_aside() {
        type Spoil = fn(&Path);
        // What happens to the file before it is full; whether it goes on under its name.
        let cases: [(&str, Spoil, bool); 3] = [
            ("moved away", |path| std::fs::rename(path, path.with_extension("1")).unwrap(), true),
            (
                "an old one that stays",
                |path| {
                    std::fs::create_dir(path.with_file_name("audit-2020-01-01T00-00-00.000.log")).unwrap();
                },
                true,
            ),
            (
                "a file in place of its directory",
                |path| {
                    let directory = path.parent().unwrap();
                    std::fs::rename(directory, directory.with_extension("moved")).unwrap();
                    std::fs::write(directory, "").unwrap();
                },
                false,
            ),
        ];
        for (name, spoil, goes_on) in cases {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("logs/audit.log");
            let options = Options { path: path.clone(), max_backups: 1, max_size: 15, ..Options::default() };
            let lost = Counter::default();
            let mut writer = Writer::open(&options, Arc::new(ManualClock::default()), lost.clone()).unwrap();
            writer.write(&[Bytes::from_static(b"0123456789")]);
            spoil(&path);
            for _ in 0..2 {
                writer.write(&[Bytes::from_static(b"abcdefghij")]);
            }
            assert_eq!(lost.get(), 0, "{name}");
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(now.contains("abcdefghij"), goes_on, "{name}: {now}");
            if !goes_on {
                let kept = std::fs::read_to_string(directory.path().join("logs.moved/audit.log")).unwrap();
                assert_eq!(
                    kept, "0123456789\nabcdefghij\nabcdefghij\n",
                    "{name}: the open file is written on"
                );
            }
        }
    }
}
