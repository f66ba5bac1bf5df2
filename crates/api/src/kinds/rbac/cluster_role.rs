//! ClusterRole: permissions in the cluster, or to be bound in namespaces.
//! Upstream: pkg/registry/rbac/clusterrole.

use std::sync::Arc;

use super::rules::policy_rules;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::optional::items;
use crate::meta_validation::label_selector_errors;
use crate::names::NameRule;
use crate::types::rbac::v1::ClusterRole;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        hooks: Arc::new(Typed::<ClusterRole>::new().validate(validate)),
        ..Descriptor::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", Scope::Cluster)
    }
}

fn validate(role: &ClusterRole) -> ErrorList {
    let mut errors = ErrorList::new();
    policy_rules(&mut errors, items(&role.rules), false, &Path::new("rules"));
    if let Some(aggregation) = &role.aggregation_rule {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = items(&aggregation.cluster_role_selectors);
        if selectors.is_empty() {
            let message = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(field::required(&path, message));
        }
        for (index, selector) in selectors.iter().enumerate() {
            errors.extend(label_selector_errors(selector, &path.index(index)));
        }
    }
    errors
}
