//! Admission: what is changed in, or refused of, an otherwise valid write.
//!
//! Read first: [`Request`], [`Plugin`], [`plugins`] (all of them in their order). Each plugin is one file here.
//! Not here: the kind's own defaults and validation (`api`).
//! Upstream: staging/src/k8s.io/apiserver/pkg/admission, plugin/pkg/admission.

mod always;
mod always_pull_images;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod cluster_trust_bundle_attest;
pub mod configuration;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
pub(crate) mod dynamic;
pub mod event_rate_limit;
mod extended_resource_toleration;
#[cfg(test)]
mod golden;
mod json;
mod limit_pod_hard_anti_affinity;
mod limit_ranger;
pub mod manifests;
mod metrics;
mod namespace_exists;
mod namespace_lifecycle;
mod node_declared_feature_validator;
mod node_restriction;
mod owner_references_permission_enforcement;
mod parsed;
mod persistent_volume_claim_resize;
pub mod plugins;
pub mod pod_node_selector;
mod pod_resize_validator;
pub mod pod_security;
pub mod pod_toleration_restriction;
mod pod_topology_labels;
pub(crate) mod policy;
mod priority;
pub mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
#[cfg(test)]
mod testing;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use async_trait::async_trait;

use metrics::{Metrics, Step};

use crate::cluster::ClusterState;
use crate::request::User;

pub(crate) use certificate_approval::may as may_use_signer;

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
    /// What mutating plugins have told each other of their rounds.
    pub reinvocation: dynamic::reinvocation::Reinvocation,
}

impl Request<'_> {
    /// Whether the write is to this resource (core group: empty) and subresource.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource && self.subresource == subresource
    }

    /// The 403 of a plugin, named after the object as well as it has a name yet.
    pub fn forbidden(&self, reason: impl std::fmt::Display) -> Status {
        let own = self.object.as_deref().map(|object| match object.name() {
            "" => object.generate_name(),
            name => name,
        });
        let name = match (self.name, own) {
            ("", Some("") | None) => "Unknown",
            ("", Some(own)) => own,
            (name, _) => name,
        };
        Status::forbidden(&self.resource.group_resource(), name, reason)
    }
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
    metrics: Metrics,
    clock: foundation::SharedClock,
}

impl Chain {
    /// A chain of `plugins` that read `cluster`; `clock` measures them.
    pub fn new(
        plugins: Vec<Arc<dyn Plugin>>,
        cluster: Arc<dyn ClusterState>,
        clock: foundation::SharedClock,
    ) -> Self {
        let metrics = Metrics::new(plugins.iter().map(|plugin| plugin.name()));
        Self { plugins: plugins.into(), cluster, metrics, clock }
    }

    /// Lets every plugin change the object, in order; once more if one of those that the cluster's users configure
    /// has changed it.
    pub async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let span = crate::traces::span("Admit");
        let mut began = self.clock.monotonic();
        let mut outcome = span.around(self.round(request)).await;
        if outcome.is_ok() && request.reinvocation.wanted {
            request.reinvocation.again = true;
            outcome = span.around(self.round(request)).await;
        }
        let took = self.lap(&mut began);
        self.metrics.step(Step::Admit, request.operation, outcome.is_err(), took);
        outcome
    }

    /// The time since `began`, which becomes now.
    fn lap(&self, began: &mut Duration) -> Duration {
        let now = self.clock.monotonic();
        now.saturating_sub(std::mem::replace(began, now))
    }

    async fn round(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let operation = request.operation;
        let mut began = self.clock.monotonic();
        for (at, plugin) in self.plugins.iter().enumerate().filter(|(_, p)| p.handles(operation)) {
            let outcome = plugin.admit(request, &self.cluster).await;
            let took = self.lap(&mut began);
            self.metrics.plugin(at, Step::Admit, operation, outcome.is_err(), took);
            outcome?;
        }
        Ok(())
    }

    /// Lets every plugin refuse, in order.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let mut began = self.clock.monotonic();
        let span = crate::traces::span("Validate");
        let outcome = span.around(self.checks(request)).await;
        let took = self.lap(&mut began);
        self.metrics.step(Step::Validate, request.operation, outcome.is_err(), took);
        outcome
    }

    async fn checks(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let operation = request.operation;
        let mut began = self.clock.monotonic();
        for (at, plugin) in self.plugins.iter().enumerate().filter(|(_, p)| p.handles(operation)) {
            let outcome = plugin.validate(request, &self.cluster).await;
            let took = self.lap(&mut began);
            self.metrics.plugin(at, Step::Validate, operation, outcome.is_err(), took);
            outcome?;
        }
        Ok(())
    }
}

