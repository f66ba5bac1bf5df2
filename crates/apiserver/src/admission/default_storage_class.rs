//! Gives a claim that names no StorageClass the cluster's default one.
//! Reads StorageClasses.
//! Not here: claims that were made before there was a default (the volume binder).
//! Upstream: plugin/pkg/admission/storage/storageclass/setdefault.

use std::sync::Arc;

use api::types::storage::v1::StorageClass;
use api::{Object, Status};
use async_trait::async_trait;

use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

const MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims", "") {
            return Ok(());
        }
        let Some(claim) = request.object.as_deref_mut() else { return Ok(()) };
        if !claim.0["spec"]["storageClassName"].is_null() || claim.annotation(OLD_CLASS).is_some() {
            return Ok(());
        }
        let classes: Vec<StorageClass> =
            json::list(&**cluster, "storage.k8s.io", "storageclasses", "").await?;
        if let Some(name) = newest(classes.into_iter().map(|class| class.metadata), &MARKS) {
            set(claim, name);
        }
        Ok(())
    }
}

fn set(claim: &mut Object, name: String) {
    claim.0["spec"]["storageClassName"] = name.into();
}

/// The default among classes: of those with a mark the youngest, and of those of one age the first by name.
pub(super) fn newest(classes: impl Iterator<Item = api::meta::ObjectMeta>, marks: &[&str]) -> Option<String> {
    let mut defaults: Vec<_> = classes
        .filter(|class| {
            let annotations = class.annotations.as_ref();
            marks.iter().any(|mark| annotations.is_some_and(|a| a.get(*mark).is_some_and(|v| v == "true")))
        })
        .collect();
    defaults.sort_by(|a, b| {
        let born = |class: &api::meta::ObjectMeta| class.creation_timestamp.as_ref().map(|t| t.0);
        born(b).cmp(&born(a)).then_with(|| a.name.cmp(&b.name))
    });
    defaults.into_iter().next()?.name
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn the_youngest_default_counts() {
        let cluster = FakeCluster::new();
        let claim = |spec: Value| {
            let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": { "name": "c", "namespace": "a" }, "spec": spec });
            Write::create("persistentvolumeclaims", "PersistentVolumeClaim", claim)
        };
        let class = |name: &str, born: &str, mark: &str| {
            json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x",
                "metadata": { "name": name, "creationTimestamp": born, "annotations": { MARKS[0]: mark } } })
        };
        let chosen = async |spec: Value| -> Value {
            run(&DefaultStorageClass, &cluster, claim(spec)).await.unwrap().0["spec"]["storageClassName"]
                .clone()
        };
        assert_eq!(chosen(json!({})).await, Value::Null);
        for class in [
            class("old", "2020-01-01T00:00:00Z", "true"),
            class("b-young", "2024-01-01T00:00:00Z", "true"),
            class("a-young", "2024-01-01T00:00:00Z", "true"),
            class("youngest", "2025-01-01T00:00:00Z", "false"),
        ] {
            cluster.put("storageclasses.storage.k8s.io", class);
        }
        assert_eq!(chosen(json!({})).await, "a-young");
        assert_eq!(chosen(json!({ "storageClassName": "mine" })).await, "mine");
        assert_eq!(chosen(json!({ "storageClassName": "" })).await, "", "expressly none");
    }
}
