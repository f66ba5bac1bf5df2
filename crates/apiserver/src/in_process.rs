//! The transport of the parts that live in the server's process: a call into the filter chain.
//!
//! No connection, no TLS, no copy of a body: an in-process watch hands over the watch cache's buffers. The
//! identity is given when the transport is made; authorization decides as for everyone else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use client::{Body, BoxError, Transport, TransportError};
use http::header;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;

use crate::filters::{self, Identity, Incoming};
use crate::request::User;
use crate::server::Server;

/// Sends requests as one user.
pub struct InProcess {
    pub(crate) server: Arc<Server>,
    pub(crate) user: User,
}

/// Bytes on their way through an upgraded in-process connection.
const PIPE: usize = 64 * 1024;

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        if self.server.tasks.token().is_cancelled() {
            return Err(TransportError::Closed);
        }
        if request.headers().contains_key(header::UPGRADE) {
            return self.upgrade(request).await;
        }
        let (head, body) = request.into_parts();
        let identity = Identity::Known(self.user.clone());
        let incoming = Incoming { head, body: filters::Body::Ready(body), identity };
        Ok(filters::serve(self.server.clone(), incoming).await)
    }
}

impl InProcess {
    /// A request that becomes a stream of another protocol runs over a pipe that speaks HTTP/1.1: only hyper
    /// can make the upgraded connection that both sides expect.
    async fn upgrade(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let exchange = |error: hyper::Error| TransportError::Exchange(BoxError::from(error));
        let (near, far) = tokio::io::duplex(PIPE);
        let (server, user) = (self.server.clone(), self.user.clone());
        self.server.tasks.spawn_until_cancelled("connection", async move {
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (server, identity) = (server.clone(), Identity::Known(user.clone()));
                async move {
                    Ok::<_, std::convert::Infallible>(crate::listen::answer(server, request, identity).await)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "in-process stream ended");
            }
        });
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.map_err(exchange)?;
        self.server.tasks.spawn_until_cancelled("connection", async move {
            // Its errors reach the request and the stream.
            let _ = connection.with_upgrades().await;
        });
        let (mut head, body) = request.into_parts();
        head.headers.entry(header::HOST).or_insert(http::HeaderValue::from_static("kubernetes.default.svc"));
        let request = http::Request::from_parts(head, http_body_util::Full::new(body));
        let response = sender.send_request(request).await.map_err(exchange)?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }
}
