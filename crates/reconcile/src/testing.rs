//! A controller over caches that are filled by hand: what the tables of the controllers' tests are run through.

use std::sync::Arc;

use client::{Informers, Resource};
use jiff::Timestamp;

use crate::queue::Queue;
use crate::{Answers, Caches, Controller, Failure, Key, Plan, View, Watches};

/// A controller, its caches, and what its plans are told beside them. For tests; it carries nothing out.
pub struct Fixture<C> {
    controller: C,
    caches: Arc<Caches>,
    queue: Arc<Queue>,
    failure: Option<Failure>,
    answers: Answers,
    _informers: Informers,
}

impl<C: Controller> Fixture<C> {
    /// A controller with empty caches.
    pub fn new(controller: C) -> Fixture<C> {
        let informers = Informers::unfed();
        let queue = Arc::new(Queue::default());
        let mut watches = Watches::new(&informers, queue.clone());
        controller.watch(&mut watches);
        let caches = watches.finish();
        Fixture {
            controller,
            caches,
            queue,
            failure: None,
            answers: Answers::default(),
            _informers: informers,
        }
    }

    /// The same, with exactly these objects of a kind.
    pub fn with<K: Resource>(self, objects: impl IntoIterator<Item = K>) -> Fixture<C> {
        self.caches.informer::<K>().feed(objects.into_iter().collect());
        self
    }

    /// The same, with a last run that failed so.
    pub fn with_failure(mut self, failure: Failure) -> Fixture<C> {
        self.failure = Some(failure);
        self
    }

    /// The same, with an answer to a question.
    pub fn with_answer(mut self, path: &str, answer: Result<serde_json::Value, api::Status>) -> Fixture<C> {
        self.answers.insert(path, answer);
        self
    }

    /// The same, with an attempt that was refused, by the path of what it was at.
    pub fn with_refusal(mut self, path: &str, why: api::Status) -> Fixture<C> {
        self.answers.refuse(path, why);
        self
    }

    /// The controller.
    pub fn controller(&self) -> &C {
        &self.controller
    }

    /// The caches, to change them.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// The keys that changes have woken since the last call, in order.
    pub fn woken(&self) -> Vec<String> {
        let now = std::time::Duration::ZERO;
        let keys: Vec<Key> = std::iter::from_fn(|| self.queue.take(now).map(|(key, _)| key)).collect();
        for key in &keys {
            self.queue.finish(key, crate::queue::Outcome::Done(None), now);
        }
        keys.iter().map(Key::to_string).collect()
    }

    /// The plan for a key.
    pub fn plan(&self, namespace: &str, name: &str, now: Timestamp) -> Plan {
        let view = View { caches: &self.caches, failure: self.failure.as_ref(), answers: &self.answers };
        self.controller.plan(&view, &Key::new(namespace, name), now)
    }

    /// The plan for a key as one line per action.
    pub fn lines(&self, namespace: &str, name: &str, now: Timestamp) -> Vec<String> {
        self.plan(namespace, name, now).actions().map(ToString::to_string).collect()
    }
}
