//! `pods/eviction`: deletes a pod unless that would break a PodDisruptionBudget.
//!
//! Says so in the pod's condition `DisruptionTarget` first. What was decided for the pod as it was read holds for that
//! pod only, and where it depends on its state, for that state only: the deletion has it for a precondition.
//! Upstream: pkg/registry/core/pod/storage/eviction.go.

use api::meta::LabelSelector;
use api::selector::labels::Selector;
use api::status::Cause;
use api::{GroupResource, GroupVersionKind, Object, Reason, Status};
use async_trait::async_trait;
use schema::{FieldValidation, Schema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::engine::{Call, WriteOptions, check_deletion as check, decode_as, remove, timestamp};
use crate::registry::Subresource;
use crate::response::Response;

/// Upstream's MaxDisruptedPodSize: a budget that forgot so many evictions is broken.
const MAX_DISRUPTED: usize = 2_000;

/// By which clients know the refusals that a budget is the cause of.
const CAUSE: &str = "DisruptionBudget";

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
        let mut eviction = decode_as(&call, &kind, &schema, options.field_validation)
            .or_else(|wrong| of_v1beta1(&call, &schema, options.field_validation).unwrap_or(Err(wrong)))?;
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
        evict(&call, &delete, options.dry_run).await?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(call.respond_value(201, &status))
    }
}

/// The same object in the version that is served nowhere any more, but in which older clients still send it. `None`: the
/// body does not say that it is one.
fn of_v1beta1(call: &Call, schema: &Schema, mode: FieldValidation) -> Option<Result<Object, Status>> {
    let kind = GroupVersionKind::new("policy", "v1beta1", "Eviction");
    let decoded = decode_as(call, &kind, schema, mode);
    if decoded.as_ref().is_err_and(|wrong| wrong.message.contains("does not match the expected API version"))
    {
        return None;
    }
    Some(decoded.map(|mut eviction| {
        eviction.0["apiVersion"] = "policy/v1".into();
        eviction
    }))
}

async fn evict(call: &Call, delete: &Value, dry_run: bool) -> Result<(), Status> {
    // A client that insists on a state is told when it has passed; for others the decision is made anew.
    let insists = delete.pointer("/preconditions/resourceVersion").is_some();
    loop {
        let pod = call.stored().await?.object;
        // What the client itself demands does not get true by trying again.
        check(call, delete, &pod)?;
        let mut delete = delete.clone();
        let pin = |delete: &mut Value, field: &str, value: &str| {
            if delete.pointer(&format!("/preconditions/{field}")).is_none() {
                delete["preconditions"][field] = value.into();
            }
        };
        pin(&mut delete, "uid", pod.uid());
        if let Some(may_become_ready) = without_budget(&pod) {
            if may_become_ready {
                pin(&mut delete, "resourceVersion", pod.resource_version());
            }
            match mark_and_remove(call, delete, dry_run).await {
                Err(status) if status.is_conflict() && may_become_ready && !insists => continue,
                outcome => return outcome,
            }
        }
        let Spent::UnreadyPod { budget } = spend(call, &pod, dry_run).await? else {
            return mark_and_remove(call, delete, dry_run).await;
        };
        pin(&mut delete, "resourceVersion", pod.resource_version());
        return match mark_and_remove(call, delete, dry_run).await {
            Err(status) if status.is_conflict() && !insists => Err(in_process(&budget)),
            outcome => outcome,
        };
    }
}

/// `Some` if no budget is concerned: the pod has ended or is being deleted, or (true) has not begun yet.
fn without_budget(pod: &Object) -> Option<bool> {
    let phase = pod.0.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
    if matches!(phase, "Succeeded" | "Failed") || pod.deletion_timestamp().is_some() {
        return Some(false);
    }
    (phase == "Pending").then_some(true)
}

