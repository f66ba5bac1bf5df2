//! What is served: the table of resources, and what each needs beyond its descriptor.
//!
//! Built from `api::kinds::all()`; custom resources are added and removed while the server runs, so the
//! table is swapped as a whole and a request works with the one it started with.
//! Behaviour that needs the cluster's state is a [`Rest`] per resource, one file each below this folder;
//! `special` lists them. Not here: how requests are served (`engine`).

pub(crate) mod admissionregistration;
pub(crate) mod apiextensions;
mod authentication;
mod authorization;
mod certificates;
mod conversion;
mod core;
mod custom;
mod rbac;
mod resource;
mod rest;
mod special;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::kind::Descriptor;
use api::{GroupResource, GroupVersion, GroupVersionResource, Object, Status};
use arc_swap::ArcSwap;
use bytes::Bytes;
use schema::Schema;
use serde_json::Value;

use crate::cache::{Conversion, View};
use crate::encoding::{self, Extractor};

pub(crate) use self::core::ip_address;
pub(crate) use conversion::Asking;
pub use rest::{Deletion, Plain, Rest, Subresource, Undo};

/// Tells the definitions of one resource apart by age.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// One resource in one version.
pub struct Resource {
    /// Names, scope, hooks, columns.
    pub descriptor: Arc<Descriptor>,
    /// The shape of its objects.
    pub schema: Arc<Schema>,
    /// What the descriptor cannot say.
    pub rest: Arc<dyn Rest>,
    /// What errors quote.
    pub group_resource: GroupResource,
    /// Where and as what its objects are kept.
    pub view: View,
    converts: bool,
    stored_version: String,
    /// Who converts its objects, if it is not this server.
    webhook: Option<Arc<conversion::Webhook>>,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({})", self.descriptor.group_version_resource())
    }
}

impl Resource {
    /// A resource of `descriptor` with the shape `schema`.
    pub fn new(descriptor: Arc<Descriptor>, schema: Arc<Schema>, rest: Arc<dyn Rest>) -> Arc<Self> {
        Self::converted(descriptor, schema, rest, None)
    }

    /// A resource whose objects are converted by `webhook`, if there is one.
    fn converted(
        descriptor: Arc<Descriptor>,
        schema: Arc<Schema>,
        rest: Arc<dyn Rest>,
        webhook: Option<Arc<conversion::Webhook>>,
    ) -> Arc<Self> {
        let stored = descriptor.storage();
        let group = if stored.group.is_empty() { "core" } else { &stored.group };
        let prefix = Bytes::from(format!("/registry/{group}/{}/", stored.resource));
        let fields = descriptor.selectable_fields.iter().map(|field| (&*field.pointer, field.absent));
        let extractor = Arc::new(Extractor::new(fields));
        // Defaults that came into the schema after an object was stored are filled in when it is read.
        let defaults = matches!(&*schema, Schema::Structural(structural) if structural.has_defaults());
        let converts = defaults || stored != descriptor.group_version_resource();
        let convert = match &webhook {
            Some(webhook) => {
                let version = descriptor.group_version().to_string();
                Conversion::Asked(Arc::new(conversion::Version { webhook: webhook.clone(), version }))
            }
            None if converts => {
                let descriptor = descriptor.clone();
                Conversion::Here(Arc::new(move |bytes| match served(&descriptor, bytes) {
                    Some(value) => encoding::to_json(&value),
                    None => bytes.clone(),
                }))
            }
            None => Conversion::Same,
        };
        // Two resources can share a prefix (Events): the cache is told apart by group and version.
        let version = descriptor.group_version().to_string();
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let view = View { prefix, version, extractor, convert, generation };
        Arc::new(Self {
            group_resource: descriptor.group_resource(),
            stored_version: stored.group_version().to_string(),
            descriptor,
            schema,
            rest,
            view,
            converts,
            webhook,
        })
    }

    /// `<namespace>/<name>` or `<name>`.
    pub fn short_key(&self, namespace: &str, name: &str) -> String {
        if self.descriptor.is_namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// The store's key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        let mut key = self.view.prefix.to_vec();
        key.extend_from_slice(self.short_key(namespace, name).as_bytes());
        key.into()
    }

    /// The object out of bytes of the served version.
    pub fn read(&self, served: &[u8]) -> Result<Object, Status> {
        let value = serde_json::from_slice(served);
        value.map(Object).map_err(|_| Status::internal(format!("an object of {self:?} is not readable")))
    }

    /// The served object out of stored bytes, for resources that no webhook converts.
    pub fn decode(&self, stored: &[u8]) -> Result<Object, Status> {
        let value = if self.converts {
            served(&self.descriptor, stored)
        } else {
            serde_json::from_slice(stored).ok()
        };
        value
            .map(Object)
            .ok_or_else(|| Status::internal(format!("a stored object of {self:?} is not readable")))
    }

    /// The form in which an object is stored, for resources that no webhook converts.
    pub fn encode(&self, object: &Object) -> encoding::Encoded {
        if !self.converts {
            return encoding::Encoded::new(&object.0);
        }
        let mut value = object.0.clone();
        value["apiVersion"] = self.stored_version.clone().into();
        self.descriptor.hooks.to_storage(&mut value);
        encoding::Encoded::new(&value)
    }

    /// Whether stored bytes are of the version in which objects are stored now.
    pub fn is_stored_version(&self, stored: &[u8]) -> bool {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head<'a> {
            #[serde(borrow)]
            api_version: std::borrow::Cow<'a, str>,
        }
        serde_json::from_slice::<Head<'_>>(stored).is_ok_and(|head| head.api_version == self.stored_version)
    }

    /// The group and version in which its objects are stored: `apps/v1`.
    pub fn stored_version(&self) -> &str {
        &self.stored_version
    }

    /// Whether it was made by a CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        matches!(*self.schema, Schema::Structural(_))
    }

    /// The position of a selectable field, by whatever name, in the descriptor.
    pub fn field(&self, name: &str) -> Option<usize> {
        let name = self.descriptor.field_meant(name);
        self.descriptor.selectable_fields.iter().position(|field| field.name == name)
    }
}

