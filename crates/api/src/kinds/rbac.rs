//! The group `rbac.authorization.k8s.io`.

use crate::kind::Descriptor;

mod cluster_role;
mod cluster_role_binding;
mod role;
mod role_binding;
mod rules;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        role::descriptor(),
        role_binding::descriptor(),
        cluster_role::descriptor(),
        cluster_role_binding::descriptor(),
    ]
}
