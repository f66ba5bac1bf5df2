//! Passing a request on to another server: kubelets, and what pods, nodes and services serve themselves.
//!
//! The body and the answer are streamed, piece by piece, at the pace of who takes them. A protocol upgrade (WebSocket, SPDY) becomes a tunnel of raw
//! bytes once the other side has agreed to it; what is said in it is none of this server's business.
//! What a server says of its own paths is turned by `front`.
//! Not here: where to connect to (the subresources of pods, nodes and services).
//! Upstream: apimachinery/pkg/util/proxy (UpgradeAwareHandler).

mod front;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
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
use crate::metrics::streams::{self, Running};
use crate::response::{self, PassedOn, Response};
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

/// Why a server was not reached.
pub(crate) enum Unreached {
    /// It may not be called, or the request is none that can be sent.
    Refused(Status),
    /// It does not answer, for this reason.
    Failed(String),
}

impl Unreached {
    /// As upstream tells it of a connection that was to be made for a stream.
    pub(crate) fn dialing(self) -> Status {
        match self {
            Self::Refused(status) => status,
            Self::Failed(why) => Status::new(500, Reason::Unknown, format!("error dialing backend: {why}")),
        }
    }

    /// As upstream tells it of a server that is shown.
    pub(crate) fn reaching(self) -> Status {
        match self {
            Self::Refused(status) => status,
            Self::Failed(why) => Status::service_unavailable(format!("error trying to reach service: {why}")),
        }
    }
}

/// Passes the call on with `path` (and query) in place of its own.
pub async fn forward(call: Call, to: Destination, path: &str) -> Result<Response, Status> {
    sent_on(call, to, path).await.map_err(Unreached::dialing)
}

async fn sent_on(call: Call, to: Destination, path: &str) -> Result<Response, Unreached> {
    let Call { server, method, headers, stream, upgrade, info, .. } = call;
    let running = streams::running(&info);
    let mut request = Request::builder().method(method).uri(path);
    if let Some(into) = request.headers_mut() {
        *into = outgoing(&headers, upgrade.is_some());
    }
    let request = request
        .body(stream.map_or_else(client::empty_body, filters::Body::passed_on))
        .map_err(|error| refused(format!("the request cannot be passed on: {error}")))?;
    pass_on(&server, &to, request, upgrade, Some(running)).await
}

/// Passes the call on to a server whose root is shown at `prefix` (`…/proxy`): it is told so, and where its answers lead
/// is turned into what leads there from outside. What runs over another protocol is not looked at.
pub async fn show(mut call: Call, to: Destination, prefix: String, path: &str) -> Result<Response, Status> {
    if !is_upgrade(&call) {
        call.upgrade = None;
    }
    let bodiless = call.method == http::Method::HEAD;
    let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let front = Front { prefix, host: host.to_owned(), backend: authority(&to) };
    let seen = HeaderValue::from_str(&call.info.path).map_err(|e| Status::bad_request(e.to_string()))?;
    call.headers.insert("x-forwarded-uri", seen);
    let told = if is_upgrade(&call) { Unreached::dialing } else { Unreached::reaching };
    let answer = sent_on(call, to, path).await.map_err(told)?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
        _ => Ok(front.answer(answer, bodiless)),
    }
}

/// Whether the client wants to change protocols: its connection says so, and can.
pub fn is_upgrade(call: &Call) -> bool {
    let mut said = call.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    call.upgrade.is_some() && said.any(|said| said.to_ascii_lowercase().contains("upgrade"))
}

fn refused(why: impl Into<String>) -> Unreached {
    Unreached::Refused(Status::bad_request(why))
}

/// Says through whom a request comes: the address of the client is added to those that it names itself.
/// Upstream: httputil.ReverseProxy, apimachinery/pkg/util/net (AppendForwardedForHeader).
pub(crate) fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    const FORWARDED_FOR: &str = "x-forwarded-for";
    let said = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let mut value = said.collect::<Vec<_>>().join(&b", "[..]);
    if !value.is_empty() {
        value.extend_from_slice(b", ");
    }
    value.extend_from_slice(client.to_canonical().to_string().as_bytes());
    // What is made of headers' values and an address is one.
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The host and port as they are named in a URL.
fn authority(to: &Destination) -> String {
    if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    }
}

