//! Counts anew what the objects of a namespace use of each of its ResourceQuotas.
//!
//! Reads ResourceQuotas, pods, Services, claims, and the metadata of every other resource that a quota counts
//! (`count/deployments.apps`). Writes the status of ResourceQuotas.
//! Not here: refusing what is over a quota, and charging what is not (admission, at each write).
//! Upstream: `pkg/controller/resourcequota`.
//!
//! Admission charges a quota *before* the object is stored. A count that lowers the quota between the two would give the same
//! room away twice, so while a quota is being written it is lowered only by what was seen to go (`resourcequota/releases.rs`),
//! and by the whole difference when it has been left alone for [`SETTLE`]; the same wait gives back what was charged for a
//! write that then failed, which upstream finds out after five minutes.

mod releases;
mod sources;

use std::collections::BTreeSet;

use api::quantity::Quantity;
use api::quota::{self, Usage};
use api::types::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use api::{GroupResource, Object};
use client::{Change, Resource};
use jiff::{SignedDuration, Timestamp};
use reconcile::{Action, Caches, Controller, Key, Plan, View, Watches};

use self::releases::{Releases, revision};
use self::sources::{Sources, State};
use crate::{object, pods};

/// How long after the last write of a quota nothing that was charged can still be on its way. Writes take milliseconds.
const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// When a resource is looked for again that the server could not tell of.
const DOWN_SECONDS: i64 = 30;

/// The controller.
#[derive(Default)]
pub struct ResourceQuotas {
    sources: Sources,
    releases: Releases,
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ResourceQuota>();
        let releases = self.releases.clone();
        watches.map::<Pod>(move |caches, change, wake| {
            let released = match change {
                Change::Added(_) => false,
                Change::Deleted(pod) => {
                    if !pods::is_terminal(pod) {
                        release_pod(&releases, caches, pod, revision(&**pod));
                    }
                    true
                }
                Change::Updated { old, new } => {
                    let ended = !pods::is_terminal(old) && pods::is_terminal(new);
                    if ended {
                        release_pod(&releases, caches, old, revision(&**new));
                    }
                    pods::is_terminal(old) != pods::is_terminal(new)
                        || object::deleting(&**old) != object::deleting(&**new)
                        || old.spec != new.spec
                }
            };
            if released {
                wake_namespace(caches, &**change.object(), wake);
            }
        });
        watch_typed::<Service>(watches, "services", &self.releases);
        watch_typed::<PersistentVolumeClaim>(watches, "persistentvolumeclaims", &self.releases);
        self.sources.start(watches, self.releases.clone());
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(found) = view.get_key::<ResourceQuota>(key) else {
            self.releases.forget(key);
            return plan;
        };
        let hard = quota::hard(&found);
        let status = found.status.clone().unwrap_or_default();
        let used = status.used.as_ref().map(quota::parse);
        let version = found.metadata.resource_version.clone().unwrap_or_default();
        let written = view.failure().is_none();
        let since = self.releases.since(key, &version, self.reached(view), written, now);
        let settled_at = since.checked_add(SETTLE).unwrap_or(Timestamp::MAX);
        let counted_before = status.hard.as_ref().map(quota::parse).as_ref() == Some(&hard) && used.is_some();
        if counted_before && now < settled_at {
            plan.requeue_at(settled_at);
            let mut next = used.clone().unwrap_or_default();
            for (name, amount) in self.releases.take(key) {
                if let Some(held) = next.get_mut(&name) {
                    *held = (*held - amount).max(Quantity::ZERO);
                }
            }
            if used.as_ref() != Some(&next) {
                plan.act(with_used(&found, next));
            }
            return plan;
        }
        let count = match self.count(view, &found, &hard, now) {
            Ok(count) => count,
            Err(paths) => {
                plan.questions = paths;
                return plan;
            }
        };
        plan.retry = count.waits;
        if let Some(at) = count.changes_at {
            plan.requeue_at(at);
        }
        let mut next = count.used;
        for name in &count.unknown {
            // What it was is the best that is known of it.
            match used.as_ref().and_then(|used| used.get(name)) {
                Some(held) => drop(next.insert(name.clone(), *held)),
                None => drop(next.remove(name)),
            }
        }
        if now < settled_at {
            for (name, held) in used.iter().flatten() {
                if let Some(amount) = next.get_mut(name) {
                    *amount = (*amount).max(*held);
                }
            }
            plan.requeue_at(settled_at);
        }
        let right = counted_before && used.as_ref() == Some(&next);
        self.releases.counted(key, self.reached(view), now, right);
        if !right {
            plan.act(with_used(&found, next));
        }
        plan
    }
}

