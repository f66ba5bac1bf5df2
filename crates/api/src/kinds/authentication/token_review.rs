//! TokenReview: whose token is this? Answered, never stored.
//! Upstream: pkg/registry/authentication/tokenreview.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        verbs: Verbs::CREATE,
        ..Descriptor::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", Scope::Cluster)
    }
}
