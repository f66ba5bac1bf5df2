//! Who watches a cache, found by what a change concerns.
//!
//! A kubelet's watch of the pods of its node is not woken by the pods of others: watchers that name a
//! namespace, an object or a field's value are kept under it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::Status;
use foundation::metrics::Counter;

use super::conversion::Progress;
use super::queue::{Receiver, Sender, Sent, queue};
use super::{Cached, Change};

/// What a list or watch may concern, as far as it can be found without looking at every object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Every object.
    All,
    /// The objects of one namespace.
    Namespace(String),
    /// One object.
    Key(String),
    /// The objects whose selectable field (by position in the descriptor) has this value.
    Field {
        /// Position.
        field: usize,
        /// Value.
        value: String,
    },
}

impl Interest {
    /// The selectable field by which it is found, by its place in the descriptor.
    pub fn field(&self) -> Option<usize> {
        match self {
            Self::Field { field, .. } => Some(*field),
            Self::All | Self::Namespace(_) | Self::Key(_) => None,
        }
    }

    /// Whether a change can matter.
    pub fn concerns(&self, change: &Change) -> bool {
        let means = |object: &Arc<Cached>| self.means(object);
        matches!(self, Self::All)
            || change.current.as_ref().is_some_and(means)
            || change.previous.as_ref().is_some_and(means)
    }

    /// Whether an object is among those it names.
    pub(super) fn means(&self, object: &Cached) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => object.namespace() == namespace,
            Self::Key(key) => object.key == key.as_bytes(),
            Self::Field { field, value } => object.facts.fields.get(*field).is_some_and(|v| **v == **value),
        }
    }
}

/// A place in the stream of changes.
#[derive(Debug)]
pub struct Subscription {
    /// Changes that came between the asked start and now.
    pub missed: std::vec::IntoIter<Arc<Change>>,
    /// Changes to come. Ends when the watcher was too slow, or the cache is closed.
    pub receiver: Receiver,
    /// Changes up to this revision are not part of the stream.
    pub after: u64,
    source: Source,
}

impl Subscription {
    /// Why the stream ended, if it was because of a failure that the client is to be told.
    pub fn failure(&self) -> Option<&Status> {
        self.source.failure.get()
    }

    /// Whether there are changes that the hub has told of and the stream has not got yet.
    pub fn is_behind(&self) -> bool {
        // In this order: what is converted in between is in the receiver before it counts as converted.
        self.source.progress.as_ref().is_some_and(|progress| progress.is_behind())
            || !self.receiver.is_empty()
    }
}

/// What a subscription shares with its cache.
#[derive(Debug)]
pub(super) struct Source {
    pub failure: Arc<OnceLock<Status>>,
    pub progress: Option<Arc<Progress>>,
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    namespaces: HashMap<String, Vec<Watcher>>,
    keys: HashMap<String, Vec<Watcher>>,
    fields: HashMap<usize, HashMap<String, Vec<Watcher>>>,
    /// Watchers added since the ones that left were last swept out, and the number at which to do it.
    added: usize,
    sweep_at: usize,
}

#[derive(Debug)]
struct Watcher {
    sender: Sender,
    after: u64,
}

impl Watchers {
    pub(super) fn add(
        &mut self,
        interest: Interest,
        after: u64,
        missed: Vec<Arc<Change>>,
        source: Source,
    ) -> Subscription {
        self.added += 1;
        if self.added > self.sweep_at {
            self.sweep();
        }
        let (sender, receiver) = queue();
        let after = missed.last().map_or(after, |change| change.revision.max(after));
        let watcher = Watcher { sender, after };
        match interest {
            Interest::All => self.all.push(watcher),
            Interest::Namespace(namespace) => self.namespaces.entry(namespace).or_default().push(watcher),
            Interest::Key(key) => self.keys.entry(key).or_default().push(watcher),
            Interest::Field { field, value } => {
                self.fields.entry(field).or_default().entry(value).or_default().push(watcher);
            }
        }
        Subscription { missed: missed.into_iter(), receiver, after, source }
    }

    /// Forgets watchers that have left. `notify` does so too, but only where something changes.
    fn sweep(&mut self) {
        let mut left = 0;
        let mut prune = |watchers: &mut Vec<Watcher>| {
            watchers.retain(|watcher| !watcher.sender.is_closed());
            left += watchers.len();
            !watchers.is_empty()
        };
        prune(&mut self.all);
        self.namespaces.retain(|_, watchers| prune(watchers));
        self.keys.retain(|_, watchers| prune(watchers));
        for table in self.fields.values_mut() {
            table.retain(|_, watchers| prune(watchers));
        }
        self.added = 0;
        self.sweep_at = left.max(64);
    }

    /// Hands `change` to whoever it concerns; forgets the ones that are gone or do not read, and counts the latter.
    pub(super) fn notify(&mut self, change: &Arc<Change>, late: &Counter) {
        send(&mut self.all, change, late);
        let object = change.current.as_deref().or(change.previous.as_deref());
        let Some(object) = object else { return };
        send_at(&mut self.namespaces, object.namespace(), change, late);
        if !self.keys.is_empty() {
            send_at(&mut self.keys, std::str::from_utf8(&object.key).unwrap_or_default(), change, late);
        }
        for (field, watchers) in &mut self.fields {
            let value =
                |object: Option<&Arc<Cached>>| object.and_then(|o| o.facts.fields.get(*field)).cloned();
            let (old, new) = (value(change.previous.as_ref()), value(change.current.as_ref()));
            if let Some(new) = &new {
                send_at(watchers, new, change, late);
            }
            if let Some(old) = old
                && new.as_ref() != Some(&old)
            {
                send_at(watchers, &old, change, late);
            }
        }
    }
}

fn send_at(table: &mut HashMap<String, Vec<Watcher>>, at: &str, change: &Arc<Change>, late: &Counter) {
    if let Some(watchers) = table.get_mut(at) {
        send(watchers, change, late);
        if watchers.is_empty() {
            table.remove(at);
        }
    }
}

fn send(watchers: &mut Vec<Watcher>, change: &Arc<Change>, late: &Counter) {
    watchers.retain(|watcher| {
        let sent = if change.revision <= watcher.after { Sent::Queued } else { watcher.sender.send(change) };
        if sent == Sent::Late {
            late.inc();
        }
        sent == Sent::Queued
    });
}
