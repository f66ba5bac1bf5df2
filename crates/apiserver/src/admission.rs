//! Admission: what is changed in, or refused of, an otherwise valid write.

use std::sync::Arc;

use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use async_trait::async_trait;

use crate::cluster::ClusterState;
use crate::request::User;

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// POST of an object (or of a subresource that makes something: binding, eviction, token).
    Create,
    /// PUT or PATCH, also of a subresource.
    Update,
    /// DELETE.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// One write on its way through admission.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// The kind of `object` (of the subresource's body, where that is another kind).
    pub kind: GroupVersionKind,
    /// The resource in the path.
    pub resource: GroupVersionResource,
    /// The subresource in the path; empty for none.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// May be empty on create with generateName.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Nothing will be stored: no side effects.
    pub dry_run: bool,
    /// The object as it will be; `None` for Delete.
    pub object: Option<&'a mut Object>,
    /// The object as it is; `None` for Create and Connect.
    pub old: Option<&'a Object>,
    /// CreateOptions, UpdateOptions, PatchOptions, DeleteOptions or PodExecOptions… as JSON.
    pub options: serde_json::Value,
    /// Warnings for the client (`Warning: 299 - "…"` headers).
    pub warnings: Vec<String>,
}

/// One admission plugin. Both methods do nothing unless a plugin says otherwise.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see this kind of write at all.
    fn handles(&self, operation: Operation) -> bool;

    /// May change `request.object`.
    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let _ = (request, cluster);
        Ok(())
    }

    /// May only refuse; runs after all `admit`s and after the kind's own validation.
    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        let _ = (request, cluster);
        Ok(())
    }
}

/// The plugins in their order.
#[derive(Clone)]
pub struct Chain {
    plugins: Arc<[Arc<dyn Plugin>]>,
    cluster: Arc<dyn ClusterState>,
}

impl Chain {
    /// A chain of `plugins` that read `cluster`.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>, cluster: Arc<dyn ClusterState>) -> Self {
        Self { plugins: plugins.into(), cluster }
    }

    /// Lets every plugin change the object, in order.
    pub async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        for plugin in self.plugins.iter().filter(|p| p.handles(request.operation)) {
            plugin.admit(request, &self.cluster).await?;
        }
        Ok(())
    }

    /// Lets every plugin refuse, in order.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        for plugin in self.plugins.iter().filter(|p| p.handles(request.operation)) {
            plugin.validate(request, &self.cluster).await?;
        }
        Ok(())
    }
}

/// Which plugins run and how. To be filled by its owner.
#[derive(Clone, Debug, Default)]
pub struct Options {}

/// Builds the chain that `options` asks for.
pub fn build(
    _options: &Options,
    cluster: &Arc<dyn ClusterState>,
    _clock: &foundation::SharedClock,
) -> Result<Chain, Status> {
    Ok(Chain::new(Vec::new(), cluster.clone()))
}
