//! ClusterRole: permissions in the cluster, or to be bound in namespaces.
//! Upstream: pkg/registry/rbac/clusterrole.

use crate::kind::{Descriptor, Scope};
use crate::names::NameRule;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        ..Descriptor::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", Scope::Cluster)
    }
}
