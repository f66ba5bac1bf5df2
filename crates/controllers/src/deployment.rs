//! Rolls each Deployment's pods from one template to the next, through ReplicaSets.
//!
//! Reads Deployments, ReplicaSets and (for the Recreate strategy) pods. Creates, scales, adopts and deletes ReplicaSets;
//! writes the revision annotation and the status of Deployments.
//! Not here: pods themselves (the ReplicaSet controller).
//! Upstream: `pkg/controller/deployment`. One plan does one step of a rollout; the change it makes wakes the next.

mod revision;
mod scale;
mod status;

use std::sync::Arc;

use api::selector::labels::Selector;
use api::types::apps::v1::{Deployment, ReplicaSet};
use api::types::core::v1::Pod;
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use self::revision::NewReplicaSet;
use self::scale::{Scaling, replicas_of};
use crate::claim::{self, claim};
use crate::{object, pods};

/// The controller.
pub struct Deployments;

/// One Deployment with its ReplicaSets, as a plan sees them.
struct Rollout<'a> {
    view: &'a View<'a>,
    deployment: &'a Deployment,
    /// The ReplicaSet of the current template.
    new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    old: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
    plan: Plan,
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Deployment>();
        claim::watch::<ReplicaSet, Deployment>(watches, selector);
        watches.index::<Pod>(reconcile::CONTROLLER_UID, |pod| {
            object::controller(pod).map(|owner| owner.uid.clone()).into_iter().collect()
        });
        // Recreate waits for the last old pod to be gone; nothing else here depends on pods.
        watches.map::<Pod>(|caches, change, wake| {
            if !change.is_deleted() && !pods::is_terminal(change.object()) {
                return;
            }
            let pod = &**change.object();
            let set = object::controller(pod)
                .filter(|owner| owner.kind == "ReplicaSet")
                .and_then(|owner| caches.get::<ReplicaSet>(object::namespace(pod), &owner.name));
            if let Some(set) = set
                && let Some(owner) = object::controller(&*set).filter(|owner| owner.kind == "Deployment")
                && let Some(deployment) = caches.get::<Deployment>(object::namespace(pod), &owner.name)
                && is_recreate(&deployment)
            {
                wake(Key::of(&*deployment));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let Some(deployment) = view.get_key::<Deployment>(key) else { return Plan::nothing() };
        let Some(selector) = selector(&deployment) else { return Plan::nothing() };
        let claim = claim::<ReplicaSet, Deployment>(view, &deployment, &selector);
        let mut plan = Plan::nothing();
        for action in claim.actions {
            plan.act(action);
        }
        let (new, old) = revision::split(&deployment, claim.claimed);
        let rollout = Rollout { view, deployment: &deployment, new, old, now, plan };
        rollout.decide()
    }
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    let selector = &deployment.spec.selector;
    Selector::from_label_selector(Some(selector)).ok().filter(|selector| !selector.is_everything())
}

fn is_recreate(deployment: &Deployment) -> bool {
    deployment
        .spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        .is_some_and(|kind| kind == "Recreate")
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.paused.unwrap_or(false)
}

impl Rollout<'_> {
    fn decide(mut self) -> Plan {
        if object::deleting(self.deployment) {
            return self.write_status(false);
        }
        if is_paused(self.deployment) || self.is_scaled() {
            if let Some(plan) = self.sync_existing_revision() {
                return plan;
            }
            let scaling = scale::proportionally(self.deployment, self.new.as_ref(), &self.old);
            self.apply(scaling);
            if is_paused(self.deployment) {
                self.clean_up();
            }
            return self.write_status(false);
        }
        if is_recreate(self.deployment) { self.recreate() } else { self.roll() }
    }

    fn roll(mut self) -> Plan {
        if let Some(plan) = self.ensure_new() {
            return plan;
        }
        let Some(new) = self.new.clone() else { return self.write_status(true) };
        let scaling = scale::up_new(self.deployment, &new, &self.old);
        if self.apply(scaling) {
            return self.write_status(true);
        }
        let scaling = scale::down_old(self.deployment, &new, &self.old);
        if !self.apply(scaling) && status::is_complete(self.deployment) {
            self.clean_up();
        }
        self.write_status(true)
    }

    fn recreate(mut self) -> Plan {
        if let Some(plan) = self.sync_existing_revision() {
            return plan;
        }
        let down: Vec<_> = self
            .old
            .iter()
            .filter(|set| replicas_of(set) > 0)
            .map(|set| Scaling { set: set.clone(), to: 0 })
            .collect();
        if self.apply(down) || self.old_pods_run() {
            return self.write_status(true);
        }
        if let Some(plan) = self.ensure_new() {
            return plan;
        }
        if let Some(new) = self.new.clone() {
            let wanted = scale::wanted(self.deployment);
            let scaling =
                if replicas_of(&new) == wanted { Vec::new() } else { vec![Scaling { set: new, to: wanted }] };
            if !self.apply(scaling) && status::is_complete(self.deployment) {
                self.clean_up();
            }
        }
        self.write_status(true)
    }

    /// Whether the number of replicas was changed while a rollout may be under way: then all sizes change in proportion
    /// before the rollout goes on.
    fn is_scaled(&self) -> bool {
        let wanted = scale::wanted(self.deployment);
        self.all()
            .filter(|set| replicas_of(set) > 0)
            .filter_map(|set| scale::desired_annotation(set))
            .any(|desired| desired != wanted)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.as_ref())
    }

    /// Whether a pod of an old ReplicaSet still runs.
    fn old_pods_run(&self) -> bool {
        self.old.iter().any(|set| {
            let pods = self.view.controlled_by::<Pod>(object::uid(&**set));
            pods.iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    /// Brings the annotations of an existing new ReplicaSet, and the Deployment's revision, up to date.
    fn sync_existing_revision(&mut self) -> Option<Plan> {
        let new = self.new.as_ref()?;
        if let Some(updated) = revision::updated(self.deployment, new, &self.old) {
            let mut plan = std::mem::take(&mut self.plan);
            plan.act(Action::update(&updated));
            return Some(plan);
        }
        let updated = revision::with_revision(self.deployment, new)?;
        let mut plan = std::mem::take(&mut self.plan);
        plan.act(Action::update(&updated));
        Some(plan)
    }

    /// Sees to it that there is a ReplicaSet of the current template. `Some` is the whole plan: come back when it is there.
    fn ensure_new(&mut self) -> Option<Plan> {
        if self.new.is_some() {
            return self.sync_existing_revision();
        }
        match revision::create(self.view, self.deployment, &self.old) {
            NewReplicaSet::Create(set) => {
                let (name, replicas) = (object::name(&*set).to_owned(), replicas_of(&set));
                let mut action = Action::create(&*set);
                if replicas > 0 {
                    action = action.with_success(EventSpec::new(
                        self.deployment,
                        EventType::Normal,
                        "ScalingReplicaSet",
                        format!("Scaled up replica set {name} from 0 to {replicas}"),
                    ));
                }
                let failed = format!("Failed to create new replica set {name:?}: {{error}}");
                action = action.with_failure(EventSpec::new(
                    self.deployment,
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    failed,
                ));
                let mut plan = std::mem::take(&mut self.plan);
                plan.act(action);
                let sets: Vec<_> = self.all().cloned().collect();
                let status = status::created(self.view, self.deployment, &sets, &set, self.now);
                if let Some(updated) = status {
                    plan.act(Action::update_status(&updated));
                }
                Some(plan)
            }
            NewReplicaSet::Collision(updated) => {
                let mut plan = std::mem::take(&mut self.plan);
                plan.act(Action::update_status(&*updated));
                Some(plan)
            }
        }
    }

    /// Scales ReplicaSets; whether there was anything to do.
    fn apply(&mut self, scalings: Vec<Scaling>) -> bool {
        let mut changed = false;
        for Scaling { set, to } in scalings {
            let from = replicas_of(&set);
            let Some(updated) = scale::scaled(self.deployment, &set, to) else { continue };
            let mut action = Action::update(&updated);
            if from != to {
                changed = true;
                let direction = if to > from { "up" } else { "down" };
                let name = object::name(&*set);
                action = action.with_success(EventSpec::new(
                    self.deployment,
                    EventType::Normal,
                    "ScalingReplicaSet",
                    format!("Scaled {direction} replica set {name} from {from} to {to}"),
                ));
            }
            self.plan.act(action);
        }
        changed
    }

    /// Deletes old ReplicaSets beyond the history limit, the lowest revisions first.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.revision_history_limit;
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut cleanable: Vec<_> =
            self.old.iter().filter(|set| !object::deleting(&***set)).cloned().collect();
        let Some(excess) = cleanable.len().checked_sub(limit.max(0) as usize) else { return };
        cleanable.sort_by_key(|set| revision::of(&**set));
        for set in cleanable.into_iter().take(excess) {
            let status = set.status.clone().unwrap_or_default();
            let idle = status.replicas == 0
                && replicas_of(&set) == 0
                && status.observed_generation.unwrap_or(0) >= object::generation(&*set);
            if idle {
                self.plan.act(Action::delete(&*set));
            }
        }
    }

    /// Ends the plan with the status; `rollout` says whether the progress of a rollout is judged.
    fn write_status(mut self, rollout: bool) -> Plan {
        let sets: Vec<_> = self.all().cloned().collect();
        let verdict = status::compute(self.deployment, &sets, self.new.as_deref(), rollout, self.now);
        if let Some(updated) = verdict.updated {
            self.plan.always(Action::update_status(&updated));
        }
        if let Some(at) = verdict.look_again {
            self.plan.requeue_at(at);
        }
        self.plan
    }
}

#[cfg(test)]
mod tests;
