//! The group `authentication.k8s.io`.

use crate::kind::Descriptor;

mod self_subject_review;
mod token_review;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![token_review::descriptor(), self_subject_review::descriptor()]
}
