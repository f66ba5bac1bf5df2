//! The group `autoscaling`.

use crate::kind::Descriptor;

mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_v1;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![horizontal_pod_autoscaler::descriptor(), horizontal_pod_autoscaler_v1::descriptor()]
}
