//! The history of a StatefulSet's or DaemonSet's templates, as ControllerRevisions.
//!
//! Upstream: `pkg/controller/history`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use api::meta::ObjectMeta;
use api::types::apps::v1::ControllerRevision;
use api::types::core::v1::PodTemplateSpec;
use client::Resource;
use reconcile::Action;
use serde_json::{Value, json};

use crate::{claim, numbers, object};

/// The label by which pods and revisions name the revision they are of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The history of one owner, brought up to date.
pub(crate) struct History {
    /// The revision of the current template; not stored yet if `write` creates it.
    pub(crate) current: ControllerRevision,
    /// All others, oldest first.
    pub(crate) old: Vec<Arc<ControllerRevision>>,
    /// What must be written for `current` to be the newest.
    pub(crate) write: Option<Action>,
}

/// What of the owner a revision keeps: its template, as a patch that replaces the whole.
fn data(template: &PodTemplateSpec) -> Value {
    // Typed objects always serialize.
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Finds or makes the revision of the current template among those the owner has.
pub(crate) fn of<Owner: Resource>(
    owner: &Owner,
    template: &PodTemplateSpec,
    labels: &BTreeMap<String, String>,
    collisions: Option<i32>,
    mut revisions: Vec<Arc<ControllerRevision>>,
) -> History {
    revisions.sort_by_key(|revision| {
        (number(revision), object::created(&**revision), object::name(&**revision).to_owned())
    });
    let newest = revisions.last().map_or(0, |revision| number(revision));
    let data = data(template);
    // The last of those that say the same, as a rollback may have left several.
    if let Some(at) = revisions.iter().rposition(|revision| revision.data.0 == data) {
        let found = revisions.remove(at);
        let mut current = ControllerRevision::clone(&found);
        let mut write = None;
        if number(&found) < newest {
            current.revision = Some(newest + 1);
            write = Some(Action::update(&current));
        }
        return History { current, old: revisions, write };
    }
    let hash = numbers::hash_name(&data, collisions);
    let mut labels = labels.clone();
    labels.insert(HASH.to_owned(), hash.clone());
    let current = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", object::name(owner))),
            namespace: owner.metadata().namespace.clone(),
            labels: Some(labels),
            annotations: owner.metadata().annotations.clone(),
            owner_references: Some(vec![claim::reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(newest + 1),
    };
    let write = Some(Action::create(&current));
    History { current, old: revisions, write }
}

/// The number of a revision; higher is newer.
pub(crate) fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The hash that pods of a revision carry.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    object::labels(revision).get(HASH).map_or("", String::as_str)
}

/// Deletions of the oldest revisions beyond `limit` that no pod is of.
pub(crate) fn clean_up(
    old: &[Arc<ControllerRevision>],
    limit: i32,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Action> {
    let idle: Vec<_> = old.iter().filter(|revision| !live(revision)).collect();
    let excess = idle.len().saturating_sub(limit.max(0) as usize);
    idle.into_iter().take(excess).map(|revision| Action::delete(&**revision)).collect()
}
