//! SelfSubjectReview: who am I? Answered, never stored.
//! Upstream: pkg/registry/authentication/selfsubjectreview.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        verbs: Verbs::CREATE,
        ..Descriptor::new(
            "authentication.k8s.io",
            "v1",
            "SelfSubjectReview",
            "selfsubjectreviews",
            Scope::Cluster,
        )
    }
}
