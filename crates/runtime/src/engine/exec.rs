//! One more process in a running container: for `ExecSync` (collected) and `Exec` (streamed); and attaching.
//!
//! Upstream: containerd internal/cri/server/container_execsync.go, container_attach.go.

use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use super::{Engine, Error, io_error};
use crate::link::Link;
use crate::wire::{ContainerSpec, Verb, read_json};

/// Bytes of each stream that `ExecSync` returns; upstream's limit.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// A process to run in a container.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    pub container: String,
    pub command: Vec<String>,
    pub terminal: bool,
    /// What the process gets as input, output and error.
    pub streams: [Option<OwnedFd>; 3],
}

/// A process that runs in a container.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    link: Arc<Link>,
    /// Its terminal's master side.
    pub terminal: Option<OwnedFd>,
    /// Exit code; an error when the supervisor died.
    pub ended: oneshot::Receiver<i32>,
}

impl Running {
    /// Kills it.
    pub(crate) async fn kill(&self) {
        let verb = Verb::SignalExec { exec: self.name.clone(), signal: nix::libc::SIGKILL };
        let _ = self.link.call(verb, &[]).await;
    }
}

/// What a process has written and how it ended.
#[derive(Debug)]
pub(crate) struct Collected {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

impl Engine {
    fn running(&self, id: &str) -> Result<(String, String), Error> {
        let id = self.container_id(id)?;
        let state = self.state.lock();
        let container =
            state.containers.get(&id).ok_or_else(|| Error::NotFound { kind: "container", id: id.clone() })?;
        if !container.run.borrow().running() {
            return Err(Error::State(format!("container {id:?} is not running")));
        }
        let sandbox = container.record.sandbox.clone();
        drop(state);
        Ok((id, sandbox))
    }

    /// Whether a container has a terminal, and whether it runs.
    pub(crate) fn terminal_of(&self, id: &str) -> Result<bool, Error> {
        let (id, _) = self.running(id)?;
        Ok(self.state.lock().containers.get(&id).is_some_and(|c| c.config.tty))
    }

    /// Runs a process in a container.
    pub(crate) async fn exec(&self, request: ExecRequest) -> Result<Running, Error> {
        let (id, sandbox) = self.running(&request.container)?;
        let link = self.link(&sandbox)?;
        let spec: ContainerSpec = read_json(&self.options.container_root(&id).join("spec.json"))
            .map_err(io_error("read the container's spec"))?;
        let mut process = spec.spec.process;
        process.args = request.command;
        process.terminal = request.terminal;
        if request.terminal && !process.env.iter().any(|e| e.starts_with("TERM=")) {
            process.env.push("TERM=xterm".into());
        }
        // A command may be longer than a message: it goes as a file.
        let file = (|| {
            let mut file = std::fs::File::from(memfd_create("process", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&serde_json::to_vec(&process)?)?;
            file.rewind()?;
            io::Result::Ok(file)
        })()
        .map_err(io_error("describe the process"))?;
        let name = self.id();
        let (sender, ended) = oneshot::channel();
        self.execs.lock().insert(name.clone(), (sandbox, sender));
        let streams = [0, 1, 2].map(|i| request.streams[i].is_some());
        let verb = Verb::Exec { container: id, exec: name.clone(), streams, size: None };
        let mut descriptors = vec![file.as_fd()];
        descriptors.extend(request.streams.iter().flatten().map(|fd| fd.as_fd()));
        match link.call(verb, &descriptors).await {
            Ok((_, mut received)) => Ok(Running { name, link, terminal: received.pop(), ended }),
            Err(error) => {
                self.execs.lock().remove(&name);
                Err(Error::Failed(format!(
                    "failed to exec in container: failed to start exec {name:?}: unable to start container process: {error}"
                )))
            }
        }
    }

    /// Runs a process to its end and collects what it writes. A zero `timeout` waits for ever.
    pub(crate) async fn exec_sync(
        &self,
        container: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<Collected, Error> {
        let pipe = || io::pipe().map_err(io_error("make a pipe"));
        let ((read_out, write_out), (read_err, write_err)) = (pipe()?, pipe()?);
        let mut running = self
            .exec(ExecRequest {
                container: container.to_owned(),
                command,
                terminal: false,
                streams: [None, Some(write_out.into()), Some(write_err.into())],
            })
            .await?;
        let work = async {
            let (stdout, stderr, code) =
                tokio::join!(collect(read_out.into()), collect(read_err.into()), &mut running.ended);
            let lost = |_| Error::Failed("the pod's supervisor has died".into());
            Ok(Collected { stdout: stdout?, stderr: stderr?, code: code.map_err(lost)? })
        };
        if timeout.is_zero() {
            return work.await;
        }
        let finished = tokio::time::timeout(timeout, work).await;
        match finished {
            Ok(result) => result,
            Err(_) => {
                running.kill().await;
                Err(Error::Timeout(format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    timeout.as_secs()
                )))
            }
        }
    }

    /// Has a container's output copied to `outputs`; its input, if it is open.
    pub(crate) async fn attach(
        &self,
        container: &str,
        outputs: &[OwnedFd],
    ) -> Result<Option<OwnedFd>, Error> {
        let (id, sandbox) = self.running(container)?;
        let descriptors: Vec<_> = outputs.iter().map(AsFd::as_fd).collect();
        let (_, mut received) =
            self.link(&sandbox)?.call(Verb::Attach { container: id }, &descriptors).await?;
        Ok(received.pop())
    }

    /// What happens to a container's input when who attached is gone (`stdinOnce` closes it).
    pub(crate) async fn detached(&self, container: &str) {
        let Ok((id, sandbox)) = self.running(container) else { return };
        let once = self.state.lock().containers.get(&id).is_some_and(|c| c.config.stdin_once);
        if let (true, Ok(link)) = (once, self.link(&sandbox)) {
            let _ = link.call(Verb::CloseStdin { container: id }, &[]).await;
        }
    }
}

/// Reads to the end, keeps the first [`MAX_OUTPUT`] bytes.
async fn collect(pipe: OwnedFd) -> Result<Vec<u8>, Error> {
    let failed = || io_error("read the output");
    let mut pipe = Receiver::from_owned_fd(pipe).map_err(failed())?;
    let mut all = Vec::new();
    (&mut pipe).take(MAX_OUTPUT as u64).read_to_end(&mut all).await.map_err(failed())?;
    if all.len() == MAX_OUTPUT {
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await.map_err(failed())?;
    }
    Ok(all)
}
