//! Objects of one resource, compiled, and compiled anew when one of them has changed.
//! Reads the watch cache, whose revision says whether anything has, and what came from files, which comes first.
//! Upstream: apiserver `pkg/admission/configuration`.

use std::collections::HashMap;
use std::sync::Arc;

use api::{GroupResource, GroupVersionResource, Object, Status};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::matching::configures;
use crate::admission::manifests::Set;
use crate::cluster::ClusterState;

/// The objects of a resource as `T`, ordered by name.
pub(in crate::admission) struct Configurations<T> {
    resource: GroupResource,
    compile: fn(&Object) -> Option<T>,
    state: Mutex<State<T>>,
    fixed: Mutex<(Arc<Set>, Arc<[Arc<T>]>)>,
}

/// What there is now, each ordered by name.
pub(in crate::admission) struct Both<T> {
    /// Out of files.
    pub fixed: Arc<[Arc<T>]>,
    /// Out of the API.
    pub stored: Arc<[Arc<T>]>,
}

impl<T> Both<T> {
    /// Those out of files, and then the others.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.fixed.iter().chain(self.stored.iter())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.stored.is_empty()
    }
}

struct State<T> {
    changes: Option<watch::Receiver<u64>>,
    /// By name, with the resourceVersion that it was compiled from.
    known: HashMap<String, (String, Arc<T>)>,
    ordered: Arc<[Arc<T>]>,
    revision: Option<u64>,
}

impl<T> Configurations<T> {
    /// Of `resource`, each compiled by `compile`, which leaves out what cannot be read.
    pub fn new(resource: &str, compile: fn(&Object) -> Option<T>) -> Self {
        let state = State { changes: None, known: HashMap::new(), ordered: Arc::new([]), revision: None };
        Self {
            resource: GroupResource::new("admissionregistration.k8s.io", resource),
            compile,
            state: Mutex::new(state),
            fixed: Mutex::new((Arc::default(), Arc::new([]))),
        }
    }

    /// Those that judge requests for `resource` now: configurations of admission are judged by what stands in files only,
    /// so that nothing stands in its own way. `manifests` is what stands in files; whoever needs several resources for one
    /// request gives each the same, as the files may change meanwhile.
    pub async fn of(
        &self,
        manifests: &Arc<Set>,
        resource: &GroupVersionResource,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<Both<T>, Status> {
        let fixed = self.fixed(manifests);
        let stored = match configures(resource) {
            true => Arc::new([]) as Arc<[Arc<T>]>,
            false => self.get(cluster).await?,
        };
        Ok(Both { fixed, stored })
    }

    fn fixed(&self, current: &Arc<Set>) -> Arc<[Arc<T>]> {
        let mut fixed = self.fixed.lock();
        if !Arc::ptr_eq(&fixed.0, current) {
            let objects = current.get(&*self.resource.resource).into_iter().flatten();
            *fixed = (current.clone(), objects.filter_map(self.compile).map(Arc::new).collect());
        }
        fixed.1.clone()
    }

    /// All of the API's as they are now.
    async fn get(&self, cluster: &Arc<dyn ClusterState>) -> Result<Arc<[Arc<T>]>, Status> {
        if let Some(known) = self.unchanged() {
            return Ok(known);
        }
        let changes = cluster.changes(&self.resource).await?;
        let revision = *changes.borrow();
        let listing = cluster.list(&self.resource, "").await?;
        let mut state = self.state.lock();
        let mut known = HashMap::with_capacity(listing.items.len());
        let mut ordered = Vec::with_capacity(listing.items.len());
        for bytes in &listing.items {
            let Ok(value) = serde_json::from_slice(bytes) else { continue };
            let object = Object(value);
            let (name, version) = (object.name().to_owned(), object.resource_version().to_owned());
            let compiled = match state.known.remove(&name).filter(|(known, _)| *known == version) {
                Some((_, compiled)) => compiled,
                None => match (self.compile)(&object) {
                    Some(compiled) => Arc::new(compiled),
                    None => continue,
                },
            };
            ordered.push((name.clone(), compiled.clone()));
            known.insert(name, (version, compiled));
        }
        ordered.sort_by(|(a, _), (b, _)| a.cmp(b));
        let ordered: Arc<[Arc<T>]> = ordered.into_iter().map(|(_, compiled)| compiled).collect();
        *state = State { changes: Some(changes), known, ordered: ordered.clone(), revision: Some(revision) };
        Ok(ordered)
    }

    /// What is known, while the cache has seen no change and is still alive.
    fn unchanged(&self) -> Option<Arc<[Arc<T>]>> {
        let state = self.state.lock();
        let changes = state.changes.as_ref()?;
        // An error: the cache has been dropped, and its successor must be asked.
        changes.has_changed().ok()?;
        (state.revision == Some(*changes.borrow())).then(|| state.ordered.clone())
    }
}
