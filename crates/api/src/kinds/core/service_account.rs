//! ServiceAccount: the identity of what runs in pods.
//! Upstream: pkg/registry/core/serviceaccount.

use crate::kind::{Descriptor, Scope, Subresource, Subresources, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["sa".into()],
        subresources: Subresources {
            other: vec![Subresource::new(
                "token",
                "authentication.k8s.io",
                "v1",
                "TokenRequest",
                Verbs::CREATE,
            )],
            ..Subresources::default()
        },
        ..Descriptor::new("", "v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced)
    }
}
