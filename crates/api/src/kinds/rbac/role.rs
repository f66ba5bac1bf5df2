//! Role: permissions in a namespace.
//! Upstream: pkg/registry/rbac/role.

use std::sync::Arc;

use super::rules::policy_rules;
use crate::field::{ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::optional::items;
use crate::names::NameRule;
use crate::types::rbac::v1::Role;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        hooks: Arc::new(Typed::<Role>::new().validate(validate)),
        ..Descriptor::new("rbac.authorization.k8s.io", "v1", "Role", "roles", Scope::Namespaced)
    }
}

fn validate(role: &Role) -> ErrorList {
    let mut errors = ErrorList::new();
    policy_rules(&mut errors, items(&role.rules), true, &Path::new("rules"));
    errors
}
