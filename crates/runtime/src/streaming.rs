//! The streaming server: exec, attach and port-forward over WebSocket, and over SPDY, at the URLs that CRI answers with.
//!
//! Each URL carries a token that is good once, for [`TOKEN_LIFE`]; the server listens on the loopback
//! device only. Speaks `v5.channel.k8s.io` and `v4.channel.k8s.io` for exec and attach, and
//! `v4.channel.k8s.io` for port-forward; and over SPDY/3.1, `portforward.k8s.io`, which is what kubectl uses, and
//! `v4.channel.k8s.io`, which clients use that are older than WebSocket.
//!
//! Upstream: k8s.io/kubelet/pkg/cri/streaming, k8s.io/apimachinery remotecommand (channels).

mod backlog;
mod channels;
mod forward;
mod forward_spdy;
mod remote;
mod remote_spdy;
mod spdy;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cri::v1;
use foundation::randomness::SharedRandomness;
use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::engine::{Engine, Error};

/// How long a URL is good: upstream's cache of requests.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// How long to wait after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// URLs that wait at the same time: upstream's limit.
const MAX_WAITING: usize = 1000;

/// The most that one message of input may carry. kubectl sends 32 KiB; scripts send files whole.
const MOST_INPUT: usize = 16 << 20;

/// The protocol that an upgrade asks for instead of WebSocket.
const SPDY: &str = "SPDY/3.1";
/// What is to be spoken over it.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What a URL stands for.
#[derive(Clone, Debug)]
pub(crate) enum Session {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
    PortForward(v1::PortForwardRequest),
}

/// See the module.
pub(crate) struct Streaming {
    engine: Arc<Engine>,
    address: std::net::SocketAddr,
    randomness: SharedRandomness,
    waiting: Mutex<BTreeMap<String, (Instant, Session)>>,
}

pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

