//! The door to the API server: one HTTP request in, one HTTP response with a streaming body out.
//!
//! Not here: what travels through it ([`crate::Client`]), TLS and connections ([`crate::HttpsTransport`]), the
//! in-process implementation (it lives with the server, which alone knows its filter chain).

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Any error that a body or a transport may carry across tasks.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: a stream of shared byte frames, so that an in-process watch hands over the very buffers
/// that the server's cache holds.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of no bytes.
pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of exactly these bytes.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The server could not be reached: nothing listens, the name does not resolve, the handshake failed.
    #[error("connect to {server}: {source}")]
    Connect {
        /// Where the connection was meant to go.
        server: String,
        /// What the system said.
        #[source]
        source: BoxError,
    },
    /// The exchange broke after the connection stood. Whether the server acted on the request is unknown.
    #[error("request failed: {0}")]
    Exchange(#[source] BoxError),
    /// The other side is shutting down (in process) or the request was cancelled.
    #[error("the server is shutting down")]
    Closed,
    /// The request or the configuration is not one this transport can carry.
    #[error("{0}")]
    Invalid(String),
}

/// One request in, one response out.
///
/// A request that carries `Connection: Upgrade` is answered with status 101 and an
/// [`hyper::upgrade::OnUpgrade`] in the response's extensions: `hyper::upgrade::on(response)` gives the stream.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`, whose URI is path and query only, and returns once the response's head is there.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError>;

    /// The server, as metrics name it: `host:port`, or a word where there is no network.
    fn host(&self) -> &str {
        "in-process"
    }
}
