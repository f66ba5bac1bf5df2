//! Lets pods that ask for extended resources onto the nodes that are tainted for those who do: nodes with devices carry
//! a taint of the resource's name.
//! Upstream: plugin/pkg/admission/extendedresourcetoleration.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::Status;
use api::types::core::v1::{Pod, Toleration};
use async_trait::async_trait;
use serde_json::json;

use super::json::{array_mut, typed};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

pub(super) struct ExtendedResourceToleration;

/// What the pod's containers ask for that is no resource of Kubernetes' own.
fn extended(pod: &Pod) -> BTreeSet<&str> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    requests
        .flat_map(|requests| requests.keys())
        .map(String::as_str)
        .filter(|name| is_extended(name))
        .collect()
}

fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    // As a quota's name it must be a qualified name still.
    let nameable = api::names::is_qualified_name(&format!("requests.{name}")).is_empty();
    !native && !name.starts_with("requests.") && nameable
}

/// The key of which a toleration bears every taint.
fn tolerates_all_of(toleration: &Toleration) -> Option<&str> {
    let none = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let all = toleration.operator.as_deref() == Some("Exists")
        && none(&toleration.effect)
        && none(&toleration.value);
    toleration.key.as_deref().filter(|_| all)
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") {
            return Ok(());
        }
        let Some(object) = request.object.as_deref_mut() else { return Ok(()) };
        let pod: Pod = typed(object)?;
        let held = pod.spec.iter().filter_map(|spec| spec.tolerations.as_ref()).flatten();
        let tolerated: BTreeSet<&str> = held.filter_map(tolerates_all_of).collect();
        for name in extended(&pod) {
            if !tolerated.contains(name) {
                let tolerations = array_mut(&mut object.0["spec"], "tolerations");
                tolerations.push(json!({ "key": name, "operator": "Exists" }));
            }
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
    async fn who_asks_for_devices_tolerates_their_taints() {
        let container =
            |requests: serde_json::Value| json!({ "name": "c", "resources": { "requests": requests } });
        let asks = pod(json!({
            "containers": [container(json!({ "cpu": "1", "example.com/gpu": "1", "a.kubernetes.io/x": "1" }))],
            "initContainers": [container(json!({ "example.com/fpga": "1", "example.com/gpu": "1" }))],
            "tolerations": [{ "key": "example.com/fpga", "operator": "Exists" }],
        }));
        let write = Write::create("pods", "Pod", asks);
        let (made, _) = run(&ExtendedResourceToleration, &FakeCluster::new(), write).await.unwrap();
        assert_eq!(
            made["spec"]["tolerations"],
            json!([{ "key": "example.com/fpga", "operator": "Exists" },
                { "key": "example.com/gpu", "operator": "Exists" }])
        );
    }
}
