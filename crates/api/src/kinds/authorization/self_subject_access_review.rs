//! SelfSubjectAccessReview: may I do that? Answered, never stored.
//! Upstream: pkg/registry/authorization/selfsubjectaccessreview.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        verbs: Verbs::CREATE,
        ..Descriptor::new(
            "authorization.k8s.io",
            "v1",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            Scope::Cluster,
        )
    }
}