/// Which plugins run and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Plugins, by upstream's names, that are to run though they usually do not.
    pub enabled: Vec<String>,
    /// Plugins, by upstream's names, that are not to run.
    pub disabled: Vec<String>,
    /// How PodSecurity treats namespaces without labels of their own.
    pub pod_security: pod_security::Defaults,
    /// What may be used only where a ResourceQuota bounds it.
    pub limited_resources: Arc<[resource_quota::Limited]>,
    /// How many events are written.
    pub event_limits: Vec<event_rate_limit::Limit>,
    /// Which nodes namespaces may use.
    pub node_selectors: pod_node_selector::NodeSelectors,
    /// What pods tolerate.
    pub tolerations: pod_toleration_restriction::Tolerations,
    /// Who the server is to mutating webhooks.
    pub mutating_identities: Arc<webhook::Identities>,
    /// Who the server is to validating webhooks.
    pub validating_identities: Arc<webhook::Identities>,
    /// What webhooks and policies there are beside those of the API.
    pub manifests: AllManifests,
}

/// The manifests of the four plugins that have some.
#[derive(Clone, Debug)]
pub struct AllManifests {
    /// Of MutatingAdmissionWebhook.
    pub mutating_webhooks: manifests::Manifests,
    /// Of ValidatingAdmissionWebhook.
    pub validating_webhooks: manifests::Manifests,
    /// Of MutatingAdmissionPolicy.
    pub mutating_policies: manifests::Manifests,
    /// Of ValidatingAdmissionPolicy.
    pub validating_policies: manifests::Manifests,
}

impl Default for AllManifests {
    fn default() -> Self {
        Self {
            mutating_webhooks: manifests::Manifests::new(manifests::MUTATING_WEBHOOKS),
            validating_webhooks: manifests::Manifests::new(manifests::VALIDATING_WEBHOOKS),
            mutating_policies: manifests::Manifests::new(manifests::MUTATING_POLICIES),
            validating_policies: manifests::Manifests::new(manifests::VALIDATING_POLICIES),
        }
    }
}

impl AllManifests {
    /// All of them, by the names of their plugins.
    pub fn each(&self) -> [(&'static str, &manifests::Manifests); 4] {
        [
            ("MutatingAdmissionWebhook", &self.mutating_webhooks),
            ("ValidatingAdmissionWebhook", &self.validating_webhooks),
            ("MutatingAdmissionPolicy", &self.mutating_policies),
            ("ValidatingAdmissionPolicy", &self.validating_policies),
        ]
    }
}

impl Options {
    /// Says what is wrong with the names of plugins.
    pub fn check(&self) -> Result<(), plugins::Error> {
        plugins::check(self)
    }
}

/// What plugins need beside the cluster's state.
#[derive(Clone)]
pub struct Surroundings {
    /// The state plugins read.
    pub cluster: Arc<dyn ClusterState>,
    /// The present.
    pub clock: foundation::SharedClock,
    /// Name suffixes.
    pub randomness: foundation::SharedRandomness,
    /// Who may do what: some plugins ask on behalf of the user.
    pub authorization: crate::authz::Authorization,
    /// What is served: objects are shown to webhooks and policies in the version that they ask for.
    pub registry: Arc<crate::registry::Registry>,
    /// Calls webhooks.
    pub(crate) caller: Arc<webhook::Caller>,
}

impl Surroundings {
    /// Who may do what.
    fn authorizer(&self) -> Arc<dyn crate::authz::Authorizer> {
        self.authorization.authorizer.clone()
    }

    /// A fresh UID for a review.
    pub(crate) fn uid(&self) -> String {
        let mut random = [0; 16];
        self.randomness.fill(&mut random);
        uuid::Builder::from_random_bytes(random).into_uuid().to_string()
    }
}

/// Builds the chain that `options` asks for.
///
/// # Errors
/// 500 where plugins cannot run as they are set.
pub fn build(options: &Options, surroundings: &Surroundings) -> Result<Chain, Status> {
    options.check().map_err(Status::internal)?;
    let plugins = plugins::chosen(options, surroundings);
    Ok(Chain::new(plugins, surroundings.cluster.clone(), surroundings.clock.clone()))
}
