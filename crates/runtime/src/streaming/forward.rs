//! Port-forward over a WebSocket: two channels per port, data and error, each opened with the port's
//! number (two bytes, little-endian).
//!
//! Upstream: k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::v1;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

use super::Socket;
use super::backlog::{Asked, Backlog, ask, unless_gone};
use crate::engine::{Engine, Error};

/// How long a port may take to answer on each family. It is in the same machine: what does not answer has a full queue.
const DIAL: Duration = Duration::from_secs(5);

/// Connects to a port on the loopback device of a pod: from a thread that enters its network namespace and ends with the
/// call. The thread is the call's own: those that the whole process shares are few, and a port can make it wait.
pub(crate) async fn dial(netns: Option<PathBuf>, port: u16) -> Result<TcpStream, Error> {
    let failed = |error: std::io::Error| {
        Error::Failed(format!("failed to connect to localhost:{port} inside the pod's namespace: {error}"))
    };
    let connect = move || {
        if let Some(path) = &netns {
            sys::namespace::join(path).map_err(std::io::Error::other)?;
        }
        // As upstream: a server may listen on either family.
        let to =
            |address: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::from((address, port)), DIAL);
        to(Ipv4Addr::LOCALHOST.into()).or_else(|_| to(Ipv6Addr::LOCALHOST.into()))
    };
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("port-forward".into());
    // Whoever waits for the answer may have gone: the connection ends then.
    thread.spawn(move || drop(answer.send(connect()))).map_err(failed)?;
    let stream =
        answered.await.unwrap_or_else(|_| Err(std::io::Error::other("thread died"))).map_err(failed)?;
    let convert = || {
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    };
    convert().map_err(|e| Error::Failed(e.to_string()))
}

/// Ports of one session: two channels each, and a channel's number is a byte.
pub(super) const MOST_PORTS: u8 = 128;

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut all = vec![channel];
    all.extend_from_slice(bytes);
    Message::Binary(Bytes::from(all))
}

/// Forwards the ports of a request until the client goes.
pub(super) async fn serve(engine: &Arc<Engine>, request: v1::PortForwardRequest, socket: Socket) {
    let netns = engine.sandbox_facts(&request.pod_sandbox_id).and_then(|facts| facts.netns);
    let (mut sink, mut source) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
        let _ = sink.close().await;
    });
    let backlog = Backlog::new();
    let mut inputs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (at, port) in (0..MOST_PORTS).zip(&request.port) {
        let (data, error) = (2 * at, 2 * at + 1);
        let port = u16::try_from(*port).unwrap_or_default();
        let _ = sender.send(message(data, &port.to_le_bytes())).await;
        let _ = sender.send(message(error, &port.to_le_bytes())).await;
        match dial(netns.clone(), port).await {
            Ok(stream) => {
                let (mut read, mut write) = stream.into_split();
                // A queue of its own, so that a port that reads slowly holds up no other until it is full.
                let (input, mut queue) = Backlog::connection();
                inputs.push(Some(input));
                tasks.spawn(async move {
                    while let Some(portion) = queue.recv().await {
                        if write.write_all(&portion.bytes).await.is_err() {
                            break;
                        }
                    }
                });
                let sender = sender.clone();
                tasks.spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    while let Ok(length @ 1..) = read.read(&mut buffer).await {
                        if sender.send(message(data, &buffer[..length])).await.is_err() {
                            break;
                        }
                    }
                });
            }
            Err(reason) => {
                inputs.push(None);
                let text =
                    format!("error forwarding port {port} to pod {}: {reason}", request.pod_sandbox_id);
                let _ = sender.send(message(error, text.as_bytes())).await;
            }
        }
    }
    // The writer ends when the ports have: this one does not count.
    let client = sender.downgrade();
    drop(sender);
    let ask = || client.upgrade().map_or(Asked::Gone, |sender| ask(&sender, Message::Ping(Bytes::new())));
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            _ => continue,
        };
        let Some(channel) = bytes.first().copied() else { continue };
        if let Some(Some(input)) = inputs.get(usize::from(channel / 2))
            && channel % 2 == 0
            && unless_gone(backlog.leave(input.clone(), bytes.slice(1..)), ask).await.is_none()
        {
            break;
        }
    }
    tasks.shutdown().await;
    while writer.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dialing_takes_no_thread_that_others_need() {
        // One thread for all that blocks, and that is taken.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
        let taken = runtime.spawn_blocking(move || wait.recv());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialed = runtime.spawn(async move { dial(None, port).await.is_ok() });
        let dialed = tokio::time::timeout(Duration::from_secs(30), dialed).await;
        drop(release);
        taken.await.unwrap().unwrap_err();
        runtime.shutdown_background();
        assert!(dialed.expect("it waits for the thread").unwrap());
    }
}
