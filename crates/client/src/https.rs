//! The transport for the wire: HTTP/2 or HTTP/1.1 over TLS 1.3, connections kept and shared.
//!
//! Two pools: ordinary requests go where ALPN leads (h2 multiplexes all of them, watches too, over one connection);
//! requests that upgrade the connection (exec, port-forward) need HTTP/1.1 and get connections of their own.
//! Not here: kubeconfig files ([`crate::kubeconfig`]).

mod connect;
pub mod trust;

use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use self::connect::Connector;
use crate::{Body, BoxError, Transport, TransportError};

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

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// [`Transport`] over TLS.
pub struct HttpsTransport {
    /// `https://host:port/prefix` without a trailing slash.
    base: String,
    identity: Identity,
    pool: Pool,
    upgrades: Pool,
}

impl HttpsTransport {
    /// A transport to `config.server`. Nothing is connected before the first request.
    pub fn new(config: &Config) -> Result<HttpsTransport, TransportError> {
        let uri: http::Uri = config
            .server
            .parse()
            .map_err(|error| TransportError::Invalid(format!("server {:?}: {error}", config.server)))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(TransportError::Invalid(format!("server {:?} is no http(s) URL", config.server)));
        }
        let tls = connect::tls_config(config)?;
        let name = config.tls_server_name.clone();
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            // client-go's transport: a ping after 30 s of silence, the connection is dead 15 s later.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15))
            .http2_keep_alive_while_idle(false)
            .build(Connector::new(tls.clone(), name.clone(), true));
        let upgrades = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(Connector::new(tls, name, false));
        Ok(HttpsTransport {
            base: config.server.trim_end_matches('/').to_owned(),
            identity: config.identity.clone(),
            pool,
            upgrades,
        })
    }

    fn token(&self) -> Result<Option<String>, TransportError> {
        match &self.identity {
            Identity::None | Identity::ClientCertificate { .. } => Ok(None),
            Identity::Token(token) => Ok(Some(token.clone())),
            // A read of a small file of tmpfs or page cache per request is cheaper than watching it.
            Identity::TokenFile(path) => std::fs::read_to_string(path)
                .map(|token| Some(token.trim().to_owned()))
                .map_err(|error| TransportError::Invalid(format!("token file {}: {error}", path.display()))),
        }
    }
}

#[async_trait::async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = format!("{}{path}", self.base)
            .parse()
            .map_err(|error| TransportError::Invalid(format!("path {path:?}: {error}")))?;
        if let Some(token) = self.token()?
            && !parts.headers.contains_key(header::AUTHORIZATION)
        {
            let mut value = header::HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                TransportError::Invalid("the token holds characters no header can".to_owned())
            })?;
            value.set_sensitive(true);
            parts.headers.insert(header::AUTHORIZATION, value);
        }
        let pool = if parts.headers.contains_key(header::UPGRADE) { &self.upgrades } else { &self.pool };
        let response =
            pool.request(http::Request::from_parts(parts, Full::new(body))).await.map_err(|error| {
                if error.is_connect() {
                    TransportError::Connect { server: self.base.clone(), source: cause(error) }
                } else {
                    TransportError::Exchange(cause(error))
                }
            })?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }

    fn host(&self) -> &str {
        let rest = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

/// The innermost reason: hyper's own layers say only "client error (Connect)".
fn cause(error: legacy::Error) -> BoxError {
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}
