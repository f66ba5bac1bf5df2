//! Counts anew what the objects of a namespace use of each of its ResourceQuotas.
//!
//! Reads ResourceQuotas, pods, Services, claims, and the metadata of every other resource that a quota counts
//! (`count/deployments.apps`). Writes the status of ResourceQuotas.
//! Not here: refusing what is over a quota, and charging what is not (admission, at each write).
//! Upstream: `pkg/controller/resourcequota`.
//!
//! Admission charges a quota *before* the object is stored. A count that lowers the quota between the two would give the same
//! room away twice, so a quota that was written a moment ago is lowered only when it has been left alone for [`SETTLE`]; the
//! same wait gives back what was charged for a write that then failed, which upstream finds out after five minutes.

mod sources;

use std::collections::HashMap;

use api::quantity::Quantity;
use api::quota::{self, Usage};
use api::types::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use api::{GroupResource, Object};
use client::{Change, Resource};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reconcile::{Action, Caches, Controller, Key, Plan, View, Watches};

use self::sources::{Sources, State};
use crate::{object, pods};

/// How long after the last write of a quota nothing that was charged can still be on its way. Writes take milliseconds.
const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// The controller. What it remembers is lost with a restart: since when it knows each quota's state, at the cost of waiting
/// [`SETTLE`] again.
#[derive(Default)]
pub struct ResourceQuotas {
    sources: Sources,
    seen: Mutex<HashMap<Key, (String, Timestamp)>>,
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ResourceQuota>();
        watches.map::<Pod>(|caches, change, wake| {
            let released = match change {
                Change::Added(_) => false,
                Change::Deleted(_) => true,
                Change::Updated { old, new } => {
                    pods::is_terminal(old) != pods::is_terminal(new)
                        || object::deleting(&**old) != object::deleting(&**new)
                        || old.spec != new.spec
                }
            };
            if released {
                wake_namespace(caches, &**change.object(), wake);
            }
        });
        watches.map::<Service>(|caches, change, wake| {
            if !matches!(change, Change::Added(_)) {
                wake_namespace(caches, &**change.object(), wake);
            }
        });
        watches.map::<PersistentVolumeClaim>(|caches, change, wake| {
            if !matches!(change, Change::Added(_)) {
                wake_namespace(caches, &**change.object(), wake);
            }
        });
        self.sources.start(watches);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(found) = view.get_key::<ResourceQuota>(key) else {
            self.seen.lock().remove(key);
            return plan;
        };
        let hard = quota::hard(&found);
        let status = found.status.clone().unwrap_or_default();
        let used = status.used.as_ref().map(quota::parse);
        let settled_at = self.settled_at(key, &found, now);
        let counted_before = status.hard.as_ref().map(quota::parse).as_ref() == Some(&hard) && used.is_some();
        if counted_before && now < settled_at {
            plan.requeue_at(settled_at);
            return plan;
        }
        let count = match self.count(view, &found, &hard, now) {
            Ok(count) => count,
            Err(Wait::Ask(paths)) => {
                plan.questions = paths;
                return plan;
            }
            Err(Wait::Retry) => {
                plan.retry = true;
                return plan;
            }
        };
        if let Some(at) = count.changes_at {
            plan.requeue_at(at);
        }
        let mut next = count.used;
        if now < settled_at {
            for (name, held) in used.iter().flatten() {
                if let Some(amount) = next.get_mut(name) {
                    *amount = (*amount).max(*held);
                }
            }
            plan.requeue_at(settled_at);
        }
        if !counted_before || used.as_ref() != Some(&next) {
            let mut updated = (*found).clone();
            updated.status = Some(ResourceQuotaStatus {
                hard: updated.spec.as_ref().and_then(|spec| spec.hard.clone()),
                used: Some(next.into_iter().map(|(name, amount)| (name, amount.to_wire())).collect()),
            });
            plan.act(Action::update_status(&updated));
        }
        plan
    }
}

/// Why there is no count yet.
enum Wait {
    Ask(Vec<String>),
    /// A cache is being filled.
    Retry,
}

/// What is used, and when that changes though nothing happens.
struct Count {
    used: Usage,
    changes_at: Option<Timestamp>,
}

impl ResourceQuotas {
    /// When the quota will have been as it is for long enough.
    fn settled_at(&self, key: &Key, quota: &ResourceQuota, now: Timestamp) -> Timestamp {
        let version = quota.metadata.resource_version.clone().unwrap_or_default();
        let mut seen = self.seen.lock();
        let since = match seen.get(key) {
            Some((known, since)) if *known == version => *since,
            _ => {
                seen.insert(key.clone(), (version, now));
                now
            }
        };
        since.checked_add(SETTLE).unwrap_or(Timestamp::MAX)
    }

    fn count(
        &self,
        view: &View<'_>,
        quota: &ResourceQuota,
        hard: &Usage,
        now: Timestamp,
    ) -> Result<Count, Wait> {
        let mut count = Count { used: Usage::new(), changes_at: None };
        let resources = quota::resources_behind(hard.keys().map(String::as_str));
        let (mut questions, mut waits) = (Vec::new(), false);
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
                match self.sources.find(resource, view.answers()) {
                    State::Ask(paths) => {
                        questions.extend(paths);
                        continue;
                    }
                    State::Filling => {
                        waits = true;
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
            return Err(Wait::Ask(questions));
        }
        if waits {
            return Err(Wait::Retry);
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
            let after = object::after(end, 1);
            count.changes_at = Some(count.changes_at.map_or(after, |at| at.min(after)));
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

fn wake_namespace<K: Resource>(caches: &Caches, object: &K, wake: &mut dyn FnMut(Key)) {
    for quota in caches.list_namespace::<ResourceQuota>(object::namespace(object)) {
        wake(Key::of(&*quota));
    }
}

#[cfg(test)]
mod tests;
