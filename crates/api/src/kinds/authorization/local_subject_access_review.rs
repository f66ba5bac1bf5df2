//! LocalSubjectAccessReview: may this user do that in this namespace? Answered, never stored.
//! Upstream: pkg/registry/authorization/localsubjectaccessreview.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        verbs: Verbs::CREATE,
        ..Descriptor::new(
            "authorization.k8s.io",
            "v1",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            Scope::Namespaced,
        )
    }
}
