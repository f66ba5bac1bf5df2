//! The service Auth, refused by name: who may use the store is decided by client certificates.
//!
//! Without it, clients with a user name would be told only that the method is unknown.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Ready, ready};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};

/// Refuses every call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Auth;

impl NamedService for Auth {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl<B> tower::Service<http::Request<B>> for Auth {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        let text = "etcdserver: users and roles are not supported; access is decided by client certificates";
        ready(Ok(Status::new(Code::Unimplemented, text).into_http()))
    }
}
