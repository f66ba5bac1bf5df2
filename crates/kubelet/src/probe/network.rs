//! HTTP and TCP questions to a pod, for probes and hooks.
//!
//! One connection per question, no keep-alive; TLS without verification, as upstream's prober does. Redirects to
//! other hosts count as success and are not followed.
//! Upstream: `pkg/probe/http`, `pkg/probe/tcp`.

use std::sync::Arc;
use std::time::Duration;

use api::meta::IntOrString;
use api::types::core::v1::{Container, HTTPGetAction};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;

/// How much of an answer is read.
const MOST: usize = 10 * 1024;

/// Where an HTTP question goes.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpTarget {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// A port by its number, or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    match number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0) {
        Some(port) => Ok(port),
        None => Err(format!("couldn't find port: {port:?}")),
    }
}

/// Where `action` points for a container whose pod has the address `ip`.
pub fn http_target(action: &HTTPGetAction, container: &Container, ip: &str) -> Result<HttpTarget, String> {
    let path = action.path.clone().unwrap_or_default();
    let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    Ok(HttpTarget {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_owned()),
        port: port(&action.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers,
    })
}

/// Opens a TCP connection and closes it.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    connect(host, port, timeout).await.map(drop)
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, TcpStream::connect(&at)).await {
        Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
        Ok(Err(error)) => {
            let text = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            Err(format!("dial tcp {at}: {text}"))
        }
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// Asks, and returns the status code and the beginning of the answer.
pub async fn http(target: &HttpTarget, timeout: Duration) -> Result<(u16, Bytes), String> {
    let scheme = if target.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}{}", target.host, target.port, target.path);
    match tokio::time::timeout(timeout, ask(target)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("Get \"{url}\": {error}")),
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn ask(target: &HttpTarget) -> Result<(u16, Bytes), String> {
    let stream = connect(&target.host, target.port, Duration::from_secs(3600)).await?;
    if !target.tls {
        return exchange(TokioIo::new(stream), target).await;
    }
    let config = foundation::tls::client_of_others()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(TokioIo::new(stream), target).await
}

async fn exchange<I>(io: I, target: &HttpTarget) -> Result<(u16, Bytes), String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(io).await.map_err(text)?;
    let mut request = http::Request::get(&target.path);
    let given = |name: &str| target.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header("host", format!("{}:{}", target.host, target.port));
    }
    if !given("user-agent") {
        request = request.header("user-agent", "kube-probe/1.37");
    }
    if !given("accept") {
        request = request.header("accept", "*/*");
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request =
        request.header("connection", "close").body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let code = response.status().as_u16();
        // A body that is too long or breaks off does not change the code.
        let body = Limited::new(response.into_body(), MOST).collect().await;
        Ok((code, body.map(|body| body.to_bytes()).unwrap_or_default()))
    };
    // The connection makes progress only while it is polled; dropping it closes it.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        Ok(()) = connection => answer.await,
    }
}

/// A pod's certificate proves nothing to its own kubelet, which asks by address.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