/// Passes a request on as it is, but for the name of the host. `running` counts it until all that comes of it has ended.
pub(crate) async fn pass_on(
    server: &Arc<Server>,
    to: &Destination,
    mut request: Request<client::Body>,
    upgrade: Option<OnUpgrade>,
    running: Option<Running>,
) -> Result<Response, Unreached> {
    let host = HeaderValue::from_str(&authority(to)).map_err(|error| refused(error.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    let answer = send(server, to, request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return tunnel(server, upgrade, answer, running).map_err(Unreached::Refused);
    }
    let (mut head, body) = answer.into_parts();
    for name in HOP_BY_HOP {
        head.headers.remove(*name);
    }
    head.extensions.insert(PassedOn);
    let body = body.map_err(BoxError::from).boxed_unsync();
    Ok(Response::from_parts(head, response::holding(body, running)))
}

async fn send(
    server: &Arc<Server>,
    to: &Destination,
    request: Request<client::Body>,
) -> Result<http::Response<hyper::body::Incoming>, Unreached> {
    let failed = |why: String| Unreached::Failed(format!("dial tcp {}: {why}", authority(to)));
    let connect = async {
        // What is checked is what is dialled: a name must not resolve anew in between.
        let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let found = found.map_err(|error| failed(told(&error)))?;
        let addresses: Vec<SocketAddr> = found.collect();
        if to.reach == Reach::Routable && !addresses.iter().all(|address| is_routable(address.ip())) {
            return Err(refused("address not allowed"));
        }
        TcpStream::connect(addresses.as_slice()).await.map_err(|error| failed(told(&error)))
    };
    let opened = async {
        let stream = connect.await?;
        open(server, to, stream).await.map_err(|error| Unreached::Failed(error.to_string()))
    };
    let mut sender = tokio::select! {
        sender = opened => sender?,
        () = server.clock.sleep(CONNECT) => return Err(failed("i/o timeout".to_owned())),
    };
    // What takes its time to answer (a command, a log that is followed) may: only its client knows how long.
    sender.send_request(request).await.map_err(|error| Unreached::Failed(error.to_string()))
}

/// An error of a connection in the words of Go's, which people look for in logs.
fn told(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    }
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
    running: Option<Running>,
) -> Result<Response, Status> {
    let Some(client) = client else {
        return Err(Status::internal("the backend changed protocols without being asked to"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    server.tasks.spawn_until_cancelled("stream", async move {
        let _running = running;
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
    fn the_client_is_told_of_behind_those_it_names() {
        for (said, client, want) in [
            (&[][..], "10.0.0.1", "10.0.0.1"),
            (&["1.2.3.4"], "10.0.0.1", "1.2.3.4, 10.0.0.1"),
            (&["1.2.3.4, 5.6.7.8", "9.9.9.9"], "::ffff:10.0.0.1", "1.2.3.4, 5.6.7.8, 9.9.9.9, 10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            forwarded_for(&mut headers, client.parse().unwrap());
            assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), [want]);
        }
    }

    #[test]
    fn what_is_not_there_is_unavailable_to_readers_and_a_failure_to_streams() {
        let failed = || Unreached::Failed("dial tcp 10.0.0.1:80: connect: connection refused".to_owned());
        for (status, code, message) in [
            (
                failed().reaching(),
                503,
                "error trying to reach service: dial tcp 10.0.0.1:80: connect: connection refused",
            ),
            (
                failed().dialing(),
                500,
                "error dialing backend: dial tcp 10.0.0.1:80: connect: connection refused",
            ),
            (refused("address not allowed").reaching(), 400, "address not allowed"),
        ] {
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
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
