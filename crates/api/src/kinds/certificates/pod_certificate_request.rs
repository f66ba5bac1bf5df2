//! PodCertificateRequest: a kubelet's wish for a certificate for a pod.
//! Upstream: pkg/registry/certificates/podcertificaterequest.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, SelectableField, Subresources, Typed};
use crate::types::certificates::v1::PodCertificateRequest;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        selectable_fields: vec![
            SelectableField::new("spec.signerName", "/spec/signerName"),
            SelectableField::new("spec.podName", "/spec/podName"),
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
        ],
        hooks: Arc::new(Typed::<PodCertificateRequest>::new().status(|| Some(json!({})))),
        ..Descriptor::new(
            "certificates.k8s.io",
            "v1",
            "PodCertificateRequest",
            "podcertificaterequests",
            Scope::Namespaced,
        )
    }
}
