//! What becomes of a claim: it is bound, waits, or is lost.

use std::sync::Arc;

use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use api::types::storage::v1::StorageClass;
use api::volumes::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, STORAGE_PROVISIONER, class_of_claim, is_bound,
    is_for, satisfies, volume_name,
};
use client::EventType;
use reconcile::{Action, Plan, View};

use super::{OF_CLASS, USERS};
use crate::{object, pods};

/// The same annotation under its old name: provisioners look at either.
const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

pub(super) fn plan(plan: &mut Plan, view: &View<'_>, claim: &PersistentVolumeClaim) {
    let volume = view.get::<PersistentVolume>("", volume_name(claim));
    if is_bound(claim) {
        return keep(plan, claim, volume.as_deref());
    }
    match (volume_name(claim), volume) {
        ("", _) => choose(plan, view, claim),
        (_, None) => pend(plan, claim),
        (_, Some(volume)) => {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            match reference {
                Some(reference) if is_for(reference, claim) => bind(plan, claim, &volume),
                // It may become free.
                Some(_) => pend(plan, claim),
                None if satisfies(&volume, claim) => bind(plan, claim, &volume),
                None => {
                    let message = format!(
                        "Cannot bind to requested volume {:?}: it does not satisfy the claim",
                        object::name(&*volume)
                    );
                    plan.event(claim, EventType::Warning, "VolumeMismatch", message);
                    pend(plan, claim);
                }
            }
        }
    }
}

/// A claim that was bound stays so, or has lost its volume.
fn keep(plan: &mut Plan, claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) {
    let Some(volume) = volume else {
        let what = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lose(plan, claim, "ClaimLost", what);
    };
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        Some(reference) if !is_for(reference, claim) => {
            let what = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(plan, claim, "ClaimMisbound", what);
        }
        _ => bind(plan, claim, volume),
    }
}

fn lose(plan: &mut Plan, claim: &PersistentVolumeClaim, reason: &str, message: &str) {
    let mut lost = claim.clone();
    let status = lost.status.get_or_insert_default();
    if status.phase.as_deref() == Some("Lost") {
        return;
    }
    *status = PersistentVolumeClaimStatus { phase: Some("Lost".to_owned()), ..Default::default() };
    plan.event(claim, EventType::Warning, reason, message);
    plan.act(Action::update_status(&lost));
}

fn pend(plan: &mut Plan, claim: &PersistentVolumeClaim) {
    let mut pending = claim.clone();
    let status = pending.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Pending") {
        status.phase = Some("Pending".to_owned());
        plan.act(Action::update_status(&pending));
    }
}

/// Finds a volume for a claim that names none.
fn choose(plan: &mut Plan, view: &View<'_>, claim: &PersistentVolumeClaim) {
    let class_name = class_of_claim(claim);
    let class = view.get::<StorageClass>("", class_name);
    let waits = class.as_deref().is_some_and(volumes::waits_for_consumer)
        && object::annotation(claim, SELECTED_NODE).is_none();
    let candidates = view.by_index::<PersistentVolume>(OF_CLASS, class_name);
    let is_reserved =
        |volume: &PersistentVolume| volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    // Of those that wait for a pod, only what was set aside for them is theirs already.
    let best = volumes::best(candidates.iter().map(|volume| &**volume), claim, |volume| {
        !waits || is_reserved(volume)
    });
    if let Some(volume) = best {
        return bind(plan, claim, volume);
    }
    if waits {
        let message = waits_for(view, claim);
        plan.event(claim, EventType::Normal, "WaitForFirstConsumer", message);
    } else if class_name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        plan.event(claim, EventType::Normal, "FailedBinding", message);
    } else {
        match class {
            None => {
                let message = format!("storageclass.storage.k8s.io {class_name:?} not found");
                plan.event(claim, EventType::Warning, "ProvisioningFailed", message);
            }
            Some(class) if volumes::is_provisioned(&class) => return provision(plan, claim, &class),
            Some(_) => {
                let message = format!("no volume plugin matched name: {}", "kubernetes.io/no-provisioner");
                plan.event(claim, EventType::Warning, "ProvisioningFailed", message);
            }
        }
    }
    pend(plan, claim);
}

fn waits_for(view: &View<'_>, claim: &PersistentVolumeClaim) -> String {
    let key = client::cache_key(claim.metadata.namespace.as_deref(), object::name(claim));
    let users: Vec<Arc<Pod>> = view.by_index::<Pod>(USERS, &key);
    match users.iter().find(|pod| !pods::is_terminal(pod) && pods::node(pod).is_empty()) {
        Some(pod) => format!("waiting for pod {} to be scheduled", object::name(&**pod)),
        None => "waiting for first consumer to be created before binding".to_owned(),
    }
}

/// Asks the class's provisioner, who watches for the annotation.
fn provision(plan: &mut Plan, claim: &PersistentVolumeClaim, class: &StorageClass) {
    let provisioner = &class.provisioner;
    let asked = [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER]
        .iter()
        .all(|key| object::annotation(claim, key) == Some(provisioner));
    if !asked {
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        for key in [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER] {
            annotations.insert(key.to_owned(), provisioner.clone());
        }
        plan.act(Action::update(&changed));
        return;
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    plan.event(claim, EventType::Normal, "ExternalProvisioning", message);
    pend(plan, claim);
}

/// The next step towards both sides saying the same: the volume's first, for it decides between claims.
fn bind(plan: &mut Plan, claim: &PersistentVolumeClaim, volume: &PersistentVolume) {
    if let Some(changed) = volume_for(volume, claim) {
        plan.act(Action::update(&changed));
        return;
    }
    let name = object::name(volume);
    let by_controller = volume_name(claim).is_empty();
    if by_controller || object::annotation(claim, BIND_COMPLETED).is_none() {
        let mut changed = claim.clone();
        changed.spec.get_or_insert_default().volume_name = Some(name.to_owned());
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
        if by_controller {
            annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        plan.act(Action::update(&changed));
        return;
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Bound".to_owned());
    status.access_modes = spec.access_modes;
    // A claim that grows has its own say about its size.
    if status.capacity.is_none() {
        status.capacity = spec.capacity;
    }
    if claim.status.as_ref() != Some(&status) {
        plan.act(Action::update_status(&PersistentVolumeClaim { status: Some(status), ..claim.clone() }));
    }
}

/// The volume as it says that it is this claim's; `None` if it does.
fn volume_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut changed = volume.clone();
    let reference = &mut changed.spec.get_or_insert_default().claim_ref;
    let was_set = reference.is_some();
    if reference.as_ref().is_some_and(|one| one.uid.is_some() && is_for(one, claim)) {
        return None;
    }
    *reference = Some(client::object_reference(claim));
    if !was_set {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(changed)
}
