//! What becomes of one object, by the graph and by what the server says of owners the graph does not show. Pure.
//!
//! Upstream: `pkg/controller/garbagecollector/garbagecollector.go` (attemptToDeleteItem, processDeletingDependentsItem,
//! attemptToOrphan).

use api::meta::OwnerReference;
use client::{DeleteOptions, Patch, Propagation};
use reconcile::{Action, Answers, Plan, Verb};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use crate::object;

/// A plan, and further objects to look at.
#[derive(Default)]
pub(super) struct Decision {
    pub(super) plan: Plan,
    pub(super) wake: Vec<String>,
    /// Its owners of kinds that nobody serves.
    pub(super) puzzling: Vec<OwnerReference>,
    /// The server knows an owner that the graph has not seen: if it goes before it is seen, nothing will tell.
    pub(super) unseen: bool,
}

/// What an owner is to its dependent.
enum Owner {
    /// There, and to stay.
    Solid,
    /// There, as the server says; the graph has not seen it yet.
    Unseen,
    /// Gone.
    Dangling,
    /// Waits for its dependents.
    Waiting,
    /// The server must be asked.
    Unknown(String),
    /// The server was asked, and does not say.
    Untold,
    /// Of a kind that nobody serves: nothing is known of it, so it counts as there, until somebody does.
    Puzzling,
}

pub(super) fn decide(graph: &Graph, uid: &str, answers: &Answers) -> Decision {
    let mut decision = Decision::default();
    let Some(node) = graph.nodes.get(uid) else { return decision };
    let Some((endpoint, metadata)) = node.seen.clone() else { return decision };
    let namespace = object::namespace(&*metadata);
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let own_path = endpoint.path(namespace, Some(object::name(&*metadata)), None);
    if node.is_deleting() && node.has_finalizer(ORPHAN) {
        orphan(graph, node, uid, &own_path, answers, &mut decision);
        return decision;
    }
    if node.waits_for_dependents() {
        let blocking: Vec<String> = node
            .dependents
            .iter()
            .filter(|dependent| graph.nodes.get(*dependent).is_some_and(|dependent| blocks(dependent, uid)))
            .cloned()
            .collect();
        if blocking.is_empty() {
            release(&mut decision.plan, node, &own_path, FOREGROUND, answers);
        } else {
            let idle = |dependent: &String| {
                graph.nodes.get(dependent).is_some_and(|node| !node.waits_for_dependents())
            };
            decision.wake = blocking.into_iter().filter(idle).collect();
        }
        return decision;
    }
    if node.is_deleting() || node.owners().is_empty() {
        return decision;
    }
    let (mut solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
    for owner in node.owners() {
        match classify(graph, owner, namespace, answers) {
            Owner::Solid => solid += 1,
            Owner::Unseen => {
                solid += 1;
                decision.unseen = true;
            }
            Owner::Dangling => dangling.push(owner.uid.clone()),
            Owner::Waiting => waiting.push(owner.uid.clone()),
            Owner::Unknown(path) => {
                decision.plan.ask(path);
            }
            Owner::Untold => decision.plan.retry = true,
            Owner::Puzzling => {
                solid += 1;
                decision.puzzling.push(owner.clone());
            }
        }
    }
    if decision.plan.retry {
        decision.plan.questions.clear();
        return decision;
    }
    if !decision.plan.questions.is_empty() || (dangling.is_empty() && waiting.is_empty()) {
        return decision;
    }
    if solid > 0 {
        // Somebody still wants it: only the references to the others go.
        let gone = |owner: &OwnerReference| dangling.contains(&owner.uid) || waiting.contains(&owner.uid);
        let kept: Vec<_> = node.owners().iter().filter(|owner| !gone(owner)).collect();
        decision.plan.act(with_owners(node, &json!(kept)));
        return decision;
    }
    let propagation = if !waiting.is_empty() && !node.dependents.is_empty() {
        // A dependent that waits while we would: a circle, of whatever length. Whoever closes it blocks nobody.
        let waits = |uid: &String| graph.nodes.get(uid).is_some_and(Node::waits_for_dependents);
        if node.dependents.iter().any(waits) {
            let mut unblocked = node.owners().to_vec();
            for owner in &mut unblocked {
                owner.block_owner_deletion = owner.block_owner_deletion.map(|_| false);
            }
            if unblocked.as_slice() != node.owners() {
                decision.plan.act(with_owners(node, &json!(unblocked)));
                return decision;
            }
        }
        Propagation::Foreground
    } else if node.has_finalizer(ORPHAN) {
        // A finalizer on an object not yet deleted is its creator's wish for when it is.
        Propagation::Orphan
    } else if node.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let mut options = DeleteOptions::uid(uid).with_propagation(propagation);
    if let Some(revision) = &metadata.metadata.resource_version {
        // Somebody may be adopting it right now.
        options = options.with_resource_version(revision);
    }
    let mut action = Action::dynamic(endpoint, namespace, object::name(&*metadata), Verb::Delete(options));
    action.uid = Some(uid.to_owned());
    decision.plan.act(action);
    decision
}

fn object_uid(node: &Node) -> &str {
    node.seen.as_ref().map(|(_, metadata)| object::uid(&**metadata)).unwrap_or_default()
}

fn blocks(dependent: &Node, owner: &str) -> bool {
    dependent
        .owners()
        .iter()
        .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
}

fn classify(graph: &Graph, owner: &OwnerReference, namespace: Option<&str>, answers: &Answers) -> Owner {
    if let Some(node) = graph.nodes.get(&owner.uid)
        && let Some((_, seen)) = &node.seen
    {
        // A cluster-scoped object cannot be owned from within a namespace; upstream leaves such objects alone.
        if namespace.is_none() && !object::namespace(&**seen).is_empty() {
            return Owner::Solid;
        }
        // An owner in another namespace is none (upstream: OwnerRefInvalidNamespace).
        let elsewhere =
            !object::namespace(&**seen).is_empty() && namespace != Some(object::namespace(&**seen));
        if elsewhere {
            return Owner::Dangling;
        }
        return if node.waits_for_dependents() { Owner::Waiting } else { Owner::Solid };
    }
    let Some(kind) = graph.kind_of(owner) else { return Owner::Puzzling };
    let place = if kind.namespaced { namespace } else { None };
    if kind.namespaced && place.is_none() {
        // A cluster-scoped object cannot be owned from within a namespace; upstream leaves such objects alone.
        return Owner::Solid;
    }
    let path = kind.endpoint.path(place, Some(&owner.name), None);
    match answers.get(&path) {
        None => Owner::Unknown(path),
        // Whoever knows the kind names the object. Another 404 (the path is unknown for a moment, or to somebody on the way)
        // says nothing of the owner.
        Some(Err(status)) if status.is_not_found() && status.names_an_object() => Owner::Dangling,
        Some(Err(_)) => Owner::Untold,
        Some(Ok(found)) if found["metadata"]["uid"] != owner.uid.as_str() => Owner::Dangling,
        Some(Ok(found)) => {
            let finalizers = found["metadata"]["finalizers"].as_array();
            let foreground =
                finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == FOREGROUND));
            if foreground && !found["metadata"]["deletionTimestamp"].is_null() {
                Owner::Waiting
            } else {
                Owner::Unseen
            }
        }
    }
}

