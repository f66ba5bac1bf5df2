//! Port-forward over SPDY: for each connection a stream of data and a stream for the error that ends it, which name the
//! port and each other.
//!
//! This is what kubectl speaks, inside of a WebSocket or, before v1.31, by itself.
//!
//! Upstream: k8s.io/kubelet/pkg/cri/streaming/portforward/httpstream.go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::backlog::{Backlog, Input, Portion, ask, unless_gone};
use super::forward::dial;
use super::spdy::connection::{Incoming, outgoing};
use super::spdy::{self, Frame};
use crate::engine::Engine;

/// Connections of one session at a time; more are refused.
const MOST_CONNECTIONS: usize = 1024;
/// Connections of one session that are being made at a time: each takes a thread meanwhile.
const MOST_DIALS: usize = 16;
/// Our question whether the client is there.
const QUESTION: u32 = 2;
/// Bytes of one read of a connection.
const CHUNK: usize = 16 * 1024;

/// A connection, from its first stream on.
#[derive(Default)]
struct Connection {
    error: Option<u32>,
    data: Option<u32>,
    /// What the client sent and the port has not taken. It closes with the client's half.
    input: Option<Input>,
    task: Option<AbortHandle>,
}

/// Where connections of one pod lead.
struct Pod {
    id: String,
    netns: Option<PathBuf>,
    dials: Semaphore,
}

/// Forwards until the client goes.
pub(super) async fn serve(
    engine: &Arc<Engine>,
    sandbox: &str,
    io: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let netns = engine.sandbox_facts(sandbox).and_then(|facts| facts.netns);
    let pod = Arc::new(Pod { id: sandbox.to_owned(), netns, dials: Semaphore::new(MOST_DIALS) });
    let (from, to) = tokio::io::split(io);
    let mut client = Incoming::new(from);
    let (sender, _writer) = outgoing(to);
    let mut session = Session {
        pod,
        sender,
        writer: spdy::Writer::default(),
        connections: BTreeMap::new(),
        backlog: Backlog::new(),
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            frame = client.next() => match frame {
                Some(frame) => {
                    if session.take(frame).await.is_none() {
                        break;
                    }
                }
                None => break,
            },
            Some(ended) = session.tasks.join_next() => {
                if let Ok(request) = ended {
                    session.connections.remove(&request);
                }
            }
        }
    }
}

struct Session {
    pod: Arc<Pod>,
    sender: mpsc::Sender<Bytes>,
    writer: spdy::Writer,
    /// By the request ID that both streams of a connection carry.
    connections: BTreeMap<String, Connection>,
    backlog: Backlog,
    tasks: JoinSet<String>,
}

impl Session {
    /// `None` when the client has gone.
    async fn take(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::Open { stream, headers, fin } => {
                let reply = match self.open(stream, &headers, fin) {
                    Some(()) => self.writer.reply(stream),
                    None => spdy::refuse(stream),
                };
                // A client that has gone is seen by the reader.
                let _ = self.sender.send(reply).await;
                self.start(&headers);
            }
            Frame::Data { stream, bytes, fin } => {
                let of = |connection: &&mut Connection| connection.data == Some(stream);
                let Some(connection) = self.connections.values_mut().find(of) else { return Some(()) };
                if let Some(input) = &connection.input
                    && !bytes.is_empty()
                {
                    let left = self.backlog.leave(input.clone(), bytes);
                    unless_gone(left, || ask(&self.sender, spdy::ping(QUESTION))).await?;
                }
                if fin {
                    connection.input = None;
                }
            }
            Frame::Reset { stream } => {
                self.connections.retain(|_, connection| {
                    let gone = connection.data == Some(stream);
                    if gone && let Some(task) = &connection.task {
                        task.abort();
                    }
                    !gone
                });
            }
            // Ours would be even; we send none.
            Frame::Ping { id } => {
                if id % 2 == 1 {
                    let _ = self.sender.send(spdy::ping(id)).await;
                }
            }
            Frame::GoAway | Frame::Ignored => {}
        }
        Some(())
    }

    /// Enters a stream; `None` when it makes no sense.
    fn open(&mut self, stream: u32, headers: &[(String, String)], fin: bool) -> Option<()> {
        let request = header(headers, "requestid")?;
        header(headers, "port")?.parse::<u16>().ok().filter(|port| *port > 0)?;
        if !self.connections.contains_key(request) && self.connections.len() >= MOST_CONNECTIONS {
            return None;
        }
        let is_error = match header(headers, "streamtype")? {
            "error" => true,
            // A connection whose first words are its last has nothing to say.
            "data" if !fin => false,
            _ => return None,
        };
        let connection = self.connections.entry(request.to_owned()).or_default();
        let place = if is_error { &mut connection.error } else { &mut connection.data };
        if place.is_some() {
            return None;
        }
        *place = Some(stream);
        Some(())
    }

    /// Connects, once both streams are there.
    fn start(&mut self, headers: &[(String, String)]) {
        let Some(request) = header(headers, "requestid").map(str::to_owned) else { return };
        let Some(port) = header(headers, "port").and_then(|port| port.parse().ok()) else { return };
        let Some(connection) = self.connections.get_mut(&request) else { return };
        let (None, Some(error), Some(data)) = (&connection.task, connection.error, connection.data) else {
            return;
        };
        let (input, queue) = Backlog::connection();
        connection.input = Some(input);
        let (pod, sender) = (self.pod.clone(), self.sender.clone());
        let task = self.tasks.spawn(async move {
            forward(&pod, port, queue, data, error, &sender).await;
            request
        });
        connection.task = Some(task);
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Moves the bytes of one connection, both halves to their ends.
async fn forward(
    pod: &Pod,
    port: u16,
    mut queue: mpsc::Receiver<Portion>,
    data: u32,
    error: u32,
    sender: &mpsc::Sender<Bytes>,
) {
    let dialed = {
        // Never closed: without a permit there is no session.
        let _turn = pod.dials.acquire().await;
        dial(pod.netns.clone(), port).await
    };
    let text = match dialed {
        Ok(stream) => {
            let (mut read, mut write) = stream.into_split();
            let up = async {
                while let Some(portion) = queue.recv().await {
                    if write.write_all(&portion.bytes).await.is_err() {
                        break;
                    }
                }
                let _ = write.shutdown().await;
            };
            let down = async {
                let mut buffer = vec![0; CHUNK];
                while let Ok(length @ 1..) = read.read(&mut buffer).await {
                    if sender.send(spdy::data(data, &buffer[..length], false)).await.is_err() {
                        break;
                    }
                }
            };
            // When the port has said its last the connection is over: nobody waits for the client's.
            tokio::pin!(up, down);
            tokio::select! {
                () = &mut down => {}
                () = &mut up => down.await,
            }
            String::new()
        }
        Err(reason) => format!("error forwarding port {port} to pod {}: {reason}", pod.id),
    };
    for frame in [spdy::data(error, text.as_bytes(), true), spdy::data(data, b"", true)] {
        let _ = sender.send(frame).await;
    }
}
