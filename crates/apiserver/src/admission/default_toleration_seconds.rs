//! Lets every pod stay for five minutes on a node that is not ready or not reachable, unless it says otherwise.
//! Upstream: plugin/pkg/admission/defaulttolerationseconds.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, json as reach};
use crate::cluster::ClusterState;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") {
            return Ok(());
        }
        let Some(spec) = request.object.as_deref_mut().and_then(|pod| pod.0.get_mut("spec")) else {
            return Ok(());
        };
        for taint in TAINTS {
            let tolerates = |toleration: &Value| {
                let key = toleration["key"].as_str().unwrap_or_default();
                let effect = toleration["effect"].as_str().unwrap_or_default();
                (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            };
            if !reach::items(spec, "/tolerations").any(tolerates) {
                reach::array_mut(spec, "tolerations").push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
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
    async fn what_the_pod_says_itself_stays() {
        #[rustfmt::skip]
        let table = [
            (json!([]), vec!["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]),
            (json!([{ "operator": "Exists" }]), vec![""]),
            (json!([{ "key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 }]),
             vec![TAINTS[0], TAINTS[1]]),
            (json!([{ "key": TAINTS[0], "operator": "Exists", "effect": "NoSchedule" }]),
             vec![TAINTS[0], TAINTS[0], TAINTS[1]]),
        ];
        for (tolerations, want) in table {
            let write = Write::create("pods", "Pod", pod(json!({ "tolerations": tolerations })));
            let (pod, _) = run(&DefaultTolerationSeconds, &FakeCluster::new(), write).await.unwrap();
            let keys: Vec<&str> = reach::items(&pod, "/spec/tolerations")
                .map(|t| t["key"].as_str().unwrap_or_default())
                .collect();
            assert_eq!(keys, want);
        }
    }
}
