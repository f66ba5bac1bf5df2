//! CertificateSigningRequest: the wish for a certificate.
//! Upstream: pkg/registry/certificates/certificatesigningrequest.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::names::NameRule;
use crate::types::certificates::v1::CertificateSigningRequest;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["csr".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new(
                "approval",
                "certificates.k8s.io",
                "v1",
                "CertificateSigningRequest",
                Verbs::SUBRESOURCE,
            )],
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField::new("spec.signerName", "/spec/signerName")],
        name_rule: NameRule::Unchecked,
        hooks: Arc::new(Typed::<CertificateSigningRequest>::new().status(|| Some(json!({})))),
        ..Descriptor::new(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            Scope::Cluster,
        )
    }
}
