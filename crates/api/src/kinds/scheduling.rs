//! The group `scheduling.k8s.io`.

use crate::kind::Descriptor;

mod priority_class;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![priority_class::descriptor()]
}