impl Streaming {
    /// Listens; serves until the task is dropped.
    pub(crate) async fn start(
        engine: Arc<Engine>,
        randomness: SharedRandomness,
    ) -> std::io::Result<(Arc<Self>, impl Future<Output = ()>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let streaming = Arc::new(Self { engine, address, randomness, waiting: Mutex::default() });
        let server = streaming.clone();
        Ok((streaming, async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors: at once it would fail again, and again.
                        tracing::warn!(%error, "a streaming connection was not accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                };
                let server = server.clone();
                server.engine.tasks.clone().spawn_until_cancelled("connection", async move {
                    let service = hyper::service::service_fn(|request| {
                        let server = server.clone();
                        async move { Ok::<_, Infallible>(server.answer(request)) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that breaks off is its own business.
                    let _ = connection.with_upgrades().await;
                });
            }
        }))
    }

    fn url(&self, kind: &str, session: Session) -> Result<String, Error> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| since.elapsed() < TOKEN_LIFE);
        if waiting.len() >= MAX_WAITING {
            return Err(Error::State("maximum number of in-flight requests exceeded".into()));
        }
        let mut bytes = [0u8; 16];
        self.randomness.fill(&mut bytes);
        let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        waiting.insert(token.clone(), (Instant::now(), session));
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    /// A URL to run a command at.
    pub(crate) fn exec(&self, request: v1::ExecRequest) -> Result<String, Error> {
        self.engine.terminal_of(&request.container_id)?;
        streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        self.url("exec", Session::Exec(request))
    }

    /// A URL to attach at.
    pub(crate) fn attach(&self, request: v1::AttachRequest) -> Result<String, Error> {
        self.engine.terminal_of(&request.container_id)?;
        streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        self.url("attach", Session::Attach(request))
    }

    /// A URL to forward ports at.
    pub(crate) fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, Error> {
        let (status, _) = self.engine.sandbox_status(&request.pod_sandbox_id)?;
        if status.state() != v1::PodSandboxState::SandboxReady {
            return Err(Error::State(format!(
                "sandbox container {:?} is not running",
                request.pod_sandbox_id
            )));
        }
        if request.port.len() > usize::from(forward::MOST_PORTS) {
            let most = forward::MOST_PORTS;
            return Err(Error::Invalid(format!("at most {most} ports can be forwarded in one session")));
        }
        self.url("portforward", Session::PortForward(request))
    }

    fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut parts = request.uri().path().trim_matches('/').split('/');
        let (kind, token) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let offered = || {
            let all = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
            all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',').map(str::trim))
        };
        let upgrade =
            request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if upgrade.eq_ignore_ascii_case(SPDY) {
            let protocol = if kind == "portforward" { channels::FORWARD_SPDY } else { channels::REMOTE_SPDY };
            return self.answer_spdy(request, protocol);
        }
        if !upgrade.eq_ignore_ascii_case("websocket") {
            let text = format!("unable to upgrade: this runtime streams over WebSocket, not {upgrade:?}");
            return plain(StatusCode::BAD_REQUEST, &text);
        }
        let supported: &[&str] =
            if kind == "portforward" { &channels::FORWARD_PROTOCOLS } else { &channels::REMOTE_PROTOCOLS };
        let Some(protocol) = supported.iter().find(|p| offered().any(|o| o == **p)).copied() else {
            let text = format!(
                "unable to upgrade: none of the protocols {:?} is supported ({supported:?})",
                offered().collect::<Vec<_>>()
            );
            return plain(StatusCode::BAD_REQUEST, &text);
        };
        let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
            return plain(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key");
        };
        // Last, so that a refused upgrade does not use the token up.
        let Some(session) = self.take(token) else {
            return plain(StatusCode::NOT_FOUND, "no such session");
        };
        let engine = self.engine.clone();
        engine.tasks.clone().spawn_until_cancelled("stream", async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let limits = match session {
                Session::PortForward(_) => limits(backlog::MOST_MESSAGE),
                _ => limits(MOST_INPUT),
            };
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
            match session {
                Session::Exec(request) => {
                    let (sink, source) = socket.split();
                    remote::exec(&engine, request, sink, source, protocol).await;
                }
                Session::Attach(request) => {
                    let (sink, source) = socket.split();
                    remote::attach(&engine, request, sink, source, protocol).await;
                }
                Session::PortForward(request) => forward::serve(&engine, request, socket).await,
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
            .body(Full::default())
            .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot build the answer"))
    }

    /// The session of a URL, once.
    fn take(&self, token: &str) -> Option<Session> {
        let (since, session) = self.waiting.lock().remove(token)?;
        (since.elapsed() < TOKEN_LIFE).then_some(session)
    }

    fn answer_spdy(
        self: &Arc<Self>,
        request: Request<Incoming>,
        protocol: &'static str,
    ) -> Response<Full<Bytes>> {
        let offered: Vec<&str> =
            request.headers().get_all(STREAM_PROTOCOL).iter().filter_map(|v| v.to_str().ok()).collect();
        if !offered.iter().flat_map(|offer| offer.split(',')).any(|offer| offer.trim() == protocol) {
            let text = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {:?}",
                [protocol]
            );
            return plain(StatusCode::FORBIDDEN, &text);
        }
        let token = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(session) = self.take(token) else {
            return plain(StatusCode::NOT_FOUND, "no such session");
        };
        let engine = self.engine.clone();
        engine.tasks.clone().spawn_until_cancelled("stream", async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let io = TokioIo::new(upgraded);
            match session {
                Session::PortForward(request) => {
                    forward_spdy::serve(&engine, &request.pod_sandbox_id, io).await
                }
                session => remote_spdy::serve(&engine, session, io).await,
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, SPDY)
            .header(header::CONNECTION, "Upgrade")
            .header(STREAM_PROTOCOL, protocol)
            .body(Full::default())
            .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot build the answer"))
    }
}

/// What a client may send at once: a message is held whole. One byte more is the channel.
fn limits(most: usize) -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(most + 1)).max_frame_size(Some(most + 1))
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), Error> {
    if tty && stderr {
        return Err(Error::Invalid("tty and stderr cannot both be true".into()));
    }
    if !stdin && !stdout && !stderr {
        return Err(Error::Invalid("one of stdin, stdout, or stderr must be set".into()));
    }
    Ok(())
}
