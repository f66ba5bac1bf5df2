//! Passing a request on to another server: kubelets, and what pods, nodes and services serve themselves.
//!
//! The body and the answer are streamed, piece by piece, at the pace of who takes them. A protocol upgrade (WebSocket, SPDY) becomes a tunnel of raw
//! bytes once the other side has agreed to it; what is said in it is none of this server's business.
//! What a server says of its own paths is turned by `front`.
//! Not here: where to connect to (the subresources of pods, nodes and services).
//! Upstream: apimachinery/pkg/util/proxy (UpgradeAwareHandler).

mod front;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use client::BoxError;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authn;
use crate::engine::Call;
use crate::filters;
use crate::response::{PassedOn, Response};
use crate::server::Server;
use front::Front;

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);

/// Which addresses a destination may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any: kubelets are where their nodes say, and are shown this server's credentials.
    Anywhere,
    /// Only those that other machines could call as well. Whoever writes a pod's status must not make this server
    /// call what listens on its own loopback, or its cloud's metadata service.
    Routable,
}

/// A server to pass requests on to.
pub struct Destination {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How to speak TLS; `None`: not at all.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name that its certificate must have; `None`: `host`.
    pub server_name: Option<String>,
    /// The addresses that it may have, once its name is resolved.
    pub reach: Reach,
}

/// Passes the call on with `path` (and query) in place of its own.
pub async fn forward(call: Call, to: Destination, path: &str) -> Result<Response, Status> {
    let Call { server, method, headers, stream, upgrade, .. } = call;
    let mut request = Request::builder().method(method).uri(path);
    if let Some(into) = request.headers_mut() {
        *into = outgoing(&headers, upgrade.is_some());
    }
    let request = request
        .body(stream.map_or_else(client::empty_body, filters::Body::passed_on))
        .map_err(|error| Status::bad_request(format!("the request cannot be passed on: {error}")))?;
    pass_on(&server, &to, request, upgrade).await
}

/// Passes the call on to a server whose root is shown at `prefix` (`…/proxy`): it is told so, and where its answers lead
/// is turned into what leads there from outside. What runs over another protocol is not looked at.
pub async fn show(mut call: Call, to: Destination, prefix: String, path: &str) -> Result<Response, Status> {
    if call.upgrade.is_some() {
        return forward(call, to, path).await;
    }
    let bodiless = call.method == http::Method::HEAD;
    let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let front = Front { prefix, host: host.to_owned(), backend: authority(&to) };
    let seen = HeaderValue::from_str(&call.info.path).map_err(|e| Status::bad_request(e.to_string()))?;
    call.headers.insert("x-forwarded-uri", seen);
    Ok(front.answer(forward(call, to, path).await?, bodiless))
}

/// The host and port as they are named in a URL.
fn authority(to: &Destination) -> String {
    if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    }
}

/// Passes a request on as it is, but for the name of the host.
pub(crate) async fn pass_on(
    server: &Arc<Server>,
    to: &Destination,
    mut request: Request<client::Body>,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, Status> {
    let host = HeaderValue::from_str(&authority(to)).map_err(|e| Status::bad_request(e.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    let answer = send(server, to, request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return tunnel(server, upgrade, answer);
    }
    let (mut head, body) = answer.into_parts();
    for name in HOP_BY_HOP {
        head.headers.remove(*name);
    }
    head.extensions.insert(PassedOn);
    Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync()))
}

async fn send(
    server: &Arc<Server>,
    to: &Destination,
    request: Request<client::Body>,
) -> Result<http::Response<hyper::body::Incoming>, Status> {
    let dialing = |error: BoxError| Status::internal(format!("error dialing backend: {error}"));
    let failed =
        |error: &dyn std::fmt::Display| dialing(format!("dial tcp {}:{}: {error}", to.host, to.port).into());
    let connect = async {
        // What is checked is what is dialled: a name must not resolve anew in between.
        let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await.map_err(|e| failed(&e))?;
        let addresses: Vec<SocketAddr> = found.collect();
        if to.reach == Reach::Routable && !addresses.iter().all(|address| is_routable(address.ip())) {
            return Err(Status::bad_request("address not allowed"));
        }
        TcpStream::connect(addresses.as_slice()).await.map_err(|e| failed(&e))
    };
    let opened = async {
        let stream = connect.await?;
        open(server, to, stream).await.map_err(dialing)
    };
    let mut sender = tokio::select! {
        sender = opened => sender?,
        () = server.clock.sleep(CONNECT) => return Err(failed(&"i/o timeout")),
    };
    // What takes its time to answer (a command, a log that is followed) may: only its client knows how long.
    sender.send_request(request).await.map_err(|error| dialing(error.into()))
}

/// Whether an address is a global unicast one, as Go's net package has it: private ranges are.
fn is_routable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast())
        }
    }
}

