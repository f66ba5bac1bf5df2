//! ValidatingAdmissionPolicy: policies that may refuse, warn, or leave a note in the audit log.
//! Upstream: apiserver `pkg/admission/plugin/policy/validating/dispatcher.go`.

use std::sync::Arc;
use std::time::Duration;

use api::status::Cause;
use api::{Reason, Status};
use async_trait::async_trait;
use serde_json::json;

use super::compile::{self, Binding, Policy};
use super::evaluate::{self, Judged, Judgement};
use super::{Matching, data, is_judged, matching};
use crate::admission::dynamic::conditions::Verdict;
use crate::admission::dynamic::configurations::Configurations;
use crate::admission::dynamic::expressions::{Data, Decided};
use crate::admission::manifests::Manifests;
use crate::admission::metrics;
use crate::admission::{Operation, Plugin, Request, Surroundings};
use crate::cluster::ClusterState;

/// The annotation of failed validations in the audit log.
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// The plugin.
pub(in crate::admission) struct ValidatingAdmissionPolicy {
    surroundings: Surroundings,
    manifests: Manifests,
    policies: Configurations<Policy>,
    bindings: Configurations<Binding>,
}

impl ValidatingAdmissionPolicy {
    /// The plugin over these surroundings.
    pub fn new(surroundings: Surroundings, manifests: &Manifests) -> Self {
        Self {
            surroundings,
            manifests: manifests.clone(),
            policies: Configurations::new("validatingadmissionpolicies", compile::validating),
            bindings: Configurations::new("validatingadmissionpolicybindings", compile::validating_binding),
        }
    }

    /// What the policy says with one object of parameters.
    async fn judge(&self, policy: &Policy, data: &Data, request: &Request<'_>) -> Result<Judged, Status> {
        let authorizer = &self.surroundings.authorization.authorizer;
        let mut known = Decided::default();
        let clock = &self.surroundings.clock;
        loop {
            match judge(policy, data, &known, &|| clock.monotonic()) {
                Ok(judged) => return Ok(judged),
                Err(check) => known.decide(authorizer, request.user, check).await?,
            }
        }
    }
}

fn judge(
    policy: &Policy,
    data: &Data,
    known: &Decided,
    now: &dyn Fn() -> Duration,
) -> Result<Judged, Box<schema::cel::authorizer::Check>> {
    match evaluate::conditions(policy, data, known)? {
        Verdict::Holds => evaluate::validations(policy, data, known, now),
        Verdict::Fails(_) => Ok(Judged::default()),
        Verdict::Broken(message) => {
            let judgements = vec![(Judgement::broken(policy, message), Duration::ZERO)];
            Ok(Judged { judgements, annotations: Vec::new() })
        }
    }
}

/// The status code of a reason that validations may have.
fn code(reason: &Reason) -> u16 {
    match reason {
        Reason::Forbidden => 403,
        Reason::Unauthorized => 401,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    }
}

/// The refusal as the client gets it.
fn refusal(request: &Request<'_>, matching: &Matching<'_>, message: &str, reason: Reason) -> Status {
    let (policy, binding) = (&matching.policy.name, &matching.binding.name);
    let message =
        format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}");
    let mut status = request.forbidden(&message);
    status.code = code(&reason);
    status.reason = reason;
    status.details.get_or_insert_default().causes.push(Cause { message, ..Cause::default() });
    status
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !is_judged(request) {
            return Ok(());
        }
        // One set for the whole request: a policy of one and the bindings of the next would go together.
        let manifests = self.manifests.current();
        let policies = self.policies.of(&manifests, &request.resource, cluster).await?;
        if policies.is_empty() {
            return Ok(());
        }
        let bindings = self.bindings.of(&manifests, &request.resource, cluster).await?;
        let found = matching(&policies, &bindings, request, &self.surroundings, cluster).await?;
        let mut refused = None;
        let mut failures = Vec::new();
        for matching in &found {
            let params = match &matching.params {
                Ok(params) => params,
                Err(message) => {
                    if matching.policy.fails {
                        let message = format!("failed to configure binding: {message}");
                        refused.get_or_insert(refusal(request, matching, &message, Reason::Invalid));
                    }
                    continue;
                }
            };
            let mut data = data(request, &matching.matched, &self.surroundings, cluster).await?;
            for params in params {
                data.params = params.clone();
                let judged = self.judge(matching.policy, &data, request).await?;
                crate::audit::annotate_all(&judged.annotations);
                for (index, (judgement, took)) in judged.judgements.into_iter().enumerate() {
                    let (policy, binding) = (&matching.policy.name, &matching.binding.name);
                    let error = judgement.error();
                    let counted = |consequence| metrics::checked(policy, binding, error, consequence, took);
                    let (message, reason) = match judgement {
                        Judgement::Admits => continue,
                        Judgement::Ignored(_) => {
                            counted("allow");
                            continue;
                        }
                        Judgement::Refuses { message, reason, .. } => (message, reason),
                    };
                    if matching.binding.denies {
                        counted("deny");
                        refused.get_or_insert(refusal(request, matching, &message, reason));
                    }
                    if matching.binding.warns {
                        counted("warn");
                        request.warnings.push(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"
                        ));
                    }
                    if matching.binding.audits {
                        counted("audit");
                        failures.push(json!({
                            "message": message, "policy": policy, "binding": binding, "expressionIndex": index,
                            "validationActions": matching.binding.actions,
                        }));
                    }
                }
            }
        }
        if !failures.is_empty() {
            crate::audit::annotate(FAILURES, &json!(failures).to_string());
        }
        refused.map_or(Ok(()), Err)
    }
}
