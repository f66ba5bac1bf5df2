//! Gives a pod the overhead and the node selection of its RuntimeClass.
//! Reads RuntimeClasses.
//! Upstream: plugin/pkg/admission/runtimeclass.

use std::sync::Arc;

use api::types::node::v1 as node;
use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request, json as reach};
use crate::cluster::ClusterState;

pub(super) struct RuntimeClass;

async fn class(
    request: &Request<'_>,
    cluster: &dyn ClusterState,
) -> Result<Option<node::RuntimeClass>, Status> {
    let Some(pod) = request.object.as_deref() else { return Ok(None) };
    let name = reach::text(&pod.0, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    let found = reach::find(cluster, "node.k8s.io", "runtimeclasses", "", name).await?;
    if found.is_none() {
        let missing = Status::not_found(&GroupResource::new("", "RuntimeClass"), name);
        return Err(request.forbidden(format!("pod rejected: {}", missing.message)));
    }
    Ok(found)
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") {
            return Ok(());
        }
        let Some(class) = class(request, &**cluster).await? else { return Ok(()) };
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let fixed = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref());
        let (overhead, own) = (json!(fixed), &pod.0["spec"]["overhead"]);
        if !own.is_null() && fixed.is_some() && *own != overhead {
            let reason = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(request.forbidden(reason));
        }
        let scheduling = class.scheduling.unwrap_or_default();
        let clash = scheduling.node_selector.iter().flatten().find(|(key, value)| {
            pod.0["spec"]["nodeSelector"][key.as_str()].as_str().is_some_and(|own| own != value.as_str())
        });
        if let Some((key, value)) = clash {
            let own = reach::text(&pod.0["spec"]["nodeSelector"][key.as_str()], "");
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        let spec = &mut pod.0["spec"];
        if fixed.is_some() {
            spec["overhead"] = overhead;
        }
        for (key, value) in scheduling.node_selector.into_iter().flatten() {
            spec["nodeSelector"][key] = value.into();
        }
        for toleration in scheduling.tolerations.into_iter().flatten() {
            let toleration = json!(toleration);
            let list = reach::array_mut(spec, "tolerations");
            if !list.contains(&toleration) {
                list.push(toleration);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !request.is("", "pods", "") {
            return Ok(());
        }
        let class = class(request, &**cluster).await?;
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let fixed = class.and_then(|class| class.overhead).and_then(|overhead| overhead.pod_fixed);
        if !pod.0["spec"]["overhead"].is_null() && fixed.is_none() {
            let reason = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(request.forbidden(reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn the_class_shapes_the_pod() {
        let cluster = FakeCluster::new();
        cluster.put("runtimeclasses.node.k8s.io", json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "vm" }, "handler": "vm",
            "overhead": { "podFixed": { "memory": "64Mi" } },
            "scheduling": { "nodeSelector": { "vm": "yes" }, "tolerations": [{ "key": "vm", "operator": "Exists" }] },
        }));
        let create = async |spec| run(&RuntimeClass, &cluster, Write::create("pods", "Pod", pod(spec))).await;
        let (pod, _) = create(json!({ "runtimeClassName": "vm" })).await.unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({ "memory": "64Mi" }));
        assert_eq!(pod["spec"]["nodeSelector"], json!({ "vm": "yes" }));
        assert_eq!(pod["spec"]["tolerations"], json!([{ "key": "vm", "operator": "Exists" }]));
        for (spec, want) in [
            (json!({ "runtimeClassName": "no" }), "pod rejected: RuntimeClass \"no\" not found"),
            (
                json!({ "runtimeClassName": "vm", "overhead": { "memory": "1Mi" } }),
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({ "overhead": { "memory": "1Mi" } }),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({ "runtimeClassName": "vm", "nodeSelector": { "vm": "no" } }),
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
        ] {
            assert_eq!(create(spec).await.unwrap_err().message, format!("pods \"p\" is forbidden: {want}"));
        }
    }
}
