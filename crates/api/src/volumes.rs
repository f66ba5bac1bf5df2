//! Which PersistentVolume fits which claim: what the scheduler and the volume binder both have to know.
//!
//! Pure functions over objects. Not here: who decides when (the scheduler for claims that wait for a consumer, the binder for
//! all others), and writing the binding down.
//! Upstream: component-helpers/storage/volume, pkg/controller/volume/persistentvolume/volume_host… (`FindMatchingVolume`).

use std::collections::BTreeMap;

use crate::quantity::Quantity;
use crate::selector::labels::Selector;
use crate::selector::nodes;
use crate::types::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use crate::types::storage::v1::StorageClass;

/// The claim is bound to its volume, as far as the binder is concerned.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was the binder's choice, not the user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Which node the scheduler has chosen for the claim's first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make a volume for the claim.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The class, as it was said before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// A class whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

type Labels = BTreeMap<String, String>;

/// The class a claim asks for; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let annotation = claim.metadata.annotations.as_ref().and_then(|all| all.get(BETA_CLASS));
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotation.or(field).map(String::as_str).unwrap_or_default()
}

/// The class a volume is of; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotation = volume.metadata.annotations.as_ref().and_then(|all| all.get(BETA_CLASS));
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotation.or(field).map(String::as_str).unwrap_or_default()
}

/// Whether claims of a class wait until a pod needs them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether somebody makes volumes of a class.
pub fn is_provisioned(class: &StorageClass) -> bool {
    class.provisioner != NO_PROVISIONER
}

/// The volume a claim names; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Whether a claim is bound, from its own side.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    !volume_name(claim).is_empty() && annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

/// Whether a volume is set aside for a claim: by name, and by UID where it has one.
pub fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference
            .uid
            .as_deref()
            .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

fn storage(amounts: Option<&BTreeMap<String, crate::meta::Quantity>>) -> Option<Quantity> {
    Quantity::from_wire(amounts?.get("storage")?).ok()
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref())).unwrap_or_default()
}

/// Whether a volume has what a claim asks for: size, mode, access, class, attributes and labels. Not whether it is free.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let requested = storage(wants.resources.as_ref().and_then(|all| all.requests.as_ref()));
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = has.access_modes.as_deref().unwrap_or_default();
    let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
    let selected = match &wants.selector {
        None => true,
        Some(selector) => {
            let none = Labels::new();
            let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
            Selector::from_label_selector(Some(selector)).is_ok_and(|selector| selector.matches(labels))
        }
    };
    capacity(volume) >= requested.unwrap_or_default()
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|wanted| modes.contains(wanted))
        && class_of_volume(volume) == class_of_claim(claim)
        && attributes(&has.volume_attributes_class_name) == attributes(&wants.volume_attributes_class_name)
        && selected
}

/// The volume for a claim among these: the one that was set aside for it, or else the smallest free one that satisfies it.
/// `usable` says whether one may be used at all (its node affinity, for claims that wait for a consumer).
pub fn best<'a>(
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    claim: &PersistentVolumeClaim,
    usable: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a PersistentVolume> {
    let mut smallest: Option<&PersistentVolume> = None;
    for volume in volumes {
        if volume.metadata.deletion_timestamp.is_some() || !satisfies(volume, claim) || !usable(volume) {
            continue;
        }
        match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
            Some(reference) if is_for(reference, claim) => return Some(volume),
            Some(_) => {}
            None => {
                let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                let is_free = matches!(phase, None | Some("" | "Available"));
                let smaller = smallest.is_none_or(|other| {
                    (capacity(volume), &volume.metadata.name) < (capacity(other), &other.metadata.name)
                });
                if is_free && smaller {
                    smallest = Some(volume);
                }
            }
        }
    }
    smallest
}

/// Whether a volume can be used on a node with these labels.
pub fn usable_on(volume: &PersistentVolume, node: &str, labels: &Labels) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| nodes::matches(term, node, labels))
    })
}

/// Whether a node is where volumes of a class may be made.
pub fn allowed_on(class: &StorageClass, labels: &Labels) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            let mut expressions = term.match_label_expressions.iter().flatten();
            expressions.all(|one| labels.get(&one.key).is_some_and(|value| one.values.contains(value)))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, extra: Value) -> PersistentVolume {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let labels = json!({"disk": name});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).unwrap()
    }

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut spec =
            json!({"resources": {"requests": {"storage": "2Gi"}}, "accessModes": ["ReadWriteOnce"]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let metadata = json!({"name": "c", "namespace": "a", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn the_best_volume() {
        let volumes = [
            volume("small", "1Gi", json!({})),
            volume("large", "9Gi", json!({})),
            volume("right", "2Gi", json!({})),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume("gold", "5Gi", json!({"storageClassName": "gold"})),
            volume("taken", "3Gi", json!({"claimRef": {"name": "other", "namespace": "a"}})),
        ];
        for (what, extra, expected) in [
            ("the smallest that is large enough", json!({}), Some("right")),
            ("of its mode", json!({"volumeMode": "Block"}), Some("block")),
            ("of its class", json!({"storageClassName": "gold"}), Some("gold")),
            ("by its labels", json!({"selector": {"matchLabels": {"disk": "large"}}}), Some("large")),
            ("none with that access", json!({"accessModes": ["ReadWriteMany"]}), None),
        ] {
            let found = best(&volumes, &claim(extra), |_| true);
            assert_eq!(found.and_then(|volume| volume.metadata.name.as_deref()), expected, "{what}");
        }
        let mine = volume("mine", "8Gi", json!({"claimRef": {"name": "c", "namespace": "a"}}));
        let all = volumes.iter().chain([&mine]);
        assert_eq!(best(all, &claim(json!({})), |_| true).unwrap().metadata.name.as_deref(), Some("mine"));
    }

    #[test]
    fn volumes_are_where_their_affinity_says() {
        let term = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}]);
        let bound = volume("v", "1Gi", json!({"nodeAffinity": {"required": {"nodeSelectorTerms": term}}}));
        let labels = |zone: &str| Labels::from([("zone".to_owned(), zone.to_owned())]);
        assert!(usable_on(&bound, "n", &labels("z")) && !usable_on(&bound, "n", &labels("y")));
        assert!(usable_on(&volume("v", "1Gi", json!({})), "n", &labels("y")));
    }
}
