//! What the server itself streams, as WebSocket messages: watches and logs, for pages in browsers.
//!
//! Reads the headers of the handshake and takes the connection over once it has changed protocols. The client has
//! nothing to say in such a stream: what it sends is ignored, and its leaving ends the stream.
//! Not here: streams of other servers, which are passed on as they are (`proxy`).
//! Upstream: apimachinery/pkg/util/httpstream/wsstream, golang.org/x/net/websocket (the checks of the handshake).

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use foundation::SharedClock;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::authn;
use crate::response::Response;
use crate::server::Server;

/// The protocol of raw bytes.
const BINARY: &str = "binary.k8s.io";
/// The protocol of bytes as text.
const BASE64: &str = "base64.binary.k8s.io";
/// The longest message that a client may send, for nothing.
const IGNORED: usize = 64 * 1024;

/// A handshake that may be agreed to.
pub(crate) struct Handshake {
    upgrade: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<String>,
}

impl Handshake {
    /// Whether the bytes of a log go as base64.
    fn is_base64(&self) -> bool {
        self.protocol.as_deref() == Some(BASE64)
    }
}

/// Whether a request asks for a WebSocket.
pub(crate) fn is_requested(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, wanted: &str, part: bool| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.map(str::to_ascii_lowercase).any(|value| value == wanted || part && value.contains(wanted))
    };
    has(header::UPGRADE, "websocket", false) && has(header::CONNECTION, "upgrade", true)
}

/// The handshake of a watch: from a page (it says its origin), with one protocol at most, whichever it is.
pub(crate) fn watch(headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> Result<Handshake, Status> {
    let (accept, mut offered) = checked(headers)?;
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    let refused = |why: String| Err(Status::new(403, Reason::Forbidden, why));
    if origin.is_empty() {
        return refused("null origin".to_owned());
    }
    if !origin.starts_with('/') && !origin.contains(':') {
        return refused(format!("parse {}: invalid URI for request", api::field::quote(origin)));
    }
    if offered.len() > 1 {
        return Err(Status::bad_request("missing or bad WebSocket-Protocol"));
    }
    agreed(upgrade, accept, offered.pop())
}

/// The handshake of a stream of bytes: the first of the client's protocols that is known here.
pub(crate) fn log(headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> Result<Handshake, Status> {
    let (accept, offered) = checked(headers)?;
    let known = |protocol: &&String| matches!(protocol.as_str(), "" | BINARY | BASE64);
    let chosen = offered.iter().find(known).cloned();
    if chosen.is_none() && !offered.is_empty() {
        let message =
            format!("requested protocol(s) are not supported: {offered:?}; supports [{BINARY} {BASE64}]");
        return Err(Status::new(403, Reason::Forbidden, message));
    }
    agreed(upgrade, accept, chosen)
}

/// The key's answer, and the protocols offered.
fn checked(headers: &HeaderMap) -> Result<(HeaderValue, Vec<String>), Status> {
    let text = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_owned()
    };
    let key = text(header::SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return Err(Status::bad_request("mismatch challenge/response"));
    }
    if text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(Status::bad_request("missing or bad WebSocket Version"));
    }
    let mut headers = headers.clone();
    authn::remove_bearer_protocol(&mut headers);
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered =
        offered.flat_map(|list| list.split(',')).map(|protocol| protocol.trim().to_owned()).collect();
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    Ok((accept, offered))
}

fn agreed(
    upgrade: Option<OnUpgrade>,
    accept: HeaderValue,
    protocol: Option<String>,
) -> Result<Handshake, Status> {
    // HTTP/2 has no such upgrade.
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot become a WebSocket"))?;
    Ok(Handshake { upgrade, accept, protocol: protocol.filter(|protocol| !protocol.is_empty()) })
}

