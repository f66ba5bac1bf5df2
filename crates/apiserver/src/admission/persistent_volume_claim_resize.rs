//! Lets a claim grow only where its StorageClass says that volumes can.
//! Reads StorageClasses.
//! Not here: growing the volume (the expand controller and the node).
//! Upstream: plugin/pkg/admission/storage/persistentvolume/resize.

use std::sync::Arc;

use api::Status;
use api::quantity::Quantity;
use api::types::storage::v1::StorageClass;
use async_trait::async_trait;

use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims", "") {
            return Ok(());
        }
        let (Some(old), Some(new)) = (request.old, request.object.as_deref()) else { return Ok(()) };
        let size = |claim: &serde_json::Value| {
            Quantity::parse(json::text(claim, "/spec/resources/requests/storage")).ok()
        };
        let (Some(before), Some(after)) = (size(&old.0), size(&new.0)) else { return Ok(()) };
        if after <= before {
            return Ok(());
        }
        if json::text(&old.0, "/status/phase") != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = json::text(&new.0, "/spec/storageClassName");
        let class: Option<StorageClass> = if class.is_empty() {
            None
        } else {
            json::find(&**cluster, "storage.k8s.io", "storageclasses", "", class).await?
        };
        if class.is_some_and(|class| class.allow_volume_expansion == Some(true)) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
             support resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn claims_grow_where_the_class_allows_it() {
        let cluster = FakeCluster::new();
        for (name, grows) in [("elastic", true), ("fixed", false)] {
            cluster.put(
                "storageclasses.storage.k8s.io",
                json!({
                    "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x",
                    "metadata": { "name": name }, "allowVolumeExpansion": grows
                }),
            );
        }
        let claim = |class: &str, size: &str, phase: &str| -> Value {
            json!({ "kind": "PersistentVolumeClaim", "metadata": { "name": "c", "namespace": "a" },
                "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } },
                "status": { "phase": phase } })
        };
        #[rustfmt::skip]
        let table = [
            ("elastic", "2Gi", "Bound", true),
            ("elastic", "1024Mi", "Pending", true),
            ("elastic", "2Gi", "Pending", false),
            ("fixed", "2Gi", "Bound", false),
            ("fixed", "1Gi", "Bound", true),
        ];
        for (class, size, phase, good) in table {
            let (old, new) = (claim(class, "1Gi", phase), claim(class, size, phase));
            let write = Write::update("persistentvolumeclaims", "PersistentVolumeClaim", old, new);
            let outcome = run(&PersistentVolumeClaimResize, &cluster, write).await;
            assert_eq!(outcome.is_ok(), good, "{class} {size} {phase}");
        }
    }
}
