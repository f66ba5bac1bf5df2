//! Keeps the status of each PodDisruptionBudget: how many of its pods are healthy, how many must be, how many may go.
//!
//! Reads PodDisruptionBudgets, pods, ReplicationControllers, ReplicaSets, Deployments, StatefulSets, and the scale of whatever
//! else controls pods. Writes the status of PodDisruptionBudgets; takes back the condition `DisruptionTarget` of pods that
//! were not disrupted after all.
//! Not here: taking a disruption (`pods/eviction` in the API server, which trusts the status only at the current generation).
//! Upstream: `pkg/controller/disruption`.

mod scale;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use api::meta::{IntOrString, Time};
use api::selector::labels::Selector;
use api::types::core::v1::Pod;
use api::types::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use self::scale::Scale;
pub use self::stale::StaleDisruptions;
use crate::{numbers, object, pods};

/// An eviction that was allowed and did not happen within so many seconds is forgotten.
const DELETION_TIMEOUT_SECONDS: i64 = 2 * 60;
const CONDITION: &str = "DisruptionAllowed";

/// The controller.
pub struct Disruption;

impl Controller for Disruption {
    const NAME: &'static str = "controllermanager";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<PodDisruptionBudget>();
        scale::watch(watches);
        watches.map::<Pod>(|caches, change, wake| {
            let pod = &**change.object();
            for budget in caches.list_namespace::<PodDisruptionBudget>(object::namespace(pod)) {
                let Some(selector) = selector(&budget) else { continue };
                let mut states = change.old().into_iter().chain([change.object()]);
                if states.any(|pod| selector.matches(object::labels(&**pod))) {
                    wake(Key::of(&*budget));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(budget) = view.get_key::<PodDisruptionBudget>(key) else { return plan };
        let selector = selector(&budget);
        let mut selected = view.list_namespace::<Pod>(key.namespace());
        selected
            .retain(|pod| selector.as_ref().is_some_and(|selector| selector.matches(object::labels(&**pod))));
        if selected.is_empty() {
            plan.event(&*budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let wanted = match wanted(view, &budget, &selected) {
            Ok(wanted) => wanted,
            Err(scale::Unknown::Ask(paths)) => {
                plan.events.clear();
                plan.questions = paths;
                return plan;
            }
            Err(unknown @ (scale::Unknown::Never(_) | scale::Unknown::Failed(_))) => {
                plan.retry = matches!(unknown, scale::Unknown::Failed(_));
                let (scale::Unknown::Never(why) | scale::Unknown::Failed(why)) = unknown else { return plan };
                let message = format!("Failed to calculate the number of expected pods: {why}");
                plan.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                if let Some(updated) = failed(&budget, why, now) {
                    plan.act(Action::update_status(&updated));
                }
                return plan;
            }
        };
        if wanted.has_unmanaged {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of \
                 the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods \
                 please set \".spec.minAvailable\" field of the PDB to an integer value.",
                go_selector(&budget)
            );
            plan.event(&*budget, EventType::Warning, "UnmanagedPods", message);
        }
        let disrupted = still_disrupted(&mut plan, &budget, &selected, now);
        let healthy = selected.iter().filter(|pod| {
            !object::deleting(&***pod)
                && !disrupted.contains_key(object::name(&***pod))
                && pods::is_ready(pod)
        });
        let healthy = healthy.count() as i32;
        if let Some(updated) = with_status(&budget, &wanted, healthy, disrupted, now) {
            plan.act(Action::update_status(&updated));
        }
        plan
    }
}

/// Which pods the budget is about; `None` for none.
pub(crate) fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    let selector = budget.spec.as_ref()?.selector.as_ref()?;
    Selector::from_label_selector(Some(selector)).ok()
}

/// How many pods there should be, and how many of them healthy.
#[derive(Debug, Default)]
struct Wanted {
    expected: i32,
    healthy: i32,
    has_unmanaged: bool,
}

fn wanted(
    view: &View<'_>,
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
) -> Result<Wanted, scale::Unknown> {
    let spec = budget.spec.clone().unwrap_or_default();
    if let Some(unavailable) = &spec.max_unavailable {
        let Scale { replicas, has_unmanaged } = scale::of(view, selected)?;
        let healthy = (replicas - numbers::scaled(unavailable, replicas, true)).max(0);
        return Ok(Wanted { expected: replicas, healthy, has_unmanaged });
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => {
            let expected = i32::try_from(selected.len()).unwrap_or(i32::MAX);
            Ok(Wanted { expected, healthy: *least, has_unmanaged: false })
        }
        Some(share @ IntOrString::String(_)) => {
            let Scale { replicas, has_unmanaged } = scale::of(view, selected)?;
            let healthy = numbers::scaled(share, replicas, true);
            Ok(Wanted { expected: replicas, healthy, has_unmanaged })
        }
        None => Ok(Wanted::default()),
    }
}

/// The evictions that were allowed and are still to be seen, without those that never came.
fn still_disrupted(
    plan: &mut Plan,
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let mut still = BTreeMap::new();
    let Some(known) = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref()) else {
        return still;
    };
    for pod in selected.iter().filter(|pod| !object::deleting(&***pod)) {
        let Some(since) = known.get(object::name(&**pod)) else { continue };
        let until = object::after(since.0, DELETION_TIMEOUT_SECONDS);
        if until < now {
            // Upstream says the namespace twice.
            let namespace = object::namespace(budget);
            let message =
                format!("Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't");
            plan.event(&**pod, EventType::Warning, "NotDeleted", message);
        } else {
            plan.requeue_at(object::after(until, 1));
            still.insert(object::name(&**pod).to_owned(), since.clone());
        }
    }
    still
}

fn with_status(
    budget: &PodDisruptionBudget,
    wanted: &Wanted,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> Option<PodDisruptionBudget> {
    // Without pods nothing is allowed: the first ones may appear before this is computed again.
    let allowed = if wanted.expected <= 0 { 0 } else { (healthy - wanted.healthy).max(0) };
    let old = budget.status.clone().unwrap_or_default();
    let generation = object::generation(budget);
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(wanted.healthy),
        expected_pods: Some(wanted.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: Some(generation),
        conditions: old.conditions.clone(),
    };
    let (value, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, value, reason, "", Some(generation), now);
    let same_pods =
        old.disrupted_pods.clone().unwrap_or_default() == status.disrupted_pods.clone().unwrap_or_default();
    let disrupted_pods = old.disrupted_pods.clone();
    if same_pods && old == (PodDisruptionBudgetStatus { disrupted_pods, ..status.clone() }) {
        return None;
    }
    Some(PodDisruptionBudget { status: Some(status), ..budget.clone() })
}

/// Nothing may go while nothing can be computed.
fn failed(budget: &PodDisruptionBudget, why: String, now: Timestamp) -> Option<PodDisruptionBudget> {
    let old = budget.status.clone().unwrap_or_default();
    let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
    let observed = status.observed_generation;
    set_condition(&mut status, "False", "SyncFailed", &why, observed, now);
    // What the wire requires of a status that was never computed.
    for number in [&mut status.current_healthy, &mut status.desired_healthy, &mut status.expected_pods] {
        number.get_or_insert(0);
    }
    (status != old).then(|| PodDisruptionBudget { status: Some(status), ..budget.clone() })
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == CONDITION);
    let since = old.map(|at| &conditions[at]).filter(|condition| condition.status == value);
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: since
            .map_or_else(|| Time(object::seconds(now)), |condition| condition.last_transition_time.clone()),
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// The selector as upstream's messages print it.
fn go_selector(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                one.key, one.operator
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests;
