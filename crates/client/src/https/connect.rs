//! Connections: TCP, then TLS 1.3 with the configured trust and identity, as a connector for hyper's pool.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Config, Identity, trust};
use crate::{BoxError, TransportError};

/// The TLS side of a [`Config`].
pub(super) fn tls_config(config: &Config) -> Result<ClientConfig, TransportError> {
    let invalid =
        |what: &str, error: &dyn std::fmt::Display| TransportError::Invalid(format!("{what}: {error}"));
    let builder = foundation::tls::client();
    let builder = if config.insecure_skip_tls_verify {
        // `insecure-skip-tls-verify`
        builder.dangerous().with_custom_certificate_verifier(trust::any_certificate())
    } else {
        let roots = match config.ca_pem.as_deref().filter(|pem| !pem.is_empty()) {
            Some(pem) => {
                Arc::new(trust::authorities(pem).map_err(|error| invalid("certificate authority", &error))?)
            }
            None => trust::system_authorities(),
        };
        builder.with_root_certificates(roots)
    };
    match &config.identity {
        Identity::ClientCertificate { certificate_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(certificate_pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| invalid("client certificate", &error))?;
            let key =
                PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| invalid("client key", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| invalid("client certificate", &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Opens connections for a pool.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    name: Option<String>,
    /// How long a connection, TLS included, may take to stand.
    patience: Duration,
}

impl Connector {
    /// `http2` says whether to offer it; a pool for upgrades must not.
    pub(super) fn new(
        mut config: ClientConfig,
        name: Option<String>,
        http2: bool,
        patience: Duration,
    ) -> Connector {
        config.alpn_protocols =
            if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        Connector { tls: TlsConnector::from(Arc::new(config)), name, patience }
    }
}

impl tower::Service<http::Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let (connector, patience) = (self.clone(), self.patience);
        let connect = async move {
            let secure = uri.scheme_str() == Some("https");
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            if !secure {
                return Ok(Stream::Plain(TokioIo::new(tcp)));
            }
            let name = ServerName::try_from(connector.name.unwrap_or(host))?;
            let stream = connector.tls.connect(name, tcp).await?;
            Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
        };
        Box::pin(async move {
            let timed_out = |_| BoxError::from(format!("no connection within {patience:?}"));
            tokio::time::timeout(patience, connect).await.map_err(timed_out)?
        })
    }
}

/// A connection of either sort.
pub(super) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::Service;

    use super::*;

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let tls = tls_config(&Config::default()).unwrap();
        let patience = Duration::from_millis(20);
        let mut connector = Connector::new(tls, None, true, patience);
        let outcome = tokio::time::timeout(Duration::from_secs(60), connector.call(uri)).await;
        let Err(error) = outcome.expect("it does not wait for ever") else { panic!("nobody has answered") };
        assert_eq!(error.to_string(), "no connection within 20ms");
    }
}
