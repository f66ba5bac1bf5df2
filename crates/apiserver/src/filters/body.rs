//! The body of a request: whether it means anything, and reading it, up to a bound.
//!
//! Not here: bodies that are passed on to other servers (`Body::passed_on`).

use api::{Reason, Status};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::Body;
use crate::request::RequestInfo;
use crate::server::Server;

/// Whether a body means nothing to the request: then it is neither waited for nor passed on.
pub(super) fn is_meaningless(info: &RequestInfo) -> bool {
    info.verb == "watch" || (!info.is_long_running() && matches!(info.verb.as_str(), "get" | "list"))
}

/// The body of a request that has its seats: one that is announced and does not come must not hold them. Where it
/// means nothing it is not waited for, and elsewhere no longer than a request may take (all have that deadline but
/// those whose bodies are passed on).
pub(super) async fn body_of(server: &Server, info: &RequestInfo, body: Body) -> Result<Bytes, Status> {
    if is_meaningless(info) {
        return Ok(Bytes::new());
    }
    read(body, server.options.body_limit).await
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Status> {
    let too_large = || {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, Reason::RequestEntityTooLarge, message)
    };
    match body {
        Body::Ready(bytes) if bytes.len() > limit => Err(too_large()),
        Body::Ready(bytes) => Ok(bytes),
        Body::Wire(body) => match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => Err(Status::bad_request(format!("reading the request's body: {error}"))),
        },
    }
}
