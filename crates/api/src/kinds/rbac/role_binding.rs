//! RoleBinding: who has a role in a namespace.
//! Upstream: pkg/registry/rbac/rolebinding.

use crate::kind::{Descriptor, Scope};
use crate::names::NameRule;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        ..Descriptor::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", Scope::Namespaced)
    }
}
