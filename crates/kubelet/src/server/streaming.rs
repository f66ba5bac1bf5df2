//! exec, attach and port-forward: a tunnel to the runtime's streaming server.
//!
//! The caller's upgrade is repeated to the URL that CRI names, and after both sides have switched protocols bytes are
//! copied as they are, whatever the protocol is. Only where the caller speaks nothing but WebSocket v5 and the runtime
//! nothing newer than v4 (containerd 1.6) are messages looked at: v5 is v4 with one more message, "this stream is
//! closed", which such a runtime cannot be told and which is dropped. And kubectl's port-forward is SPDY inside of a
//! WebSocket, which is taken off here: runtimes speak SPDY alone.
//! Upstream: `pkg/kubelet/server/server.go`, `staging/src/k8s.io/kubelet/pkg/cri/streaming`.

use bytes::Bytes;
use cri::v1;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::idle::{Use, Watched};
use super::{Body, Context, Query, answer, container_id};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const PROTOCOL: &str = "sec-websocket-protocol";
/// SPDY for port-forward inside of a WebSocket.
const WRAPPED_SPDY: &str = "SPDY/3.1+portforward.k8s.io";
/// The channel of v5 that says that a stream is closed.
const CLOSE: u8 = 255;

/// Bytes of one read of the runtime.
const CHUNK: usize = 32 * 1024;

/// What is asked for.
pub(super) enum Target {
    Exec { container: String },
    Attach { container: String },
    PortForward,
}

pub(super) async fn serve(
    context: &Context,
    request: Request<Incoming>,
    namespace: &str,
    name: &str,
    target: Target,
    query: &Query,
) -> Response<Body> {
    if !request.headers().contains_key("upgrade") {
        return answer(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request");
    }
    let Ok(place) = context.streams.clone().try_acquire_owned() else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open on this node");
    };
    let url = match url(context, namespace, name, target, query).await {
        Ok(url) => url,
        Err(response) => return *response,
    };
    match tunnel(context, request, &url, place).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(url, %error, "the runtime's streaming server was not reached");
            answer(StatusCode::INTERNAL_SERVER_ERROR, error)
        }
    }
}

/// Where the runtime serves the stream.
async fn url(
    context: &Context,
    namespace: &str,
    name: &str,
    target: Target,
    query: &Query,
) -> Result<String, Box<Response<Body>>> {
    let (stdin, stdout, stderr) =
        (query.set(&["input", "stdin"]), query.set(&["output", "stdout"]), query.set(&["error", "stderr"]));
    let tty = query.set(&["tty"]);
    let mut runtime = context.node.runtime.raw();
    let url = match target {
        Target::Exec { container } => {
            let container_id = container_id(context, namespace, name, &container)?;
            // Upstream: a terminal carries both outputs, so stderr is none of its own.
            let cmd = query.all("command");
            let stderr = stderr && !tty;
            let request = v1::ExecRequest {
                container_id,
                cmd,
                tty,
                stdin,
                stdout,
                stderr,
                ..v1::ExecRequest::default()
            };
            runtime.exec(request).await.map(|answer| answer.into_inner().url)
        }
        Target::Attach { container } => {
            let container_id = container_id(context, namespace, name, &container)?;
            let stderr = stderr && !tty;
            let request = v1::AttachRequest {
                container_id,
                tty,
                stdin,
                stdout,
                stderr,
                ..v1::AttachRequest::default()
            };
            runtime.attach(request).await.map(|answer| answer.into_inner().url)
        }
        Target::PortForward => {
            let snapshot = context.pods.find(namespace, name);
            let sandbox = snapshot.as_ref().and_then(|snapshot| snapshot.runtime.ready_sandbox());
            let Some(sandbox) = sandbox else {
                return Err(Box::new(answer(StatusCode::NOT_FOUND, "pod does not exist")));
            };
            let mut port = Vec::new();
            for text in query.all("port").into_iter().chain(query.all("ports")) {
                for text in text.split(',') {
                    match text.parse::<u16>() {
                        Ok(number) => port.push(i32::from(number)),
                        Err(_) => {
                            let text = format!("unable to parse \"{text}\" as a port");
                            return Err(Box::new(answer(StatusCode::BAD_REQUEST, text)));
                        }
                    }
                }
            }
            let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
            runtime.port_forward(request).await.map(|answer| answer.into_inner().url)
        }
    };
    url.map_err(|status| {
        let text = crate::runtime::Error::from(status).to_string();
        Box::new(answer(StatusCode::INTERNAL_SERVER_ERROR, text))
    })
}

/// The headers that belong to the upgrade.
fn upgrade_headers(from: &HeaderMap) -> HeaderMap {
    let wanted = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name, "upgrade" | "connection" | "origin")
            || name.starts_with("sec-websocket-")
            || name.starts_with("x-stream-")
    };
    from.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The sub-protocols that a header offers.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|protocol| protocol.trim().to_owned()).collect()
}

