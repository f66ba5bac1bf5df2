//! The group `node.k8s.io`.

use crate::kind::Descriptor;

mod runtime_class;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![runtime_class::descriptor()]
}
