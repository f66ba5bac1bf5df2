//! The group `events.k8s.io`.

use crate::kind::Descriptor;

mod event;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![event::descriptor()]
}
