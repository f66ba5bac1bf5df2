//! [`ClusterState`] out of this server's own storage and watch caches.

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;

use super::{ClusterState, Listing};
use crate::cache::{Cache, Cached, Hub, Interest, Limit, Wanted};
use crate::registry::{Registry, Resource};
use crate::storage::Storage;

/// The state of the cluster that this server serves.
pub struct Local {
    /// What is served.
    pub registry: Arc<Registry>,
    /// Objects in the store.
    pub storage: Storage,
    /// The watch caches.
    pub hub: Arc<Hub>,
}

impl Local {
    fn resource(&self, resource: &GroupResource) -> Result<Arc<Resource>, Status> {
        let table = self.registry.table();
        table.preferred(resource).cloned().ok_or_else(|| {
            Status::new(
                404,
                api::Reason::NotFound,
                format!("the server could not find the resource {resource}"),
            )
        })
    }

    async fn cache(&self, resource: &GroupResource) -> Result<(Arc<Resource>, Arc<Cache>), Status> {
        let resource = self.resource(resource)?;
        let cache = self.hub.cache(&resource.view).await?;
        Ok((resource, cache))
    }
}

#[async_trait]
impl ClusterState for Local {
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Object, Status> {
        let resource = self.resource(resource)?;
        Ok(self.storage.get(&resource, namespace, name).await?.object)
    }

    async fn cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Bytes>, Status> {
        let (resource, cache) = self.cache(resource).await?;
        Ok(cache.get(&resource.short_key(namespace, name)).map(|object| object.value.clone()))
    }

    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Listing, Status> {
        let now = self.hub.revision();
        let (_, cache) = self.cache(resource).await?;
        let interest = match namespace {
            "" => Interest::All,
            namespace => Interest::Namespace(namespace.to_owned()),
        };
        let found = cache.snapshot(&interest, &Wanted::default(), now, None, Limit::default(), |_| true);
        let items = found.objects.iter().map(|object| object.value.clone()).collect();
        Ok(Listing { revision: found.revision, items })
    }

    async fn list_where(
        &self,
        resource: &GroupResource,
        field: &str,
        value: &str,
    ) -> Result<Listing, Status> {
        let now = self.hub.revision();
        let (resource, cache) = self.cache(resource).await?;
        let fields = &resource.descriptor.selectable_fields;
        let Some(field) = fields.iter().position(|known| known.name == field) else {
            return Ok(Listing { revision: now, items: Vec::new() });
        };
        let interest = Interest::Field { field, value: value.to_owned() };
        let selected =
            |object: &Cached| object.facts.fields.get(field).is_some_and(|found| **found == *value);
        let found = cache.snapshot(&interest, &Wanted::default(), now, None, Limit::default(), selected);
        let items = found.objects.iter().map(|object| object.value.clone()).collect();
        Ok(Listing { revision: found.revision, items })
    }

    async fn changes(&self, resource: &GroupResource) -> Result<tokio::sync::watch::Receiver<u64>, Status> {
        Ok(self.cache(resource).await?.1.changes())
    }

    async fn replace(&self, resource: &GroupResource, object: Object) -> Result<Object, Status> {
        let resource = self.resource(resource)?;
        let (namespace, name) = (object.namespace().unwrap_or_default().to_owned(), object.name().to_owned());
        let conflict = || {
            Status::conflict(
                &resource.group_resource,
                &name,
                "the object has been modified; please apply your changes to the latest version and try again",
            )
        };
        let revision: u64 = object.resource_version().parse().map_err(|_| conflict())?;
        match self.storage.replace(&resource, &namespace, &name, revision, object).await? {
            Some(stored) => Ok(stored.object),
            None => Err(conflict()),
        }
    }
}
