//! A container as its supervisor holds it: process, streams, log, who is attached.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{Log, Stream};
use crate::wire::{ContainerSpec, RunStatus};

/// Bytes a slow viewer may lag behind before it is let go.
const LAG: usize = 1024 * 1024;
/// Bytes that are read of an output after the end of its process: as many as a pipe can hold, unless it is root that fills it.
const LAST_WORDS: usize = 1024 * 1024;
/// Bytes of one read.
const CHUNK: usize = 32 * 1024;

/// One output of a container.
pub(super) struct Output {
    pub(super) file: File,
    pub(super) stream: Stream,
    /// Read, but no whole line yet.
    pending: Vec<u8>,
}

/// Someone who sees the output as it comes.
pub(super) struct Viewer {
    stream: Stream,
    pub(super) file: File,
    pub(super) backlog: Vec<u8>,
}

/// A container that was started.
pub(super) struct Container {
    pub(super) directory: PathBuf,
    pub(super) spec: ContainerSpec,
    pub(super) status: RunStatus,
    pub(super) log: Log,
    pub(super) outputs: Vec<Output>,
    pub(super) viewers: Vec<Viewer>,
    /// Write end of standard input, or the terminal.
    pub(super) input: Option<OwnedFd>,
    /// Times the out-of-memory killer had struck before the start.
    pub(super) oom_kills: u64,
}

/// Makes reads and writes answer at once.
pub(super) fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).map_err(io::Error::from)
}

impl Container {
    /// Takes an output to read from.
    pub(super) fn read_from(&mut self, file: OwnedFd, stream: Stream) -> io::Result<()> {
        nonblocking(&file)?;
        self.outputs.push(Output { file: File::from(file), stream, pending: Vec::new() });
        Ok(())
    }

    /// Takes a viewer.
    pub(super) fn show_to(&mut self, file: OwnedFd, stream: Stream) -> io::Result<()> {
        nonblocking(&file)?;
        self.viewers.push(Viewer { stream, file: File::from(file), backlog: Vec::new() });
        Ok(())
    }

    /// Reads once from an output that has something; an output at its end is dropped.
    pub(super) fn readable(&mut self, at: usize) {
        if self.read_once(at) == Read1::End {
            self.outputs.remove(at);
        }
        self.viewers_closed_at_end();
    }

    /// Reads what is there, and closes the outputs: at the end of the process, so that its last words are in the log before
    /// its end is told. Who else has come by the other end (it can be passed to another container) is not waited for, nor
    /// heard: nobody would stop it.
    pub(super) fn drain(&mut self) {
        while !self.outputs.is_empty() {
            let mut left = LAST_WORDS / CHUNK;
            while left > 0 && self.read_once(0) == Read1::Some {
                left -= 1;
            }
            let mut output = self.outputs.remove(0);
            self.log.write(output.stream, &mut output.pending, true);
        }
        self.viewers_closed_at_end();
    }

    fn viewers_closed_at_end(&mut self) {
        if self.outputs.is_empty() {
            // The backlog of a viewer that lags is lost only if it is not even read now.
            self.viewers.retain_mut(|viewer| viewer.flush() && !viewer.backlog.is_empty());
        }
    }

    fn read_once(&mut self, at: usize) -> Read1 {
        let output = &mut self.outputs[at];
        let before = output.pending.len();
        output.pending.resize(before + CHUNK, 0);
        let result = output.file.read(&mut output.pending[before..]);
        let length = *result.as_ref().unwrap_or(&0);
        output.pending.truncate(before + length);
        match result {
            Ok(length) if length > 0 => {
                for viewer in self.viewers.iter_mut().filter(|v| v.stream == output.stream) {
                    viewer.backlog.extend_from_slice(&output.pending[before..]);
                }
                self.viewers.retain_mut(Viewer::flush);
                self.log.write(output.stream, &mut output.pending, false);
                Read1::Some
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Read1::None
            }
            // End of a pipe is 0; the end of a terminal is EIO.
            _ => {
                self.log.write(output.stream, &mut output.pending, true);
                Read1::End
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Read1 {
    Some,
    None,
    End,
}

impl Viewer {
    /// Writes what it takes; false when it is gone or too far behind.
    pub(super) fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match self.file.write(&self.backlog) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.backlog.len() <= LAG,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_come_by_a_containers_output_does_not_keep_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let (read, write) = io::pipe().unwrap();
        // Another container that writes on, faster than anybody reads: 64 MiB, lest the test never ends.
        let writer = std::thread::spawn(move || {
            let mut other = File::from(OwnedFd::from(write));
            (0..16_384).any(|_| other.write_all(&[b'x'; 4096]).is_err())
        });
        let mut container = Container {
            directory: directory.path().to_owned(),
            spec: ContainerSpec {
                spec: sys::container::Spec::default(),
                pids: crate::wire::Pids::Own,
                stdin: false,
                log: None,
            },
            status: RunStatus::default(),
            log: Log::open(Some(&directory.path().join("log"))).unwrap(),
            outputs: Vec::new(),
            viewers: Vec::new(),
            input: None,
            oom_kills: 0,
        };
        container.read_from(read.into(), Stream::Output).unwrap();
        container.drain();
        assert!(container.outputs.is_empty());
        assert!(writer.join().unwrap(), "it is told that nobody reads");
        assert!(std::fs::metadata(directory.path().join("log")).unwrap().len() < 4 << 20);
    }
}
