//! Connections to any number of servers that are trusted and shown the same: kept, shared, opened as needed.
//!
//! Two pools: ordinary requests go where ALPN leads (h2 multiplexes all of them, watches too, over one connection);
//! requests that upgrade the connection (exec, port-forward) need HTTP/1.1 and get connections of their own.
//! Not here: which server a request goes to.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{self, Connector};
use super::{Config, Identity};
use crate::{Body, BoxError, TransportError};

/// How long is waited for a server that says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a connection to stand, TLS included.
    pub(crate) connect: Duration,
    /// How long a connection in use may be silent before it is asked for a sign of life.
    pub(crate) silence: Duration,
    /// For that sign.
    pub(crate) sign: Duration,
}

impl Patience {
    /// client-go's: a ping after 30 s of silence, the connection is dead 15 s later.
    pub(crate) const USUAL: Patience = Patience {
        connect: Duration::from_secs(30),
        silence: Duration::from_secs(30),
        sign: Duration::from_secs(15),
    };
}

/// Why no answer came.
pub(crate) struct Failure {
    /// What happened.
    pub(crate) error: TransportError,
    /// The server has certainly seen nothing of the request.
    pub(crate) unsent: bool,
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Failure {
        Failure { error, unsent: true }
    }
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The connections of one identity.
pub(crate) struct Connections {
    identity: Identity,
    pool: Pool,
    upgrades: Pool,
}

impl Connections {
    /// Connections with the trust and the identity of `config`, whose server is not looked at.
    pub(crate) fn new(config: &Config, patience: Patience) -> Result<Connections, TransportError> {
        let tls = connect::tls_config(config)?;
        let name = config.tls_server_name.clone();
        let connector = |http2| Connector::new(tls.clone(), name.clone(), http2, patience.connect);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(patience.silence)
            .http2_keep_alive_timeout(patience.sign)
            .http2_keep_alive_while_idle(false)
            .build(connector(true));
        let upgrades =
            legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector(false));
        Ok(Connections { identity: config.identity.clone(), pool, upgrades })
    }

    /// Sends a request to a server, whose URL is `base`, without a slash at its end.
    pub(crate) async fn send(
        &self,
        base: &str,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Body>, Failure> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = format!("{base}{path}")
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
        match pool.request(http::Request::from_parts(parts, Full::new(body))).await {
            Ok(response) => Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync())),
            Err(error) if error.is_connect() => {
                let error = TransportError::Connect { server: base.to_owned(), source: cause(&error) };
                Err(Failure { error, unsent: true })
            }
            Err(error) => {
                let unsent = was_canceled(&error);
                Err(Failure { error: TransportError::Exchange(cause(&error)), unsent })
            }
        }
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

/// Whether a connection was gone before it took the request.
fn was_canceled(error: &legacy::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost reason: hyper's own layers say only "client error (Connect)".
fn cause(error: &legacy::Error) -> BoxError {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}
