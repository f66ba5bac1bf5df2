//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy applies.
//! Upstream: pkg/registry/admissionregistration/mutatingadmissionpolicybinding.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            Scope::Cluster,
        )
    }
}