/// Agrees to the handshake and sends the messages, until one side ends.
pub(crate) fn serve(
    server: &Arc<Server>,
    handshake: Handshake,
    messages: impl Stream<Item = Message> + Send + 'static,
) -> Response {
    let Handshake { upgrade, accept, protocol } = handshake;
    let patience = Patience { clock: server.clock.clone(), time: server.options.reader_patience };
    server.tasks.spawn_until_cancelled("stream", async move {
        match upgrade.await {
            Ok(connection) => send(TokioIo::new(connection), messages, &patience).await,
            Err(error) => tracing::debug!(%error, "a connection did not become a WebSocket"),
        }
    });
    let mut response = Response::new(client::empty_body());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(Ok(protocol)) = protocol.map(HeaderValue::try_from) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// How long a client may take nothing of what is ready for it.
struct Patience {
    clock: SharedClock,
    time: Duration,
}

impl Patience {
    /// Whether the client has taken what was to be sent.
    async fn until<E>(&self, sent: impl Future<Output = Result<(), E>>) -> bool {
        // The clock is asked only where the client does not take it at once.
        let over = async { self.clock.sleep(self.time).await };
        tokio::select! {
            biased;
            sent = sent => sent.is_ok(),
            () = over => {
                tracing::info!("a stream was ended: its client does not read");
                false
            }
        }
    }
}

/// Sends until one side ends, or the client stops reading: then the connection goes, with what the stream holds.
async fn send<IO>(connection: IO, messages: impl Stream<Item = Message>, patience: &Patience)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let limits = WebSocketConfig::default().max_message_size(Some(IGNORED)).max_frame_size(Some(IGNORED));
    let mut socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(limits)).await;
    let mut messages = std::pin::pin!(messages);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { break };
                if !patience.until(socket.send(message)).await {
                    return;
                }
            }
            said = socket.next() => match said {
                // The answer to a ping waits to be sent.
                Some(Ok(Message::Ping(_))) => {
                    if !patience.until(socket.flush()).await {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
    if !patience.until(socket.close(None)).await {
        tracing::debug!("a WebSocket was not closed in order");
    }
}

/// The bytes of a log as messages, in the protocol agreed on; an empty one first, which says that it has begun.
pub(crate) fn bytes_messages<E, S>(
    handshake: &Handshake,
    chunks: S,
) -> impl Stream<Item = Message> + Send + use<E, S>
where
    E: std::fmt::Display + Send + 'static,
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
{
    let base64 = handshake.is_base64();
    let encode = move |bytes: Bytes| match base64 {
        true => Message::text(STANDARD.encode(bytes)),
        false => Message::Binary(bytes),
    };
    let begin = futures::stream::iter([encode(Bytes::new())]);
    let chunks = chunks.filter_map(move |chunk| {
        let message = match chunk {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some(Some(encode(bytes))),
            Err(error) => {
                tracing::debug!(%error, "a log broke off");
                Some(None)
            }
        };
        std::future::ready(message)
    });
    // A break is the end.
    begin.chain(
        chunks.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready),
    )
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_left_and_the_others_are_served_on() {
        let clock = ManualClock::default();
        let patience = || Patience { clock: Arc::new(clock.clone()), time: Duration::from_secs(30) };
        // What the stream holds goes with it.
        let held = Arc::new(());
        let messages = |held: &Arc<()>| {
            let held = held.clone();
            futures::stream::iter(0..).map(move |n| {
                let _ = &held;
                Message::text(format!("{n} {}", "x".repeat(100)))
            })
        };
        let (stuck, kept_open) = tokio::io::duplex(256);
        let (to_stuck, stuck_holds) = (patience(), messages(&held));
        let stuck = tokio::spawn(async move { send(stuck, stuck_holds, &to_stuck).await });
        clock.wait_for_sleepers(1).await;
        let (good, client) = tokio::io::duplex(256);
        let (to_good, endless) = (patience(), messages(&Arc::default()));
        let good = tokio::spawn(async move { send(good, endless, &to_good).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for n in 0..50 {
            let message = client.next().await.unwrap().unwrap().into_text().unwrap();
            assert!(message.starts_with(&format!("{n} ")), "{message}");
        }
        assert_eq!(Arc::strong_count(&held), 2, "its time is not over");
        clock.advance(Duration::from_secs(30));
        stuck.await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1, "the stream was dropped");
        drop(kept_open);
        client.close(None).await.ok();
        drop(client);
        good.await.unwrap();
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn only_an_upgrade_to_websocket_is_one() {
        for (pairs, requested) in [
            (&[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")][..], true),
            (&[("upgrade", "SPDY/3.1"), ("connection", "Upgrade")][..], false),
            (&[("upgrade", "websocket")][..], false),
            (&[][..], false),
        ] {
            assert_eq!(is_requested(&headers(pairs)), requested, "{pairs:?}");
        }
    }

    #[test]
    fn handshakes_are_refused_as_upstream_refuses_them() {
        let right = [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")];
        // More headers, then the code of a watch and of a log. 400 at last: no test has a connection to take over.
        let cannot = "this connection cannot become a WebSocket";
        for (more, of_watch, of_log) in [
            (&[][..], "null origin", cannot),
            (&[("origin", "null")][..], "parse \"null\": invalid URI for request", cannot),
            (&[("origin", "https://ui.example")][..], cannot, cannot),
            (
                &[("origin", "https://ui.example"), ("sec-websocket-protocol", "a, b")][..],
                "missing or bad WebSocket-Protocol",
                "requested protocol(s) are not supported: [\"a\", \"b\"]; supports [binary.k8s.io base64.binary.k8s.io]",
            ),
            (
                &[("origin", "https://ui.example"), ("sec-websocket-protocol", "a, binary.k8s.io")][..],
                "missing or bad WebSocket-Protocol",
                cannot,
            ),
            (
                &[
                    ("origin", "https://ui.example"),
                    (
                        "sec-websocket-protocol",
                        "base64url.bearer.authorization.k8s.io.czNjcmV0, base64.binary.k8s.io",
                    ),
                ][..],
                cannot,
                cannot,
            ),
        ] {
            let headers = headers(&[&right[..], more].concat());
            let refused = |handshake: Result<Handshake, Status>| handshake.err().unwrap().message;
            assert_eq!(refused(watch(&headers, None)), of_watch, "{more:?}");
            assert_eq!(refused(log(&headers, None)), of_log, "{more:?}");
        }
        let without = |at: usize| {
            let mut pairs = right.to_vec();
            pairs.remove(at);
            log(&headers(&pairs), None).err().unwrap()
        };
        assert_eq!(without(0).message, "mismatch challenge/response");
        assert_eq!((without(1).code, &*without(1).message), (400, "missing or bad WebSocket Version"));
    }
}
