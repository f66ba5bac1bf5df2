//! Deletes objects whose owners are gone, and carries out foreground and orphaning deletion.
//!
//! Reads the metadata of every kind that can be deleted. Deletes objects; takes owner references and the finalizers
//! `foregroundDeletion` and `orphan` away.
//! Not here: setting those finalizers (the API server, when an object is deleted so), contents of namespaces
//! ([`crate::namespace`]).
//! Upstream: `pkg/controller/garbagecollector`. The graph of owners (`garbagecollector/graph.rs`) is built from the caches'
//! changes; the decisions (`garbagecollector/decide.rs`) are pure over it. An owner that the graph does not show is asked for
//! at the server before anything is deleted for its absence.

mod decide;
mod graph;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::types::apiextensions::v1::CustomResourceDefinition;
use api::types::apiregistration::v1::APIService;
use client::{Endpoint, Informer, Informers, PartialMetadata};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reconcile::{Controller, Key, Plan, Trigger, View, Watches};

use self::graph::{Graph, Kind};
use crate::discovery::{self, Discovery};
use crate::object;

/// How long a cache is waited for. A kind that cannot be listed (an aggregated server that is down, or refuses us) must not
/// stop the collection of all others: an owner that is not seen is asked for before anything is deleted for its absence.
/// Upstream's `initialSyncTimeout`.
const CACHE_SECONDS: i64 = 30;
/// When discovery is tried again that could not tell of all. Upstream's period.
const DISCOVERY_SECONDS: i64 = 30;

/// When an owner that the server knows and no cache has shown yet is asked for again: one that is created and deleted
/// before the first list of its kind is never shown. The pause is half the time since the newest cache was made, within
/// these: a kind that can never be listed is not asked for each time anew. Upstream's grows from 5 ms to 1000 s.
const UNSEEN_SECONDS: i64 = 5;
const UNSEEN_MAX_SECONDS: i64 = 1000;

/// The key of the work of finding out which kinds there are. No UID looks so.
const DISCOVERY: &str = "#discovery";

/// The controller; its keys are UIDs, and [`DISCOVERY`].
#[derive(Default)]
pub struct GarbageCollector {
    graph: Arc<Mutex<Graph>>,
    monitors: Mutex<BTreeMap<Endpoint, Monitor>>,
    outside: OnceLock<(Informers, Trigger)>,
    definitions: OnceLock<Informer<PartialMetadata>>,
}

/// The cache of a kind.
struct Monitor {
    informer: Informer<PartialMetadata>,
    since: Timestamp,
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const WORKERS: usize = 20;

    fn watch(&self, watches: &mut Watches<'_>) {
        let trigger = watches.trigger();
        let definitions = watches.informers().metadata(Endpoint::of::<CustomResourceDefinition>());
        let services = watches.informers().metadata(Endpoint::of::<APIService>());
        for informer in [&definitions, &services] {
            let trigger = trigger.clone();
            // Kinds come and go with these objects, and with nothing else.
            informer.listen(move |_| trigger.wake(Key::cluster(DISCOVERY)));
        }
        trigger.wake(Key::cluster(DISCOVERY));
        // `watch` is called once.
        let _ = self.outside.set((watches.informers().clone(), trigger));
        let _ = self.definitions.set(definitions);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        if key.as_str() == DISCOVERY {
            return self.discover(view, now);
        }
        // What is not seen yet may be a dependent.
        if let Some(later) = self.waits_until(now) {
            let mut plan = Plan::nothing();
            plan.requeue_at(later);
            return plan;
        }
        let mut graph = self.graph.lock();
        let mut decision = decide::decide(&graph, key.as_str(), view.answers());
        for owner in &decision.puzzling {
            graph.puzzle(owner, key.as_str());
        }
        drop(graph);
        if let Some((_, trigger)) = self.outside.get() {
            for uid in decision.wake {
                trigger.wake(Key::cluster(&uid));
            }
        }
        if decision.unseen {
            let newest = self.monitors.lock().values().map(|monitor| monitor.since).max();
            decision.plan.requeue_at(ask_again(newest.unwrap_or(now), now));
        }
        decision.plan
    }
}

