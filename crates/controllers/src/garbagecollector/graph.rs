//! Who owns whom: a node per object, an edge per owner reference, and which nodes a change concerns.
//!
//! An owner that is referred to but was not seen is a virtual node: it may be of a kind whose cache is behind, or gone.
//! Upstream: `pkg/controller/garbagecollector/graph_builder.go`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::meta::OwnerReference;
use client::{Change, Endpoint, PartialMetadata};

use crate::object;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// A kind that is watched.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) endpoint: Endpoint,
    pub(super) kind: String,
    pub(super) namespaced: bool,
}

/// One object, or an owner that was not seen.
#[derive(Default)]
pub(super) struct Node {
    /// `None` for a virtual node.
    pub(super) seen: Option<(Endpoint, Arc<PartialMetadata>)>,
    pub(super) dependents: BTreeSet<String>,
}

impl Node {
    pub(super) fn owners(&self) -> &[OwnerReference] {
        self.seen
            .as_ref()
            .and_then(|(_, object)| object.metadata.owner_references.as_deref())
            .unwrap_or_default()
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.seen.as_ref().is_some_and(|(_, object)| object::deleting(&**object))
    }

    pub(super) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.seen.as_ref().is_some_and(|(_, object)| object::has_finalizer(&**object, finalizer))
    }

    /// It stays until its dependents that block it are gone.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.is_deleting() && self.has_finalizer(FOREGROUND)
    }
}

#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: HashMap<String, Node>,
    kinds: Vec<Kind>,
    /// Objects with an owner of a kind that nobody serves, by group and kind: decided when somebody does.
    puzzled: HashMap<(String, String), BTreeSet<String>>,
}

impl Graph {
    /// A kind exists; returns the UIDs that have waited for it.
    pub(super) fn learn(&mut self, kind: &Kind) -> Vec<String> {
        if !self.kinds.contains(kind) {
            self.kinds.push(kind.clone());
        }
        let named = (kind.endpoint.group.to_string(), kind.kind.clone());
        self.puzzled.remove(&named).into_iter().flatten().collect()
    }

    /// Nobody serves the kind of this owner: its dependent is looked at again when somebody does.
    pub(super) fn puzzle(&mut self, owner: &OwnerReference, dependent: &str) {
        let named = (group_of(owner).to_owned(), owner.kind.clone());
        self.puzzled.entry(named).or_default().insert(dependent.to_owned());
    }

    /// A kind exists no longer, nor do its objects; returns the UIDs that this concerns.
    pub(super) fn forget_kind(&mut self, endpoint: &Endpoint) -> Vec<String> {
        self.kinds.retain(|kind| kind.endpoint != *endpoint);
        let gone = |node: &Node| node.seen.as_ref().is_some_and(|(of, _)| of == endpoint);
        let uids: Vec<String> =
            self.nodes.iter().filter(|(_, node)| gone(node)).map(|(uid, _)| uid.clone()).collect();
        uids.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// The kind that an owner reference names, of whatever version is watched.
    pub(super) fn kind_of(&self, owner: &OwnerReference) -> Option<&Kind> {
        let group = group_of(owner);
        self.kinds.iter().find(|kind| kind.endpoint.group == group && kind.kind == owner.kind)
    }

    /// Takes in a change; returns the UIDs whose fate it may decide.
    pub(super) fn apply(&mut self, endpoint: &Endpoint, change: &Change<PartialMetadata>) -> Vec<String> {
        let object = change.object();
        let uid = object::uid(&**object).to_owned();
        if uid.is_empty() {
            return Vec::new();
        }
        if change.is_deleted() {
            return self.remove(&uid);
        }
        let mut woken = BTreeSet::new();
        let before = self.nodes.entry(uid.clone()).or_default();
        let was_waiting = before.waits_for_dependents();
        let old_owners = before.owners().to_vec();
        before.seen = Some((endpoint.clone(), object.clone()));
        let node = &self.nodes[&uid];
        let new_owners = node.owners().to_vec();
        if node.is_deleting() && (node.has_finalizer(FOREGROUND) || node.has_finalizer(ORPHAN)) {
            woken.insert(uid.clone());
            if !was_waiting && node.waits_for_dependents() {
                woken.extend(node.dependents.iter().cloned());
            }
        }
        for owner in &old_owners {
            let still = new_owners.iter().find(|new| new.uid == owner.uid);
            if still.is_none() {
                self.unlink(owner, &uid);
            }
            // It blocks its owner no longer.
            if owner.block_owner_deletion == Some(true)
                && still.is_none_or(|new| new.block_owner_deletion != Some(true))
                && self.nodes.get(&owner.uid).is_some_and(Node::waits_for_dependents)
            {
                woken.insert(owner.uid.clone());
            }
        }
        for owner in &new_owners {
            let parent = self.nodes.entry(owner.uid.clone()).or_default();
            parent.dependents.insert(uid.clone());
            // An owner that is not seen, or goes in the foreground, decides about its dependents.
            if parent.seen.is_none() || parent.waits_for_dependents() {
                woken.insert(uid.clone());
            }
        }
        woken.into_iter().collect()
    }

    /// An object is gone: its dependents, and owners that waited for it, are concerned.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get_mut(uid) else { return Vec::new() };
        let mut woken: Vec<String> = node.dependents.iter().cloned().collect();
        let owners = node.owners().to_vec();
        // Its dependents still refer to it: it stays as a virtual node until they do not.
        node.seen = None;
        for owner in owners {
            if self.nodes.get(&owner.uid).is_some_and(Node::waits_for_dependents) {
                woken.push(owner.uid.clone());
            }
            self.unlink(&owner, uid);
        }
        self.drop_if_unused(uid);
        woken
    }

    fn unlink(&mut self, owner: &OwnerReference, dependent: &str) {
        let named = (group_of(owner).to_owned(), owner.kind.clone());
        if let Entry::Occupied(mut puzzled) = self.puzzled.entry(named) {
            puzzled.get_mut().remove(dependent);
            if puzzled.get().is_empty() {
                puzzled.remove();
            }
        }
        if let Some(node) = self.nodes.get_mut(&owner.uid) {
            node.dependents.remove(dependent);
        }
        self.drop_if_unused(&owner.uid);
    }

    fn drop_if_unused(&mut self, uid: &str) {
        if self.nodes.get(uid).is_some_and(|node| node.seen.is_none() && node.dependents.is_empty()) {
            self.nodes.remove(uid);
        }
    }
}

fn group_of(owner: &OwnerReference) -> &str {
    owner.api_version.split_once('/').map_or("", |(group, _)| group)
}
