//! ValidatingAdmissionPolicyBinding: where a ValidatingAdmissionPolicy applies.
//! Upstream: pkg/registry/admissionregistration/validatingadmissionpolicybinding.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            Scope::Cluster,
        )
    }
}
