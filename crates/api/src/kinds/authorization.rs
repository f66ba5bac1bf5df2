//! The group `authorization.k8s.io`.

use crate::kind::Descriptor;

mod local_subject_access_review;
mod self_subject_access_review;
mod self_subject_rules_review;
mod subject_access_review;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        subject_access_review::descriptor(),
        self_subject_access_review::descriptor(),
        self_subject_rules_review::descriptor(),
        local_subject_access_review::descriptor(),
    ]
}
