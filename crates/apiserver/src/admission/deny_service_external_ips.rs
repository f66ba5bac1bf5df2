//! Refuses Services that claim addresses which were not theirs before: whoever may make Services could take others'
//! traffic with them.
//! Upstream: plugin/pkg/admission/network/denyserviceexternalips.

use std::collections::HashSet;
use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;

use super::json::items;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

pub(super) struct DenyServiceExternalIps;

fn addresses(service: &Object) -> impl Iterator<Item = &str> {
    items(&service.0, "/spec/externalIPs").filter_map(|address| address.as_str())
}

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let Some(service) = request.object.as_deref().filter(|_| request.is("", "services", "")) else {
            return Ok(());
        };
        let held: HashSet<&str> = request.old.into_iter().flat_map(addresses).collect();
        if addresses(service).all(|address| held.contains(address)) {
            return Ok(());
        }
        Err(request.forbidden("Use of external IPs is denied by admission control."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn addresses_may_go_but_not_come() {
        let service = |addresses: Value| json!({ "metadata": { "name": "s", "namespace": "a" }, "spec": { "externalIPs": addresses } });
        let (none, one, two) = (json!([]), json!(["1.1.1.1"]), json!(["1.1.1.1", "2.2.2.2"]));
        for (old, new, allowed) in [
            (None, &none, true),
            (None, &one, false),
            (Some(&one), &one, true),
            (Some(&two), &one, true),
            (Some(&one), &two, false),
        ] {
            let new = service(new.clone());
            let write = match old {
                None => Write::create("services", "Service", new),
                Some(old) => Write::update("services", "Service", service(old.clone()), new),
            };
            let found = run(&DenyServiceExternalIps, &FakeCluster::new(), write).await;
            assert_eq!(found.is_ok(), allowed, "{old:?}: {found:?}");
        }
    }
}
