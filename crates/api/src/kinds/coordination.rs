//! The group `coordination.k8s.io`.

use crate::kind::Descriptor;

mod lease;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![lease::descriptor()]
}
