//! RoleBinding: who has a role in a namespace.
//! Upstream: pkg/registry/rbac/rolebinding.

use std::sync::Arc;

use super::rules::{binding, binding_cells, binding_columns, default_binding, role_is_kept};
use crate::field::ErrorList;
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::optional::items;
use crate::names::NameRule;
use crate::types::rbac::v1::RoleBinding;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: binding_columns("roleBinding"),
        hooks: Arc::new(
            Typed::<RoleBinding>::new()
                .default_with(|object| default_binding(&mut object.role_ref, &mut object.subjects))
                .validate(validate)
                .validate_update(validate_update)
                .cells(|object, now| {
                    binding_cells(&object.metadata, &object.role_ref, items(&object.subjects), now)
                }),
        ),
        ..Descriptor::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", Scope::Namespaced)
    }
}

fn validate(object: &RoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    binding(&mut errors, &object.role_ref, &["Role", "ClusterRole"], items(&object.subjects), true);
    errors
}

fn validate_update(new: &RoleBinding, old: &RoleBinding) -> ErrorList {
    let mut errors = validate(new);
    role_is_kept(&mut errors, &new.role_ref, &old.role_ref);
    errors
}
