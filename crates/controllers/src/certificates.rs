//! Who may have a certificate of the cluster's own signers, and issuing it.
//!
//! [`approving`] decides for nodes that ask for their client certificates, [`serving`] for those that ask for their servers',
//! but for what the API servers are called ([`api_servers`]); [`signing`] signs what was approved;
//! [`publishing`] says by what authority the API server's own certificate is signed. The rules of each signer
//! ([`rules`]) are pure.
//! Not here: other signers (of others), deleting old requests (`csr_cleaner`).
//! Upstream: `pkg/controller/certificates`.

pub mod api_servers;
pub mod approving;
pub mod publishing;
mod rules;
pub mod serving;
pub mod signing;

use api::types::certificates::v1::CertificateSigningRequest;

/// Whether the request has a condition of this type that is true.
fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions =
        request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == kind && condition.status != "False")
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|bytes| !bytes.0.is_empty())
}

/// What the request asks for, if it can be read and is signed by its own key.
fn subject(request: &CertificateSigningRequest) -> Result<pki::csr::Subject, String> {
    let text = std::str::from_utf8(&request.spec.request.0).map_err(|error| error.to_string())?;
    pki::csr::inspect(text).map_err(|error| error.to_string())
}
