//! Exec and attach over a WebSocket: pumps between channels and the process's descriptors.
//!
//! The process reads and writes its own pipes or terminal; nothing passes through its supervisor but, for
//! an attached container, the copy of its output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use cri::v1;
use futures::{Sink, SinkExt, Stream, StreamExt, future};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::backlog::{Asked, ask, unless_gone};
use super::channels::{self, Outcome};
use crate::engine::{Engine, ExecRequest};

/// Bytes of one read of a process's output.
const CHUNK: usize = 16 * 1024;

/// A pipe's or a terminal's descriptor in async clothes.
struct Pump(AsyncFd<OwnedFd>);

impl Pump {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        // Keeps other status flags: the description may be shared with the supervisor.
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise it asks for")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Empty at the end.
    async fn read(&self) -> Vec<u8> {
        let read = self.0.async_io(tokio::io::Interest::READABLE, |fd| {
            let mut buffer = vec![0; CHUNK];
            let length = nix::unistd::read(fd, &mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        });
        read.await.unwrap_or_default() // a terminal's end is EIO
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(tokio::io::Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// The ends on our side, and how the process ends.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: bool,
}

/// Runs the command of an exec request over the messages of a socket or of what stands for one.
pub(super) async fn exec<E>(
    engine: &Arc<Engine>,
    request: v1::ExecRequest,
    sink: impl Sink<Message> + Unpin,
    source: impl Stream<Item = Result<Message, E>> + Unpin,
    protocol: &str,
) {
    let mut ends = Ends { stdin: None, stdout: None, stderr: None, terminal: request.tty };
    let made = (|| {
        let mut theirs = [None, None, None];
        if !request.tty {
            if request.stdin {
                let (read, write) = io::pipe()?;
                (theirs[0], ends.stdin) = (Some(read.into()), Some(write.into()));
            }
            if request.stdout {
                let (read, write) = io::pipe()?;
                (theirs[1], ends.stdout) = (Some(write.into()), Some(read.into()));
            }
            if request.stderr {
                let (read, write) = io::pipe()?;
                (theirs[2], ends.stderr) = (Some(write.into()), Some(read.into()));
            }
        }
        io::Result::Ok(theirs)
    })();
    let started = match made {
        Ok(streams) => engine
            .exec(ExecRequest {
                container: request.container_id,
                command: request.cmd,
                terminal: request.tty,
                streams,
            })
            .await
            .map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match started {
        Ok(mut running) => {
            if let Some(master) = running.terminal.take() {
                ends.stdin = request.stdin.then(|| master.try_clone().ok()).flatten();
                ends.stdout = Some(master);
            }
            let (done, ended) = oneshot::channel();
            let mut code = Box::pin(async {
                let outcome = match (&mut running.ended).await {
                    Ok(code) => Outcome::Exited(code),
                    Err(_) => Outcome::Failed("the pod's supervisor has died".into()),
                };
                let _ = done.send(outcome);
            });
            let pump = pump(sink, source, ends, ended, protocol);
            tokio::pin!(pump);
            let gone = tokio::select! {
                () = &mut code => {
                    pump.await;
                    false
                }
                // The session is over and the process is not: its client has gone.
                () = &mut pump => true,
            };
            drop(code);
            if gone {
                running.kill().await;
            }
        }
        Err(reason) => finish(sink, &Outcome::Failed(reason)).await,
    }
}

/// Shows a container's output over the socket, and feeds its input.
pub(super) async fn attach<E>(
    engine: &Arc<Engine>,
    request: v1::AttachRequest,
    sink: impl Sink<Message> + Unpin,
    source: impl Stream<Item = Result<Message, E>> + Unpin,
    protocol: &str,
) {
    let mut ends = Ends { stdin: None, stdout: None, stderr: None, terminal: request.tty };
    let attached = async {
        let (read_out, write_out) = io::pipe().map_err(|e| e.to_string())?;
        let (read_err, write_err) = io::pipe().map_err(|e| e.to_string())?;
        let outputs = [OwnedFd::from(write_out), OwnedFd::from(write_err)];
        let outputs = if request.tty { &outputs[..1] } else { &outputs[..] };
        let input = engine.attach(&request.container_id, outputs).await.map_err(|e| e.to_string())?;
        ends.stdin = input.filter(|_| request.stdin);
        ends.stdout = (request.stdout || request.tty).then(|| read_out.into());
        ends.stderr = (request.stderr && !request.tty).then(|| read_err.into());
        Ok::<_, String>(ends)
    };
    match attached.await {
        Ok(ends) => {
            // The end of the container closes its outputs, and that ends the session with success.
            let (done, ended) = oneshot::channel();
            let _ = done.send(Outcome::Exited(0));
            pump(sink, source, ends, ended, protocol).await;
            engine.detached(&request.container_id).await;
        }
        Err(reason) => finish(sink, &Outcome::Failed(reason)).await,
    }
}

async fn finish(mut sink: impl Sink<Message> + Unpin, outcome: &Outcome) {
    let _ = sink.send(message(channels::ERROR, channels::status(outcome).as_bytes())).await;
    let _ = sink.send(farewell()).await;
}

/// The end of a session. It must say that all is well: a close frame without a code is an error to kubectl.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut all = Vec::with_capacity(bytes.len() + 1);
    all.push(channel);
    all.extend_from_slice(bytes);
    Message::Binary(Bytes::from(all))
}

/// Moves bytes both ways until the outputs are at their end and the outcome is there, or the client goes.
async fn pump<E>(
    mut sink: impl Sink<Message> + Unpin,
    mut source: impl Stream<Item = Result<Message, E>> + Unpin,
    ends: Ends,
    ended: oneshot::Receiver<Outcome>,
    protocol: &str,
) {
    // Only of a terminal: a second descriptor of a pipe would keep it open.
    let resizable = if ends.terminal { ends.stdout.as_ref().or(ends.stdin.as_ref()) } else { None };
    let resizable = resizable.and_then(|fd| fd.try_clone().ok());
    // Bounded: a slow client slows the process, not fills the memory.
    let (sender, mut outgoing) = mpsc::channel::<Message>(8);
    // Tells the client that the channel is open, as upstream's server does.
    let first = if ends.stdout.is_some() { channels::STDOUT } else { channels::ERROR };
    let _ = sender.send(message(first, b"")).await;

    let reading = |fd: Option<OwnedFd>, channel: u8| {
        let sender = sender.clone();
        async move {
            let Some(Ok(pump)) = fd.map(Pump::new) else { return };
            loop {
                let bytes = pump.read().await;
                if bytes.is_empty() || sender.send(message(channel, &bytes)).await.is_err() {
                    break;
                }
            }
        }
    };
    let outputs =
        future::join(reading(ends.stdout, channels::STDOUT), reading(ends.stderr, channels::STDERR));
    let finished = {
        let sender = sender.clone();
        async move {
            outputs.await;
            let outcome = ended.await.unwrap_or_else(|_| Outcome::Failed("the process was lost".into()));
            let _ = sender.send(message(channels::ERROR, channels::status(&outcome).as_bytes())).await;
        }
    };
    // The writer ends when the outputs have: this one does not count.
    let client = sender.downgrade();
    drop(sender);
    let writing = async {
        while let Some(message) = outgoing.recv().await {
            sink.send(message).await.map_err(drop)?;
        }
        sink.send(farewell()).await.map_err(drop)
    };
    let can_close = protocol == channels::REMOTE_PROTOCOLS[0];
    let stdin = ends.stdin;
    let question =
        || client.upgrade().map_or(Asked::Gone, |sender| ask(&sender, Message::Ping(Bytes::new())));
    let incoming = async {
        let mut input = stdin.and_then(|fd| Pump::new(fd).ok());
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                // The Python client sends strings as text.
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            match bytes.split_first() {
                Some((&channels::STDIN, bytes)) => {
                    let Some(pump) = &input else { continue };
                    match unless_gone(pump.write_all(bytes), question).await {
                        Some(Ok(())) => {}
                        Some(Err(_)) => input = None, // the process reads no more
                        None => break,
                    }
                }
                Some((&channels::RESIZE, bytes)) => {
                    if let (Some((columns, rows)), Some(fd)) = (channels::size(bytes), &resizable) {
                        let _ = sys::process::resize_terminal(fd.as_fd(), columns, rows);
                    }
                }
                Some((&channels::CLOSE, [channels::STDIN])) if can_close => input = None,
                _ => {}
            }
        }
        // Our end of its input closes with this task.
    };
    tokio::pin!(incoming);
    // When nothing can be written any more the client has gone, whatever there is still to be said.
    let finished = async {
        finished.await;
        Ok::<(), ()>(())
    };
    let work = future::try_join(finished, writing);
    tokio::pin!(work);
    tokio::select! {
        _ = &mut work => {}
        () = &mut incoming => {}
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_client_that_goes_while_nobody_reads_its_input_is_noticed() {
        let (_unread, stdin) = io::pipe().unwrap();
        let ends = Ends { stdin: Some(stdin.into()), stdout: None, stderr: None, terminal: false };
        // It sends without end, and has gone by the first question.
        let source = futures::stream::repeat_with(|| Ok::<_, ()>(message(channels::STDIN, &[0; CHUNK])));
        let sink = futures::sink::unfold((), |(), message: Message| {
            std::future::ready(if message.is_ping() { Err(()) } else { Ok(()) })
        });
        let (running, ended) = oneshot::channel();
        let mut session = Box::pin(pump(Box::pin(sink), source, ends, ended, channels::REMOTE_PROTOCOLS[0]));
        assert_eq!(futures::poll!(&mut session), Poll::Pending, "the pipe is full");
        session.await;
        drop(running);
    }
}
