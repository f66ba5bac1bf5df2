//! Where objects that are only counted are found: one cache of metadata for each resource that some quota counts.
//!
//! Started when a quota first names the resource, and shared with the garbage collector, which watches the same metadata.
//! Not here: what is counted.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::GroupResource;
use api::types::apiextensions::v1::CustomResourceDefinition;
use api::types::core::v1::ResourceQuota;
use client::{Change, Endpoint, Informer, Informers, PartialMetadata};
use parking_lot::Mutex;
use reconcile::{Answers, Key, Trigger, Watches};

use crate::object;

/// What is known of a resource.
pub(super) enum State {
    /// These paths tell where it is served.
    Ask(Vec<String>),
    /// It is not served.
    Unknown,
    /// Its objects are being listed.
    Filling,
    /// Its objects.
    Ready(Informer<PartialMetadata>),
}

enum Source {
    Unknown,
    Watched { endpoint: Endpoint, informer: Option<Informer<PartialMetadata>> },
}

#[derive(Clone)]
struct Outside {
    informers: Informers,
    quotas: Informer<ResourceQuota>,
    trigger: Trigger,
}

/// The caches by resource.
#[derive(Default)]
pub(super) struct Sources {
    known: Arc<Mutex<HashMap<GroupResource, Source>>>,
    outside: OnceLock<Outside>,
}

impl Sources {
    /// Looks out for resources that come and go.
    pub(super) fn start(&self, watches: &Watches<'_>) {
        let informers = watches.informers().clone();
        let outside = Outside {
            quotas: informers.informer::<ResourceQuota>(),
            informers: informers.clone(),
            trigger: watches.trigger(),
        };
        let (known, to_wake) = (self.known.clone(), outside.clone());
        informers.metadata(Endpoint::of::<CustomResourceDefinition>()).listen(move |change| {
            // A definition is called `<plural>.<group>`, as the resource.
            let Some((plural, group)) = object::name(&**change.object()).split_once('.') else { return };
            let resource = GroupResource::new(group, plural);
            if matches!(change, Change::Deleted(_))
                || matches!(known.lock().get(&resource), Some(Source::Unknown))
            {
                known.lock().remove(&resource);
            }
            to_wake.wake(&resource, None);
        });
        // `watch` is called once.
        let _ = self.outside.set(outside);
    }

    /// Whether a resource is served, as far as is known.
    pub(super) fn serves(&self, resource: &GroupResource) -> bool {
        !matches!(self.known.lock().get(resource), Some(Source::Unknown))
    }

    /// The objects of a resource.
    pub(super) fn find(&self, resource: &GroupResource, answers: &Answers) -> State {
        let Some(outside) = self.outside.get() else { return State::Unknown };
        let mut known = self.known.lock();
        if !known.contains_key(resource) {
            match locate(resource, answers) {
                Err(paths) => return State::Ask(paths),
                Ok(None) => drop(known.insert(resource.clone(), Source::Unknown)),
                Ok(Some(endpoint)) => {
                    known.insert(resource.clone(), Source::Watched { endpoint, informer: None });
                }
            }
        }
        let Some(Source::Watched { endpoint, informer }) = known.get_mut(resource) else {
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
                    outside.wake(&resource, Some(object::namespace(&**change.object())));
                }
            });
        }
        if current.has_synced() { State::Ready(current) } else { State::Filling }
    }
}

impl Outside {
    /// Wakes the quotas that count a resource.
    fn wake(&self, resource: &GroupResource, namespace: Option<&str>) {
        let quotas = match namespace {
            Some(namespace) => self.quotas.list_namespace(namespace),
            None => self.quotas.list(),
        };
        for quota in quotas {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            let names = hard.into_iter().flat_map(|hard| hard.keys().map(String::as_str));
            if api::quota::resources_behind(names).contains(resource) {
                self.trigger.wake(Key::of(&*quota));
            }
        }
    }
}

/// Where a resource is served: the group's preferred version, if that has it. `Err` says what to ask.
fn locate(resource: &GroupResource, answers: &Answers) -> Result<Option<Endpoint>, Vec<String>> {
    let (version, list) = if resource.group.is_empty() {
        ("v1".to_owned(), "/api/v1".to_owned())
    } else {
        let path = format!("/apis/{}", resource.group);
        match answers.get(&path) {
            None => return Err(vec![path]),
            Some(Err(_)) => return Ok(None),
            Some(Ok(group)) => {
                let version = group["preferredVersion"]["version"].as_str().unwrap_or_default();
                (version.to_owned(), format!("{path}/{version}"))
            }
        }
    };
    match answers.get(&list) {
        None => Err(vec![list]),
        Some(Err(_)) => Ok(None),
        Some(Ok(found)) => {
            let served = found["resources"].as_array().into_iter().flatten();
            let can = |resource: &serde_json::Value, wanted: &str| {
                resource["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|verb| verb == wanted))
            };
            let mut served = served.filter(|served| can(served, "list") && can(served, "watch"));
            let is_served = served.any(|served| served["name"] == *resource.resource);
            Ok(is_served.then(|| Endpoint::new(resource.group.clone(), version, resource.resource.clone())))
        }
    }
}