type Sender = hyper::client::conn::http1::SendRequest<client::Body>;

/// A connection that is ready for its request, TLS included.
async fn open(server: &Arc<Server>, to: &Destination, stream: TcpStream) -> Result<Sender, BoxError> {
    // Only latency is lost where the system refuses.
    let _ = stream.set_nodelay(true);
    match &to.tls {
        None => handshake(server, TokioIo::new(stream)).await,
        Some(tls) => {
            let name = ServerName::try_from(to.server_name.clone().unwrap_or_else(|| to.host.clone()))?;
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
            handshake(server, TokioIo::new(stream)).await
        }
    }
}

async fn handshake<IO>(server: &Arc<Server>, io: IO) -> Result<Sender, BoxError>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    server.tasks.spawn_until_cancelled("stream", async move {
        // Its errors reach whoever reads the answer.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// Joins the two upgraded connections once both stand.
fn tunnel(
    server: &Arc<Server>,
    client: Option<OnUpgrade>,
    mut answer: http::Response<hyper::body::Incoming>,
) -> Result<Response, Status> {
    let Some(client) = client else {
        return Err(Status::internal("the backend changed protocols without being asked to"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    server.tasks.spawn_until_cancelled("stream", async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "a tunnel broke");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let (head, _) = answer.into_parts();
    Ok(Response::from_parts(head, client::empty_body()))
}

/// Headers that are about one connection only.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The headers that go on: without the client's credentials, and without those of its connection unless that
/// is to change protocols.
pub(crate) fn outgoing(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = headers.clone();
    out.remove(header::AUTHORIZATION);
    authn::remove_bearer_protocol(&mut out);
    out.remove(header::CONTENT_LENGTH);
    for name in HOP_BY_HOP {
        if !(upgrade && matches!(*name, "connection" | "upgrade")) {
            out.remove(*name);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_connection_headers_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let names = |headers: HeaderMap| headers.keys().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(outgoing(&headers, false)), ["accept"]);
        let mut kept = names(outgoing(&headers, true));
        kept.sort();
        assert_eq!(kept, ["accept", "connection", "upgrade"]);
    }

    #[test]
    fn only_what_others_could_call_is_proxied_to() {
        for address in ["10.42.0.7", "192.168.1.1", "8.8.8.8", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(is_routable(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_routable(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_token_among_the_protocols_stays_here() {
        let mut headers = HeaderMap::new();
        let name = header::SEC_WEBSOCKET_PROTOCOL;
        let offered = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.czNjcmV0,v4.channel.k8s.io";
        headers.append(&name, HeaderValue::from_static(offered));
        headers.append(&name, HeaderValue::from_static("base64url.bearer.authorization.k8s.io.czNjcmV0"));
        let sent = outgoing(&headers, true);
        let sent: Vec<_> = sent.get_all(&name).iter().collect();
        assert_eq!(sent, ["v5.channel.k8s.io, v4.channel.k8s.io"]);
    }
}
