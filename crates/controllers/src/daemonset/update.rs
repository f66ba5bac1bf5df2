//! The next step of a rolling update: which old pods go, and on which nodes new ones come first. Pure.
//!
//! Upstream: `pkg/controller/daemon/update.go`.

use std::sync::Arc;

use api::meta::IntOrString;
use api::types::apps::v1::{DaemonSet, RollingUpdateDaemonSet};
use api::types::core::v1::Pod;

use super::{Changes, Run, place};
use crate::{numbers, object};

/// Whether pods are replaced by the controller (and not by whoever deletes them).
pub(super) fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

fn rolling(set: &DaemonSet) -> Option<&RollingUpdateDaemonSet> {
    set.spec.update_strategy.as_ref()?.rolling_update.as_ref().filter(|_| is_rolling(set))
}

pub(super) fn max_surge(set: &DaemonSet, nodes: i32) -> i32 {
    let surge = rolling(set).and_then(|rolling| rolling.max_surge.as_ref());
    surge.map_or(0, |surge| numbers::scaled(surge, nodes, true))
}

fn max_unavailable(set: &DaemonSet, nodes: i32) -> i32 {
    let one = IntOrString::Int(1);
    let value = rolling(set).and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&one);
    // A percentage rounds up: otherwise a small cluster would never move.
    numbers::scaled(value, nodes, true)
}

pub(super) fn next(run: &Run<'_>) -> Changes {
    let mut changes = Changes::default();
    let desired: Vec<&str> = run
        .nodes
        .iter()
        .filter(|node| place::judge(run.set, node).0)
        .map(|node| object::name(&**node))
        .collect();
    let count = desired.len() as i32;
    let surge = max_surge(run.set, count);
    // With surge the old pods stay until the new ones are available, so none is unavailable by intent.
    let unavailable_allowed = max_unavailable(run.set, count);
    let (mut unavailable, mut surging) = (0, 0);
    let mut dead: Vec<Arc<Pod>> = Vec::new();
    let mut alive: Vec<(Arc<Pod>, &str)> = Vec::new();
    for node in desired {
        let here = run.on(node);
        let live = || here.iter().filter(|pod| !object::deleting(&***pod));
        let new = live().find(|pod| run.is_new(pod));
        let old = live().find(|pod| !run.is_new(pod));
        let served = here.iter().any(|pod| run.is_available(pod) && !object::deleting(&**pod));
        unavailable += i32::from(!served);
        match (old, new) {
            (Some(old), None) if !run.is_available(old) => dead.push(old.clone()),
            (Some(old), None) => alive.push((old.clone(), node)),
            (Some(_), Some(_)) => surging += 1,
            _ => {}
        }
    }
    // What does not serve can go at once.
    changes.delete.extend(dead);
    if surge > 0 {
        let room = (surge - surging).max(0) as usize;
        changes.create.extend(alive.iter().take(room).map(|(_, node)| (*node).to_owned()));
    } else {
        let room = (unavailable_allowed - unavailable).max(0) as usize;
        changes.delete.extend(alive.into_iter().take(room).map(|(pod, _)| pod));
    }
    changes
}
