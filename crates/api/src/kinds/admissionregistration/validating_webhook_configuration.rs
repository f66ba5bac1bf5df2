//! ValidatingWebhookConfiguration: webhooks that judge requests.
//! Upstream: pkg/registry/admissionregistration/validatingwebhookconfiguration.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            Scope::Cluster,
        )
    }
}
