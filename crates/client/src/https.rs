//! The transport for the wire: HTTP/2 or HTTP/1.1 over TLS 1.3, connections kept and shared.
//!
//! Not here: kubeconfig files ([`crate::kubeconfig`]), a cluster's several servers ([`crate::ManyServers`]).

mod connect;
pub(crate) mod connections;
pub mod trust;

use bytes::Bytes;

use self::connections::{Connections, Patience};
use crate::{Body, Transport, TransportError};

/// Who the client is.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Nobody: the server treats the requests as anonymous.
    #[default]
    None,
    /// A client certificate.
    ClientCertificate {
        /// The certificate and its intermediates, PEM.
        certificate_pem: Vec<u8>,
        /// Its private key, PEM (PKCS#8, PKCS#1 or SEC1).
        key_pem: Vec<u8>,
    },
    /// A bearer token.
    Token(String),
    /// A file that holds a bearer token and is replaced when the token is renewed (a pod's ServiceAccount token).
    TokenFile(std::path::PathBuf),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Identity::None => "None",
            Identity::ClientCertificate { .. } => "ClientCertificate",
            Identity::Token(_) => "Token",
            Identity::TokenFile(_) => "TokenFile",
        })
    }
}

/// Where the server is and how to trust it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `https://host:port`, with an optional path prefix.
    pub server: String,
    /// The authorities that may have signed the server's certificate, PEM; without any, those that the machine trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// The name to expect in the server's certificate, where it differs from the URL's.
    pub tls_server_name: Option<String>,
    /// Accept any certificate. Only what a kubeconfig explicitly asks for.
    pub insecure_skip_tls_verify: bool,
    /// Who we are.
    pub identity: Identity,
}

/// [`Transport`] over TLS.
pub struct HttpsTransport {
    /// `https://host:port/prefix` without a trailing slash.
    base: String,
    connections: Connections,
}

impl HttpsTransport {
    /// A transport to `config.server`. Nothing is connected before the first request.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for a URL, an authority or an identity that cannot be used.
    pub fn new(config: &Config) -> Result<HttpsTransport, TransportError> {
        let base = base(&config.server)?;
        Ok(HttpsTransport { base, connections: Connections::new(config, Patience::USUAL)? })
    }
}

/// The URL of a server, checked, and without a slash at its end.
pub(crate) fn base(server: &str) -> Result<String, TransportError> {
    let uri: http::Uri =
        server.parse().map_err(|error| TransportError::Invalid(format!("server {server:?}: {error}")))?;
    if uri.host().is_none() || !matches!(uri.scheme_str(), Some("https" | "http")) {
        return Err(TransportError::Invalid(format!("server {server:?} is no http(s) URL")));
    }
    Ok(server.trim_end_matches('/').to_owned())
}

#[async_trait::async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        self.connections.send(&self.base, request).await.map_err(|failure| failure.error)
    }

    fn host(&self) -> &str {
        let rest = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}
