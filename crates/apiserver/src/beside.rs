//! Paths of the server's port that are not the API's.
//!
//! [`Page`]s are for who is authenticated and authorized as for any path that is no resource. A [`Beside`] is asked before
//! anything is asked of who asks.
//!
//! A machine that is to join a cluster can show neither certificate nor token yet. What answers it is handed in
//! ([`crate::Options::beside`]); here it is only given its requests, with bounds: a body of [`BODY`] bytes, within
//! [`PATIENCE`]. No filter sees such a request: no authentication, no audit, no flow control.
//! Not here: what is answered (the binary's `join` and `members`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Limited};

use crate::response::{self, Response};
use crate::server::Server;

/// The largest body in bytes.
const BODY: usize = 64 << 10;
/// How long the body and the answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers on paths of its own.
#[async_trait]
pub trait Beside: Send + Sync + 'static {
    /// Whether this path is one of its own. They must be none of the API's.
    fn has(&self, path: &str) -> bool;

    /// Answers a request for such a path, of somebody who may be anybody.
    async fn answer(&self, request: http::Request<Bytes>, remote: SocketAddr) -> Response;
}

/// Pages for whoever may see them: a request comes here when RBAC has allowed its verb on its path.
#[async_trait]
pub trait Page: Send + Sync + 'static {
    /// Whether this path is one of its own. They must be none of the API's.
    fn has(&self, path: &str) -> bool;

    /// Answers. Bodies are not looked at.
    async fn answer(&self, method: &Method, path: &str) -> Result<Response, Status>;
}

/// What answers a path, if it is not the API.
pub(crate) fn of(server: &Server, path: &str) -> Option<Arc<dyn Beside>> {
    server.options.beside.iter().find(|beside| beside.has(path)).cloned()
}

/// Reads a request and has it answered.
pub(crate) async fn answer(
    server: &Server,
    beside: Arc<dyn Beside>,
    request: http::Request<hyper::body::Incoming>,
    remote: SocketAddr,
) -> Response {
    let (head, body) = request.into_parts();
    let work = async {
        match Limited::new(body, BODY).collect().await {
            Ok(body) => beside.answer(http::Request::from_parts(head, body.to_bytes()), remote).await,
            Err(_) => response::text(413, "the request is too large, or was cut off\n"),
        }
    };
    tokio::select! {
        answer = work => answer,
        () = server.clock.sleep(PATIENCE) => response::text(504, "the request took too long\n"),
    }
}
