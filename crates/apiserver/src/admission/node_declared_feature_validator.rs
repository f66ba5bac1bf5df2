//! Refuses updates of bound pods that need of their node what it does not say it can do.
//! Reads Nodes (`status.declaredFeatures`). Sees updates of pods, and `pods/resize`.
//! Not here: which node a pod that needs a feature is put on (the scheduler); resource slices with resources of their
//! node, whose feature is off by default upstream.
//! Upstream: plugin/pkg/admission/nodedeclaredfeatures, component-helpers/nodedeclaredfeatures.

use std::sync::Arc;

use api::Status;
use api::quantity::Quantity;
use api::types::core::v1::{Container, Node, Pod};
use async_trait::async_trait;

use super::json::{find, text, typed};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

/// CPUs of pods that have them for themselves.
const GUARANTEED_CPU: &str = "GuaranteedQoSPodCPUResize";
/// The resources of a pod as a whole.
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling";

pub(super) struct NodeDeclaredFeatureValidator;

fn cpu(container: &Container) -> Option<Quantity> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    Quantity::from_wire(requests.get("cpu")?).ok()
}

/// The features that a node must have for this change, in the order of their names.
fn required(old: &Pod, new: &Pod) -> Vec<&'static str> {
    let (Some(before), Some(after)) = (&old.spec, &new.spec) else { return Vec::new() };
    let guaranteed = old.status.as_ref().and_then(|s| s.qos_class.as_deref()) == Some("Guaranteed");
    let mut containers = before.containers.iter().zip(&after.containers);
    let cpus = guaranteed
        && containers.any(|(old, new)| cpu(old).unwrap_or_default() != cpu(new).unwrap_or_default());
    let whole = before.resources != after.resources;
    [(cpus, GUARANTEED_CPU), (whole, POD_LEVEL)]
        .into_iter()
        .filter_map(|(needed, feature)| needed.then_some(feature))
        .collect()
}

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !request.is("", "pods", "") && !request.is("", "pods", "resize") {
            return Ok(());
        }
        let (Some(object), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let name = text(&object.0, "/spec/nodeName");
        if name.is_empty() || object.0["spec"] == old.0["spec"] {
            return Ok(());
        }
        let required = required(&typed(old)?, &typed(object)?);
        if required.is_empty() {
            return Ok(());
        }
        let node: Option<Node> = find(&**cluster, "", "nodes", "", name).await?;
        let Some(node) = node else { return Err(request.forbidden(format!("node {name:?} not found"))) };
        let declared = node.status.and_then(|status| status.declared_features).unwrap_or_default();
        let missing: Vec<&str> =
            required.into_iter().filter(|feature| !declared.iter().any(|known| known == feature)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(request.forbidden(format!(
            "pod update requires features {missing} which are not available on node {name:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn a_node_is_asked_for_what_it_says_it_can_do() {
        let cluster = FakeCluster::new();
        for (name, features) in [("new", json!([GUARANTEED_CPU, POD_LEVEL])), ("old", Value::Null)] {
            let node = json!({ "metadata": { "name": name }, "status": { "declaredFeatures": features } });
            cluster.put("nodes", node);
        }
        let sized = |node: &str, class: &str, cpu: &str, whole: &str| {
            let mut pod = pod(json!({
                "nodeName": node, "resources": { "requests": { "cpu": whole } },
                "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }],
            }));
            pod["status"]["qosClass"] = class.into();
            pod
        };
        let lacks = |features: &str| {
            format!(
                "pods \"p\" is forbidden: pod update requires features {features} which are not available on node \"old\""
            )
        };
        let both = format!("{GUARANTEED_CPU}, {POD_LEVEL}");
        for (node, class, cpu, whole, wanted) in [
            ("new", "Guaranteed", "2", "2", None),
            ("old", "Guaranteed", "1000m", "1", None),
            ("old", "Burstable", "2", "1", None),
            ("old", "Guaranteed", "2", "1", Some(lacks(GUARANTEED_CPU))),
            ("old", "Burstable", "1", "2", Some(lacks(POD_LEVEL))),
            ("old", "Guaranteed", "2", "2", Some(lacks(&both))),
            (
                "gone",
                "Guaranteed",
                "2",
                "1",
                Some("pods \"p\" is forbidden: node \"gone\" not found".to_owned()),
            ),
            ("", "Guaranteed", "2", "2", None),
        ] {
            let (old, new) = (sized(node, class, "1", "1"), sized(node, class, cpu, whole));
            let write = Write::update("pods/resize", "Pod", old, new);
            let found = run(&NodeDeclaredFeatureValidator, &cluster, write).await;
            assert_eq!(found.err().map(|error| error.message), wanted, "{node} {class} {cpu} {whole}");
        }
    }
}
