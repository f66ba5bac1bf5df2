//! The group `discovery.k8s.io`.

use crate::kind::Descriptor;

mod endpoint_slice;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![endpoint_slice::descriptor()]
}