fn with_used(quota: &ResourceQuota, used: Usage) -> Action {
    let mut updated = quota.clone();
    updated.status = Some(ResourceQuotaStatus {
        hard: updated.spec.as_ref().and_then(|spec| spec.hard.clone()),
        used: Some(used.into_iter().map(|(name, amount)| (name, amount.to_wire())).collect()),
    });
    Action::update_status(&updated)
}

/// What is used, and when that changes though nothing happens.
struct Count {
    used: Usage,
    changes_at: Option<Timestamp>,
    /// What could not be counted: its resource is not known now.
    unknown: BTreeSet<String>,
    /// A cache is being filled.
    waits: bool,
}

impl ResourceQuotas {
    /// The revision that the caches have reached of what is counted. Read after a count: what comes later it has not seen.
    fn reached(&self, view: &View<'_>) -> u64 {
        let pods = view.informer::<Pod>().resource_version();
        let services = view.informer::<Service>().resource_version();
        let claims = view.informer::<PersistentVolumeClaim>().resource_version();
        let typed = [pods, services, claims].into_iter().filter_map(|version| version.parse().ok());
        typed.chain([self.sources.reached()]).max().unwrap_or(0)
    }

    /// Counts anew; `Err` says what to ask first.
    fn count(
        &self,
        view: &View<'_>,
        quota: &ResourceQuota,
        hard: &Usage,
        now: Timestamp,
    ) -> Result<Count, Vec<String>> {
        let mut count =
            Count { used: Usage::new(), changes_at: None, unknown: BTreeSet::new(), waits: false };
        let resources = quota::resources_behind(hard.keys().map(String::as_str));
        let mut questions = Vec::new();
        for resource in &resources {
            let known = if !resource.group.is_empty() {
                false
            } else {
                match resource.resource.as_str() {
                    "pods" => count_pods(&mut count, view, quota, now),
                    "services" => count_typed::<Service>(&mut count, view, resource, quota),
                    "persistentvolumeclaims" => {
                        count_typed::<PersistentVolumeClaim>(&mut count, view, resource, quota)
                    }
                    _ => false,
                }
            };
            let amounts = if known {
                continue;
            } else {
                let state = self.sources.find(resource, view.answers(), now);
                if let Some(at) = self.sources.changes_at(resource, now) {
                    count.changes_at(at);
                }
                match state {
                    State::Ask(paths) => {
                        questions.extend(paths);
                        continue;
                    }
                    // The others are counted nevertheless.
                    state @ (State::Filling | State::Down) => {
                        count.unknown.extend(quota::counted(resource).into_keys());
                        if matches!(state, State::Filling) {
                            count.waits = true;
                        } else {
                            count.changes_at(object::after(now, DOWN_SECONDS));
                        }
                        continue;
                    }
                    // Nothing is said of a resource that is not served.
                    State::Unknown => continue,
                    State::Ready(informer) => informer.list_namespace(object::namespace(quota)).len(),
                }
            };
            // Scopes are about pods and claims; other objects are in none.
            let within = quota::matches(quota, resource, &Object(serde_json::Value::Null));
            let number = if within { i64::try_from(amounts).unwrap_or(i64::MAX) } else { 0 };
            for name in quota::counted(resource).into_keys() {
                count.used.insert(name, Quantity::new(number, api::quantity::Format::DecimalSi));
            }
        }
        if !questions.is_empty() {
            return Err(questions);
        }
        for name in hard.keys() {
            let resource = quota::resources_behind([name.as_str()].into_iter()).pop_first();
            let unknown = resource.is_some_and(|resource| !self.sources.serves(&resource));
            if !unknown {
                count.used.entry(name.clone()).or_default();
            }
        }
        count.used.retain(|name, _| hard.contains_key(name));
        Ok(count)
    }
}

