//! ValidatingAdmissionWebhook: webhooks that may refuse; they are called at the same time.
//! Upstream: apiserver `pkg/admission/plugin/webhook/validating/dispatcher.go`.

use std::sync::Arc;
use std::time::Duration;

use api::types::admissionregistration::v1::ValidatingWebhookConfiguration;
use api::{Object, Status};
use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};

use super::{Annotator, Failure, Identities, Parts, Webhook, data, failed, matching, review};
use crate::admission::dynamic::configurations::Configurations;
use crate::admission::manifests::Manifests;
use crate::admission::metrics::{self, Step};
use crate::admission::{Operation, Plugin, Request, Surroundings};
use crate::cluster::ClusterState;
use crate::traces::Span;

/// The plugin.
pub(in crate::admission) struct ValidatingAdmissionWebhook {
    surroundings: Surroundings,
    manifests: Manifests,
    configurations: Configurations<Vec<Webhook>>,
    identities: Arc<Identities>,
}

impl ValidatingAdmissionWebhook {
    /// The plugin over these surroundings.
    pub fn new(surroundings: Surroundings, identities: Arc<Identities>, manifests: &Manifests) -> Self {
        let configurations = Configurations::new("validatingwebhookconfigurations", compile);
        Self { surroundings, manifests: manifests.clone(), configurations, identities }
    }

    fn calling<'a>(
        &'a self,
        webhook: &'a Webhook,
        annotator: Annotator<'a>,
        sent: serde_json::Value,
        operation: Operation,
        span: Span,
    ) -> BoxFuture<'a, (&'a Webhook, Annotator<'a>, Result<review::Answer, Failure>)> {
        let clock = &self.surroundings.clock;
        Box::pin(async move {
            let began = clock.monotonic();
            let outcome = span.around(self.call(webhook, sent)).await;
            let took = clock.monotonic().saturating_sub(began);
            metrics::webhook(webhook, Step::Validate, operation, &outcome, took);
            (webhook, annotator, outcome)
        })
    }

    async fn call(&self, webhook: &Webhook, sent: serde_json::Value) -> Result<review::Answer, Failure> {
        let caller = &self.surroundings.caller;
        let identity = self.identities.of(&webhook.client.target());
        let body = caller.post(&webhook.client, identity, &sent, webhook.timeout).await?;
        review::answer(webhook, &sent, &body, false)
    }
}

fn compile(object: &Object) -> Option<Vec<Webhook>> {
    let read: ValidatingWebhookConfiguration = api::json::typed(&object.0).ok()?;
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
            reinvoked: false,
        };
        Webhook::new(object, index, parts)
    });
    Some(compiled.collect())
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if matching::is_exempt(&request.resource) {
            return Ok(());
        }
        let configurations =
            self.configurations.of(&self.manifests.current(), &request.resource, cluster).await?;
        let (mut calls, mut called) = (Vec::new(), 0);
        // Collected: an iterator with a closure cannot be kept while waiting.
        let webhooks: Vec<&Webhook> = configurations.iter().flat_map(|webhooks| webhooks.iter()).collect();
        for webhook in webhooks {
            let Some(matched) = webhook.wants(request, &self.surroundings, cluster).await? else { continue };
            if request.dry_run && !webhook.allows_dry_run {
                return Err(Status::bad_request(format!(
                    "admission webhook {:?} does not support dry run",
                    webhook.name
                )));
            }
            let annotator = Annotator::validating(webhook, called);
            called += 1;
            let data = data(request, &matched, &self.surroundings).await?;
            match review::review(webhook, request, &matched, &data, &self.surroundings.uid()) {
                Ok(sent) => {
                    let span = webhook.span("Call validating webhook", request);
                    calls.push(self.calling(webhook, annotator, sent, request.operation, span));
                }
                Err(error) => {
                    let outcome = Err::<(), _>(error);
                    metrics::webhook(webhook, Step::Validate, request.operation, &outcome, Duration::ZERO);
                    outcome.or_else(|error| failed(webhook, error, annotator))?;
                }
            }
        }
        let mut refused = None;
        let clock = &self.surroundings.clock;
        let began = clock.monotonic();
        let outcomes = join_all(calls).await;
        crate::metrics::elsewhere(clock.monotonic().saturating_sub(began));
        for (webhook, annotator, outcome) in outcomes {
            match outcome {
                Ok(answer) => {
                    request.warnings.extend(answer.warnings);
                    crate::audit::annotate_all(&answer.annotations);
                }
                Err(error) => {
                    if let Err(status) = failed(webhook, error, annotator) {
                        refused.get_or_insert(status);
                    }
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
