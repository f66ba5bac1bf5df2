//! Claims, volumes, classes and drivers, as the scheduler knows them.
//!
//! Fed by the executor. What was decided and is not written yet (a volume for a claim) is kept here, so that no two claims
//! get one volume. Pure. Not here: deciding (`plugins/volume_*`).
//!
//! Upstream: pkg/scheduler/util/assumecache, plugins/volumebinding/binder.go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    types::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::{CSINode, StorageClass},
    },
    volumes::{self, class_of_claim, class_of_volume},
};

use crate::cluster::NodeInfo;

/// A claim by namespace and name.
pub type ClaimKey = (String, String);

/// What is known.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: HashMap<ClaimKey, Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Arc<PersistentVolume>>,
    by_class: HashMap<String, BTreeSet<String>>,
    classes: HashMap<String, Arc<StorageClass>>,
    drivers: HashMap<String, Arc<CSINode>>,
    /// Volumes given to claims, by the volume's name, until the API server says so.
    given: HashMap<String, ClaimKey>,
}

/// What a pod asks for by one of its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The claim's name.
    pub claim: String,
    /// Whether the claim is made for the pod, and goes with it.
    pub is_ephemeral: bool,
}

/// The claims a pod uses.
pub fn wanted(pod: &Pod) -> Vec<Wanted> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            if let Some(source) = &volume.persistent_volume_claim {
                return Some(Wanted { claim: source.claim_name.clone(), is_ephemeral: false });
            }
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            volume
                .ephemeral
                .as_ref()
                .map(|_| Wanted { claim: format!("{name}-{}", volume.name), is_ephemeral: true })
        })
        .collect()
}

impl Volumes {
    /// A claim is there, or (`None`) is not.
    pub fn set_claim(&mut self, namespace: &str, name: &str, claim: Option<Arc<PersistentVolumeClaim>>) {
        let key = (namespace.to_owned(), name.to_owned());
        match claim {
            Some(claim) => drop(self.claims.insert(key, claim)),
            None => drop(self.claims.remove(&key)),
        }
    }

    /// A volume is there, or is not.
    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        if let Some(old) = self.volumes.remove(name)
            && let Some(names) = self.by_class.get_mut(class_of_volume(&old))
        {
            names.remove(name);
        }
        let Some(volume) = volume else {
            self.given.remove(name);
            return;
        };
        if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
            self.given.remove(name);
        }
        self.by_class.entry(class_of_volume(&volume).to_owned()).or_default().insert(name.to_owned());
        self.volumes.insert(name.to_owned(), volume);
    }

    /// A class is there, or is not.
    pub fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.to_owned(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    /// What drivers a node has is known, or is not.
    pub fn set_drivers(&mut self, node: &str, drivers: Option<Arc<CSINode>>) {
        match drivers {
            Some(drivers) => drop(self.drivers.insert(node.to_owned(), drivers)),
            None => drop(self.drivers.remove(node)),
        }
    }

    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name)
    }

    /// The class a claim asks for.
    pub fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<StorageClass>> {
        self.classes.get(class_of_claim(claim))
    }

    /// How many volumes of a driver a node can attach, where it says so.
    pub fn limit(&self, node: &str, driver: &str) -> Option<i64> {
        let drivers = &self.drivers.get(node)?.spec.drivers;
        let found = drivers.iter().find(|found| found.name == driver)?;
        found.allocatable.as_ref()?.count.map(i64::from)
    }

    /// The volume for a claim on a node, leaving out those of `taken`.
    pub fn find(
        &self,
        claim: &PersistentVolumeClaim,
        node: &NodeInfo,
        taken: &BTreeSet<String>,
    ) -> Option<&Arc<PersistentVolume>> {
        let names = self.by_class.get(class_of_claim(claim)).into_iter().flatten();
        let candidates = names.filter_map(|name| self.volumes.get(name).map(|volume| &**volume));
        let key = key_of(claim);
        let found = volumes::best(candidates, claim, |volume| {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            !taken.contains(name)
                && self.given.get(name).is_none_or(|other| *other == key)
                && volumes::usable_on(volume, node.name(), node.labels())
        })?;
        self.volumes.get(found.metadata.name.as_deref()?)
    }

    /// A volume is given to a claim.
    pub fn give(&mut self, volume: &str, claim: &PersistentVolumeClaim) {
        self.given.insert(volume.to_owned(), key_of(claim));
    }

    /// The volumes that were given to claims of this namespace and these names are free again.
    pub fn take_back(&mut self, namespace: &str, claims: &[Wanted]) {
        self.given.retain(|_, (within, name)| {
            within != namespace || claims.iter().all(|claim| claim.claim != *name)
        });
    }

    /// Driver and handle of each distinct volume that a pod has attached, by its claims.
    pub fn attached(&self, pod: &Pod) -> BTreeMap<String, BTreeSet<String>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut attached: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Wanted { claim, .. } in wanted(pod) {
            let Some(claim) = self.claim(namespace, &claim) else { continue };
            match self.volume(volumes::volume_name(claim)) {
                Some(volume) => {
                    if let Some(csi) = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()) {
                        attached.entry(csi.driver.clone()).or_default().insert(csi.volume_handle.clone());
                    }
                }
                // It will be one of its class's driver.
                None => {
                    if let Some(class) = self.class_of(claim) {
                        let (namespace, name) = key_of(claim);
                        let stand_in = format!("{namespace}/{name}");
                        attached.entry(class.provisioner.clone()).or_default().insert(stand_in);
                    }
                }
            }
        }
        attached
    }
}

fn key_of(claim: &PersistentVolumeClaim) -> ClaimKey {
    let meta = &claim.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
