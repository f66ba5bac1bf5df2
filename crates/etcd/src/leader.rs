//! Requests that are only for a member that has a leader: they say so in their metadata.
//!
//! They are refused at once where nobody leads (`connection`), and streams end when the leader is lost, so that clients go on
//! with another member. Upstream: etcd's `api/v3rpc/rpctypes/metadatafields.go` and `v3rpc/interceptor.go`.

use std::sync::Arc;

use http::HeaderMap;
use tonic::{Code, Status};

use crate::cluster::Members;
use crate::{Server, refusal};

/// The metadata, which then has the value `true`.
const REQUIRED: &str = "hasleader";

/// Whether a request is for a member that has a leader, by its metadata.
pub(crate) fn is_required(headers: &HeaderMap) -> bool {
    headers.get(REQUIRED).is_some_and(|value| value.as_bytes() == b"true")
}

/// Whether a request is to be refused for want of a leader.
pub(crate) fn is_missing(headers: &HeaderMap, server: &Server) -> bool {
    let members = server.options.members.as_ref().filter(|_| is_required(headers));
    members.is_some_and(|members| members.standing().leader == 0)
}

/// What such a request is answered where nobody leads. Nothing was done.
pub(crate) fn missing() -> Status {
    Status::new(Code::Unavailable, refusal::NO_LEADER)
}

/// Returns once a stream is to end for want of a leader: never, if it did not ask for one or there is one member only.
pub(crate) async fn lost(required: bool, members: Option<Arc<dyn Members>>) {
    match members.filter(|_| required) {
        Some(members) => members.leaderless().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_true_asks_for_a_leader() {
        for (metadata, expected) in
            [(None, false), (Some(("hasleader", "true")), true), (Some(("hasleader", "false")), false)]
        {
            let mut headers = HeaderMap::new();
            if let Some((key, value)) = metadata {
                headers.insert(key, value.parse().unwrap());
            }
            assert_eq!(is_required(&headers), expected, "{metadata:?}");
        }
    }
}
