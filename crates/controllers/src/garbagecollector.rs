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
mod discovery;
mod graph;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::types::apiextensions::v1::CustomResourceDefinition;
use api::types::apiregistration::v1::APIService;
use client::{Endpoint, Informer, Informers, PartialMetadata};
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::{Controller, Key, Plan, Trigger, View, Watches};

use self::discovery::{Kind, Next};
use self::graph::Graph;

/// The key of the work of finding out which kinds there are. No UID looks so.
const DISCOVERY: &str = "#discovery";

/// The controller; its keys are UIDs, and [`DISCOVERY`].
#[derive(Default)]
pub struct GarbageCollector {
    graph: Arc<Mutex<Graph>>,
    monitors: Mutex<BTreeMap<Endpoint, Informer<PartialMetadata>>>,
    outside: OnceLock<(Informers, Trigger)>,
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const WORKERS: usize = 20;

    fn watch(&self, watches: &mut Watches<'_>) {
        let trigger = watches.trigger();
        for endpoint in [Endpoint::of::<CustomResourceDefinition>(), Endpoint::of::<APIService>()] {
            let trigger = trigger.clone();
            let informer = watches.informers().metadata(endpoint);
            // Kinds come and go with these objects, and with nothing else.
            informer.listen(move |_| trigger.wake(Key::cluster(DISCOVERY)));
        }
        trigger.wake(Key::cluster(DISCOVERY));
        // `watch` is called once.
        let _ = self.outside.set((watches.informers().clone(), trigger));
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        if key.as_str() == DISCOVERY {
            return self.discover(view);
        }
        let mut plan = Plan::nothing();
        if !self.knows_everything() {
            // What is not seen yet may be a dependent.
            plan.retry = true;
            return plan;
        }
        let mut graph = self.graph.lock();
        let decision = decide::decide(&mut graph, key.as_str(), view.answers());
        drop(graph);
        if let Some((_, trigger)) = self.outside.get() {
            for uid in decision.wake {
                trigger.wake(Key::cluster(&uid));
            }
        }
        decision.plan
    }
}

impl GarbageCollector {
    fn knows_everything(&self) -> bool {
        let monitors = self.monitors.lock();
        !monitors.is_empty() && monitors.values().all(Informer::has_synced)
    }

    fn discover(&self, view: &View<'_>) -> Plan {
        let mut plan = Plan::nothing();
        match discovery::next(view.answers()) {
            Next::Ask(paths) => plan.questions = paths,
            Next::Kinds { kinds, complete } => {
                self.monitor(kinds, complete);
                plan.retry = !complete;
            }
        }
        plan
    }

    /// Watches the metadata of these kinds; of others no longer, unless discovery could not tell of all.
    fn monitor(&self, kinds: Vec<Kind>, complete: bool) {
        let Some((informers, trigger)) = self.outside.get() else { return };
        let mut monitors = self.monitors.lock();
        if complete {
            monitors.retain(|endpoint, _| {
                let served = kinds.iter().any(|kind| kind.endpoint == *endpoint);
                if !served {
                    informers.stop_metadata(endpoint);
                    self.graph.lock().forget_kind(endpoint);
                }
                served
            });
        }
        for kind in kinds {
            self.graph.lock().learn(&kind);
            if monitors.contains_key(&kind.endpoint) {
                continue;
            }
            let informer = informers.metadata(kind.endpoint.clone());
            informer.set_transform(|object| {
                // Only identities and owners matter here; labels and annotations are most of the bytes.
                object.metadata.labels = None;
                object.metadata.annotations = None;
            });
            let (graph, trigger, endpoint) = (self.graph.clone(), trigger.clone(), kind.endpoint.clone());
            informer.listen(move |change| {
                let woken = graph.lock().apply(&endpoint, change);
                for uid in woken {
                    trigger.wake(Key::cluster(&uid));
                }
            });
            monitors.insert(kind.endpoint, informer);
        }
    }
}

#[cfg(test)]
mod tests;
