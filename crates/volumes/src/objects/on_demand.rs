//! An informer that runs only while somebody needs it.
//!
//! Most nodes have no pod that reads trust bundles or wants certificates; they keep no cache of them and open no watch.
//! Not here: who needs it ([`super::ApiObjects`] counts its pods).

use client::{Change, Client, Informer, Informers, ListOptions, Resource};
use foundation::{SharedClock, Tasks};
use parking_lot::Mutex;

/// An informer with a count of its users.
pub(super) struct OnDemand<K> {
    client: Client,
    tasks: Tasks,
    clock: SharedClock,
    select: ListOptions,
    running: Mutex<Option<Running<K>>>,
}

struct Running<K> {
    informer: Informer<K>,
    tasks: Tasks,
    users: usize,
}

impl<K: Resource> OnDemand<K> {
    pub(super) fn new(client: Client, tasks: &Tasks, clock: SharedClock, select: ListOptions) -> OnDemand<K> {
        OnDemand { client, tasks: tasks.clone(), clock, select, running: Mutex::new(None) }
    }

    /// Counts one user more. The first one starts the informer, whose changes go to `changed`, also from within this call:
    /// hold no lock that it takes.
    pub(super) fn acquire(&self, changed: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut running = self.running.lock();
        if let Some(running) = &mut *running {
            running.users += 1;
            return;
        }
        let tasks = self.tasks.child("on-demand");
        let informers = Informers::new(self.client.clone(), &tasks, self.clock.clone());
        let informer = informers.informer_with::<K>(self.select.clone());
        *running = Some(Running { informer: informer.clone(), tasks, users: 1 });
        // What is there already is told at once, to somebody who may hold locks of their own.
        drop(running);
        informer.listen(changed);
    }

    /// Counts one user less. The last one ends the informer.
    pub(super) fn release(&self) {
        let mut running = self.running.lock();
        if let Some(one) = &mut *running {
            one.users -= 1;
            if one.users == 0 {
                one.tasks.token().cancel();
                *running = None;
            }
        }
    }

    /// The informer, while somebody uses it.
    pub(super) fn informer(&self) -> Option<Informer<K>> {
        self.running.lock().as_ref().map(|running| running.informer.clone())
    }
}
