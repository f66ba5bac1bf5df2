//! MutatingAdmissionPolicy: policies that change objects.
//! Upstream: apiserver `pkg/admission/plugin/policy/mutating/dispatcher.go`.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::compile::{self, Binding, Policy};
use super::{Matching, data, evaluate, is_judged, matching, mutate};
use crate::admission::dynamic::conditions::Verdict;
use crate::admission::dynamic::configurations::Configurations;
use crate::admission::dynamic::expressions::{self, Data, Decided};
use crate::admission::dynamic::versions;
use crate::admission::manifests::Manifests;
use crate::admission::{Operation, Plugin, Request, Surroundings};
use crate::cluster::ClusterState;

const NAME: &str = "MutatingAdmissionPolicy";

/// The plugin.
pub(in crate::admission) struct MutatingAdmissionPolicy {
    surroundings: Surroundings,
    manifests: Manifests,
    policies: Configurations<Policy>,
    bindings: Configurations<Binding>,
}

impl MutatingAdmissionPolicy {
    /// The plugin over these surroundings.
    pub fn new(surroundings: Surroundings, manifests: &Manifests) -> Self {
        Self {
            surroundings,
            manifests: manifests.clone(),
            policies: Configurations::new("mutatingadmissionpolicies", compile::mutating),
            bindings: Configurations::new("mutatingadmissionpolicybindings", compile::mutating_binding),
        }
    }

    /// The object after the policy's mutations; the inner error is what cannot be evaluated.
    async fn mutated(
        &self,
        matching: &Matching<'_>,
        mut data: Data,
        request: &Request<'_>,
    ) -> Result<Result<Value, String>, Status> {
        let policy = matching.policy;
        let authorizer = &self.surroundings.authorization.authorizer;
        let resource = versions::resource(&self.surroundings.registry, &matching.matched.resource);
        let schema = resource.filter(|own| own.descriptor.group_version_kind() == matching.matched.kind);
        let schema = schema.map(|own| own.schema.clone());
        let mut known = Decided::default();
        let verdict = loop {
            match evaluate::conditions(policy, &data, &known) {
                Ok(verdict) => break verdict,
                Err(check) => known.decide(authorizer, request.user, check).await?,
            }
        };
        match verdict {
            Verdict::Holds => {}
            Verdict::Fails(_) => return Ok(Ok(data.object)),
            Verdict::Broken(message) => return Ok(Err(message)),
        }
        for mutation in &policy.mutations {
            let outcome = loop {
                match mutate::mutated(policy, mutation, &data, &known, schema.as_deref()) {
                    Ok(outcome) => break outcome,
                    Err(check) => known.decide(authorizer, request.user, check).await?,
                }
            };
            match outcome {
                Ok(object) => data.object = object,
                Err(message) => return Ok(Err(message)),
            }
        }
        Ok(Ok(data.object))
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation) -> bool {
        expressions::has_object(operation) && operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
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
        let object = request.object.as_deref().map(|object| &object.0);
        request.reinvocation.begin(NAME, object);
        let found = matching(&policies, &bindings, request, &self.surroundings, cluster).await?;
        for matching in &found {
            let id = format!("{}/{}", matching.policy.name, matching.binding.name);
            if request.reinvocation.again && !request.reinvocation.rounds(NAME).is_due(&id) {
                continue;
            }
            let refused = |message: &str| {
                format!(
                    "policy '{}' with binding '{}' denied request: {message}",
                    matching.policy.name, matching.binding.name
                )
            };
            let params = match &matching.params {
                Ok(params) => params,
                Err(message) if matching.policy.fails => {
                    let message = format!("failed to configure binding: {message}");
                    return Err(request.forbidden(refused(&message)));
                }
                Err(_) => continue,
            };
            for params in params {
                let mut data = data(request, &matching.matched, &self.surroundings, cluster).await?;
                data.params = params.clone();
                let changed = match self.mutated(matching, data, request).await? {
                    Ok(changed) => changed,
                    Err(message) if matching.policy.fails => return Err(request.forbidden(refused(&message))),
                    Err(_) => continue,
                };
                let registry = &self.surroundings.registry;
                let (from, to) = (&matching.matched.resource, &request.resource);
                let back = versions::convert(registry, &changed, from, to).await?;
                let typed = self.surroundings.retyped(request, back)?;
                let Some(object) = request.object.as_deref_mut() else { continue };
                if object.0 != typed {
                    object.0 = typed;
                    request.reinvocation.changed(NAME);
                }
            }
            if matching.policy.reinvoked {
                request.reinvocation.rounds(NAME).ran(&id);
            }
        }
        let object = request.object.as_deref().map(|object| &object.0);
        request.reinvocation.rounds(NAME).end(object);
        Ok(())
    }
}
