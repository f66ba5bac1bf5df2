//! The runtime's end of the nursery: has a supervisor forked for a pod.
//!
//! The process is started with the runtime, and again when it has died. Its end: `supervisor::nursery`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::engine::{Error, io_error};
use crate::supervisor::NURSERY;

/// The control group of the supervisors.
pub(crate) const SUPERVISORS: &str = "/ironclad/supervisors";

/// See the module.
#[derive(Debug)]
pub(crate) struct Nursery {
    /// Program and first arguments.
    command: Vec<String>,
    socket: Mutex<Option<OwnedFd>>,
}

impl Nursery {
    /// Starts the process.
    pub(crate) fn start(command: Vec<String>) -> Result<Self, Error> {
        let socket = Mutex::new(Some(spawn(&command)?));
        Ok(Self { command, socket })
    }

    /// Makes a supervisor for the sandbox described in a file; done when it listens.
    pub(crate) async fn supervise(&self, spec: &Path) -> Result<(), Error> {
        let (answer, theirs) = io::pipe().map_err(io_error("make a pipe"))?;
        self.send(spec, theirs.into())?;
        let mut text = String::new();
        // Ends when the supervisor closes it, or dies.
        Receiver::from_owned_fd(answer.into())
            .map_err(io_error("hear from the pod supervisor"))?
            .read_to_string(&mut text)
            .await
            .map_err(io_error("hear from the pod supervisor"))?;
        match text.as_str() {
            "ok" => Ok(()),
            "" => Err(Error::Failed("the pod supervisor died at its start".into())),
            reason => Err(Error::Failed(format!("failed to create sandbox: {reason}"))),
        }
    }

    fn send(&self, spec: &Path, answer: OwnedFd) -> Result<(), Error> {
        let path = spec.as_os_str().as_encoded_bytes();
        let mut socket = self.socket.lock();
        let ask = |socket: &OwnedFd| sys::process::send(socket.as_fd(), path, &[answer.as_fd()]);
        if socket.as_ref().is_some_and(|socket| ask(socket).is_ok()) {
            return Ok(());
        }
        // It was killed: the next one.
        let fresh = spawn(&self.command)?;
        ask(&fresh).map_err(io_error("reach the pod supervisors' nursery"))?;
        *socket = Some(fresh);
        Ok(())
    }
}

fn spawn(command: &[String]) -> Result<OwnedFd, Error> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::Invalid("no supervisor program is configured".into()))?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|e| io_error("make a socket pair")(e.into()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .args([NURSERY, SUPERVISORS])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io_error(format!("start the pod supervisors' nursery {program}")))?;
    // Reaped when it ends, should that be before we do; the thread sleeps until then.
    std::thread::Builder::new()
        .name("nursery".into())
        .stack_size(64 * 1024)
        .spawn(move || child.wait())
        .map_err(io_error("start a thread"))?;
    Ok(ours)
}