/// Writes the condition, then deletes the pod, both under the preconditions of `delete` (DeleteOptions).
async fn mark_and_remove(call: &Call, mut delete: Value, dry_run: bool) -> Result<(), Status> {
    let (server, resource) = (&call.server, &call.resource);
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    while !dry_run {
        let old = call.stored().await?;
        check(call, &delete, &old.object)?;
        let mut pod = old.object.clone();
        if !add_condition(&mut pod, &timestamp(server.clock.now())) {
            break;
        }
        let Some(stored) = server.storage.replace(resource, namespace, name, old.revision, pod).await? else {
            continue;
        };
        resource.rest.after(call, Some(&stored.object), Some(&old.object)).await;
        if delete.pointer("/preconditions/resourceVersion").is_some() {
            delete["preconditions"]["resourceVersion"] = stored.object.resource_version().into();
        }
        break;
    }
    remove(call, namespace, name, &delete).await
}

/// Says in the pod that it is to be disrupted; false: it says so already.
fn add_condition(pod: &mut Object, now: &str) -> bool {
    let wanted = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now,
    });
    let conditions = &mut pod.0["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return false };
    let Some(known) = conditions.iter_mut().find(|condition| condition["type"] == wanted["type"]) else {
        conditions.push(wanted);
        return true;
    };
    if ["status", "reason", "message"].iter().all(|field| known[*field] == wanted[*field]) {
        return false;
    }
    let since = known["lastTransitionTime"].take();
    let lasts = known["status"] == wanted["status"];
    *known = wanted;
    if lasts {
        known["lastTransitionTime"] = since;
    }
    true
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.0.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// What a pod's budget says to its eviction.
enum Spent {
    /// One disruption was taken from it, or there is none.
    Counted,
    /// The pod does not count, for as long as it is not ready.
    UnreadyPod { budget: String },
}

/// Takes one disruption from the pod's budget, if it has one.
async fn spend(call: &Call, pod: &Object, dry_run: bool) -> Result<Spent, Status> {
    let budgets = GroupResource::new("policy", "poddisruptionbudgets");
    loop {
        let listed = call.server.cluster.list(&budgets, &call.info.namespace).await?;
        let mut concerned = listed
            .items
            .iter()
            .filter_map(|item| serde_json::from_slice(item).ok().map(Object))
            .filter(|budget: &Object| selects(budget, pod));
        let Some(budget) = concerned.next() else { return Ok(Spent::Counted) };
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
            return Ok(Spent::UnreadyPod { budget: budget.name().to_owned() });
        }
        decrement(&mut budget, pod.name(), &timestamp(call.server.clock.now()))?;
        if dry_run {
            return Ok(Spent::Counted);
        }
        match call.server.cluster.replace(&budgets, budget).await {
            Ok(_) => return Ok(Spent::Counted),
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
    details.causes.push(Cause { reason: CAUSE.into(), message: cause, field: String::new() });
    status
}

/// Asks to come again when the budget has been looked at.
fn in_process(budget: &str) -> Status {
    let mut status =
        refused(format!("The disruption budget {budget} is still being processed by the server."));
    status.details.get_or_insert_default().retry_after_seconds = 10;
    status
}

fn decrement(budget: &mut Object, pod: &str, now: &str) -> Result<(), Status> {
    let name = budget.name().to_owned();
    if count(budget, "observedGeneration") < budget.generation() {
        return Err(in_process(&name));
    }
    // The two wordings differ where the second is given.
    let forbidden = |why: &str, cause: &str| {
        let message = format!("poddisruptionbudget.policy \"{name}\" is forbidden: {why}");
        let mut status = Status::new(403, Reason::Forbidden, message);
        let message = format!("The disruption budget {name} does not allow evicting pods currently: {cause}");
        let details = status.details.get_or_insert_default();
        (details.name, details.kind) = (name.clone(), "poddisruptionbudget".to_owned());
        details.group = "policy".to_owned();
        details.causes.push(Cause { reason: CAUSE.into(), message, field: String::new() });
        status
    };
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return Err(forbidden(why, why));
    }
    let disrupted = budget.0["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            "too many pending evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refused(exhaustion(budget)));
    }
    let status = &mut budget.0["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        // Before the controller has looked at it: who asks next is told why not.
        exhausted(status, now);
    }
    Ok(())
}

