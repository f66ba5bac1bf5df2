//! What plugins look at beside pods and nodes: namespaces, budgets, claims, volumes, classes, drivers.
//!
//! Reads them through the informers; changes the scheduler's count. Not here: what follows for pods that wait (the queue).

use api::types::{
    core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim},
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass},
};
use client::{Cached, Change, Informer, Informers, Subscription};

use crate::{cluster::Cluster, framework::Event};

/// The caches, and what they have told.
pub(super) struct Surroundings {
    namespaces: (Informer<Namespace>, Subscription<Namespace>),
    budgets: (Informer<PodDisruptionBudget>, Subscription<PodDisruptionBudget>),
    claims: (Informer<PersistentVolumeClaim>, Subscription<PersistentVolumeClaim>),
    volumes: (Informer<PersistentVolume>, Subscription<PersistentVolume>),
    classes: (Informer<StorageClass>, Subscription<StorageClass>),
    drivers: (Informer<CSINode>, Subscription<CSINode>),
}

/// One change.
pub(super) enum Surrounding {
    Namespace(Change<Namespace>),
    Budget(Change<PodDisruptionBudget>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
    Drivers(Change<CSINode>),
}

fn watched<K: client::Resource>(informers: &Informers) -> (Informer<K>, Subscription<K>) {
    let informer = informers.informer::<K>();
    let subscription = informer.subscribe();
    (informer, subscription)
}

fn name<K: Cached>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// The object, unless it is gone.
fn present<K>(change: &Change<K>) -> Option<std::sync::Arc<K>> {
    (!change.is_deleted()).then(|| change.object().clone())
}

impl Surroundings {
    pub(super) fn new(informers: &Informers) -> Self {
        Self {
            namespaces: watched(informers),
            budgets: watched(informers),
            claims: watched(informers),
            volumes: watched(informers),
            classes: watched(informers),
            drivers: watched(informers),
        }
    }

    pub(super) async fn synced(&self) {
        tokio::join!(
            self.namespaces.0.synced(),
            self.budgets.0.synced(),
            self.claims.0.synced(),
            self.volumes.0.synced(),
            self.classes.0.synced(),
            self.drivers.0.synced(),
        );
    }

    /// The next change.
    pub(super) async fn recv(&mut self) -> Surrounding {
        tokio::select! {
            change = self.namespaces.1.recv() => Surrounding::Namespace(change),
            change = self.budgets.1.recv() => Surrounding::Budget(change),
            change = self.claims.1.recv() => Surrounding::Claim(change),
            change = self.volumes.1.recv() => Surrounding::Volume(change),
            change = self.classes.1.recv() => Surrounding::Class(change),
            change = self.drivers.1.recv() => Surrounding::Drivers(change),
        }
    }

    /// The next change, if there is one already.
    pub(super) fn try_recv(&mut self) -> Option<Surrounding> {
        let namespace = self.namespaces.1.try_recv().map(Surrounding::Namespace);
        namespace
            .or_else(|| self.budgets.1.try_recv().map(Surrounding::Budget))
            .or_else(|| self.claims.1.try_recv().map(Surrounding::Claim))
            .or_else(|| self.volumes.1.try_recv().map(Surrounding::Volume))
            .or_else(|| self.classes.1.try_recv().map(Surrounding::Class))
            .or_else(|| self.drivers.1.try_recv().map(Surrounding::Drivers))
    }

    /// Takes a change over into the count; says what happened.
    pub(super) fn count<'a>(change: &'a Surrounding, cluster: &mut Cluster) -> Option<Event<'a>> {
        match change {
            Surrounding::Namespace(change) => {
                let labels = present(change).map(|found| found.metadata.labels.clone().unwrap_or_default());
                cluster.set_namespace(name(&**change.object()), labels).then_some(Event::NamespacesChanged)
            }
            Surrounding::Budget(change) => {
                cluster.set_budget(&client::key_of(&**change.object()), present(change));
                None
            }
            Surrounding::Claim(change) => {
                let claim = &**change.object();
                let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
                cluster.volumes_mut().set_claim(namespace, name(claim), present(change));
                Some(Event::VolumesChanged(Some((namespace, name(claim)))))
            }
            Surrounding::Volume(change) => {
                cluster.volumes_mut().set_volume(name(&**change.object()), present(change));
                Some(Event::VolumesChanged(None))
            }
            Surrounding::Class(change) => {
                cluster.volumes_mut().set_class(name(&**change.object()), present(change));
                Some(Event::VolumesChanged(None))
            }
            Surrounding::Drivers(change) => {
                cluster.volumes_mut().set_drivers(name(&**change.object()), present(change));
                Some(Event::VolumesChanged(None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn one_namespace_changes_one() {
        let namespace = |name: &str, team: &str| -> Arc<Namespace> {
            let metadata = json!({"name": name, "labels": {"team": team}});
            Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
        };
        let mut cluster = Cluster::default();
        let (a, b) = (namespace("a", "x"), namespace("b", "y"));
        for (what, change, is_event, expected) in [
            ("new", Change::Added(a.clone()), true, vec!["a x"]),
            ("another", Change::Added(b), true, vec!["a x", "b y"]),
            ("its labels", Change::Updated { old: a, new: namespace("a", "z") }, true, vec!["a z", "b y"]),
            ("nothing", Change::Added(namespace("a", "z")), false, vec!["a z", "b y"]),
            ("gone", Change::Deleted(namespace("a", "z")), true, vec!["b y"]),
        ] {
            let change = Surrounding::Namespace(change);
            assert_eq!(Surroundings::count(&change, &mut cluster).is_some(), is_event, "{what}");
            let found = cluster.namespaces().iter();
            let found: Vec<String> =
                found.map(|(name, labels)| format!("{name} {}", labels["team"])).collect();
            assert_eq!(found, expected, "{what}");
        }
    }
}
