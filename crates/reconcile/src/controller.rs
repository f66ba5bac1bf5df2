//! The contract of a controller: what wakes it, what it may read, what it decides.

use std::ops::Deref;
use std::sync::Arc;

use api::meta::OwnerReference;
use client::{Cached, Change, Endpoint, Informers, ListOptions, Resource};
use jiff::Timestamp;

use crate::queue::Queue;
use crate::{Answers, CONTROLLER_UID, Caches, Failure, Key, Plan};

/// One controller.
pub trait Controller: Send + Sync + 'static {
    /// What metrics, events and its identity call it: `deployment-controller`.
    const NAME: &'static str;

    /// How many keys may be worked on at once. Upstream's `--concurrent-*-syncs` is 5 for most.
    const WORKERS: usize = 5;

    /// Says which kinds it reads, and which keys a change of them wakes.
    fn watch(&self, watches: &mut Watches<'_>);

    /// What should happen next for `key`. Pure: it reads the view and `now`, and nothing else. It is called again after each
    /// change that wakes the key, so a plan need not wait for what it starts.
    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan;
}

/// What a plan may read: the caches, why the last run failed, and the answers to its questions.
pub struct View<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) answers: &'a Answers,
}

impl View<'_> {
    /// Why the last run of this key failed; `None` once a run has succeeded.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure
    }

    /// The answers to the questions of the plan before, in the same run.
    pub fn answers(&self) -> &Answers {
        self.answers
    }
}

impl Deref for View<'_> {
    type Target = Caches;

    fn deref(&self) -> &Caches {
        self.caches
    }
}

/// Wakes keys from outside the caches.
#[derive(Clone)]
pub struct Trigger(pub(crate) Arc<Queue>);

impl Trigger {
    /// Plans `key` soon.
    pub fn wake(&self, key: Key) {
        self.0.add(key);
    }
}

type Attach = Box<dyn FnOnce(&Arc<Caches>, &Arc<Queue>) + Send>;

/// Where a controller declares what it watches.
pub struct Watches<'a> {
    informers: &'a Informers,
    caches: Caches,
    attach: Vec<Attach>,
    queue: Arc<Queue>,
}

impl<'a> Watches<'a> {
    pub(crate) fn new(informers: &'a Informers, queue: Arc<Queue>) -> Watches<'a> {
        Watches { informers, caches: Caches::default(), attach: Vec::new(), queue }
    }

    /// Attaches the listeners, now that all caches are known.
    pub(crate) fn finish(self) -> Arc<Caches> {
        let caches = Arc::new(self.caches);
        for attach in self.attach {
            attach(&caches, &self.queue);
        }
        caches
    }

    /// The plan reads this kind; its changes wake nothing.
    pub fn read<K: Resource>(&mut self) -> &mut Self {
        if !self.caches.has::<K>() {
            self.caches.insert(self.informers.informer::<K>());
        }
        self
    }

    /// Objects of this kind are the keys.
    pub fn primary<K: Resource>(&mut self) -> &mut Self {
        self.map::<K>(|_, change, wake| wake(Key::of(&**change.object())))
    }

    /// A change of `K` wakes its controller, if that is of kind `Owner`.
    pub fn owned<K: Resource, Owner: Resource>(&mut self) -> &mut Self {
        self.index::<K>(CONTROLLER_UID, controller_uid::<K>);
        self.map::<K>(|_, change, wake| {
            // An object that changed hands concerns both controllers.
            for object in change.old().into_iter().chain([change.object()]) {
                if let Some(owner) = controller_of(&**object)
                    && is_kind::<Owner>(owner)
                {
                    wake(Key::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name));
                }
            }
        })
    }

    /// A change of `K` wakes the keys that `keys` names. It is called on the informer's task: it must be quick.
    pub fn map<K: Resource>(
        &mut self,
        keys: impl Fn(&Caches, &Change<K>, &mut dyn FnMut(Key)) + Send + Sync + 'static,
    ) -> &mut Self {
        self.read::<K>();
        self.attach.push(Box::new(move |caches, queue| {
            let informer = caches.informer::<K>().clone();
            // Weak: the caches hold the informer, and the informer would hold the caches.
            let caches = Arc::downgrade(caches);
            let queue = queue.clone();
            informer.listen(move |change| {
                if let Some(caches) = caches.upgrade() {
                    keys(&caches, change, &mut |key| queue.add(key));
                }
            });
        }));
        self
    }

    /// Adds an index to a kind that is read.
    pub fn index<K: Resource>(&mut self, name: &'static str, values: fn(&K) -> Vec<String>) -> &mut Self {
        self.read::<K>();
        self.caches.informer::<K>().add_index(name, values);
        self
    }

    /// Reads only the objects of a kind that match; for kinds that the controller does not write.
    pub fn select<K: Resource>(&mut self, select: ListOptions) -> &mut Self {
        self.caches.insert(self.informers.informer_with::<K>(select));
        self
    }

    /// The cache of any kind's metadata; its changes are the controller's own business.
    pub fn informers(&self) -> &Informers {
        self.informers
    }

    /// A handle that wakes keys from outside the caches.
    pub fn trigger(&self) -> Trigger {
        Trigger(self.queue.clone())
    }
}

impl Caches {
    pub(crate) fn has<K: Resource>(&self) -> bool {
        self.progress(&Endpoint::of::<K>()).is_some()
    }
}

fn controller_uid<K: Cached>(object: &K) -> Vec<String> {
    controller_of(object).map(|owner| owner.uid.clone()).into_iter().collect()
}

/// The reference to the controller of an object, if it has one.
fn controller_of<K: Cached>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.as_deref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether a reference is to an object of this kind, of whatever version.
fn is_kind<K: Resource>(owner: &OwnerReference) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    owner.kind == K::KIND && group == K::GROUP
}
