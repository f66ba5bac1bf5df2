//! SelfSubjectRulesReview: what may I do? Answered, never stored.
//! Upstream: pkg/registry/authorization/selfsubjectrulesreview.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        verbs: Verbs::CREATE,
        ..Descriptor::new(
            "authorization.k8s.io",
            "v1",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            Scope::Cluster,
        )
    }
}