async fn tunnel(
    context: &Context,
    mut request: Request<Incoming>,
    url: &str,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| text(&error))?;
    let authority = uri.authority().ok_or_else(|| format!("the runtime answered with the URL {url:?}"))?;
    let at = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream =
        tokio::net::TcpStream::connect(&at).await.map_err(|error| format!("connect to {at}: {error}"))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| text(&error))?;
    context.tasks.spawn_until_cancelled("stream", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a stream to the runtime ended");
        }
    });
    let mut headers = upgrade_headers(request.headers());
    let offer = offered(&headers);
    if offer.iter().any(|protocol| protocol == V5) && !offer.iter().any(|protocol| protocol == V4) {
        let both = format!("{}, {V4}", offer.join(", "));
        headers
            .insert(PROTOCOL, both.parse().map_err(|error: http::header::InvalidHeaderValue| text(&error))?);
    }
    let wrapped = offer.iter().any(|protocol| protocol == WRAPPED_SPDY);
    if wrapped {
        headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "portforward.k8s.io"),
        ] {
            headers.insert(name, http::HeaderValue::from_static(value));
        }
    }
    headers.insert(
        "host",
        authority.as_str().parse().map_err(|error: http::header::InvalidHeaderValue| text(&error))?,
    );
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut ask = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Empty::new())
        .map_err(|e| text(&e))?;
    *ask.headers_mut() = headers;
    let mut response = sender.send_request(ask).await.map_err(|error| text(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status();
        let body = response.into_body().collect().await.map_err(|error| text(&error))?.to_bytes();
        return Ok(answer(code, String::from_utf8_lossy(&body).into_owned()));
    }
    let chosen = response.headers().get(PROTOCOL).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let translate = chosen.as_deref() == Some(V4) && !offer.iter().any(|protocol| protocol == V4);
    let mut reply = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    *reply.headers_mut() = upgrade_headers(response.headers());
    if translate {
        reply.headers_mut().insert(PROTOCOL, http::HeaderValue::from_static(V5));
    }
    if wrapped {
        let Some(key) = request.headers().get("sec-websocket-key") else {
            return Ok(answer(StatusCode::BAD_REQUEST, "unable to upgrade: no Sec-WebSocket-Key"));
        };
        let accept = derive_accept_key(key.as_bytes());
        let headers = reply.headers_mut();
        headers.clear();
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            (PROTOCOL, WRAPPED_SPDY),
            ("sec-websocket-accept", &accept),
        ] {
            headers
                .insert(name, value.parse().map_err(|error: http::header::InvalidHeaderValue| text(&error))?);
        }
    }
    let caller = hyper::upgrade::on(&mut request);
    let runtime = hyper::upgrade::on(&mut response);
    let clock = context.node.clock.clone();
    context.tasks.spawn_until_cancelled("stream", async move {
        let how = if wrapped {
            Join::Unwrap
        } else if translate {
            Join::Translate
        } else {
            Join::Copy
        };
        let used = Use::new(clock);
        tokio::select! {
            joined = join(caller, runtime, how, &used) => {
                if let Err(error) = joined {
                    tracing::debug!(%error, "a stream ended");
                }
            }
            () = used.ended() => tracing::debug!("a stream was not used and is ended"),
        }
        drop(place);
    });
    Ok(reply)
}

/// How the two sides fit together.
enum Join {
    /// Byte by byte.
    Copy,
    /// Version 5 over version 4.
    Translate,
    /// A WebSocket with bytes inside over these bytes.
    Unwrap,
}

async fn join(
    caller: OnUpgrade,
    runtime: OnUpgrade,
    how: Join,
    used: &Use,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (caller, runtime) = tokio::try_join!(caller, runtime)?;
    let (mut caller, mut runtime) = (used.of(TokioIo::new(caller)), TokioIo::new(runtime));
    match how {
        Join::Translate => bridge(caller, runtime).await,
        Join::Unwrap => unwrap(caller, runtime).await,
        Join::Copy => {
            tokio::io::copy_bidirectional(&mut caller, &mut runtime).await?;
            Ok(())
        }
    }
}

/// Bytes of the runtime are messages to the caller.
async fn unwrap(
    caller: Watched<TokioIo<Upgraded>>,
    runtime: TokioIo<Upgraded>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let caller = WebSocketStream::from_raw_socket(caller, Role::Server, None).await;
    let (mut to_caller, mut from_caller) = caller.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let up = async {
        while let Some(message) = from_caller.next().await {
            match message? {
                Message::Binary(data) => to_runtime.write_all(&data).await?,
                Message::Text(data) => to_runtime.write_all(data.as_bytes()).await?,
                Message::Close(_) => break,
                _ => continue,
            }
            to_runtime.flush().await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from_runtime.read(&mut buffer).await? {
                0 => break,
                length => to_caller.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await?,
            }
        }
        let code = tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal;
        to_caller.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    // Either side ends the session.
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}

/// v5 on the caller's side, v4 on the runtime's.
async fn bridge(
    caller: Watched<TokioIo<Upgraded>>,
    runtime: TokioIo<Upgraded>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let caller = WebSocketStream::from_raw_socket(caller, Role::Server, None).await;
    let runtime = WebSocketStream::from_raw_socket(runtime, Role::Client, None).await;
    let (mut to_caller, mut from_caller) = caller.split();
    let (mut to_runtime, mut from_runtime) = runtime.split();
    let up = async {
        while let Some(message) = from_caller.next().await {
            match message? {
                Message::Binary(data) if data.first() == Some(&CLOSE) => {}
                Message::Close(frame) => {
                    to_runtime.send(Message::Close(frame)).await?;
                    break;
                }
                message => to_runtime.send(message).await?,
            }
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    let down = async {
        while let Some(message) = from_runtime.next().await {
            let message = message?;
            let last = message.is_close();
            to_caller.send(message).await?;
            if last {
                break;
            }
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    // The runtime ends the session; a caller that has gone ends it too.
    tokio::select! {
        result = up => result?,
        result = down => result?,
    }
    Ok(())
}
