//! Which ReplicaSet is of the current template, what a new one looks like, and how revisions are numbered.
//!
//! Upstream: `pkg/controller/deployment/sync.go` (getNewReplicaSet), `util/deployment_util.go`.

use std::sync::Arc;

use api::meta::ObjectMeta;
use api::types::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use api::types::core::v1::PodTemplateSpec;
use client::Cached;
use reconcile::{Verb, View};

use super::scale;
use crate::{claim, numbers, object};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Upstream keeps the history of a ReplicaSet's revisions to this many bytes.
const HISTORY_BYTES: usize = 2000;
const HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not inherit.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    scale::DESIRED,
    scale::MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// What leads to a ReplicaSet of the current template.
pub(super) enum NewReplicaSet {
    /// Create this one.
    Create(Box<ReplicaSet>),
    /// Its name is taken by another: count the collision, so that the next has another name.
    Collision(Box<Deployment>),
}

/// The revision of a Deployment or ReplicaSet; 0 if it has none.
pub(super) fn of<K: Cached>(object: &K) -> i64 {
    object::annotation(object, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

fn template(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.template.clone()
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        // What is empty and what is absent are the same.
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
        meta.creation_timestamp = None;
    }
    template
}

/// The ReplicaSet of the current template (the oldest, if there are several) and all others, oldest first.
pub(super) fn split(
    deployment: &Deployment,
    mut sets: Vec<Arc<ReplicaSet>>,
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    sets.sort_by(|a, b| {
        object::created(&**a)
            .cmp(&object::created(&**b))
            .then_with(|| object::name(&**a).cmp(object::name(&**b)))
    });
    let wanted = without_hash(&template(deployment));
    let is_new = |set: &Arc<ReplicaSet>| {
        let template = set.spec.template.as_ref();
        template.is_some_and(|template| without_hash(template) == wanted)
    };
    let new = sets.iter().position(is_new).map(|at| sets.remove(at));
    (new, sets)
}

/// The name of the ReplicaSet of the current template.
fn name(deployment: &Deployment) -> (String, String) {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = numbers::hash_name(&template(deployment), collisions);
    (format!("{}-{hash}", object::name(deployment)), hash)
}

/// What to do when there is no ReplicaSet of the current template.
pub(super) fn create(view: &View<'_>, deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> NewReplicaSet {
    let (name, hash) = name(deployment);
    // The name is taken: by a ReplicaSet in the cache that is not of this template or not ours (else it would be the new
    // one), or, by what the server said last time, by one that the cache has not shown.
    let refused = view.failure().is_some_and(|failure| {
        failure.action.verb == Verb::Create
            && failure.action.name == name
            && failure.status.as_ref().is_some_and(api::Status::is_already_exists)
    });
    if refused || view.get::<ReplicaSet>(object::namespace(deployment), &name).is_some() {
        let mut updated = deployment.clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        return NewReplicaSet::Collision(Box::new(updated));
    }
    let mut template = template(deployment);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let spec = deployment.spec.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash);
    let others = old.iter().map(|set| scale::replicas_of(set)).sum();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(inherited(deployment)),
            owner_references: Some(vec![claim::reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(scale::new_size(deployment, 0, others)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    };
    number(&mut set, next_revision(old));
    scale::annotate(deployment, &mut set);
    NewReplicaSet::Create(Box::new(set))
}

/// The new ReplicaSet with the revision, annotations and minReadySeconds it should have; `None` if it has them.
pub(super) fn updated(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> Option<ReplicaSet> {
    let mut set = new.clone();
    set.metadata.annotations.get_or_insert_default().extend(inherited(deployment));
    number(&mut set, next_revision(old));
    let seconds = deployment.spec.min_ready_seconds.unwrap_or(0);
    let spec = &mut set.spec;
    if spec.min_ready_seconds.unwrap_or(0) != seconds {
        spec.min_ready_seconds = Some(seconds);
    }
    if set.metadata.annotations.as_ref().is_some_and(|annotations| annotations.is_empty()) {
        set.metadata.annotations.clone_from(&new.metadata.annotations);
    }
    (set != *new).then_some(set)
}

/// The Deployment with the revision of its new ReplicaSet; `None` if it has it.
pub(super) fn with_revision(deployment: &Deployment, new: &ReplicaSet) -> Option<Deployment> {
    let revision = object::annotation(new, REVISION)?;
    if object::annotation(deployment, REVISION) == Some(revision) {
        return None;
    }
    let mut updated = deployment.clone();
    updated.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.to_owned());
    Some(updated)
}

fn inherited(deployment: &Deployment) -> std::collections::BTreeMap<String, String> {
    let all = deployment.metadata.annotations.clone().unwrap_or_default();
    all.into_iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).collect()
}

fn next_revision(old: &[Arc<ReplicaSet>]) -> i64 {
    old.iter().map(|set| of(&**set)).max().unwrap_or(0) + 1
}

/// Numbers a ReplicaSet, unless it already has this number or a higher one; the number it had goes to its history.
fn number(set: &mut ReplicaSet, revision: i64) {
    let before = object::annotation(set, REVISION).map(str::to_owned);
    if before.as_deref().and_then(|before| before.parse::<i64>().ok()).unwrap_or(0) >= revision {
        return;
    }
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(before) = before {
        let mut history: Vec<String> = annotations
            .get(HISTORY)
            .map(|all| all.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        history.push(before);
        while history.len() > 1 && history.iter().map(|entry| entry.len() + 1).sum::<usize>() > HISTORY_BYTES
        {
            history.remove(0);
        }
        annotations.insert(HISTORY.to_owned(), history.join(","));
    }
}
