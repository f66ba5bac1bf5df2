//! The calls that the generated services answer: everything but the three that write.
//!
//! Takes a call out of its frames and puts the answer back into frames, until the client has it or goes away. Not here: the
//! connection and the calls that write (`connection`), what each call does (`kv`, `watch`, …).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use crate::Server;
use crate::auth::Auth;
use crate::connection::{MAX_REQUEST, send};
use crate::metrics::{Call, Metrics};
use crate::wire::etcdserverpb::{
    cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};

/// What a client sends, as the generated services take it.
struct Received {
    body: RecvStream,
    metrics: Arc<Metrics>,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { body, metrics } = &mut *self;
        match std::task::ready!(body.poll_data(context)) {
            Some(Ok(piece)) => {
                metrics.received.add(piece.len() as u64);
                let released = body.flow_control().release_capacity(piece.len());
                Poll::Ready(Some(released.map(|()| Frame::data(piece))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = std::task::ready!(body.poll_trailers(context));
                Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The generated services.
#[derive(Clone)]
pub(crate) struct Services {
    kv: KvServer<Server>,
    watch: WatchServer<Server>,
    lease: LeaseServer<Server>,
    cluster: ClusterServer<Server>,
    maintenance: MaintenanceServer<Server>,
}

impl Services {
    pub(crate) fn new(server: &Server) -> Self {
        Self {
            kv: KvServer::new(server.clone()).max_decoding_message_size(MAX_REQUEST),
            watch: WatchServer::new(server.clone()),
            lease: LeaseServer::new(server.clone()),
            cluster: ClusterServer::new(server.clone()),
            maintenance: MaintenanceServer::new(server.clone()),
        }
    }

    async fn call(&mut self, request: Request<Body>) -> Response<Body> {
        const KV: &str = <KvServer<Server> as NamedService>::NAME;
        const WATCH: &str = <WatchServer<Server> as NamedService>::NAME;
        const LEASE: &str = <LeaseServer<Server> as NamedService>::NAME;
        const CLUSTER: &str = <ClusterServer<Server> as NamedService>::NAME;
        const MAINTENANCE: &str = <MaintenanceServer<Server> as NamedService>::NAME;
        let answer: Result<_, Infallible> = match request.uri().path().split('/').nth(1) {
            Some(KV) => self.kv.call(request).await,
            Some(WATCH) => self.watch.call(request).await,
            Some(LEASE) => self.lease.call(request).await,
            Some(CLUSTER) => self.cluster.call(request).await,
            Some(MAINTENANCE) => self.maintenance.call(request).await,
            Some(Auth::NAME) => Auth.call(request).await,
            _ => Ok(Status::unimplemented("").into_http()),
        };
        answer.unwrap_or_else(|never| match never {})
    }
}

/// Has a service answer a call.
pub(crate) async fn answer(
    mut services: Services,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    metrics: Arc<Metrics>,
    mut call: Option<Call>,
) {
    let request = request.map(|body| Body::new(Received { body, metrics: metrics.clone() }));
    let response = tokio::select! {
        response = services.call(request) => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    match pass_on(response, respond, &metrics).await {
        Ok(code) => call.iter_mut().for_each(|call| call.ended(code)),
        Err(error) => tracing::debug!(%error, "a client did not wait for its answer"),
    }
}

/// Sends an answer, and tells how the call ended.
async fn pass_on(
    response: Response<Body>,
    mut respond: SendResponse<Bytes>,
    metrics: &Metrics,
) -> Result<Code, h2::Error> {
    let code = |headers: &HeaderMap| {
        let code = headers.get(Status::GRPC_STATUS);
        code.map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
    };
    let (head, mut body) = response.into_parts();
    let ends = body.is_end_stream();
    let early = code(&head.headers);
    let mut stream = respond.send_response(Response::from_parts(head, ()), ends)?;
    if ends {
        return Ok(early);
    }
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // Nobody reads it any more: a watch would go on for ever.
            reset = poll_fn(|context| stream.poll_reset(context)) => return reset.map(|_| Code::Cancelled),
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                metrics.sent.add(data.len() as u64);
                send(&mut stream, data).await?;
            }
            Some(Ok(Err(other))) => {
                if let Ok(trailers) = other.into_trailers() {
                    let code = code(&trailers);
                    return stream.send_trailers(trailers).map(|()| code);
                }
            }
            Some(Err(status)) => {
                tracing::debug!(%status, "an answer broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(Code::Internal);
            }
            None => return stream.send_data(Bytes::new(), true).map(|()| early),
        }
    }
}
