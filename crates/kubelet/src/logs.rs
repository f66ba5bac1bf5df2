//! The logs of containers: reading them as `kubectl logs` wants them.
//!
//! Reads files in CRI's format (`<time> <stream> <F|P> <text>`), written by the runtime and rotated by [`rotation`].
//! Following sleeps on inotify. Not here: which container's log.
//! Upstream: `pkg/kubelet/kuberuntime/logs`.

pub mod rotation;

use std::io::{self, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// What part of a log is wanted, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Times before the lines.
    pub timestamps: bool,
    /// No more than this many bytes.
    pub limit: Option<u64>,
    /// `stdout` or `stderr` only.
    pub stream: Option<String>,
}

/// One line of a file in CRI's format.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line goes on in the next entry.
    pub partial: bool,
    /// The text, with the line's end unless it is partial.
    pub text: &'a [u8],
}

/// Parses one line (with its line end). What is not in the format is passed over.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').any(|tag| tag == b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { time, stream, partial, text })
}

/// The texts of the last `count` lines.
pub async fn tail(path: &Path, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut file = File::open(path).await?;
    let start = tail_offset(&mut file, count).await?;
    file.seek(SeekFrom::Start(start)).await?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse).map(|line| line.text.to_vec()).collect())
}

/// Where the last `count` lines begin.
async fn tail_offset(file: &mut File, count: usize) -> io::Result<u64> {
    const BLOCK: u64 = 8192;
    let end = file.metadata().await?.len();
    if count == 0 {
        return Ok(end);
    }
    let mut seen = 0;
    let mut right = end;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(left)).await?;
        block.resize((right - left) as usize, 0);
        file.read_exact(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            let at = left + index as u64;
            // The end of the last line does not begin another.
            if *byte == b'\n' && at + 1 != end {
                seen += 1;
                if seen == count {
                    return Ok(at + 1);
                }
            }
        }
        right = left;
    }
    Ok(0)
}

/// Sends the log at `path` as `options` want it. `ended` completes when the container writes no more.
pub async fn send(
    path: &Path,
    options: &LogOptions,
    ended: impl Future<Output = ()>,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    // The watch is set before the first read, so that nothing written in between is slept over.
    let watch = if options.follow { Some(Watch::new(directory)?) } else { None };
    let mut file = File::open(path).await?;
    let start = match options.tail {
        Some(count) => tail_offset(&mut file, count).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut sender = Sender { options, left: options.limit, out, at_line_start: true };
    let mut pending: Vec<u8> = Vec::new();
    let mut last_look = false;
    tokio::pin!(ended);
    loop {
        let mut buffer = [0u8; 16 * 1024];
        let count = file.read(&mut buffer).await?;
        if count > 0 {
            pending.extend_from_slice(&buffer[..count]);
            let mut done = 0;
            while let Some(end) = pending[done..].iter().position(|byte| *byte == b'\n') {
                if !sender.line(&pending[done..=done + end]).await {
                    return Ok(());
                }
                done += end + 1;
            }
            pending.drain(..done);
            continue;
        }
        let Some(watch) = &watch else { return Ok(()) };
        // Rotated: the rest of the old file has been read, the new one begins.
        if let Ok(now) = tokio::fs::metadata(path).await
            && now.ino() != file.metadata().await?.ino()
        {
            file = File::open(path).await?;
            continue;
        }
        if last_look {
            return Ok(());
        }
        tokio::select! {
            result = watch.changed() => result?,
            () = &mut ended => last_look = true,
            () = sender.out.closed() => return Ok(()),
        }
    }
}

struct Sender<'a> {
    options: &'a LogOptions,
    left: Option<u64>,
    out: mpsc::Sender<Bytes>,
    at_line_start: bool,
}

impl Sender<'_> {
    /// Sends one line if it is wanted. Returns whether more is.
    async fn line(&mut self, raw: &[u8]) -> bool {
        let Some(line) = parse(raw) else { return true };
        if self.options.stream.as_deref().is_some_and(|stream| stream != line.stream) {
            return true;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let mut text = Vec::with_capacity(raw.len());
        if self.options.timestamps && self.at_line_start {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        self.at_line_start = !line.partial;
        text.extend_from_slice(line.text);
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        if text.is_empty() {
            return self.left != Some(0);
        }
        self.out.send(text.into()).await.is_ok() && self.left != Some(0)
    }
}

/// Tells when something in a directory is written, made or renamed.
struct Watch(AsyncFd<Handle>);

struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    fn new(directory: &Path) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(directory, flags)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; the handle owns its descriptor for as long as it is registered"
        )]
        let registered = AsyncFd::new(Handle(inotify))?;
        Ok(Watch(registered))
    }

    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|handle| handle.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(result) => return result.map(drop),
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n\
        2026-01-01T00:00:02Z stderr F two\n\
        2026-01-01T00:00:03Z stdout P thr\n\
        2026-01-01T00:00:03Z stdout F ee\n";

    async fn read(path: &Path, options: LogOptions) -> String {
        let (out, mut lines) = mpsc::channel(100);
        send(path, &options, std::future::ready(()), out).await.unwrap();
        let mut text = Vec::new();
        while let Some(bytes) = lines.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let all = LogOptions::default();
        for (options, want) in [
            (all.clone(), "one\ntwo\nthree\n"),
            (LogOptions { stream: Some("stderr".into()), ..all.clone() }, "two\n"),
            (LogOptions { tail: Some(2), ..all.clone() }, "three\n"),
            (LogOptions { tail: Some(0), ..all.clone() }, ""),
            (
                LogOptions { since: Some("2026-01-01T00:00:02Z".parse().unwrap()), ..all.clone() },
                "two\nthree\n",
            ),
            (LogOptions { limit: Some(5), ..all.clone() }, "one\nt"),
            (
                LogOptions { timestamps: true, tail: Some(3), ..all.clone() },
                "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n",
            ),
        ] {
            assert_eq!(read(&path, options.clone()).await, want, "{options:?}");
        }
    }

    #[tokio::test]
    async fn following_sees_new_lines_and_rotation_and_ends_with_the_container() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F one\n").unwrap();
        let (out, mut lines) = mpsc::channel(100);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let reading = path.clone();
        let follow = tokio::spawn(async move {
            let options = LogOptions { follow: true, ..LogOptions::default() };
            send(&reading, &options, async { drop(ended.await) }, out).await
        });
        assert_eq!(lines.recv().await.unwrap(), "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"2026-01-01T00:00:02Z stdout F two\n").unwrap();
        assert_eq!(lines.recv().await.unwrap(), "two\n");
        std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F three\n").unwrap();
        assert_eq!(lines.recv().await.unwrap(), "three\n");
        end.send(()).unwrap();
        follow.await.unwrap().unwrap();
        assert_eq!(lines.recv().await, None);
    }
}
