//! Admission webhooks: MutatingWebhookConfigurations and ValidatingWebhookConfigurations.
//! Reads the configurations, namespaces, Services; calls the webhooks over HTTPS.
//! Not here: validation of the configurations (`api`, `registry::admissionregistration`).
//! Upstream: apiserver `pkg/admission/plugin/webhook/{generic,mutating,validating}`.

mod annotator;
mod call;
mod identities;
mod mutating;
mod review;
#[cfg(test)]
pub(super) mod testing;
mod validating;

use std::sync::Arc;
use std::time::Duration;

use api::types::admissionregistration::v1::{MatchCondition, NamedRuleWithOperations, WebhookClientConfig};
use api::{Object, Status};
use schema::cel::Scope;
use schema::cel::admission::{self, Names};

use super::dynamic::conditions::{Conditions, Verdict};
use super::dynamic::expressions::{self, Data, Decided};
use super::dynamic::matching::{self, Matched, Matcher};
use super::dynamic::versions;
use super::{Request, Surroundings};
use crate::cluster::ClusterState;
use crate::traces::{self, Span};
use annotator::Annotator;
pub(super) use call::Failure;
pub(crate) use call::{Caller, Client};
pub use identities::Identities;
pub(super) use mutating::MutatingAdmissionWebhook;
pub(super) use validating::ValidatingAdmissionWebhook;

/// One webhook of a configuration, compiled.
#[derive(Debug)]
pub(super) struct Webhook {
    /// `<configuration>/<webhook>`: unique among all.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub client: Client,
    pub matcher: Matcher,
    pub conditions: Conditions,
    /// Whether a webhook that cannot be called lets the request pass.
    pub ignores_failure: bool,
    /// Whether it can be called when nothing will be stored.
    pub allows_dry_run: bool,
    pub timeout: Duration,
    pub review_versions: Vec<String>,
    /// Whether it wants to run again when others have changed the object after it.
    pub reinvoked: bool,
}

/// The parts of a webhook that both kinds have.
pub(super) struct Parts {
    pub name: String,
    pub client: WebhookClientConfig,
    pub rules: Vec<NamedRuleWithOperations>,
    pub match_policy: Option<String>,
    pub namespaces: Option<api::meta::LabelSelector>,
    pub objects: Option<api::meta::LabelSelector>,
    pub conditions: Vec<MatchCondition>,
    pub failure_policy: Option<String>,
    pub side_effects: String,
    pub timeout: Option<i32>,
    pub review_versions: Vec<String>,
    pub reinvoked: bool,
}

/// The names of match conditions of webhooks.
pub(crate) fn condition_scope() -> Scope {
    let names = Names { authorizer: true, ..Names::default() };
    admission::scope(names, expressions::dynamic(), expressions::dynamic())
}

impl Webhook {
    fn new(configuration: &Object, index: usize, parts: Parts) -> Self {
        let configuration = configuration.name().to_owned();
        Self {
            id: format!("{configuration}/{}/{index}", parts.name),
            configuration,
            name: parts.name,
            client: Client::new(&parts.client),
            matcher: Matcher {
                rules: parts.rules,
                excluded: Vec::new(),
                equivalent: parts.match_policy.as_deref() != Some("Exact"),
                namespaces: matching::selector(parts.namespaces.as_ref()),
                objects: matching::selector(parts.objects.as_ref()),
            },
            conditions: Conditions::new(&parts.conditions, &condition_scope()),
            ignores_failure: parts.failure_policy.as_deref() == Some("Ignore"),
            allows_dry_run: matches!(parts.side_effects.as_str(), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(parts.timeout.and_then(|s| u64::try_from(s).ok()).unwrap_or(10)),
            review_versions: parts.review_versions,
            reinvoked: parts.reinvoked,
        }
    }

    /// The span of a call of it.
    fn span(&self, name: &'static str, request: &Request<'_>) -> Span {
        let mut span = traces::span(name);
        if span.is_recording() {
            span.set("configuration", self.id.split('/').next().unwrap_or_default());
            span.set("webhook", self.name.as_str());
            span.set("resource", request.resource.group_resource().to_string());
            span.set("subresource", request.subresource);
            span.set("operation", matching::operation(request.operation));
        }
        span
    }

    /// The version in which the webhook wants the request; `None` if it does not want it.
    async fn wants(
        &self,
        request: &Request<'_>,
        surroundings: &Surroundings,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<Option<Matched>, Status> {
        let Some(matched) = self.matcher.matches(request, &surroundings.registry, cluster).await? else {
            return Ok(None);
        };
        if self.conditions.is_empty() {
            return Ok(Some(matched));
        }
        let data = data(request, &matched, surroundings).await?;
        let authorizer = &surroundings.authorization.authorizer;
        let mut known = Decided::default();
        let verdict = loop {
            match self.conditions.evaluate(&data, &known) {
                Ok(verdict) => break verdict,
                Err(check) => known.decide(authorizer, request.user, check).await?,
            }
        };
        match verdict {
            Verdict::Holds => Ok(Some(matched)),
            Verdict::Fails(_) => Ok(None),
            Verdict::Broken(_) if self.ignores_failure => Ok(None),
            Verdict::Broken(error) => Err(request.forbidden(error)),
        }
    }
}

/// The request with its objects, in the version in which it is wanted.
async fn data(request: &Request<'_>, matched: &Matched, surroundings: &Surroundings) -> Result<Data, Status> {
    let mut data = Data::of(request, matched);
    let registry = &surroundings.registry;
    if let Some(object) = request.object.as_deref() {
        data.object = versions::convert(registry, &object.0, &request.resource, &matched.resource).await?;
    }
    if let Some(old) = request.old {
        data.old = versions::convert(registry, &old.0, &request.resource, &matched.resource).await?;
    }
    Ok(data)
}

/// What remains of a webhook's failure: nothing if it is to be ignored, but a note in the audit log.
fn failed(webhook: &Webhook, error: Failure, annotator: Annotator<'_>) -> Result<(), Status> {
    match error {
        Failure::Calling(error, _) if webhook.ignores_failure => {
            tracing::warn!(webhook = webhook.name, %error, "a webhook failed and is ignored");
            annotator.failed_open();
            Ok(())
        }
        Failure::Calling(error, _) => {
            Err(Status::internal(format!("failed calling webhook {:?}: {error}", webhook.name)))
        }
        Failure::Denied(status) | Failure::Internal(status) => Err(*status),
    }
}
