//! Keeps the numbered pods of each StatefulSet, in order, each with its own name and volumes.
//!
//! Reads StatefulSets, pods, PersistentVolumeClaims and ControllerRevisions. Creates and deletes pods, creates claims (and
//! deletes or owns them as the retention policy says); writes revisions and the status of StatefulSets.
//! Not here: volumes behind the claims (the volume controllers).
//! Upstream: `pkg/controller/statefulset`.

mod ordinal;
mod status;

use std::collections::HashMap;
use std::sync::Arc;

use api::selector::labels::Selector;
use api::types::apps::v1::{ControllerRevision, StatefulSet};
use api::types::core::v1::{PersistentVolumeClaim, Pod};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use crate::claim::{self, claim};
use crate::{history, numbers, object, pods};

/// Pods made at once under the policy Parallel: users may ask for any number of replicas.
const BURST: usize = 500;

/// The controller.
pub struct StatefulSets;

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<StatefulSet>();
        watches.read::<PersistentVolumeClaim>();
        claim::watch::<Pod, StatefulSet>(watches, selector);
        claim::watch::<ControllerRevision, StatefulSet>(watches, selector);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<StatefulSet>(key) else { return plan };
        let Some(selector) = selector(&set) else { return plan };
        let revisions = claim::<ControllerRevision, StatefulSet>(view, &*set, &selector);
        let owned = claim::<Pod, StatefulSet>(view, &*set, &selector);
        let ours = |action: &Action| {
            // A pod of another name is not one of this set's, whatever its labels say.
            action.endpoint.plural != "pods" || ordinal::of(&set, &action.name).is_some()
        };
        for action in revisions.actions.into_iter().chain(owned.actions.into_iter().filter(ours)) {
            plan.act(action);
        }
        let labels = set.spec.selector.match_labels.clone().unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = history::of(&*set, &set.spec.template, &labels, collisions, revisions.claimed);
        if let Some(write) = &history.write {
            plan.act(write.clone());
        }
        let update = object::name(&history.current).to_owned();
        let stored = set.status.as_ref().and_then(|status| status.current_revision.clone());
        // The revision that pods below the partition stay at; gone from the history, it is the new one.
        let current = stored
            .filter(|name| *name == update || history.old.iter().any(|old| object::name(&**old) == name))
            .unwrap_or_else(|| update.clone());
        let mut pods = owned.claimed;
        pods.retain(|pod| ordinal::of(&set, object::name(&**pod)).is_some());
        let run = Run {
            view,
            set: &set,
            by_name: pods.iter().map(|pod| (object::name(&**pod).to_owned(), pod.clone())).collect(),
            pods,
            revisions: history
                .old
                .iter()
                .map(|old| ControllerRevision::clone(old))
                .chain([history.current])
                .collect(),
            current: &current,
            update: &update,
            now,
        };
        if !object::deleting(&*set) {
            run.step(&mut plan);
        }
        let used = |revision: &ControllerRevision| {
            let name = object::name(revision);
            name == current || name == update || run.pods.iter().any(|pod| revision_of(pod) == Some(name))
        };
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        plan.parallel(history::clean_up(&history.old, limit, used));
        status::write(&run, &mut plan);
        plan
    }
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    Selector::from_label_selector(Some(&set.spec.selector)).ok().filter(|selector| !selector.is_everything())
}

fn revision_of(pod: &Pod) -> Option<&str> {
    object::labels(pod).get(history::HASH).map(String::as_str)
}

