//! Refuses requests for client certificates of the group that no authorizer can hold back.
//! Upstream: plugin/pkg/admission/certificates/subjectrestriction.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::certificate_approval::GROUP;
use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;
use crate::request::User;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct CertificateSubjectRestriction;

/// The organisations in the subject of a request (base64 of PEM).
fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(encoded).map_err(|_| "it is not base64".to_owned())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    let subject = &request.certification_request_info.subject;
    // One that this server cannot read another may: it must not pass unseen.
    let unreadable = |_| "an organization in the subject cannot be read".to_owned();
    subject.iter_organization().map(|o| o.as_str().map(str::to_owned).map_err(unreadable)).collect()
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is(GROUP, "certificatesigningrequests", "") {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        if json::text(&object.0, "/spec/signerName") != SIGNER {
            return Ok(());
        }
        let groups = organizations(json::text(&object.0, "/spec/request"))
            .map_err(|reason| request.forbidden(format!("failed to parse CSR: {reason}")))?;
        if groups.iter().any(|group| group == User::MASTERS) {
            return Err(request
                .forbidden(format!("use of {SIGNER} signer with {} group is not allowed", User::MASTERS)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use serde_json::json;

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    fn csr(organization: &DnValue) -> String {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization.clone());
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        STANDARD.encode(request.pem().unwrap())
    }

    #[tokio::test]
    async fn nobody_asks_to_be_a_master() {
        let cluster = FakeCluster::new();
        for (signer, group, good) in [
            (SIGNER, "dev".into(), true),
            (SIGNER, "system:masters".into(), false),
            (SIGNER, DnValue::BmpString("system:masters".try_into().unwrap()), false),
            ("example.com/x", DnValue::from("system:masters"), true),
        ] {
            let object = json!({ "kind": "CertificateSigningRequest", "metadata": { "name": "c" },
                "spec": { "signerName": signer, "request": csr(&group) } });
            let path = "certificatesigningrequests.certificates.k8s.io";
            let write = Write::create(path, "CertificateSigningRequest", object);
            match run(&CertificateSubjectRestriction, &cluster, write).await {
                Ok(_) => assert!(good),
                Err(status) => {
                    let want = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
                                allowed";
                    let unread = "an organization in the subject cannot be read";
                    let told = status.message.ends_with(want) || status.message.ends_with(unread);
                    assert!(!good && told, "{}", status.message);
                }
            }
        }
    }
}
