//! Port-forward over a WebSocket: two channels per port, data and error, each opened with the port's
//! number (two bytes, little-endian).
//!
//! Upstream: k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cri::v1;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::Socket;
use crate::engine::{Engine, Error, blocking};

/// Connects to a port on the loopback device of a pod: from a thread that enters its network namespace
/// and ends with the call.
pub(crate) async fn dial(netns: Option<PathBuf>, port: u16) -> Result<TcpStream, Error> {
    let stream = blocking(move || {
        let connect = move || {
            if let Some(path) = &netns {
                sys::namespace::join(path).map_err(std::io::Error::other)?;
            }
            // As upstream: a server may listen on either family.
            std::net::TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
                .or_else(|_| std::net::TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))))
        };
        let thread = std::thread::Builder::new().name("port-forward".into()).spawn(connect);
        let result =
            thread.and_then(|t| t.join().unwrap_or_else(|_| Err(std::io::Error::other("thread died"))));
        result.map_err(|e| {
            Error::Failed(format!("failed to connect to localhost:{port} inside the pod's namespace: {e}"))
        })
    })
    .await?;
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
    let mut inputs: Vec<Option<mpsc::Sender<Bytes>>> = Vec::new();
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
                let (input, mut queue) = mpsc::channel::<Bytes>(16);
                inputs.push(Some(input));
                tasks.spawn(async move {
                    while let Some(bytes) = queue.recv().await {
                        if write.write_all(&bytes).await.is_err() {
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
    drop(sender);
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
        {
            // A port that takes no more says so by its end.
            let _ = input.send(bytes.slice(1..)).await;
        }
    }
    tasks.shutdown().await;
    while writer.join_next().await.is_some() {}
}