/// Takes the references to an object away from its dependents, then its finalizer `orphan`.
fn orphan(graph: &Graph, node: &Node, uid: &str, own_path: &str, answers: &Answers, decision: &mut Decision) {
    let mut patches = Vec::new();
    for dependent in node.dependents.iter().filter_map(|dependent| graph.nodes.get(dependent)) {
        let kept: Vec<_> = dependent.owners().iter().filter(|owner| owner.uid != uid).collect();
        if kept.len() < dependent.owners().len() {
            patches.push(with_owners(dependent, &json!(kept)));
        }
    }
    if patches.is_empty() {
        release(&mut decision.plan, node, own_path, ORPHAN, answers);
    } else {
        decision.plan.parallel(patches);
        // Their change does not wake us: they are no longer ours.
        decision.plan.retry = true;
    }
}

/// Takes a finalizer away, once the server has said which there are now.
fn release(plan: &mut Plan, node: &Node, own_path: &str, finalizer: &str, answers: &Answers) {
    let live = match answers.get(own_path) {
        None => {
            plan.ask(own_path);
            return;
        }
        Some(Ok(live)) => live,
        Some(Err(status)) => {
            plan.retry = !status.is_not_found();
            return;
        }
    };
    if live["metadata"]["uid"] != object_uid(node) {
        return;
    }
    let finalizers: Vec<&Value> = live["metadata"]["finalizers"].as_array().into_iter().flatten().collect();
    let kept: Vec<&Value> = finalizers.iter().copied().filter(|have| *have != finalizer).collect();
    if kept.len() < finalizers.len() {
        let revision = &live["metadata"]["resourceVersion"];
        plan.act(change(node, json!({"resourceVersion": revision, "finalizers": kept})));
    }
}

fn with_owners(node: &Node, owners: &Value) -> Action {
    let revision = node.seen.as_ref().and_then(|(_, metadata)| metadata.metadata.resource_version.clone());
    let owners = if owners.as_array().is_some_and(Vec::is_empty) { Value::Null } else { owners.clone() };
    change(node, json!({"resourceVersion": revision, "ownerReferences": owners}))
}

/// A merge patch of an object's metadata, for this very object only.
fn change(node: &Node, mut metadata: Value) -> Action {
    let (endpoint, seen) = node.seen.as_ref().expect("only objects that were seen are changed");
    metadata["uid"] = json!(object::uid(&**seen));
    let namespace = object::namespace(&**seen);
    let patch = Verb::Patch(Patch::Merge(json!({"metadata": metadata})));
    let mut action = Action::dynamic(endpoint.clone(), Some(namespace), object::name(&**seen), patch);
    action.uid = Some(object::uid(&**seen).to_owned());
    action
}
