//! Where objects that are only counted are found: one cache of metadata for each resource that some quota counts.
//!
//! Started when a quota first names the resource, and shared with the garbage collector, which watches the same metadata.
//! Not here: what is counted.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::types::apiextensions::v1::CustomResourceDefinition;
use api::types::core::v1::ResourceQuota;
use api::{GroupResource, quota};
use client::{Change, Endpoint, Informer, Informers, PartialMetadata};
use jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::{Answers, Key, Trigger, Watches};

use super::releases::{Releases, revision};
use crate::{discovery, object};

/// What is known of a resource.
pub(super) enum State {
    /// These paths tell where it is served.
    Ask(Vec<String>),
    /// It is not served.
    Unknown,
    /// Its objects are being listed.
    Filling,
    /// The server cannot tell of it now.
    Down,
    /// Its objects.
    Ready(Informer<PartialMetadata>),
}

/// When discovery is asked again whether a resource is served in another version. The server's own watch is behind ours by
/// less.
const AGAIN_SECONDS: i64 = 5;

enum Source {
    Unknown(Served),
    Watched { endpoint: Endpoint, informer: Option<Informer<PartialMetadata>>, served: Served },
}

/// Whether a resource is still served where it is watched, or still not.
#[derive(Clone, Copy)]
enum Served {
    /// So it is, as far as is known.
    Still,
    /// Its definition has changed: it may be served in another version by now.
    Unsure,
    /// Discovery told nothing new of that yet. The server learns of a definition by a watch of its own, which may be behind
    /// ours: it is asked once more then.
    Until(Timestamp),
}

impl Served {
    fn asks(self, now: Timestamp) -> bool {
        match self {
            Self::Still => false,
            Self::Unsure => true,
            Self::Until(at) => now >= at,
        }
    }

    /// After an answer that told nothing new.
    fn same(self, now: Timestamp) -> Self {
        match self {
            Self::Unsure => Self::Until(object::after(now, AGAIN_SECONDS)),
            _ => Self::Still,
        }
    }
}

#[derive(Clone)]
struct Outside {
    informers: Informers,
    quotas: Informer<ResourceQuota>,
    trigger: Trigger,
    releases: Releases,
}

/// The caches by resource.
#[derive(Default)]
pub(super) struct Sources {
    known: Arc<Mutex<HashMap<GroupResource, Source>>>,
    outside: OnceLock<Outside>,
}

impl Sources {
    /// Looks out for resources that come and go.
    pub(super) fn start(&self, watches: &Watches<'_>, releases: Releases) {
        let informers = watches.informers().clone();
        let outside = Outside {
            quotas: informers.informer::<ResourceQuota>(),
            informers: informers.clone(),
            trigger: watches.trigger(),
            releases,
        };
        let (known, to_wake) = (self.known.clone(), outside.clone());
        informers.metadata(Endpoint::of::<CustomResourceDefinition>()).listen(move |change| {
            // A definition is called `<plural>.<group>`, as the resource.
            let Some((plural, group)) = object::name(&**change.object()).split_once('.') else { return };
            let resource = GroupResource::new(group, plural);
            match change {
                Change::Deleted(_) => drop(known.lock().remove(&resource)),
                _ => outdate(&mut known.lock(), &resource),
            }
            to_wake.wake(&resource, None);
        });
        // `watch` is called once.
        let _ = self.outside.set(outside);
    }

    /// Whether a resource is served, as far as is known.
    pub(super) fn serves(&self, resource: &GroupResource) -> bool {
        !matches!(self.known.lock().get(resource), Some(Source::Unknown(_)))
    }

    /// The revision that the caches have reached.
    pub(super) fn reached(&self) -> u64 {
        let known = self.known.lock();
        let informers = known.values().filter_map(|source| match source {
            Source::Watched { informer, .. } => informer.as_ref(),
            Source::Unknown(_) => None,
        });
        informers.filter_map(|informer| informer.resource_version().parse().ok()).max().unwrap_or(0)
    }

    /// When a resource is to be looked for again, though nothing happens.
    pub(super) fn changes_at(&self, resource: &GroupResource, now: Timestamp) -> Option<Timestamp> {
        let known = self.known.lock();
        let (Source::Unknown(served) | Source::Watched { served, .. }) = known.get(resource)?;
        match served {
            Served::Still => None,
            Served::Until(at) if *at > now => Some(*at),
            // It was asked for, and the server could not tell.
            _ => Some(object::after(now, super::DOWN_SECONDS)),
        }
    }