impl GarbageCollector {
    /// When to look again whether the caches are filled; `None` if they are, or will not be.
    fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let monitors = self.monitors.lock();
        if monitors.is_empty() {
            return Some(object::after(now, 1));
        }
        let filling = monitors.values().filter(|monitor| !monitor.informer.has_synced());
        let since = filling.map(|monitor| monitor.since).max()?;
        look_again(since, now)
    }

    fn discover(&self, view: &View<'_>, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        match discovery::preferred(view.answers()) {
            Err(paths) => plan.questions = paths,
            Ok(found) => {
                if !found.failed.is_empty() {
                    tracing::debug!(failed = ?found.failed, "not all kinds are known");
                    plan.requeue_at(object::after(now, DISCOVERY_SECONDS));
                }
                let definitions = self.definitions.get().map(Informer::list).unwrap_or_default();
                if let Some(later) = catch_up(&definitions, &found, now) {
                    plan.requeue_at(later);
                }
                self.monitor(&found, now);
            }
        }
        plan
    }

    /// Watches the metadata of the kinds found; of others no longer, unless they may be among what discovery could not tell.
    fn monitor(&self, found: &Discovery, now: Timestamp) {
        let Some((informers, trigger)) = self.outside.get() else { return };
        let wake = |uids: Vec<String>| uids.iter().for_each(|uid| trigger.wake(Key::cluster(uid)));
        let kinds = collectable(found);
        let mut monitors = self.monitors.lock();
        monitors.retain(|endpoint, _| {
            let stays = kinds.iter().any(|kind| kind.endpoint == *endpoint) || found.may_hide(endpoint);
            if !stays {
                informers.stop_metadata(endpoint);
                wake(self.graph.lock().forget_kind(endpoint));
            }
            stays
        });
        for kind in kinds {
            // The version that is watched may be one that discovery just failed to tell of.
            let watched = |endpoint: &Endpoint| {
                endpoint.group == kind.endpoint.group && endpoint.plural == kind.endpoint.plural
            };
            if monitors.keys().any(watched) {
                continue;
            }
            wake(self.graph.lock().learn(&kind));
            let informer = informers.metadata(kind.endpoint.clone());
            informer.set_transform(|object| {
                // Only identities and owners matter here; labels and annotations are most of the bytes.
                object.metadata.labels = None;
                object.metadata.annotations = None;
            });
            let (graph, trigger, endpoint) = (self.graph.clone(), trigger.clone(), kind.endpoint.clone());
            informer.listen(move |change| {
                let woken = graph.lock().apply(&endpoint, change);
                woken.iter().for_each(|uid| trigger.wake(Key::cluster(uid)));
            });
            monitors.insert(kind.endpoint, Monitor { informer, since: now });
        }
    }
}

/// Looks again after half the time that has been waited, and not after [`CACHE_SECONDS`].
fn look_again(since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let until = object::after(since, CACHE_SECONDS);
    let waited = now.duration_since(since).max(SignedDuration::ZERO);
    let later = now.checked_add(waited / 2 + SignedDuration::from_millis(10)).unwrap_or(until);
    (now < until).then_some(later.min(until))
}

/// When to ask again for an owner that no cache has shown; the newest was made at `since`.
fn ask_again(since: Timestamp, now: Timestamp) -> Timestamp {
    let waited = now.duration_since(since).as_secs();
    object::after(now, (waited / 2).clamp(UNSEEN_SECONDS, UNSEEN_MAX_SECONDS))
}

/// When to ask again for kinds that are defined and that discovery does not tell of: the server learns of a definition by
/// a watch of its own, which may be behind ours, and nothing tells us when it has. The older the definition, the later; one
/// that is never served (its names are taken) is asked for at upstream's period.
fn catch_up(definitions: &[Arc<PartialMetadata>], found: &Discovery, now: Timestamp) -> Option<Timestamp> {
    let served = |plural: &str, group: &str| {
        let is = |endpoint: &Endpoint| endpoint.plural == plural && endpoint.group == group;
        found.kinds.iter().any(|kind| is(&kind.endpoint))
    };
    let behind = definitions.iter().filter_map(|definition| {
        let (plural, group) = object::name(&**definition).split_once('.')?;
        let going = definition.metadata.deletion_timestamp.is_some();
        if going || served(plural, group) {
            return None;
        }
        let created = definition.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let age = now.duration_since(created).max(SignedDuration::ZERO);
        let wait =
            (age / 2 + SignedDuration::from_millis(100)).min(SignedDuration::from_secs(DISCOVERY_SECONDS));
        now.checked_add(wait).ok()
    });
    behind.min()
}

/// Kinds that can be listed, watched and deleted. Events are left out as upstream leaves them out: there are many, and they
/// go by themselves.
fn collectable(found: &Discovery) -> Vec<Kind> {
    let wanted = found
        .kinds
        .iter()
        .filter(|served| served.endpoint.plural != "events" && served.can(&["delete", "list", "watch"]));
    let kind = |served: &discovery::Served| Kind {
        endpoint: served.endpoint.clone(),
        kind: served.kind.clone(),
        namespaced: served.namespaced,
    };
    wanted.map(kind).collect()
}

#[cfg(test)]
mod tests;
