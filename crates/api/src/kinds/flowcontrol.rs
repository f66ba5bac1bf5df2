//! The group `flowcontrol.apiserver.k8s.io`.

use crate::kind::Descriptor;

mod flow_schema;
mod priority_level_configuration;
mod rules;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![flow_schema::descriptor(), priority_level_configuration::descriptor()]
}
