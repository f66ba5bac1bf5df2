//! Makes every pod ask the registry for its images, so that nobody runs an image that is on the node by chance and that
//! they could not pull.
//! Upstream: plugin/pkg/admission/alwayspullimages.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::field::{self, Path};
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::json::text;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

const ALWAYS: &str = "Always";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

fn images(pod: &Object) -> BTreeSet<&str> {
    let containers = LISTS.iter().flat_map(|list| pod.0["spec"][*list].as_array().into_iter().flatten());
    let volumes = pod.0["spec"]["volumes"].as_array().into_iter().flatten();
    let of_volumes = volumes.map(|volume| text(volume, "/image/reference")).filter(|image| !image.is_empty());
    containers.map(|container| text(container, "/image")).chain(of_volumes).collect()
}

/// Whether the write is none of ours: no pod, or an update that brings no new image.
fn ignores(request: &Request<'_>) -> bool {
    let Some(pod) = request.object.as_deref().filter(|_| request.is("", "pods", "")) else { return true };
    request.old.is_some_and(|old| images(pod).is_subset(&images(old)))
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if ignores(request) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        for list in LISTS {
            for container in pod.0["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = ALWAYS.into();
            }
        }
        for volume in pod.0["spec"].get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
                image["pullPolicy"] = ALWAYS.into();
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if ignores(request) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let spec = Path::new("spec");
        let mut wrong = Vec::new();
        for list in LISTS {
            for (index, container) in pod.0["spec"][list].as_array().into_iter().flatten().enumerate() {
                let policy = text(container, "/imagePullPolicy");
                if policy != ALWAYS {
                    let path = spec.child(list).index(index).child("imagePullPolicy");
                    wrong.push(field::not_supported(&path, policy, &[ALWAYS]));
                }
            }
        }
        for (index, volume) in pod.0["spec"]["volumes"].as_array().into_iter().flatten().enumerate() {
            let policy = text(volume, "/image/pullPolicy");
            if volume["image"].is_object() && policy != ALWAYS {
                let path = spec.child("volumes").index(index).child("image").child("pullPolicy");
                wrong.push(field::not_supported(&path, policy, &[ALWAYS]));
            }
        }
        match wrong.first() {
            Some(error) => Err(request.forbidden(error)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn images_are_always_pulled() {
        let cluster = FakeCluster::new();
        let of = |image: &str, policy: &str| {
            let container = json!([{ "name": "c", "image": image, "imagePullPolicy": policy }]);
            pod(json!({ "containers": container, "initContainers": container,
                "volumes": [{ "name": "v", "image": { "reference": image } }, { "name": "e", "emptyDir": {} }] }))
        };
        let policies = |pod: &Value| {
            let spec = &pod["spec"];
            [
                &spec["containers"][0]["imagePullPolicy"],
                &spec["initContainers"][0]["imagePullPolicy"],
                &spec["volumes"][0]["image"]["pullPolicy"],
            ]
            .map(|policy| policy.as_str().unwrap_or_default().to_owned())
        };
        let write = Write::create("pods", "Pod", of("a", "Never"));
        let (made, _) = run(&AlwaysPullImages, &cluster, write).await.unwrap();
        assert_eq!(policies(&made), [ALWAYS; 3]);
        assert!(made["spec"]["volumes"][1].get("image").is_none());
        let write = Write::update("pods", "Pod", of("a", "Never"), of("a", "Never"));
        let (kept, _) = run(&AlwaysPullImages, &cluster, write).await.unwrap();
        assert_eq!(policies(&kept), ["Never", "Never", ""], "no new image");
        let write = Write::update("pods", "Pod", of("a", "Never"), of("b", "Never"));
        let (changed, _) = run(&AlwaysPullImages, &cluster, write).await.unwrap();
        assert_eq!(policies(&changed), [ALWAYS; 3]);
    }
}
