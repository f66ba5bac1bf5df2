//! Binds claims to volumes: one to one, and for good.
//!
//! Reads claims, volumes, storage classes and pods. Writes `spec.claimRef` and the status of volumes, `spec.volumeName` and the
//! status of claims; asks provisioners for volumes by an annotation.
//! Not here: claims that wait for their first pod (the scheduler chooses their volume or node), making and deleting volumes
//! (provisioners), attaching and mounting (the node).
//! Upstream: `pkg/controller/volume/persistentvolume`. One write per object and run: the caches show it before the next.

mod claims;
mod volumes;

use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use api::types::storage::v1::StorageClass;
use api::volumes::{class_of_claim, class_of_volume, is_bound, volume_name};
use client::Change;
use jiff::Timestamp;
use reconcile::{Caches, Controller, Key, Plan, View, Watches};

use crate::object;

/// Claims that are not bound, by their class.
const UNBOUND: &str = "unbound-claims-of-class";
/// Volumes by their class.
const OF_CLASS: &str = "volumes-of-class";
/// Pods by the keys of the claims they name.
const USERS: &str = "pods-naming-claim";

/// The controller; its keys are claims (with a namespace) and volumes (without).
pub struct VolumeBinder;

impl Controller for VolumeBinder {
    const NAME: &'static str = "persistentvolume-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.index::<PersistentVolumeClaim>(UNBOUND, |claim| {
            if is_bound(claim) { Vec::new() } else { vec![class_of_claim(claim).to_owned()] }
        });
        watches.index::<PersistentVolume>(OF_CLASS, |volume| vec![class_of_volume(volume).to_owned()]);
        watches.index::<Pod>(USERS, |pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let names = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            names.map(|claim| client::cache_key(Some(object::namespace(pod)), &claim.claim_name)).collect()
        });
        watches.map::<PersistentVolumeClaim>(|_, change, wake| {
            let claim = &**change.object();
            wake(Key::of(claim));
            if !volume_name(claim).is_empty() {
                wake(Key::cluster(volume_name(claim)));
            }
        });
        watches.map::<PersistentVolume>(|caches, change, wake| {
            let volume = &**change.object();
            wake(Key::of(volume));
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            match reference {
                Some(claim) => wake(Key::new(
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default(),
                )),
                None if becomes_free(change) => wake_class(caches, class_of_volume(volume), wake),
                None => {}
            }
        });
        watches.map::<StorageClass>(|caches, change, wake| {
            wake_class(caches, object::name(&**change.object()), wake);
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        if key.namespace().is_empty() {
            if let Some(volume) = view.get_key::<PersistentVolume>(key) {
                volumes::plan(&mut plan, view, &volume, now);
            }
        } else if let Some(claim) = view.get_key::<PersistentVolumeClaim>(key) {
            claims::plan(&mut plan, view, &claim);
        }
        plan
    }
}

/// Whether a claim may get a volume that it could not get before. Each claim looks at all volumes of its class, so a change
/// that helps none must wake none.
fn becomes_free(change: &Change<PersistentVolume>) -> bool {
    let is_free = |volume: &PersistentVolume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, None | Some("" | "Available")) && !object::deleting(volume)
    };
    match change {
        Change::Added(volume) => is_free(volume),
        Change::Updated { old, new } => {
            let same = old.spec == new.spec && object::labels(&**old) == object::labels(&**new);
            is_free(new) && !(same && is_free(old))
        }
        Change::Deleted(_) => false,
    }
}

fn wake_class(caches: &Caches, class: &str, wake: &mut dyn FnMut(Key)) {
    for claim in caches.by_index::<PersistentVolumeClaim>(UNBOUND, class) {
        wake(Key::of(&*claim));
    }
}

#[cfg(test)]
mod tests;
