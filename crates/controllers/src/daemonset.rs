//! Keeps one pod of each DaemonSet on every node that should have one.
//!
//! Reads DaemonSets, nodes, pods and ControllerRevisions. Creates, adopts, releases and deletes pods; writes revisions and
//! the status of DaemonSets.
//! Not here: binding (pods are pinned to their node by affinity, and the scheduler binds them).
//! Upstream: `pkg/controller/daemon`.

mod place;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::labels::Selector;
use api::types::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use api::types::core::v1::{Node, Pod};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use crate::claim::{self, claim};
use crate::{history, object, pods};

/// Upstream's BurstReplicas for DaemonSets.
const BURST: usize = 250;

/// The controller.
pub struct DaemonSets;

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<DaemonSet>();
        claim::watch::<Pod, DaemonSet>(watches, selector);
        claim::watch::<ControllerRevision, DaemonSet>(watches, selector);
        watches.map::<Node>(|caches, change, wake| {
            let new = change.object();
            // Heartbeats come all the time and decide nothing here.
            let same = change
                .old()
                .is_some_and(|old| object::labels(&**old) == object::labels(&**new) && old.spec == new.spec);
            if !same {
                for set in caches.list::<DaemonSet>() {
                    wake(Key::of(&*set));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<DaemonSet>(key) else { return plan };
        let Some(selector) = selector(&set) else { return plan };
        if object::deleting(&*set) {
            return plan;
        }
        let revisions = claim::<ControllerRevision, DaemonSet>(view, &*set, &selector);
        let owned = claim::<Pod, DaemonSet>(view, &*set, &selector);
        for action in revisions.actions.into_iter().chain(owned.actions) {
            plan.act(action);
        }
        let labels =
            set.spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = history::of(&*set, &set.spec.template, &labels, collisions, revisions.claimed);
        if let Some(write) = history.write {
            plan.act(write);
        }
        let hash = history::hash(&history.current).to_owned();
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in owned.claimed {
            by_node.entry(place::node_of(&pod).to_owned()).or_default().push(pod);
        }
        let nodes = view.list::<Node>();
        let run = Run { set: &set, hash: &hash, nodes: &nodes, by_node: &by_node, now };
        let changes = run.manage(&mut plan);
        let settled = changes.create.is_empty() && changes.delete.is_empty();
        run.apply(&mut plan, changes);
        if settled && update::is_rolling(&set) {
            let changes = update::next(&run);
            run.apply(&mut plan, changes);
        }
        let used = |revision: &ControllerRevision| {
            by_node.values().flatten().any(|pod| pod_hash(pod) == Some(history::hash(revision)))
        };
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        plan.parallel(history::clean_up(&history.old, limit, used));
        run.status(&mut plan);
        plan
    }
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    Selector::from_label_selector(Some(&set.spec.selector)).ok().filter(|selector| !selector.is_everything())
}

fn pod_hash(pod: &Pod) -> Option<&str> {
    object::labels(pod).get(history::HASH).map(String::as_str)
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// One DaemonSet with everything its plan reads.
struct Run<'a> {
    set: &'a DaemonSet,
    /// The hash of the current revision.
    hash: &'a str,
    nodes: &'a [Arc<Node>],
    by_node: &'a BTreeMap<String, Vec<Arc<Pod>>>,
    now: Timestamp,
}

/// Pods to create (on these nodes) and to delete.
#[derive(Default)]
struct Changes {
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
}

impl Run<'_> {
    fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod_hash(pod) == Some(self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, min_ready(self.set), self.now)
    }

    /// One pod on each node that should have one, none where there should be none.
    fn manage(&self, plan: &mut Plan) -> Changes {
        let mut changes = Changes::default();
        for node in self.nodes {
            let name = object::name(&**node);
            let (should_run, may_stay) = place::judge(self.set, node);
            let here = self.on(name);
            if !may_stay {
                changes.delete.extend(here.iter().filter(|pod| !object::deleting(&***pod)).cloned());
                continue;
            }
            let mut running: Vec<Arc<Pod>> = Vec::new();
            for pod in here {
                if object::deleting(&**pod) {
                    // It must be gone before another takes its place and its ports.
                    running.push(pod.clone());
                    continue;
                }
                let ended = match pods::phase(pod) {
                    "Failed" => Some(("FailedDaemonPod", EventType::Warning, "failed")),
                    "Succeeded" => Some(("SucceededDaemonPod", EventType::Normal, "succeeded")),
                    _ => None,
                };
                match ended {
                    Some((reason, kind, word)) => {
                        let full = format!("{}/{}", object::namespace(&**pod), object::name(&**pod));
                        let message = format!(
                            "Found {word} daemon pod {full} on node {name}, will try to {} it",
                            if word == "failed" { "kill" } else { "delete" }
                        );
                        plan.event(self.set, kind, reason, message);
                        changes.delete.push(pod.clone());
                    }
                    None => running.push(pod.clone()),
                }
            }
            let replaced = here.len() > running.len();
            if running.is_empty() && should_run && !replaced {
                changes.create.push(name.to_owned());
            }
            let surging = update::max_surge(self.set, self.nodes.len() as i32) > 0;
            changes.delete.extend(self.superfluous(running, surging));
        }
        // Pods of nodes that are gone are left to the pod garbage collector.
        changes
    }

    /// All pods of a node but the oldest; while surging, but the oldest of either revision.
    fn superfluous(&self, mut running: Vec<Arc<Pod>>, surging: bool) -> Vec<Arc<Pod>> {
        running.retain(|pod| !object::deleting(&**pod));
        running.sort_by_key(|pod| {
            (pods::node(pod).is_empty(), object::created(&**pod), object::name(&**pod).to_owned())
        });
        if !surging {
            return running.split_off(running.len().min(1));
        }
        let (mut new, mut old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
        let mut extra = new.split_off(new.len().min(1));
        let replaced = new.first().is_some_and(|pod| self.is_available(pod));
        extra.extend(if replaced { old } else { old.split_off(old.len().min(1)) });
        extra
    }

    fn apply(&self, plan: &mut Plan, changes: Changes) {
        let creations: Vec<_> = changes
            .create
            .into_iter()
            .take(BURST)
            .map(|node| {
                Action::create(&place::pod(self.set, &node, self.hash))
                    .with_success(EventSpec::new(
                        self.set,
                        EventType::Normal,
                        "SuccessfulCreate",
                        "Created pod: {name}",
                    ))
                    .with_failure(EventSpec::new(
                        self.set,
                        EventType::Warning,
                        "FailedCreate",
                        "Error creating: {error}",
                    ))
            })
            .collect();
        plan.slow_start(creations);
        let deletions = changes.delete.iter().take(BURST).map(|pod| {
            Action::delete(&**pod)
                .with_success(EventSpec::new(
                    self.set,
                    EventType::Normal,
                    "SuccessfulDelete",
                    "Deleted pod: {name}",
                ))
                .with_failure(EventSpec::new(
                    self.set,
                    EventType::Warning,
                    "FailedDelete",
                    "Error deleting: {error}",
                ))
        });
        plan.parallel(deletions.collect());
    }

    fn status(&self, plan: &mut Plan) {
        let mut status = DaemonSetStatus {
            observed_generation: Some(object::generation(self.set)),
            updated_number_scheduled: Some(0),
            number_available: Some(0),
            number_unavailable: Some(0),
            collision_count: self.set.status.as_ref().and_then(|status| status.collision_count),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        let mut look_again: Option<Timestamp> = None;
        for node in self.nodes {
            let (should_run, _) = place::judge(self.set, node);
            let here = self.on(object::name(&**node));
            if !should_run {
                status.number_misscheduled += i32::from(!here.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!here.is_empty());
            // The oldest pod speaks for the node.
            let Some(pod) = here.iter().min_by_key(|pod| (!pods::is_ready(pod), object::created(&***pod)))
            else {
                continue;
            };
            if pods::is_ready(pod) {
                status.number_ready += 1;
                let at = pods::available_at(pod, min_ready(self.set)).filter(|at| *at > self.now);
                look_again = look_again.into_iter().chain(at).min();
            }
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_new(pod));
        }
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        if let Some(at) = look_again {
            plan.requeue_at(at);
        }
        let old = self.set.status.clone().unwrap_or_default();
        if !same(&old, &status) {
            let mut set = self.set.clone();
            set.status = Some(status);
            plan.always(Action::update_status(&set));
        }
    }
}

fn same(a: &DaemonSetStatus, b: &DaemonSetStatus) -> bool {
    let numbers = |status: &DaemonSetStatus| {
        [
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_misscheduled,
            status.number_ready,
            status.number_available.unwrap_or(0),
            status.number_unavailable.unwrap_or(0),
            status.updated_number_scheduled.unwrap_or(0),
        ]
    };
    numbers(a) == numbers(b) && a.observed_generation == b.observed_generation
}

#[cfg(test)]
mod tests;
