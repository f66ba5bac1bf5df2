//! Which objects belong to a controller: those it owns and selects, those without an owner that it selects (adopted), and
//! not those it owns and no longer selects (released).
//!
//! Upstream: `pkg/controller/controller_ref_manager.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::OwnerReference;
use api::selector::labels::Selector;
use client::{Cached, Patch, Resource};
use reconcile::{Action, Caches, Key, Watches};
use serde_json::json;

use crate::object;

/// The index of the objects of a namespace that no controller owns.
pub(crate) const ORPHANS: &str = "orphans";

/// Values of [`ORPHANS`].
pub(crate) fn orphans<K: Cached>(object: &K) -> Vec<String> {
    match object::controller(object) {
        Some(_) => Vec::new(),
        None => vec![object::namespace(object).to_owned()],
    }
}

/// Declares children of kind `K`: their changes wake their owner, or, while they have none, every owner that selects
/// them.
pub(crate) fn watch<K: Resource, Owner: Resource>(
    watches: &mut Watches<'_>,
    selector: fn(&Owner) -> Option<Selector>,
) {
    watches.owned::<K, Owner>();
    watches.index::<K>(ORPHANS, orphans::<K>);
    watches.map::<K>(move |caches: &Caches, change, wake| {
        let child = &**change.object();
        if change.is_deleted() || object::controller(child).is_some() {
            return;
        }
        for owner in caches.list_namespace::<Owner>(object::namespace(child)) {
            if selector(&owner).is_some_and(|selector| selector.matches(object::labels(child))) {
                wake(Key::of(&*owner));
            }
        }
    });
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn reference<Owner: Resource>(owner: &Owner) -> OwnerReference {
    OwnerReference {
        api_version: Owner::API_VERSION.to_owned(),
        kind: Owner::KIND.to_owned(),
        name: object::name(owner).to_owned(),
        uid: object::uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What belongs to an owner, and what must be written for it to be so.
pub(crate) struct Claim<K> {
    /// The owner's objects, adopted ones included.
    pub(crate) claimed: Vec<Arc<K>>,
    /// Adoptions and releases.
    pub(crate) actions: Vec<Action>,
}

/// Claims the children of `owner` among what it owns and the orphans of its namespace.
pub(crate) fn claim<K: Resource, Owner: Resource>(
    caches: &Caches,
    owner: &Owner,
    selector: &Selector,
) -> Claim<K> {
    let mut claim = Claim { claimed: Vec::new(), actions: Vec::new() };
    let uid = object::uid(owner);
    for child in caches.controlled_by::<K>(uid) {
        if selector.matches(object::labels(&*child)) {
            claim.claimed.push(child);
        } else if !object::deleting(owner) && !object::deleting(&*child) {
            claim.actions.push(Action::patch(
                &*child,
                Patch::Strategic(json!({
                    "metadata": {
                        "uid": object::uid(&*child),
                        "ownerReferences": [{"$patch": "delete", "uid": uid}],
                    },
                })),
            ));
        }
    }
    if object::deleting(owner) {
        return claim;
    }
    for child in caches.by_index::<K>(ORPHANS, object::namespace(owner)) {
        if object::deleting(&*child) || !selector.matches(object::labels(&*child)) {
            continue;
        }
        claim.actions.push(Action::patch(
            &*child,
            Patch::Strategic(json!({
                "metadata": {"uid": object::uid(&*child), "ownerReferences": [reference(owner)]},
            })),
        ));
        claim.claimed.push(child);
    }
    claim
}

/// The labels that `selector` asks for by equality, as a map; for tests and defaults.
pub(crate) fn is_subset(subset: &BTreeMap<String, String>, of: &BTreeMap<String, String>) -> bool {
    subset.iter().all(|(key, value)| of.get(key) == Some(value))
}
