//! Whether a request is one that a webhook or policy asks for: rules, scope, namespace and object selectors.
//! Reads namespaces' labels. Not here: conditions (`conditions`).
//! Upstream: apiserver `pkg/admission/plugin/webhook/predicates`, `plugin/policy/matching`.

use std::sync::Arc;

use api::selector::labels::Selector;
use api::types::admissionregistration::v1::{NamedRuleWithOperations, RuleWithOperations};
use api::{GroupResource, GroupVersionKind, GroupVersionResource, Object, Status};
use serde_json::Value;

use super::versions;
use crate::admission::{Operation, Request};
use crate::cluster::ClusterState;
use crate::registry::Registry;

/// Which requests are wanted.
#[derive(Debug)]
pub(in crate::admission) struct Matcher {
    pub rules: Vec<NamedRuleWithOperations>,
    pub excluded: Vec<NamedRuleWithOperations>,
    pub equivalent: bool,
    pub namespaces: Selector,
    pub objects: Selector,
}

/// In which version a matching request is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admission) struct Matched {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
}

/// Rules without names.
pub(in crate::admission) fn unnamed(rules: Option<Vec<RuleWithOperations>>) -> Vec<NamedRuleWithOperations> {
    let named = |rule: RuleWithOperations| NamedRuleWithOperations {
        api_groups: rule.api_groups,
        api_versions: rule.api_versions,
        operations: rule.operations,
        resource_names: None,
        resources: rule.resources,
        scope: rule.scope,
    };
    rules.into_iter().flatten().map(named).collect()
}

