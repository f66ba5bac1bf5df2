//! Empties and releases namespaces that are being deleted.
//!
//! Reads namespaces, pods (to know when the last is gone), discovery and the contents of the namespace. Deletes all of it,
//! pods first; writes the conditions that say what remains; removes the finalizer `kubernetes`.
//! Not here: marking a namespace as Terminating (the API server does when it is deleted), refusing new objects in it
//! (admission).
//! Upstream: `pkg/controller/namespace/deletion`, with ordered deletion.

mod contents;

use api::types::core::v1::{Namespace, Pod};
use client::{DeleteOptions, Propagation};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, Verb, View, Watches};

use self::contents::{Contents, Next};
use crate::discovery::Served;
use crate::object;

/// Without this finalizer in its spec a namespace is not ours to empty.
const FINALIZER: &str = "kubernetes";
/// How long after the pods' grace period has begun we look again, if their deletion does not wake us (upstream's wait).
const LOOK_AGAIN_SECONDS: i64 = 15;

/// The controller; its keys are namespaces.
pub struct Namespaces;

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";
    const WORKERS: usize = 10;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<Namespace>(|_, change, wake| {
            if object::deleting(&**change.object()) && !change.is_deleted() {
                wake(Key::of(&**change.object()));
            }
        });
        watches.map::<Pod>(|caches, change, wake| {
            let namespace = object::namespace(&**change.object());
            let last = change.is_deleted() && caches.list_namespace::<Pod>(namespace).is_empty();
            if last && caches.get::<Namespace>("", namespace).is_some_and(|found| object::deleting(&*found)) {
                wake(Key::cluster(namespace));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !object::deleting(&*namespace) || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return plan;
        }
        match contents::next(view.answers(), key.name()) {
            Next::Ask(paths) => plan.questions = paths,
            Next::Empty(kinds) => {
                for kind in kinds {
                    plan.questions.push(contents::list_path(&kind, key.name()));
                    // One kind that cannot be deleted must keep neither the others nor what is said of it.
                    plan.attempts.push(delete_all(&kind, key.name()));
                }
            }
            Next::Remains(contents) => {
                if let Some(updated) = contents::with_conditions(&namespace, &contents, now) {
                    plan.act(Action::update_status(&updated));
                }
                if contents.pods_wait() {
                    plan.requeue_at(object::after(now, LOOK_AGAIN_SECONDS));
                } else {
                    plan.retry = true;
                }
            }
            Next::Gone(contents) => finish(&mut plan, &namespace, &contents, now),
        }
        plan
    }
}

/// Everything of one kind goes, its dependents after it.
fn delete_all(kind: &Served, namespace: &str) -> Action {
    let options = DeleteOptions::default().with_propagation(Propagation::Background);
    Action::dynamic(kind.endpoint.clone(), Some(namespace), "", Verb::DeleteCollection(options))
}

/// Nothing is left: says so, and lets the namespace go.
fn finish(plan: &mut Plan, namespace: &Namespace, contents: &Contents, now: Timestamp) {
    if let Some(updated) = contents::with_conditions(namespace, contents, now) {
        // The finalizer is removed by the next plan, which the change of status wakes.
        plan.act(Action::update_status(&updated));
        return;
    }
    let mut updated = namespace.clone();
    if let Some(finalizers) = updated.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    plan.act(Action::update_subresource(&updated, "finalize"));
}