impl Count {
    fn changes_at(&mut self, at: Timestamp) {
        self.changes_at = Some(self.changes_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn add(used: &mut Usage, more: Usage) {
    for (name, amount) in more {
        *used.entry(name).or_default() += amount;
    }
}

/// The object in its untyped form.
fn untyped<K: Resource>(object: &K) -> Object {
    // Typed objects always serialize.
    Object(serde_json::to_value(object).unwrap_or_default())
}

fn has_scopes(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|spec| {
        spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || spec.scope_selector.is_some()
    })
}

fn count_pods(count: &mut Count, view: &View<'_>, quota: &ResourceQuota, now: Timestamp) -> bool {
    let resource = GroupResource::new("", "pods");
    for pod in view.list_namespace::<Pod>(object::namespace(quota)) {
        if pods::is_terminal(&pod) {
            continue;
        }
        if object::deleting(&*pod)
            && let Some(end) = quota::ends_at(&untyped(&*pod))
        {
            if end < now {
                continue;
            }
            count.changes_at(object::after(end, 1));
        }
        if has_scopes(quota) && !quota::matches(quota, &resource, &untyped(&*pod)) {
            continue;
        }
        add(&mut count.used, quota::of_pod_object(&pod));
    }
    true
}

fn count_typed<K: Resource>(
    count: &mut Count,
    view: &View<'_>,
    resource: &GroupResource,
    quota: &ResourceQuota,
) -> bool {
    for object in view.list_namespace::<K>(object::namespace(quota)) {
        let object = untyped(&*object);
        if quota::matches(quota, resource, &object)
            && let Ok(usage) = quota::of(resource, &object)
        {
            add(&mut count.used, usage);
        }
    }
    true
}

fn release_pod(releases: &Releases, caches: &Caches, pod: &Pod, revision: u64) {
    let resource = GroupResource::new("", "pods");
    // One whose grace period is over is counted no longer.
    let until = if object::deleting(pod) { quota::ends_at(&untyped(pod)) } else { None };
    for quota in caches.list_namespace::<ResourceQuota>(object::namespace(pod)) {
        if !has_scopes(&quota) || quota::matches(&quota, &resource, &untyped(pod)) {
            releases.add(&Key::of(&*quota), revision, until, &quota::of_pod_object(pod));
        }
    }
}

fn watch_typed<K: Resource>(watches: &mut Watches<'_>, plural: &'static str, releases: &Releases) {
    let releases = releases.clone();
    watches.map::<K>(move |caches, change, wake| {
        let (object, resource) = (&**change.object(), GroupResource::new("", plural));
        if matches!(change, Change::Added(_)) {
            return;
        }
        if change.is_deleted() {
            let untyped = untyped(object);
            let usage = quota::of(&resource, &untyped).unwrap_or_default();
            for quota in caches.list_namespace::<ResourceQuota>(object::namespace(object)) {
                if quota::matches(&quota, &resource, &untyped) {
                    releases.add(&Key::of(&*quota), revision(object), None, &usage);
                }
            }
        }
        wake_namespace(caches, object, wake);
    });
}

fn wake_namespace<K: Resource>(caches: &Caches, object: &K, wake: &mut dyn FnMut(Key)) {
    for quota in caches.list_namespace::<ResourceQuota>(object::namespace(object)) {
        wake(Key::of(&*quota));
    }
}

#[cfg(test)]
mod tests;