/// Whether nobody is asked about a request: reviews hold tokens, and a webhook that is down would lock out who could mend
/// it.
pub(in crate::admission) fn is_exempt(resource: &GroupVersionResource) -> bool {
    matches!(resource.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
}

/// Whether the request configures admission itself.
pub(in crate::admission) fn configures(resource: &GroupVersionResource) -> bool {
    resource.group == "admissionregistration.k8s.io"
        && matches!(
            resource.resource.as_str(),
            "validatingwebhookconfigurations"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

fn lists(list: &Option<Vec<String>>, wanted: &str) -> bool {
    list.iter().flatten().any(|one| one == "*" || one == wanted)
}

impl Matcher {
    /// The version in which the request is wanted; `None` if it is not.
    pub async fn matches(
        &self,
        request: &Request<'_>,
        registry: &Registry,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<Option<Matched>, Status> {
        let Some(matched) = self.rule(request, registry) else { return Ok(None) };
        if !self.namespace(request, cluster).await? || !self.object(request) {
            return Ok(None);
        }
        Ok(Some(matched))
    }

    /// The labels of the object, as it was or as it will be, are selected.
    fn object(&self, request: &Request<'_>) -> bool {
        if self.objects.is_everything() {
            return true;
        }
        let labels = |object: &Object| self.objects.matches(&object.labels());
        request.object.as_deref().is_some_and(labels) || request.old.is_some_and(labels)
    }

    async fn namespace(
        &self,
        request: &Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let own = request.resource.group.is_empty() && request.resource.resource == "namespaces";
        if request.namespace.is_empty() && !own {
            // A selector says nothing of what is in no namespace.
            return Ok(true);
        }
        if own && let (Some(object), "") = (request.object.as_deref(), request.subresource) {
            return Ok(self.namespaces.matches(&object.labels()));
        }
        let name = if own { request.name } else { request.namespace };
        let found = namespace(cluster, name).await?;
        let found =
            found.ok_or_else(|| Status::not_found(&api::GroupResource::new("", "namespaces"), name))?;
        Ok(self.namespaces.matches(&found.labels()))
    }

    fn rule(&self, request: &Request<'_>, registry: &Registry) -> Option<Matched> {
        let exactly = |rules: &[NamedRuleWithOperations], resource: &GroupVersionResource| {
            rules.iter().any(|rule| wants(rule, request, resource))
        };
        if exactly(&self.excluded, &request.resource) {
            return None;
        }
        if exactly(&self.rules, &request.resource) {
            return Some(Matched { resource: request.resource.clone(), kind: request.kind.clone() });
        }
        // The same resource has the same name in every group and version.
        if !self.equivalent || !self.rules.iter().any(|rule| wants_in_any_version(rule, request)) {
            return None;
        }
        let others = versions::equivalents(registry, &request.resource);
        if others.iter().any(|(resource, _)| exactly(&self.excluded, resource)) {
            return None;
        }
        let (resource, kind) = others.into_iter().find(|(resource, _)| exactly(&self.rules, resource))?;
        // The body of a subresource has its own kind, which is the same in every version.
        let kind = if request.subresource.is_empty() || request.subresource == "status" {
            kind
        } else {
            request.kind.clone()
        };
        Some(Matched { resource, kind })
    }
}

fn wants(rule: &NamedRuleWithOperations, request: &Request<'_>, resource: &GroupVersionResource) -> bool {
    lists(&rule.api_groups, &resource.group)
        && lists(&rule.api_versions, &resource.version)
        && wants_in_any_version(rule, request)
}

fn wants_in_any_version(rule: &NamedRuleWithOperations, request: &Request<'_>) -> bool {
    let scope = match rule.scope.as_deref() {
        None | Some("" | "*") => true,
        Some("Namespaced") => !request.namespace.is_empty() && !is_namespace(request),
        _ => request.namespace.is_empty() || is_namespace(request),
    };
    let names = rule.resource_names.as_deref().unwrap_or_default();
    scope
        && lists(&rule.operations, operation(request.operation))
        && (names.is_empty() || names.iter().any(|name| name == request.name))
        && rule.resources.iter().flatten().any(|wanted| {
            let (wanted, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            (wanted == "*" || wanted == request.resource.resource)
                && (subresource == "*" || subresource == request.subresource)
        })
}

/// A namespace is in no namespace, although its requests carry its name as one.
fn is_namespace(request: &Request<'_>) -> bool {
    request.resource.group.is_empty() && request.resource.resource == "namespaces"
}

/// The operation as configurations spell it.
pub(in crate::admission) fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// A namespace by name; out of the cache, or out of the store where the cache may be too old.
pub(in crate::admission) async fn namespace(
    cluster: &Arc<dyn ClusterState>,
    name: &str,
) -> Result<Option<Object>, Status> {
    let namespaces = GroupResource::new("", "namespaces");
    if let Some(bytes) = cluster.cached(&namespaces, "", name).await? {
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| Status::internal(error.to_string()))?;
        return Ok(Some(Object(value)));
    }
    match cluster.get(&namespaces, "", name).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The selector of a configuration; one that cannot be read selects nothing.
pub(in crate::admission) fn selector(selector: Option<&api::meta::LabelSelector>) -> Selector {
    match selector {
        None => Selector::everything(),
        some => Selector::from_label_selector(some).unwrap_or_else(|_| Selector::nothing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    #[test]
    fn rules_match_by_group_version_resource_operation_and_scope() {
        let rule = |resources: &str, operations: &str, scope: &str| NamedRuleWithOperations {
            api_groups: Some(vec!["".into()]),
            api_versions: Some(vec!["v1".into()]),
            operations: Some(vec![operations.into()]),
            resource_names: None,
            resources: Some(vec![resources.into()]),
            scope: Some(scope.into()),
        };
        let user = User::default();
        let request = |resource: &str, subresource: &'static str, namespace: &'static str| Request {
            operation: Operation::Create,
            kind: GroupVersionKind::new("", "v1", "X"),
            resource: GroupVersionResource::new("", "v1", resource),
            subresource,
            namespace,
            name: "x",
            user: &user,
            dry_run: false,
            object: None,
            old: None,
            options: Value::Null,
            warnings: Vec::new(),
            reinvocation: Default::default(),
        };
        for (resource, subresource, namespace, (wanted, operations, scope), expected) in [
            ("pods", "", "a", ("pods", "CREATE", "*"), true),
            ("pods", "", "a", ("*", "*", "Namespaced"), true),
            ("pods", "", "a", ("pods", "UPDATE", "*"), false),
            ("pods", "", "a", ("pods", "CREATE", "Cluster"), false),
            ("pods", "exec", "a", ("pods", "*", "*"), false),
            ("pods", "exec", "a", ("pods/*", "*", "*"), true),
            ("pods", "exec", "a", ("*/exec", "*", "*"), true),
            ("pods", "exec", "a", ("*/*", "*", "*"), true),
            ("namespaces", "", "a", ("namespaces", "*", "Cluster"), true),
            ("nodes", "", "", ("*", "*", "Namespaced"), false),
        ] {
            let request = request(resource, subresource, namespace);
            let rule = rule(wanted, operations, scope);
            assert_eq!(
                wants(&rule, &request, &request.resource),
                expected,
                "{resource}/{subresource} {rule:?}"
            );
        }
    }
}
