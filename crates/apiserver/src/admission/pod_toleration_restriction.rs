//! Gives the pods of a namespace the tolerations that it wants them to have, and bounds which they may have.
//! Reads Namespaces (the annotations that say both).
//! Upstream: plugin/pkg/admission/podtolerationrestriction, pkg/util/tolerations.

use std::sync::Arc;

use api::Status;
use api::kinds::core::pod::qos::{self, QosClass};
use api::types::core::v1::{Namespace, Pod, Toleration};
use async_trait::async_trait;

use super::json::{find, typed};
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What holds for namespaces that do not say.
#[derive(Clone, Debug, Default)]
pub struct Tolerations {
    /// What every pod gets.
    pub defaults: Vec<Toleration>,
    /// What pods may have; anything where this is empty.
    pub allowed: Vec<Toleration>,
}

pub(super) struct PodTolerationRestriction {
    usual: Tolerations,
}

impl PodTolerationRestriction {
    pub(super) fn new(usual: Tolerations) -> Self {
        Self { usual }
    }
}

/// What the namespace of a request says under a key; `None` if nothing.
async fn said(
    request: &Request<'_>,
    key: &str,
    cluster: &dyn ClusterState,
) -> Result<Option<Vec<Toleration>>, Status> {
    let found: Option<Namespace> = find(cluster, "", "namespaces", "", request.namespace).await?;
    let annotations = found.and_then(|namespace| namespace.metadata.annotations).unwrap_or_default();
    match annotations.get(key).map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| request.forbidden(error)),
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Whether whoever tolerates `wide` tolerates all that `narrow` does.
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    if wide == narrow {
        return true;
    }
    let exists = text(&wide.operator) == "Exists";
    if narrow.key != wide.key && !(text(&wide.key).is_empty() && exists) {
        return false;
    }
    if text(&narrow.effect) != text(&wide.effect) && !text(&wide.effect).is_empty() {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && let Some(most) = wide.toleration_seconds
        && narrow.toleration_seconds.is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match text(&wide.operator) {
        "Exists" => true,
        "" | "Equal" => {
            matches!(text(&narrow.operator), "" | "Equal") && text(&narrow.value) == text(&wide.value)
        }
        _ => false,
    }
}

/// With more than so many nobody looks for those that others cover: each is held against each.
const MERGED: usize = 500;

/// All of them, without those that others cover: what is covered may also stay, it changes nothing.
fn merged(all: Vec<Toleration>) -> Vec<Toleration> {
    if all.len() > MERGED {
        return all;
    }
    let mut kept: Vec<Toleration> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let before = kept.iter().any(|other| covers(other, one));
        let after = all[index + 1..].iter().any(|other| other != one && covers(other, one));
        if !before && !after {
            kept.push(one.clone());
        }
    }
    kept
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let pod: Pod = typed(pod)?;
        let Some(spec) = &pod.spec else { return Ok(()) };
        let own = spec.tolerations.clone().unwrap_or_default();
        let mut all = own.clone();
        if request.operation == Operation::Create {
            let wanted = said(request, DEFAULTS, &**cluster).await?;
            all = wanted.unwrap_or_else(|| self.usual.defaults.clone());
            all.extend(own.iter().cloned());
            all = merged(all);
        }
        if qos::of_pod(&pod) != QosClass::BestEffort {
            all.push(Toleration {
                key: Some("node.kubernetes.io/memory-pressure".to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoSchedule".to_owned()),
                ..Toleration::default()
            });
            all = merged(all);
        }
        if all != own
            && let Some(object) = request.object.as_deref_mut()
        {
            object.0["spec"]["tolerations"] = serde_json::to_value(all).map_err(Status::internal)?;
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
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let pod: Pod = typed(pod)?;
        let own = pod.spec.and_then(|spec| spec.tolerations).unwrap_or_default();
        if own.is_empty() {
            return Ok(());
        }
        let allowed = said(request, ALLOWED, &**cluster).await?.unwrap_or_else(|| self.usual.allowed.clone());
        let fits = |one: &Toleration| allowed.iter().any(|wide| covers(wide, one));
        if allowed.is_empty() || own.iter().all(fits) {
            return Ok(());
        }
        Err(request.forbidden(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist",
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn namespaces_give_and_bound_tolerations() {
        let one = |key: &str, seconds: Value| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
        let any = json!({ "operator": "Exists" });
        let pressure = json!({ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule" });
        let bounded = json!([one("a", json!(60)), pressure]).to_string();
        for (what, annotations, requests, own, wanted) in [
            ("nothing", json!({}), json!({}), json!([]), Ok(json!([]))),
            (
                "defaults",
                json!({ DEFAULTS: json!([one("a", json!(60))]).to_string() }),
                json!({}),
                json!([]),
                Ok(
                    json!([{ "effect": "NoExecute", "key": "a", "operator": "Exists", "tolerationSeconds": 60 }]),
                ),
            ),
            (
                "covered",
                json!({ DEFAULTS: json!([one("a", json!(60))]).to_string() }),
                json!({}),
                json!([any]),
                Ok(json!([any])),
            ),
            ("not best effort", json!({}), json!({ "cpu": "1" }), json!([]), Ok(json!([pressure]))),
            (
                "within",
                json!({ ALLOWED: bounded }),
                json!({ "cpu": "1" }),
                json!([one("a", json!(30))]),
                Ok(json!([one("a", json!(30)), pressure])),
            ),
            ("beyond", json!({ ALLOWED: bounded }), json!({}), json!([one("a", json!(90))]), Err(())),
            ("other", json!({ ALLOWED: bounded }), json!({}), json!([one("b", json!(30))]), Err(())),
        ] {
            let cluster = FakeCluster::new();
            cluster.put("namespaces", json!({ "metadata": { "name": "a", "annotations": annotations } }));
            let spec = json!({ "tolerations": own, "containers": [{ "name": "c", "resources": { "requests": requests } }] });
            let write = Write::create("pods", "Pod", pod(spec));
            let found = run(&PodTolerationRestriction::new(Tolerations::default()), &cluster, write).await;
            match (found, wanted) {
                (Ok((pod, _)), Ok(wanted)) => assert_eq!(pod["spec"]["tolerations"], wanted, "{what}"),
                (Err(status), Err(())) => {
                    assert!(status.message.ends_with("conflict with its namespace whitelist"), "{status:?}");
                }
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }
}
