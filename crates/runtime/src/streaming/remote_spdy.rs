//! Exec and attach over SPDY, for clients older than WebSocket: one stream for each of standard input, output, error,
//! terminal sizes, and the status at the end.
//!
//! Only translates: a stream's bytes are the messages of that channel, which `remote.rs` takes and gives.
//!
//! Upstream: k8s.io/kubelet/pkg/cri/streaming/remotecommand/httpstream.go, protocol `v4.channel.k8s.io`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc as messages;
use futures::{SinkExt, StreamExt, future};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::spdy::connection::{Incoming, outgoing};
use super::spdy::{self, Frame};
use super::{Session, channels, remote};
use crate::engine::Engine;

/// How long a client may take to open its streams: upstream's default.
const OPENING: Duration = Duration::from_secs(30);

/// Our question whether the client is there.
const QUESTION: u32 = 2;

/// The streams of a session: their numbers by channel.
#[derive(Default)]
struct Streams([Option<u32>; 5]);

impl Streams {
    fn channel(&self, stream: u32) -> Option<u8> {
        (0..).zip(self.0).find(|(_, known)| *known == Some(stream)).map(|(channel, _)| channel)
    }
}

/// The channel that a stream says it is.
fn channel(name: &str) -> Option<u8> {
    Some(match name {
        "stdin" => channels::STDIN,
        "stdout" => channels::STDOUT,
        "stderr" => channels::STDERR,
        "error" => channels::ERROR,
        "resize" => channels::RESIZE,
        _ => return None,
    })
}

/// Runs or attaches until the process or the client ends it.
pub(super) async fn serve(
    engine: &Arc<Engine>,
    session: Session,
    io: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let wanted = match &session {
        Session::Exec(v) => [v.stdin, v.stdout, v.stderr, true, v.tty],
        Session::Attach(v) => [v.stdin, v.stdout, v.stderr, true, v.tty],
        Session::PortForward(_) => return,
    };
    let (from, to) = tokio::io::split(io);
    let mut client = Incoming::new(from);
    let (sender, mut writer) = outgoing(to);
    let streams = match tokio::time::timeout(OPENING, open(&mut client, &sender, wanted)).await {
        Ok(Some(streams)) => streams,
        Ok(None) => return,
        Err(_) => {
            tracing::debug!("timed out waiting for client to create streams");
            return;
        }
    };
    let (to_process, from_client) = messages::channel::<Message>(8);
    let (to_client, from_process) = messages::channel::<Message>(8);
    let source = from_client.map(Ok::<_, Infallible>);
    // The version that can tell of an input's end: a stream has one.
    let protocol = channels::REMOTE_PROTOCOLS[0];
    let process = async {
        match session {
            Session::Exec(request) => remote::exec(engine, request, to_client, source, protocol).await,
            Session::Attach(request) => remote::attach(engine, request, to_client, source, protocol).await,
            Session::PortForward(_) => {}
        }
    };
    let incoming = async {
        take(&mut client, &streams, &sender, to_process).await;
        // The process learns that its client has gone, and ends the session.
        future::pending::<()>().await;
    };
    tokio::select! {
        () = incoming => {}
        _ = future::join(process, give(&streams, from_process, &sender)) => {}
    }
    drop(sender);
    writer.join_next().await;
}

/// Waits for all wanted streams.
async fn open(
    client: &mut Incoming<impl AsyncRead + Unpin>,
    sender: &mpsc::Sender<Bytes>,
    wanted: [bool; 5],
) -> Option<Streams> {
    let (mut streams, mut writer) = (Streams::default(), spdy::Writer::default());
    while (0..5).any(|at| wanted[at] && streams.0[at].is_none()) {
        match client.next().await? {
            Frame::Open { stream, headers, .. } => {
                let name =
                    headers.iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value.as_str());
                let place = name.and_then(channel).map(|channel| &mut streams.0[usize::from(channel)]);
                let reply = match place {
                    Some(place @ None) => {
                        *place = Some(stream);
                        writer.reply(stream)
                    }
                    _ => spdy::refuse(stream),
                };
                sender.send(reply).await.ok()?;
            }
            Frame::Ping { id } => sender.send(spdy::ping(id)).await.ok()?,
            // Input comes after its stream was accepted, which is not before all are there.
            _ => {}
        }
    }
    Some(streams)
}

/// From the client to the process, until the client has gone.
async fn take(
    client: &mut Incoming<impl AsyncRead + Unpin>,
    streams: &Streams,
    sender: &mpsc::Sender<Bytes>,
    mut process: messages::Sender<Message>,
) {
    let message = |channel: u8, bytes: &[u8]| Message::Binary([&[channel], bytes].concat().into());
    while let Some(frame) = client.next().await {
        match frame {
            Frame::Data { stream, bytes, fin } => {
                let Some(channel) = streams.channel(stream) else { continue };
                if !bytes.is_empty() {
                    let _ = process.send(message(channel, &bytes)).await;
                }
                if fin && channel == channels::STDIN {
                    let _ = process.send(message(channels::CLOSE, &[channel])).await;
                }
            }
            Frame::Ping { id } => {
                let _ = sender.send(spdy::ping(id)).await;
            }
            Frame::Open { stream, .. } => {
                let _ = sender.send(spdy::refuse(stream)).await;
            }
            Frame::Reset { .. } | Frame::GoAway | Frame::Ignored => {}
        }
    }
}

/// From the process to the client; then all streams end.
async fn give(streams: &Streams, mut process: messages::Receiver<Message>, sender: &mpsc::Sender<Bytes>) {
    while let Some(message) = process.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            // Whether the client is there: when it is not, what asks is told by the end of this.
            Message::Ping(_) if sender.send(spdy::ping(QUESTION)).await.is_err() => return,
            _ => continue,
        };
        if let Some((channel, bytes)) = bytes.split_first()
            && !bytes.is_empty()
            && let Some(Some(stream)) = streams.0.get(usize::from(*channel))
        {
            // The process goes on when its client has gone: whether it may is decided where input ends.
            let _ = sender.send(spdy::data(*stream, bytes, false)).await;
        }
    }
    for channel in [channels::STDOUT, channels::STDERR, channels::ERROR] {
        if let Some(stream) = streams.0[usize::from(channel)] {
            let _ = sender.send(spdy::data(stream, b"", true)).await;
        }
    }
}
