//! Gives claims, volumes and volume attribute classes the finalizer that keeps them while they are used.
//! Not here: taking the finalizer away (the protection controllers).
//! Upstream: plugin/pkg/admission/storage/storageobjectinuseprotection.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let finalizer = if request.is("", "persistentvolumeclaims", "") {
            "kubernetes.io/pvc-protection"
        } else if request.is("", "persistentvolumes", "") {
            "kubernetes.io/pv-protection"
        } else if request.is("storage.k8s.io", "volumeattributesclasses", "") {
            "kubernetes.io/vac-protection"
        } else {
            return Ok(());
        };
        let Some(object) = request.object.as_deref_mut() else { return Ok(()) };
        let finalizers = json::array_mut(&mut object.0["metadata"], "finalizers");
        if !finalizers.iter().any(|held| held == finalizer) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn each_gets_its_finalizer() {
        for (path, kind, want) in [
            ("persistentvolumeclaims", "PersistentVolumeClaim", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "PersistentVolume", "kubernetes.io/pv-protection"),
            (
                "volumeattributesclasses.storage.k8s.io",
                "VolumeAttributesClass",
                "kubernetes.io/vac-protection",
            ),
        ] {
            let object = json!({ "kind": kind, "metadata": { "name": "x", "finalizers": ["mine"] } });
            let write = Write::create(path, kind, object);
            let (object, _) = run(&StorageObjectInUseProtection, &FakeCluster::new(), write).await.unwrap();
            assert_eq!(object["metadata"]["finalizers"], json!(["mine", want]));
        }
    }
}
