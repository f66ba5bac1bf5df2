//! The group `policy`.

use crate::kind::Descriptor;

mod pod_disruption_budget;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![pod_disruption_budget::descriptor()]
}
