//! ValidatingAdmissionPolicy: CEL expressions that judge requests.
//! Upstream: pkg/registry/admissionregistration/validatingadmissionpolicy.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::admissionregistration::v1::ValidatingAdmissionPolicy;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<ValidatingAdmissionPolicy>::new().status(|| Some(json!({})))),
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            Scope::Cluster,
        )
    }
}
