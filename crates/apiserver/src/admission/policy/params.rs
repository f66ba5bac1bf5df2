//! The parameters of a policy: objects that its binding names or selects.
//! Upstream: apiserver `pkg/admission/plugin/policy/generic/policy_dispatcher.go` (CollectParams).

use std::sync::Arc;

use api::selector::labels::Selector;
use api::{GroupVersion, Object};
use serde_json::Value;

use super::compile::{Binding, Policy};
use crate::admission::dynamic::versions;
use crate::admission::{Request, Surroundings};
use crate::cluster::ClusterState;

/// The objects to evaluate with; one null where there is nothing to look for. The error is upstream's.
pub(super) async fn find(
    policy: &Policy,
    binding: &Binding,
    request: &Request<'_>,
    surroundings: &Surroundings,
    cluster: &Arc<dyn ClusterState>,
) -> Result<Vec<Value>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![Value::Null]);
    };
    let version =
        GroupVersion::parse(api_version).unwrap_or_else(|| GroupVersion::new("", api_version.as_str()));
    let descriptor = {
        let table = surroundings.registry.table();
        let found = table.descriptors(&version).into_iter().find(|descriptor| *descriptor.kind == **kind);
        found.ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{}, Kind={kind}'", version)
        })?
    };
    let namespace = match (descriptor.is_namespaced(), reference.namespace.as_deref().unwrap_or_default()) {
        (true, "") if request.namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned(),
            );
        }
        (true, "") => request.namespace,
        (true, given) => given,
        (false, "") => "",
        (false, _) => return Err("cannot use namespace in paramRef with cluster-scoped paramKind".to_owned()),
    };
    let resource = descriptor.group_resource();
    let mut found: Vec<Object> = Vec::new();
    match (reference.name.as_deref().unwrap_or_default(), &reference.selector) {
        ("", Some(selector)) => {
            let selector =
                Selector::from_label_selector(Some(selector)).map_err(|error| error.to_string())?;
            let listing = cluster.list(&resource, namespace).await.map_err(|error| error.message)?;
            let objects =
                listing.items.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok().map(Object));
            found.extend(objects.filter(|object| selector.matches(&object.labels())));
        }
        ("", None) => return Err("params ref must specify either name or selector".to_owned()),
        (name, _) => {
            let cached = cluster.cached(&resource, namespace, name).await.map_err(|error| error.message)?;
            found.extend(cached.and_then(|bytes| serde_json::from_slice(&bytes).ok().map(Object)));
        }
    }
    if found.is_empty() {
        return match reference.parameter_not_found_action.as_deref() {
            Some("Allow") => Ok(Vec::new()),
            _ => Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()),
        };
    }
    let wanted = descriptor.group_version_resource();
    let stored = {
        let table = surroundings.registry.table();
        table.preferred(&resource).map(|preferred| preferred.descriptor.group_version_resource())
    };
    let mut params = Vec::with_capacity(found.len());
    for object in found {
        let from = stored.as_ref().unwrap_or(&wanted);
        let converted = versions::convert(&surroundings.registry, &object.0, from, &wanted).await;
        params.push(converted.map_err(|error| error.message)?);
    }
    Ok(params)
}
