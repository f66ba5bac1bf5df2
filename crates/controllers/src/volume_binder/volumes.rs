//! What becomes of a volume: it is free, bound, or released by a claim that is gone.

use api::meta::Time;
use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim};
use api::volumes::{BOUND_BY_CONTROLLER, volume_name};
use client::Endpoint;
use jiff::Timestamp;
use reconcile::{Action, Plan, View};

use crate::object;

pub(super) fn plan(plan: &mut Plan, view: &View<'_>, volume: &PersistentVolume, now: Timestamp) {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else { return say(plan, volume, "Available", now) };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        // Set aside for a claim that has not come for it.
        return say(plan, volume, "Available", now);
    }
    let (namespace, name) =
        (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
    let claim =
        view.get::<PersistentVolumeClaim>(namespace, name).filter(|claim| object::uid(&**claim) == uid);
    let Some(claim) = claim else {
        // The cache may be behind, and there is no way back from Released.
        let path = Endpoint::of::<PersistentVolumeClaim>().path(Some(namespace), Some(name), None);
        match view.answers().get(&path) {
            None => drop(plan.ask(path)),
            Some(Ok(found)) if found["metadata"]["uid"] == *uid => plan.retry = true,
            Some(Err(status)) if !status.is_not_found() => plan.retry = true,
            Some(_) => say(plan, volume, "Released", now),
        }
        return;
    };
    match volume_name(&claim) {
        // The claim's own run goes on.
        "" => {}
        bound if bound == object::name(volume) => say(plan, volume, "Bound", now),
        // The claim has another volume: this one is free again, but for what the user has set.
        _ => {
            let mut freed = volume.clone();
            let by_controller = object::annotation(volume, BOUND_BY_CONTROLLER).is_some();
            if let Some(spec) = &mut freed.spec {
                match &mut spec.claim_ref {
                    Some(reference) if !by_controller => {
                        reference.uid = None;
                        reference.resource_version = None;
                    }
                    reference => *reference = None,
                }
            }
            if let Some(annotations) = &mut freed.metadata.annotations {
                annotations.remove(BOUND_BY_CONTROLLER);
            }
            plan.act(Action::update(&freed));
        }
    }
}

fn say(plan: &mut Plan, volume: &PersistentVolume, phase: &str, now: Timestamp) {
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    if status.phase.as_deref() == Some(phase) {
        return;
    }
    status.phase = Some(phase.to_owned());
    status.message = None;
    status.last_phase_transition_time = Some(Time(object::seconds(now)));
    plan.act(Action::update_status(&changed));
}
