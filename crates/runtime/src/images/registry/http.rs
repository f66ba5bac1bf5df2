//! One HTTP/1.1 request per connection, plain or TLS, with redirects: all that a pull needs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foundation::Tasks;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

/// How long a connection may take to be made: Go's default dialer.
const CONNECT: Duration = Duration::from_secs(30);
/// How long an answer may take to begin, the connection included.
const ANSWER: Duration = Duration::from_secs(90);
/// Redirects that are followed: Go's default.
const REDIRECTS: usize = 10;
/// The system's certificate authorities, on Debian and on Red Hat.
const SYSTEM: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Makes requests.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    tasks: Tasks,
}

impl Client {
    /// Trusts the system's authorities and those of `ca`. Its connections are tasks of `tasks`.
    pub(super) fn new(ca: Option<&Path>, tasks: Tasks) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for path in SYSTEM.iter().map(Path::new).filter(|p| p.exists()).take(1).chain(ca) {
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|e| format!("{}: {e}", path.display()))?;
            roots.add_parsable_certificates(certificates.flatten());
        }
        let tls = foundation::tls::client_of_others().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), tasks })
    }

    /// Makes a request and follows redirects. Authorization goes to the first host only.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(header::HeaderName, String)],
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let mut uri: Uri = url.parse().map_err(|e| format!("invalid URL: {e}"))?;
        let first = uri.authority().cloned();
        for _ in 0..=REDIRECTS {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
                .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
                .header(header::USER_AGENT, concat!("ironclad/", env!("CARGO_PKG_VERSION")));
            for (name, value) in headers {
                if *name != header::AUTHORIZATION || uri.authority() == first.as_ref() {
                    request = request.header(name, value);
                }
            }
            let request = request.body(Full::new(body.clone())).map_err(|e| e.to_string())?;
            let response = tokio::time::timeout(ANSWER, self.once(&uri, request))
                .await
                .map_err(|_| "net/http: timeout awaiting response headers".to_owned())??;
            let redirect = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            let Some(location) = response.headers().get(header::LOCATION).filter(|_| redirect) else {
                return Ok(response);
            };
            let location = location.to_str().map_err(|e| e.to_string())?;
            uri = if location.starts_with('/') {
                let mut parts = uri.into_parts();
                parts.path_and_query = Some(location.parse().map_err(|e| format!("invalid redirect: {e}"))?);
                Uri::from_parts(parts).map_err(|e| e.to_string())?
            } else {
                location.parse().map_err(|e| format!("invalid redirect: {e}"))?
            };
        }
        Err(format!("stopped after {REDIRECTS} redirects"))
    }

    async fn once(&self, uri: &Uri, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let host = uri.host().ok_or("no host in request URL")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect((bare, port)))
            .await
            .map_err(|_| format!("dial tcp {host}:{port}: i/o timeout"))?
            .map_err(|e| dial_error(host, port, &e))?;
        if secure {
            let name = ServerName::try_from(bare.to_owned()).map_err(|e| e.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
            let stream = connector.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
            exchange(TokioIo::new(stream), request, &self.tasks).await
        } else {
            exchange(TokioIo::new(stream), request, &self.tasks).await
        }
    }
}

fn dial_error(host: &str, port: u16, error: &std::io::Error) -> String {
    let text = error.to_string();
    if text.contains("lookup") {
        format!("dial tcp: lookup {host}: no such host")
    } else if error.kind() == std::io::ErrorKind::ConnectionRefused {
        format!("dial tcp {host}:{port}: connect: connection refused")
    } else {
        format!("dial tcp {host}:{port}: {text}")
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    tasks: &Tasks,
) -> Result<Response<Incoming>, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    // Ends when the response is read or dropped.
    tasks.spawn_until_cancelled("connection", async move { drop(connection.await) });
    sender.send_request(request).await.map_err(|e| e.to_string())
}
