//! Admission policies: ValidatingAdmissionPolicies and MutatingAdmissionPolicies with their bindings.
//! Reads policies, bindings, parameters, namespaces out of the caches.
//! Not here: the language (`schema::cel`), validation of the policies (`registry::admissionregistration`).
//! Upstream: apiserver `pkg/admission/plugin/policy`.

pub(crate) mod compile;
mod evaluate;
mod mutate;
mod mutating;
mod params;
mod validating;

use std::sync::Arc;

use api::{Object, Status};
use serde_json::Value;

use super::dynamic::configurations::Both;
use super::dynamic::expressions::Data;
use super::dynamic::matching::{self, Matched};
use super::dynamic::versions;
use super::{Request, Surroundings};
use crate::cluster::ClusterState;
use compile::{Binding, Policy};
pub(super) use mutating::MutatingAdmissionPolicy;
pub(super) use validating::ValidatingAdmissionPolicy;

/// One policy with one of its bindings, for a request that both match.
struct Matching<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    matched: Matched,
    /// The parameters to evaluate with, one after the other.
    params: Result<Vec<Value>, String>,
}

/// Whether the policies judge requests for the resource at all.
fn is_judged(request: &Request<'_>) -> bool {
    !matching::is_exempt(&request.resource)
}

/// The policies and bindings that match a request: those out of files, and then the others. Neither bind the others.
async fn matching<'p>(
    policies: &'p Both<Policy>,
    bindings: &'p Both<Binding>,
    request: &Request<'_>,
    surroundings: &Surroundings,
    cluster: &Arc<dyn ClusterState>,
) -> Result<Vec<Matching<'p>>, Status> {
    let mut found = among(&policies.fixed, &bindings.fixed, request, surroundings, cluster).await?;
    found.extend(among(&policies.stored, &bindings.stored, request, surroundings, cluster).await?);
    Ok(found)
}

/// Of these, policies in the order of their names.
async fn among<'p>(
    policies: &'p [Arc<Policy>],
    bindings: &'p [Arc<Binding>],
    request: &Request<'_>,
    surroundings: &Surroundings,
    cluster: &Arc<dyn ClusterState>,
) -> Result<Vec<Matching<'p>>, Status> {
    let registry = &surroundings.registry;
    let mut found = Vec::new();
    for policy in policies {
        let mut matched = None;
        for binding in bindings {
            if binding.policy != policy.name {
                continue;
            }
            if matched.is_none() {
                matched = policy.matcher.matches(request, registry, cluster).await?;
            }
            let Some(matched) = &matched else { break };
            if let Some(matcher) = &binding.matcher
                && matcher.matches(request, registry, cluster).await?.is_none()
            {
                continue;
            }
            let params = params::find(policy, binding, request, surroundings, cluster).await;
            found.push(Matching { policy, binding, matched: matched.clone(), params });
        }
    }
    Ok(found)
}

/// The request as expressions read it.
async fn data(
    request: &Request<'_>,
    matched: &Matched,
    surroundings: &Surroundings,
    cluster: &Arc<dyn ClusterState>,
) -> Result<Data, Status> {
    let mut data = Data::of(request, matched);
    let registry = &surroundings.registry;
    if let Some(object) = request.object.as_deref() {
        data.object = versions::convert(registry, &object.0, &request.resource, &matched.resource).await?;
    }
    if let Some(old) = request.old {
        data.old = versions::convert(registry, &old.0, &request.resource, &matched.resource).await?;
    }
    let own = request.resource.group.is_empty() && request.resource.resource == "namespaces";
    if !request.namespace.is_empty() && !own {
        data.namespace = match matching::namespace(cluster, request.namespace).await? {
            Some(Object(value)) => value,
            None => {
                return Err(Status::not_found(&api::GroupResource::new("", "namespaces"), request.namespace));
            }
        };
    }
    Ok(data)
}

#[cfg(test)]
mod tests;
