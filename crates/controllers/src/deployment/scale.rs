//! How many replicas each ReplicaSet of a Deployment should have. Pure arithmetic over what is there.
//!
//! Upstream: `pkg/controller/deployment/rolling.go`, `sync.go` (scale), `util/deployment_util.go`.

use std::sync::Arc;

use api::meta::IntOrString;
use api::types::apps::v1::{Deployment, ReplicaSet};

use super::is_recreate;
use crate::{numbers, object};

pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// One ReplicaSet and the size it should have.
pub(super) struct Scaling {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) to: i32,
}

pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn available_of(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(super) fn desired_annotation(set: &ReplicaSet) -> Option<i32> {
    object::annotation(set, DESIRED)?.parse().ok()
}

fn sum<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>, of: fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(|set| of(set)).sum()
}

/// maxSurge and maxUnavailable as numbers; never both zero, or nothing could ever move.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let value =
        |of: Option<&IntOrString>, up| numbers::scaled(of.unwrap_or(&quarter), wanted(deployment), up);
    let surge = value(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
    let unavailable = value(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { fenceposts(deployment).0 }
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) || wanted == 0 { 0 } else { fenceposts(deployment).1.min(wanted) }
}

/// The size of the new ReplicaSet, now of `current` replicas, beside `others` replicas of old ones.
pub(super) fn new_size(deployment: &Deployment, current: i32, others: i32) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let room = wanted + max_surge(deployment) - current - others;
    if room <= 0 { current } else { current + room.min(wanted - current) }
}

/// The next size of the new ReplicaSet, if it changes.
pub(super) fn up_new(
    deployment: &Deployment,
    new: &Arc<ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Scaling> {
    let (current, wanted) = (replicas_of(new), wanted(deployment));
    let to = match current.cmp(&wanted) {
        std::cmp::Ordering::Equal => return Vec::new(),
        std::cmp::Ordering::Greater => wanted,
        std::cmp::Ordering::Less => new_size(deployment, current, sum(old, replicas_of)),
    };
    if to == current { Vec::new() } else { vec![Scaling { set: new.clone(), to }] }
}

/// The next sizes of the old ReplicaSets: first without the pods that are not available anyway, then as many fewer as the
/// available ones allow.
pub(super) fn down_old(
    deployment: &Deployment,
    new: &Arc<ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Scaling> {
    let old_count = sum(old, replicas_of);
    if old_count == 0 {
        return Vec::new();
    }
    let minimum = wanted(deployment) - max_unavailable(deployment);
    let new_unavailable = replicas_of(new) - available_of(new);
    let most = old_count + replicas_of(new) - minimum - new_unavailable;
    if most <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = old.iter().map(|set| replicas_of(set)).collect();
    let mut unhealthy = 0;
    for (set, size) in old.iter().zip(&mut sizes) {
        let down = (*size - available_of(set)).clamp(0, most - unhealthy);
        *size -= down;
        unhealthy += down;
    }
    let available = sum(old, available_of) + available_of(new);
    let mut rest = (available - minimum).max(0);
    for size in &mut sizes {
        let down = rest.min(*size);
        *size -= down;
        rest -= down;
    }
    let changed = old.iter().zip(sizes).filter(|(set, size)| replicas_of(set) != *size);
    changed.map(|(set, to)| Scaling { set: set.clone(), to }).collect()
}

/// The sizes after the Deployment's own number has changed (or while it is paused).
pub(super) fn proportionally(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Scaling> {
    let wanted = wanted(deployment);
    let active: Vec<&Arc<ReplicaSet>> = old.iter().chain(new).filter(|set| replicas_of(set) > 0).collect();
    // One (or no) active set, and so no rollout to keep the proportions of.
    let single = match active.as_slice() {
        [] => new.or_else(|| old.iter().max_by_key(|set| object::created(&***set))),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(single) = single {
        // Even at the right size: its annotations may still tell of another number.
        return vec![Scaling { set: single.clone(), to: wanted }];
    }
    if active.is_empty() {
        return Vec::new();
    }
    if let Some(new) = new
        && is_saturated(deployment, new)
    {
        let down = old.iter().filter(|set| replicas_of(set) > 0);
        return down
            .map(|set| Scaling { set: set.clone(), to: 0 })
            .chain([Scaling { set: new.clone(), to: wanted }])
            .collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    let allowed = if wanted > 0 { wanted + max_surge(deployment) } else { 0 };
    let to_add = allowed - active.iter().map(|set| replicas_of(set)).sum::<i32>();
    let mut sorted = active;
    // The largest first: it bears the rounding. Among equals the newer grows, the older shrinks.
    sorted.sort_by(|a, b| {
        let by_age = object::created(&***a).cmp(&object::created(&***b));
        replicas_of(b).cmp(&replicas_of(a)).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(sorted.len());
    for set in &sorted {
        let share = if to_add == 0 { 0 } else { proportion(deployment, set, to_add, added) };
        sizes.push(replicas_of(set) + share);
        added += share;
    }
    if to_add != 0
        && let Some(first) = sizes.first_mut()
    {
        *first = (*first + to_add - added).max(0);
    }
    sorted.into_iter().zip(sizes).map(|(set, to)| Scaling { set: set.clone(), to }).collect()
}

/// A rollout that is done, by the annotations of its new ReplicaSet.
fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let wanted = wanted(deployment);
    replicas_of(new) == wanted && desired_annotation(new) == Some(wanted) && available_of(new) == wanted
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let (size, allowed) = (replicas_of(set), to_add - added);
    if size == 0 || allowed == 0 {
        return 0;
    }
    let share = fraction(deployment, set);
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

/// How much a ReplicaSet changes to keep its share of the whole.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let (size, wanted) = (replicas_of(set), wanted(deployment));
    if wanted == 0 {
        return -size;
    }
    let before = object::annotation(set, MAXIMUM)
        .and_then(|maximum| maximum.parse::<i32>().ok())
        .or_else(|| deployment.status.as_ref().and_then(|status| status.replicas))
        .filter(|before| *before > 0);
    let Some(before) = before else { return 0 };
    let after = f64::from(size) * f64::from(wanted + max_surge(deployment)) / f64::from(before);
    after.round() as i32 - size
}

/// A ReplicaSet of this size, with the annotations that remember the Deployment's; `None` if it is already so.
pub(super) fn scaled(deployment: &Deployment, set: &ReplicaSet, to: i32) -> Option<ReplicaSet> {
    let mut updated = set.clone();
    updated.spec.replicas = Some(to);
    annotate(deployment, &mut updated);
    (updated != *set).then_some(updated)
}

/// Remembers the Deployment's size on a ReplicaSet.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet) {
    let wanted = wanted(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAXIMUM.to_owned(), (wanted + max_surge(deployment)).to_string());
}
