//! `pods/eviction`: deletes a pod unless that would break a PodDisruptionBudget.
//! Upstream: pkg/registry/core/pod/storage/eviction.go.

use api::meta::LabelSelector;
use api::selector::labels::Selector;
use api::status::Cause;
use api::{GroupResource, GroupVersionKind, Object, Reason, Status};
use async_trait::async_trait;
use schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::engine::{Call, WriteOptions, decode_as, remove, timestamp};
use crate::registry::Subresource;
use crate::response::Response;

/// Upstream's MaxDisruptedPodSize: a budget that forgot so many evictions is broken.
const MAX_DISRUPTED: usize = 2_000;

pub(super) struct Eviction;

#[async_trait]
impl Subresource for Eviction {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        if call.info.verb != "create" {
            return Err(call.method_not_allowed());
        }
        let mut options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let kind = GroupVersionKind::new("policy", "v1", "Eviction");
        let schema = Schema::built_in("io.k8s.api.policy.v1.Eviction")
            .ok_or_else(|| Status::internal("no definition of Eviction"))?;
        let mut eviction = decode_as(&call, &kind, &schema, options.field_validation)?;
        if !eviction.name().is_empty() && eviction.name() != call.info.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut delete = eviction.0.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
        options.dry_run |=
            delete.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if options.dry_run {
            delete["dryRun"] = json!(["All"]);
        }
        {
            let mut request = call.admission(Operation::Create, &options, Some(&mut eviction), None);
            request.kind = kind;
            call.server.admission.admit(&mut request).await?;
            call.server.admission.validate(&mut request).await?;
            call.warn(request.warnings);
        }
        let pod = call.stored().await?.object;
        if !ends_anyway(&pod) {
            spend(&call, &pod, options.dry_run).await?;
            if delete.pointer("/preconditions/uid").is_none() {
                delete["preconditions"]["uid"] = pod.uid().into();
            }
        }
        remove(&call, &call.info.namespace, &call.info.name, &delete).await?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(call.respond_value(201, &status))
    }
}

/// Whether no budget is concerned: the pod has ended, has not begun, or is being deleted.
fn ends_anyway(pod: &Object) -> bool {
    let phase = pod.0.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.deletion_timestamp().is_some()
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.0.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the pod's budget, if it has one.
async fn spend(call: &Call, pod: &Object, dry_run: bool) -> Result<(), Status> {
    let budgets = GroupResource::new("policy", "poddisruptionbudgets");
    loop {
        let listed = call.server.cluster.list(&budgets, &call.info.namespace).await?;
        let mut concerned = listed
            .items
            .iter()
            .filter_map(|item| serde_json::from_slice(item).ok().map(Object))
            .filter(|budget: &Object| selects(budget, pod));
        let Some(budget) = concerned.next() else { return Ok(()) };
        if concerned.next().is_some() {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        // The cache may be behind an eviction of a moment ago: decide on what is stored.
        let mut budget = match call.server.cluster.get(&budgets, &call.info.namespace, budget.name()).await {
            Ok(budget) => budget,
            Err(status) if status.is_not_found() => continue,
            Err(status) => return Err(status),
        };
        if !is_ready(pod) && unready_may_go(&budget) {
            return Ok(());
        }
        decrement(&mut budget, pod.name(), &timestamp(call.server.clock.now()))?;
        if dry_run {
            return Ok(());
        }
        match call.server.cluster.replace(&budgets, budget).await {
            Ok(_) => return Ok(()),
            Err(status) if status.is_conflict() => {}
            Err(status) => return Err(status),
        }
    }
}

fn selects(budget: &Object, pod: &Object) -> bool {
    let selector = budget.0.pointer("/spec/selector").and_then(|s| LabelSelector::deserialize(s).ok());
    Selector::from_label_selector(selector.as_ref()).is_ok_and(|selector| selector.matches(&pod.labels()))
}

fn count(budget: &Object, field: &str) -> i64 {
    budget.0["status"][field].as_i64().unwrap_or(0)
}

/// Whether the budget lets a pod that is not ready go without counting it.
fn unready_may_go(budget: &Object) -> bool {
    let (healthy, desired) = (count(budget, "currentHealthy"), count(budget, "desiredHealthy"));
    budget.0["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (healthy >= desired && desired > 0)
}

fn refused(cause: String) -> Status {
    let mut status =
        Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    let details = status.details.get_or_insert_default();
    details.causes.push(Cause { reason: "DisruptionBudget".into(), message: cause, field: String::new() });
    status
}

fn decrement(budget: &mut Object, pod: &str, now: &str) -> Result<(), Status> {
    let name = budget.name().to_owned();
    if count(budget, "observedGeneration") < budget.generation() {
        let mut status =
            refused(format!("The disruption budget {name} is still being processed by the server."));
        status.details.get_or_insert_default().retry_after_seconds = 10;
        return Err(status);
    }
    let forbidden = |why: &str| {
        let message = format!("poddisruptionbudgets.policy \"{name}\" is forbidden: {why}");
        Status::new(403, Reason::Forbidden, message)
    };
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = budget.0["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refused(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count(budget, "desiredHealthy"),
            count(budget, "currentHealthy")
        )));
    }
    let status = &mut budget.0["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let mut budget = Object(json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1},
        }));
        decrement(&mut budget, "p", "now").unwrap();
        assert_eq!(budget.0["status"]["disruptedPods"]["p"], "now");
        let refused = decrement(&mut budget, "q", "now").unwrap_err();
        assert_eq!(refused.code, 429);
        assert_eq!(
            refused.details.unwrap().causes[0].message,
            "The disruption budget b needs 1 healthy pods and has 2 currently"
        );
        budget.0["metadata"]["generation"] = 2.into();
        assert_eq!(decrement(&mut budget, "q", "now").unwrap_err().retry_after_seconds(), Some(10));
    }
}
