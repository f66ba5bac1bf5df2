//! Refuses every write in a namespace that is not there.
//! Reads Namespaces.
//! Not here: what goes on in namespaces that are being deleted (`namespace_lifecycle`, which runs anyway).
//! Upstream: plugin/pkg/admission/namespace/exists.

use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;

use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

pub(super) struct NamespaceExists;

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        let namespaces = GroupResource::new("", "namespaces");
        if request.namespace.is_empty() || request.resource.group_resource() == namespaces {
            return Ok(());
        }
        if cluster.cached(&namespaces, "", request.namespace).await?.is_none() {
            // The cache may be behind a namespace that was made just now.
            cluster.get(&namespaces, "", request.namespace).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn only_namespaces_that_are_there_take_objects() {
        let cluster = FakeCluster::new();
        let error = run(&NamespaceExists, &cluster, Write::create("pods", "Pod", pod(json!({})))).await;
        assert_eq!(error.unwrap_err().message, "namespaces \"a\" not found");
        cluster.put("namespaces", json!({ "metadata": { "name": "a" } }));
        run(&NamespaceExists, &cluster, Write::create("pods", "Pod", pod(json!({})))).await.unwrap();
        let node = json!({ "metadata": { "name": "n" } });
        run(&NamespaceExists, &cluster, Write::create("nodes", "Node", node)).await.unwrap();
    }
}