fn served(descriptor: &Descriptor, stored: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(stored).ok()?;
    let fields = value.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), descriptor.group_version().to_string().into());
    descriptor.hooks.from_storage(&mut value);
    Some(value)
}

/// The resources at one moment.
#[derive(Clone, Default)]
pub struct Table {
    resources: HashMap<GroupVersionResource, Arc<Resource>>,
    /// In discovery's order: groups by upstream's priority, versions by theirs.
    groups: Vec<Group>,
}

/// One API group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name; empty for core.
    pub name: String,
    /// Its versions, preferred first, with their resources in alphabetical order.
    pub versions: Vec<(String, Vec<Arc<Resource>>)>,
}

impl Table {
    fn of(resources: Vec<Arc<Resource>>) -> Self {
        type Versions = BTreeMap<String, Vec<Arc<Resource>>>;
        let mut groups: BTreeMap<String, Versions> = BTreeMap::new();
        for resource in &resources {
            let d = &resource.descriptor;
            groups
                .entry(d.group.to_string())
                .or_default()
                .entry(d.version.to_string())
                .or_default()
                .push(resource.clone());
        }
        let mut groups: Vec<Group> = groups
            .into_iter()
            .map(|(name, versions)| {
                let mut versions: Vec<_> = versions.into_iter().collect();
                versions.sort_by(|(a, _), (b, _)| version_order(b).cmp(&version_order(a)));
                for (_, resources) in &mut versions {
                    resources.sort_by(|a, b| a.descriptor.plural.cmp(&b.descriptor.plural));
                }
                Group { name, versions }
            })
            .collect();
        groups.sort_by_key(|group| (group_order(&group.name), group.name.clone()));
        let resources = resources.into_iter().map(|r| (r.descriptor.group_version_resource(), r)).collect();
        Self { resources, groups }
    }

    /// One resource.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&GroupVersionResource::new(group, version, resource))
    }

    /// A resource in its group's preferred version.
    pub fn preferred(&self, resource: &GroupResource) -> Option<&Arc<Resource>> {
        let group = self.groups.iter().find(|group| group.name == resource.group)?;
        group
            .versions
            .iter()
            .find_map(|(_, list)| list.iter().find(|r| r.descriptor.plural == resource.resource))
    }

    /// Whether any resource of the group and version is served.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.groups.iter().any(|g| g.name == group && g.versions.iter().any(|(v, _)| v == version))
    }

    /// The groups in discovery's order, core first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All resources, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The descriptors of one group and version.
    pub fn descriptors(&self, group_version: &GroupVersion) -> Vec<Arc<Descriptor>> {
        self.groups
            .iter()
            .filter(|group| group.name == group_version.group)
            .flat_map(|group| &group.versions)
            .filter(|(version, _)| *version == group_version.version)
            .flat_map(|(_, resources)| resources.iter().map(|r| r.descriptor.clone()))
            .collect()
    }
}

/// The table in force.
pub struct Registry {
    table: ArcSwap<Table>,
    changed: tokio::sync::watch::Sender<u64>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Result<Self, Status> {
        let resources = api::kinds::all()
            .into_iter()
            .map(|descriptor| {
                let schema = Schema::built_in(&descriptor.schema).ok_or_else(|| {
                    Status::internal(format!("no definition {} for {descriptor:?}", descriptor.schema))
                })?;
                let rest = special::rest(&descriptor);
                Ok(Resource::new(descriptor, Arc::new(schema), rest))
            })
            .collect::<Result<Vec<_>, Status>>()?;
        let table = ArcSwap::from_pointee(Table::of(resources));
        Ok(Self { table, changed: tokio::sync::watch::Sender::new(0) })
    }

    /// The table as it is now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Tells of every change of the table from now on.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Serves the `new` custom resources from now on, also in place of those of the same group, version and name,
    /// and those that are `gone` no longer; nobody sees one without the other. What is built in stays.
    pub fn exchange(&self, gone: &[GroupVersionResource], new: &[Arc<Resource>]) {
        self.table.rcu(|table| {
            let mut resources = table.resources.clone();
            let is_custom = |resource: Option<&Arc<Resource>>| resource.is_none_or(|known| known.is_custom());
            for name in gone {
                if is_custom(resources.get(name)) {
                    resources.remove(name);
                }
            }
            for resource in new {
                let name = resource.descriptor.group_version_resource();
                if is_custom(resources.get(&name)) {
                    resources.insert(name, resource.clone());
                }
            }
            Table::of(resources.into_values().collect())
        });
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Stable versions before beta before alpha, higher numbers first; what is no such version comes last.
/// Upstream: apimachinery/pkg/version/helpers.go.
pub(crate) fn version_order(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0);
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return match (number(major), if minor.is_empty() { Some(0) } else { number(minor) }) {
                (Some(major), Some(minor)) => (rank, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

/// The order of upstream's groups in `/apis` (their aggregation priorities), others after them by name.
fn group_order(group: &str) -> usize {
    const ORDER: &[&str] = &[
        "",
        "apiregistration.k8s.io",
        "apps",
        "events.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "scheduling.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
        "discovery.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "resource.k8s.io",
    ];
    ORDER.iter().position(|known| *known == group).unwrap_or(ORDER.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream() {
        let mut versions = ["v1alpha1", "v1", "v2beta1", "foo", "v10", "v2", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