fn min_ready(set: &StatefulSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() == Some("Parallel")
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The first ordinal that is updated. Its user chooses the partition, which may be beyond all ordinals.
fn first_updated(set: &StatefulSet) -> i32 {
    let strategy = set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    start(set).saturating_add(rolling.and_then(|rolling| rolling.partition).unwrap_or(0))
}

fn is_rolling(set: &StatefulSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    strategy.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// One StatefulSet with everything its plan reads.
struct Run<'a> {
    view: &'a View<'a>,
    set: &'a StatefulSet,
    pods: Vec<Arc<Pod>>,
    /// The same, found in one step: a plan asks for each ordinal.
    by_name: HashMap<String, Arc<Pod>>,
    revisions: Vec<ControllerRevision>,
    /// Names of revisions: of pods that are not updated, and of those that are.
    current: &'a str,
    update: &'a str,
    now: Timestamp,
}

impl Run<'_> {
    fn pod(&self, ordinal: i32) -> Option<&Arc<Pod>> {
        self.by_name.get(&ordinal::name(self.set, ordinal))
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        pods::is_ready(pod) && !object::deleting(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, min_ready(self.set), self.now) && !object::deleting(pod)
    }

    /// The template that a new pod of this ordinal is of: below the partition (or while the set is first filled at the old
    /// revision) the current one, else the update.
    fn revision_for(&self, ordinal: i32) -> &str {
        let not_updated =
            self.current != self.update && is_rolling(self.set) && ordinal < first_updated(self.set);
        let filling = self.current != self.update
            && is_rolling(self.set)
            && self
                .set
                .spec
                .update_strategy
                .as_ref()
                .is_none_or(|strategy| strategy.rolling_update.is_none())
            && ordinal
                < start(self.set)
                    .saturating_add(self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0));
        if not_updated || filling { self.current } else { self.update }
    }

    /// The next step: fill from below, then shrink from above, then update from above; one at a time unless the policy is
    /// Parallel.
    fn step(&self, plan: &mut Plan) {
        let first = start(self.set);
        let last = first.saturating_add(replicas(self.set));
        let mut created = 0;
        for ordinal in first..last {
            match self.pod(ordinal) {
                None => {
                    self.create(plan, ordinal);
                    created += 1;
                    // The pods that appear bring the next plan.
                    if !is_parallel(self.set) || created == BURST {
                        return;
                    }
                }
                Some(pod) if pods::is_terminal(pod) && !object::deleting(&**pod) => {
                    let message = format!(
                        "StatefulSet {}/{} is recreating failed Pod {}",
                        object::namespace(self.set),
                        object::name(self.set),
                        object::name(&**pod)
                    );
                    plan.event(self.set, EventType::Warning, "RecreatingFailedPod", message);
                    self.delete(plan, pod);
                    if !is_parallel(self.set) {
                        return;
                    }
                }
                Some(pod) => {
                    ordinal::claims(self, plan, ordinal);
                    if !is_parallel(self.set) && !self.is_available(pod) {
                        return;
                    }
                }
            }
        }
        let mut surplus: Vec<_> = self
            .pods
            .iter()
            .filter_map(|pod| Some((ordinal::of(self.set, object::name(&**pod))?, pod)))
            .filter(|(ordinal, _)| *ordinal < first || *ordinal >= last)
            .collect();
        surplus.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        for (_, pod) in &surplus {
            if object::deleting(&***pod) {
                if is_parallel(self.set) {
                    continue;
                }
                return;
            }
            self.delete(plan, pod);
            if !is_parallel(self.set) {
                return;
            }
        }
        if !surplus.is_empty() || !is_rolling(self.set) {
            return;
        }
        self.update(plan, first, last);
    }

    /// Replaces pods of the old revision from above, never more out of service than allowed.
    fn update(&self, plan: &mut Plan, first: i32, last: i32) {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let allowed = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .map_or(1, |most| numbers::scaled(most, replicas(self.set), false).max(1));
        let mut unavailable = (first..last)
            .filter(|ordinal| self.pod(*ordinal).is_none_or(|pod| !self.is_available(pod)))
            .count() as i32;
        for ordinal in (first_updated(self.set)..last).rev() {
            let Some(pod) = self.pod(ordinal) else { return };
            let old = revision_of(pod) != Some(self.update);
            if old && !object::deleting(&**pod) {
                // One that does not serve anyway may go; one that serves only if another may be missing.
                let serves = self.is_available(pod);
                if serves && unavailable >= allowed {
                    return;
                }
                self.delete(plan, pod);
                unavailable += i32::from(serves);
                if unavailable >= allowed {
                    return;
                }
            } else if !self.is_healthy(pod) && allowed == 1 {
                // The order holds: the one above must be well before the next is touched.
                return;
            }
        }
    }

    fn create(&self, plan: &mut Plan, ordinal: i32) {
        ordinal::claims(self, plan, ordinal);
        let name = self.revision_for(ordinal);
        let Some(revision) = self.revisions.iter().find(|revision| object::name(*revision) == name) else {
            return;
        };
        let pod = ordinal::pod(self.set, revision, ordinal);
        let pod_name = object::name(&pod).to_owned();
        let set = object::name(self.set);
        let event = |kind, reason: &str, message: String| EventSpec::new(self.set, kind, reason, message);
        plan.act(
            Action::create(&pod)
                .with_success(event(
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("create Pod {pod_name} in StatefulSet {set} successful"),
                ))
                .with_failure(event(
                    EventType::Warning,
                    "FailedCreate",
                    format!("create Pod {pod_name} in StatefulSet {set} failed error: {{error}}"),
                )),
        );
    }

    fn delete(&self, plan: &mut Plan, pod: &Pod) {
        let (name, set) = (object::name(pod), object::name(self.set));
        let event = |kind, reason: &str, message: String| EventSpec::new(self.set, kind, reason, message);
        plan.act(
            Action::delete(pod)
                .with_success(event(
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("delete Pod {name} in StatefulSet {set} successful"),
                ))
                .with_failure(event(
                    EventType::Warning,
                    "FailedDelete",
                    format!("delete Pod {name} in StatefulSet {set} failed error: {{error}}"),
                )),
        );
    }
}

#[cfg(test)]
mod tests;
