//! What a server answers to machines that are not in the cluster yet, on the API server's port.
//!
//! `GET /cacerts`: the certificate of the cluster's authority, for anybody: it is no secret, and proves itself by the hash
//! in the asker's token.

use std::net::SocketAddr;

use ::apiserver::beside::Beside;
use ::apiserver::response::{self, Response};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;

use super::AUTHORITY_PATH;

/// What answers.
pub struct Door {
    authority: String,
}

impl Door {
    /// The door of a cluster with this authority (PEM).
    pub fn new(authority: String) -> Self {
        Self { authority }
    }
}

#[async_trait]
impl Beside for Door {
    fn has(&self, path: &str) -> bool {
        path == AUTHORITY_PATH
    }

    async fn answer(&self, request: http::Request<Bytes>, _: SocketAddr) -> Response {
        match *request.method() {
            Method::GET => response::bytes(200, "application/x-pem-file", self.authority.clone()),
            _ => response::text(405, "only GET is answered here\n"),
        }
    }
}
