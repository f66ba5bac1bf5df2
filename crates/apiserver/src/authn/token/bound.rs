//! The objects that tokens are about and bound to, read from the cluster.
//! Not here: what follows if one is missing (`issue`, `verify`).

use api::{GroupResource, Object, Status};
use jiff::{SignedDuration, Timestamp};

use crate::cluster::ClusterState;

/// How long after its deletion was asked for an object still counts: clocks differ, and a pod that is being
/// stopped gracefully still needs its token.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// One object: out of the cache if it is there, else from the store, since a token can be quicker than the
/// cache.
pub(super) async fn find(
    cluster: &dyn ClusterState,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Object>, Status> {
    let resource = GroupResource::new("", resource);
    if let Some(bytes) = cluster.cached(&resource, namespace, name).await? {
        return serde_json::from_slice(&bytes).map(|value| Some(Object(value))).map_err(Status::internal);
    }
    match cluster.get(&resource, namespace, name).await {
        Ok(object) => Ok(Some(object)),
        Err(status) if status.is_not_found() => Ok(None),
        Err(status) => Err(status),
    }
}

/// Whether the object's deletion lies so far back that nothing should act for it any more.
pub(super) fn is_gone(object: &Object, now: Timestamp) -> bool {
    object.deletion_timestamp().is_some_and(|deleted| deleted < now - LEEWAY)
}
