//! Connections: TCP, TLS with optional client certificates, HTTP/1.1 and HTTP/2.
//!
//! The TLS configuration is read anew for every connection, so that certificates are replaced while the
//! server runs. Connections over which nothing is asked are closed, and those whose peer does not answer pings.
//! On shutdown nothing new is accepted, watches end, and open requests get a while to finish.

mod gather;
mod quiet;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foundation::CancellationToken;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::beside;
use crate::filters::{self, Identity, Incoming};
use crate::response::Response;
use crate::server::Server;
use gather::Gathering;
use quiet::Requests;

/// A TLS configuration that can be replaced while it is in use.
pub type Tls = Arc<ArcSwap<rustls::ServerConfig>>;

/// A handshake that takes longer is no client's.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);
/// How often an HTTP/2 connection is asked for a sign of life, and how long that may take (Go's ReadIdleTimeout and
/// PingTimeout have the like): the peer may have gone without a word.
const PING: (std::time::Duration, std::time::Duration) =
    (std::time::Duration::from_secs(60), std::time::Duration::from_secs(20));
/// Upstream's http2-max-streams-per-connection.
const STREAMS: u32 = 100;

tokio::task_local! {
    /// Ends the connection of the request that is being served, where no other shares it.
    static CONNECTION: CancellationToken;
}

/// What ends the connection of the present request; `None` where others share it, or there is none.
pub(crate) fn own_connection() -> Option<CancellationToken> {
    CONNECTION.try_with(Clone::clone).ok()
}

/// Accepts connections until the server is shut down.
pub async fn serve(server: Arc<Server>, listener: TcpListener, tls: Tls) {
    let token = server.tasks.token();
    let connections = TaskTracker::new();
    // Requests that are served during the drain are recorded too.
    let _recorded = server.audit.hold();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => break,
        };
        match accepted {
            Ok((stream, remote)) => {
                let (server, tls) = (server.clone(), tls.load_full());
                // Tasks of the whole tree are cancelled with the token; connections outlive it by the drain.
                connections.spawn(async move { connection(server, stream, remote, tls).await });
            }
            Err(error) => {
                // Out of file descriptors: give back the processor, the next accept may find one.
                tracing::warn!(%error, "cannot accept a connection");
                server.clock.sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    server.draining.cancel();
    let drain = server.clock.sleep(server.options.drain);
    tokio::select! {
        () = connections.wait() => {}
        () = drain => tracing::warn!("requests were still open when the server stopped"),
    }
}

async fn connection(
    server: Arc<Server>,
    stream: TcpStream,
    remote: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
) {
    // Small writes are answers someone waits for. Failing to say so costs only latency.
    let _ = stream.set_nodelay(true);
    let accepted = tokio::select! {
        accepted = TlsAcceptor::from(tls).accept(stream) => accepted,
        () = server.clock.sleep(HANDSHAKE) => return,
    };
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, %remote, "TLS handshake failed");
            foundation::metrics::registry()
                .counter(
                    "apiserver_tls_handshake_errors_total",
                    "Connections that failed before TLS stood.",
                    &[],
                )
                .only()
                .inc();
            return;
        }
    };
    let shared = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let certificates: Arc<[CertificateDer<'static>]> = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .cloned()
        .map(CertificateDer::into_owned)
        .collect();
    let requests = Requests::new(server.clock.clone());
    let stuck = CancellationToken::new();
    // Told when the client is to connect anew.
    let leave = Arc::new(tokio::sync::Notify::new());
    let service = {
        let (server, requests, leave) = (server.clone(), requests.clone(), leave.clone());
        let stuck = stuck.clone();
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let chance = server.options.goaway_chance;
            if request.version() == http::Version::HTTP_2 && chance > 0.0 && server.randomness.unit() < chance
            {
                leave.notify_one();
            }
            let identity = Identity::Peer { certificates: certificates.clone(), remote };
            let (server, open, stuck) = (server.clone(), requests.begin(), stuck.clone());
            async move {
                let answer = answer(server, request, identity);
                let response = match shared {
                    true => answer.await,
                    false => CONNECTION.scope(stuck, answer).await,
                };
                Ok::<_, std::convert::Infallible>(response.map(|body| quiet::Answer::new(body, open, shared)))
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let connection =
        builder.serve_connection_with_upgrades(Gathering::new(TokioIo::new(stream), shared), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = gather::last(connection.as_mut()) => ended,
        // Whoever does not read an answer will not read another one.
        () = stuck.cancelled() => return,
        () = async {
            tokio::select! {
                () = requests.quiet() => {}
                // GOAWAY: what is open is served to its end.
                () = leave.notified() => {}
                () = server.draining.cancelled() => {}
            }
        } => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = gather::last(connection) => ended,
                () = stuck.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %remote, "connection ended");
    }
}

/// Serves one request off the wire.
pub(crate) async fn answer(
    server: Arc<Server>,
    mut request: http::Request<hyper::body::Incoming>,
    identity: Identity,
) -> Response {
    if let Identity::Peer { remote, .. } = identity
        && let Some(beside) = beside::of(&server, request.uri().path())
    {
        return beside::answer(&server, beside, request, remote).await;
    }
    let upgrade: Option<OnUpgrade> =
        request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    if let Some(upgrade) = upgrade {
        head.extensions.insert(upgrade);
    }
    // Over HTTP/2 the host stands in the URI.
    if !head.headers.contains_key(http::header::HOST)
        && let Some(Ok(host)) = head.uri.authority().map(|host| http::HeaderValue::from_str(host.as_str()))
    {
        head.headers.insert(http::header::HOST, host);
    }
    let only_head = head.method == http::Method::HEAD;
    let response = filters::serve(server, Incoming { head, body: filters::Body::Wire(body), identity }).await;
    if only_head {
        return response.map(|_| http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync());
    }
    response
}
