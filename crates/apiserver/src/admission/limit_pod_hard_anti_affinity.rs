//! Refuses pods that keep others off more than their node: required anti-affinity goes by host name only.
//! Upstream: plugin/pkg/admission/antiaffinity.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::json::{items, text};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

const HOSTNAME: &str = "kubernetes.io/hostname";
const TERMS: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

pub(super) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref().filter(|_| request.is("", "pods", "")) else {
            return Ok(());
        };
        let wide = items(&pod.0, TERMS).map(|term| text(term, "/topologyKey")).find(|key| *key != HOSTNAME);
        match wide {
            Some(key) => Err(request.forbidden(format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is \
                 allowed"
            ))),
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
    async fn required_anti_affinity_goes_by_host_name() {
        for (rule, key, allowed) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", HOSTNAME, true),
            ("requiredDuringSchedulingIgnoredDuringExecution", "zone", false),
            ("preferredDuringSchedulingIgnoredDuringExecution", "zone", true),
        ] {
            let pod = pod(json!({ "affinity": { "podAntiAffinity": { rule: [{ "topologyKey": key }] } } }));
            let write = Write::create("pods", "Pod", pod);
            let found = run(&LimitPodHardAntiAffinityTopology, &FakeCluster::new(), write).await;
            assert_eq!(found.is_ok(), allowed, "{rule} {key}: {found:?}");
        }
    }
}