    /// The objects of a resource.
    pub(super) fn find(&self, resource: &GroupResource, answers: &Answers, now: Timestamp) -> State {
        let Some(outside) = self.outside.get() else { return State::Unknown };
        let mut known = self.known.lock();
        let watched = known.get_mut(resource);
        let asks = match &watched {
            None => true,
            Some(Source::Unknown(served) | Source::Watched { served, .. }) => served.asks(now),
        };
        if asks {
            match (locate(resource, answers), watched) {
                // While nobody can tell, what is watched is still the best that there is.
                (Err(State::Down), Some(Source::Watched { .. })) => {}
                (Err(unknown), _) => return unknown,
                (Ok(None), Some(Source::Unknown(served))) => *served = served.same(now),
                (Ok(None), _) => drop(known.insert(resource.clone(), Source::Unknown(Served::Still))),
                (Ok(Some(found)), Some(Source::Watched { endpoint, served, .. })) if *endpoint == found => {
                    *served = served.same(now);
                }
                (Ok(Some(endpoint)), _) => {
                    let source = Source::Watched { endpoint, informer: None, served: Served::Still };
                    known.insert(resource.clone(), source);
                }
            }
        }
        let Some(Source::Watched { endpoint, informer, .. }) = known.get_mut(resource) else {
            return State::Unknown;
        };
        // Asked for anew each time: the garbage collector ends a cache when its kind goes.
        let current = outside.informers.metadata(endpoint.clone());
        let is_new = informer.as_ref().is_none_or(|old| !old.is_same(&current));
        *informer = Some(current.clone());
        drop(known);
        if is_new {
            let (outside, resource) = (outside.clone(), resource.clone());
            current.listen(move |change| {
                if change.is_deleted() {
                    let object = &**change.object();
                    let one = quota::counted(&resource);
                    let revision = revision(object);
                    for quota in outside.wake(&resource, Some(object::namespace(object))) {
                        outside.releases.add(&Key::of(&*quota), revision, None, &one);
                    }
                }
            });
        }
        if current.has_synced() { State::Ready(current) } else { State::Filling }
    }
}

/// Has a resource looked for again when it is needed next.
fn outdate(known: &mut HashMap<GroupResource, Source>, resource: &GroupResource) {
    match known.get_mut(resource) {
        Some(Source::Unknown(served) | Source::Watched { served, .. }) => *served = Served::Unsure,
        // It will be asked for when a quota counts it.
        None => {}
    }
}

impl Outside {
    /// Wakes the quotas that count a resource; returns them.
    fn wake(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<ResourceQuota>> {
        let mut quotas = match namespace {
            Some(namespace) => self.quotas.list_namespace(namespace),
            None => self.quotas.list(),
        };
        quotas.retain(|quota| {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            let names = hard.into_iter().flat_map(|hard| hard.keys().map(String::as_str));
            quota::resources_behind(names).contains(resource)
        });
        for quota in &quotas {
            self.trigger.wake(Key::of(&**quota));
        }
        quotas
    }
}

/// Where a resource is served. `Err` says why that is not known.
fn locate(resource: &GroupResource, answers: &Answers) -> Result<Option<Endpoint>, State> {
    let found = discovery::of_group(&resource.group, answers).map_err(State::Ask)?;
    let mut served = found.kinds.iter().filter(|served| served.can(&["list", "watch"]));
    match served.find(|served| served.endpoint.plural == resource.resource) {
        Some(served) => Ok(Some(served.endpoint.clone())),
        None if found.failed.is_empty() => Ok(None),
        None => Err(State::Down),
    }
}

#[cfg(test)]
impl Sources {
    /// As if the resource's definition had changed.
    pub(super) fn changed(&self, resource: &GroupResource) {
        outdate(&mut self.known.lock(), resource);
    }

    /// The version in which a resource is watched.
    pub(super) fn version(&self, resource: &GroupResource) -> Option<String> {
        match self.known.lock().get(resource)? {
            Source::Watched { endpoint, .. } => Some(endpoint.version.to_string()),
            Source::Unknown(_) => None,
        }
    }
}
