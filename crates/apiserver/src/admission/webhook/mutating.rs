//! MutatingAdmissionWebhook: webhooks that change objects, one after the other in the order of their configurations'
//! names; those that ask for it run again when others have changed the object after them.
//! Upstream: apiserver `pkg/admission/plugin/webhook/mutating/dispatcher.go`.

use std::sync::Arc;

use api::types::admissionregistration::v1::MutatingWebhookConfiguration;
use api::{Object, Status};
use async_trait::async_trait;
use schema::FieldValidation;
use serde_json::Value;

use super::{Annotator, Failure, Identities, Parts, Webhook, data, failed, matching, review, versions};
use crate::admission::dynamic::configurations::Configurations;
use crate::admission::dynamic::matching::Matched;
use crate::admission::manifests::Manifests;
use crate::admission::metrics::{self, Step};
use crate::admission::{Operation, Plugin, Request, Surroundings};
use crate::cluster::ClusterState;

const NAME: &str = "MutatingAdmissionWebhook";

/// The plugin.
pub(in crate::admission) struct MutatingAdmissionWebhook {
    surroundings: Surroundings,
    manifests: Manifests,
    configurations: Configurations<Vec<Webhook>>,
    identities: Arc<Identities>,
}

impl MutatingAdmissionWebhook {
    /// The plugin over these surroundings.
    pub fn new(surroundings: Surroundings, identities: Arc<Identities>, manifests: &Manifests) -> Self {
        let configurations = Configurations::new("mutatingwebhookconfigurations", compile);
        Self { surroundings, manifests: manifests.clone(), configurations, identities }
    }

    async fn call(
        &self,
        webhook: &Webhook,
        matched: &Matched,
        request: &mut Request<'_>,
        annotator: Annotator<'_>,
    ) -> Result<Option<Value>, Failure> {
        let data = data(request, matched, &self.surroundings).await;
        let data = data.map_err(Failure::internal)?;
        let uid = self.surroundings.uid();
        let sent = review::review(webhook, request, matched, &data, &uid)?;
        let caller = &self.surroundings.caller;
        let identity = self.identities.of(&webhook.client.target());
        let body = caller.post(&webhook.client, identity, &sent, webhook.timeout).await?;
        let answer = review::answer(webhook, &sent, &body, true)?;
        request.warnings.extend(answer.warnings);
        crate::audit::annotate_all(&answer.annotations);
        let Some(patch) = answer.patch.filter(|patch| patch.as_array().is_none_or(|list| !list.is_empty()))
        else {
            return Ok(None);
        };
        if data.object.is_null() {
            return Err(Failure::internal(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                webhook.name
            ))));
        }
        let patched = schema::patch::json_patch(data.object, &patch)
            .map_err(|error| Failure::internal(Status::internal(error.message)))?;
        annotator.patched(&patch);
        let registry = &self.surroundings.registry;
        let back = versions::convert(registry, &patched, &matched.resource, &request.resource).await;
        back.map(Some).map_err(Failure::internal)
    }
}

impl Surroundings {
    /// The object as its kind has it: pruned, typed, defaulted.
    pub(in crate::admission) fn retyped(&self, request: &Request<'_>, value: Value) -> Result<Value, Status> {
        let own = versions::resource(&self.registry, &request.resource);
        // The body of a subresource (a Scale, a Binding) is not the resource's own kind.
        let Some(own) = own.filter(|own| own.descriptor.group_version_kind() == request.kind) else {
            return Ok(value);
        };
        let mut typed = schema::decode_value(&value, &own.schema, FieldValidation::Ignore)?.value;
        own.descriptor.hooks.default(&mut typed);
        Ok(typed)
    }
}

fn compile(object: &Object) -> Option<Vec<Webhook>> {
    let read: MutatingWebhookConfiguration = api::json::typed(&object.0).ok()?;
    let webhooks = read.webhooks.into_iter().flatten().enumerate();
    let compiled = webhooks.map(|(index, webhook)| {
        let parts = Parts {
            name: webhook.name,
            client: webhook.client_config,
            rules: matching::unnamed(webhook.rules),
            match_policy: webhook.match_policy,
            namespaces: webhook.namespace_selector,
            objects: webhook.object_selector,
            conditions: webhook.match_conditions.unwrap_or_default(),
            failure_policy: webhook.failure_policy,
            side_effects: webhook.side_effects,
            timeout: webhook.timeout_seconds,
            review_versions: webhook.admission_review_versions,
            reinvoked: webhook.reinvocation_policy.as_deref() == Some("IfNeeded"),
        };
        Webhook::new(object, index, parts)
    });
    Some(compiled.collect())
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if matching::is_exempt(&request.resource) {
            return Ok(());
        }
        let configurations =
            self.configurations.of(&self.manifests.current(), &request.resource, cluster).await?;
        if configurations.is_empty() {
            return Ok(());
        }
        let object = request.object.as_deref().map(|object| &object.0);
        request.reinvocation.begin(NAME, object);
        // Collected: an iterator with a closure cannot be kept while waiting.
        let webhooks: Vec<&Webhook> = configurations.iter().flat_map(|webhooks| webhooks.iter()).collect();
        for (index, webhook) in webhooks.into_iter().enumerate() {
            let Some(matched) = webhook.wants(request, &self.surroundings, cluster).await? else { continue };
            if request.reinvocation.again && !request.reinvocation.rounds(NAME).is_due(&webhook.id) {
                continue;
            }
            let annotator = Annotator::mutating(webhook, request.reinvocation.again, index);
            if request.dry_run && !webhook.allows_dry_run {
                annotator.called(false);
                return Err(Status::bad_request(format!(
                    "admission webhook {:?} does not support dry run",
                    webhook.name
                )));
            }
            let began = self.surroundings.clock.monotonic();
            let span = webhook.span("Call mutating webhook", request);
            let outcome = span.around(self.call(webhook, &matched, request, annotator)).await;
            drop(span);
            let took = self.surroundings.clock.monotonic().saturating_sub(began);
            metrics::webhook(webhook, Step::Admit, request.operation, &outcome, took);
            let mut mutated = false;
            let passed = match outcome {
                Ok(Some(patched)) => self.surroundings.retyped(request, patched).map(|typed| {
                    let Some(object) = request.object.as_deref_mut() else { return };
                    if object.0 != typed {
                        object.0 = typed;
                        request.reinvocation.changed(NAME);
                        mutated = true;
                    }
                }),
                Ok(None) => Ok(()),
                Err(error) => failed(webhook, error, annotator),
            };
            annotator.called(mutated);
            passed?;
            if webhook.reinvoked {
                request.reinvocation.rounds(NAME).ran(&webhook.id);
            }
        }
        let object = request.object.as_deref().map(|object| &object.0);
        request.reinvocation.rounds(NAME).end(object);
        Ok(())
    }
}
