//! A container's log file in the CRI format: `2026-01-01T00:00:00.000000000Z stdout F message`.
//!
//! A line longer than [`LONGEST`] is cut in parts marked `P`, the last of them `F`.
//!
//! Upstream: k8s.io/kubelet CRI log format; containerd internal/cri/io/logger.go (the cut).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of one line of the file that come from the container (containerd's default).
const LONGEST: usize = 16 * 1024;

/// Which stream a text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output, or a terminal.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Output => "stdout",
            Self::Error => "stderr",
        }
    }
}

/// The file.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    /// Opens for appending, directories made if missing. Without a path everything is thrown away.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let mut log = Self { path: path.map(Path::to_owned).unwrap_or_default(), file: None };
        if path.is_some() {
            log.reopen()?;
        }
        Ok(log)
    }

    /// Opens the file anew: what was written stays where it was moved to.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        Ok(())
    }

    /// Writes the whole lines of `pending` and takes them out of it; at the `end` also the rest.
    pub(super) fn write(&mut self, stream: Stream, pending: &mut Vec<u8>, end: bool) {
        let text = format(&now(), stream, pending, end);
        if let (Some(file), false) = (&mut self.file, text.is_empty()) {
            // A full disk must not stop the container: its log has a gap.
            let _ = file.write_all(&text);
        }
    }
}

fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

fn format(time: &str, stream: Stream, pending: &mut Vec<u8>, end: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut line = |tag: &str, content: &[u8]| {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(stream.name().as_bytes());
        out.push(b' ');
        out.extend_from_slice(tag.as_bytes());
        out.push(b' ');
        out.extend_from_slice(content);
        out.push(b'\n');
    };
    let mut rest = &pending[..];
    loop {
        let newline = rest.iter().take(LONGEST + 1).position(|b| *b == b'\n');
        match newline {
            Some(at) => {
                line("F", &rest[..at]);
                rest = &rest[at + 1..];
            }
            None if rest.len() > LONGEST => {
                line("P", &rest[..LONGEST]);
                rest = &rest[LONGEST..];
            }
            None => break,
        }
    }
    if end && !rest.is_empty() {
        line("F", rest);
        rest = &[];
    }
    let left = rest.len();
    pending.drain(..pending.len() - left);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tagged() {
        let long = "x".repeat(LONGEST + 5);
        for (input, end, expected, left) in [
            ("a\nb\n", false, "T stdout F a\nT stdout F b\n".to_owned(), ""),
            ("a\nb", false, "T stdout F a\n".to_owned(), "b"),
            ("a\nb", true, "T stdout F a\nT stdout F b\n".to_owned(), ""),
            ("\n", false, "T stdout F \n".to_owned(), ""),
            ("", true, String::new(), ""),
            (&long, true, format!("T stdout P {}\nT stdout F xxxxx\n", &long[..LONGEST]), ""),
        ] {
            let mut pending = input.as_bytes().to_vec();
            let got = format("T", Stream::Output, &mut pending, end);
            assert_eq!(String::from_utf8(got).unwrap(), expected);
            assert_eq!(pending, left.as_bytes());
        }
    }

    #[test]
    fn the_time_has_nine_digits() {
        let now = now();
        assert_eq!(now.len(), "2026-01-01T00:00:00.000000000Z".len(), "{now}");
    }
}