/// Why a budget allows no disruption: counts say it best, unless the controller could not count.
fn exhaustion(budget: &Object) -> String {
    let name = budget.name();
    let (desired, current) = (count(budget, "desiredHealthy"), count(budget, "currentHealthy"));
    let conditions = budget.0.pointer("/status/conditions").and_then(Value::as_array);
    let said = conditions.into_iter().flatten().find(|condition| condition["type"] == "DisruptionAllowed");
    let text = |field: &str| said.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    let explained = text("status") == "False" && !text("message").is_empty();
    match text("reason") {
        "SyncFailed" if explained => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            text("message")
        ),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        reason if explained => format!(
            "The disruption budget {name} does not allow evicting pods currently ({reason}): {}",
            text("message")
        ),
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// Says in a budget's status that it allows no more.
fn exhausted(status: &mut Value, now: &str) {
    let mut wanted = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": now, "observedGeneration": status["observedGeneration"],
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == wanted["type"]) {
        Some(known) => {
            if known["status"] == wanted["status"] {
                wanted["lastTransitionTime"] = known["lastTransitionTime"].take();
            }
            *known = wanted;
        }
        None => conditions.push(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_added_once_and_keeps_its_time() {
        let condition = |status: &str, since: &str| json!({"type": "DisruptionTarget", "status": status, "reason": "Other", "lastTransitionTime": since});
        for (before, changes, since) in [
            (json!([]), true, "now"),
            (json!([{"type": "Ready", "status": "True"}]), true, "now"),
            (json!([condition("False", "then")]), true, "now"),
            (json!([condition("True", "then")]), true, "then"),
        ] {
            let mut pod = Object(json!({"status": {"conditions": before}}));
            assert_eq!(add_condition(&mut pod, "now"), changes);
            let conditions = pod.0["status"]["conditions"].as_array().unwrap();
            let all: Vec<_> = conditions.iter().filter(|c| c["type"] == "DisruptionTarget").collect();
            assert_eq!(all.len(), 1);
            assert_eq!(
                (&all[0]["reason"], &all[0]["status"]),
                (&json!("EvictionByEvictionAPI"), &json!("True"))
            );
            assert_eq!(all[0]["lastTransitionTime"], since);
            assert!(!add_condition(&mut pod, "later"));
        }
    }

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let mut budget = Object(json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1},
        }));
        decrement(&mut budget, "p", "now").unwrap();
        assert_eq!(budget.0["status"]["disruptedPods"]["p"], "now");
        let conditions = json!([{
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "lastTransitionTime": "now", "observedGeneration": 1,
        }]);
        assert_eq!(budget.0["status"]["conditions"], conditions);
        let cause = |budget: &mut Object| {
            let refused = decrement(budget, "q", "now").unwrap_err();
            let cause = refused.details.unwrap().causes.remove(0);
            assert_eq!(cause.reason, "DisruptionBudget");
            (refused.code, cause.message)
        };
        for (healthy, condition, message) in [
            (1, json!([]), "needs 1 healthy pods and has 1 currently"),
            (2, json!([]), "does not allow evicting pods currently"),
            (
                2,
                json!([{"type": "DisruptionAllowed", "status": "False", "reason": "R", "message": "m"}]),
                "does not allow evicting pods currently (R): m",
            ),
            (
                1,
                json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "m"}]),
                "does not allow evicting pods currently because it failed sync: m",
            ),
        ] {
            budget.0["status"]["currentHealthy"] = healthy.into();
            budget.0["status"]["conditions"] = condition;
            assert_eq!(cause(&mut budget), (429, format!("The disruption budget b {message}")));
        }
        let mut negative = budget.clone();
        negative.0["status"]["disruptionsAllowed"] = (-1).into();
        assert_eq!(
            cause(&mut negative),
            (403, "The disruption budget b does not allow evicting pods currently: pdb disruptions allowed is negative".to_owned())
        );
        budget.0["metadata"]["generation"] = 2.into();
        assert_eq!(decrement(&mut budget, "q", "now").unwrap_err().retry_after_seconds(), Some(10));
    }
}
