//! Lets only those approve a certificate request who may `approve` for its signer.
//! Not here: signing (`certificate_signing`).
//! Upstream: plugin/pkg/admission/certificates/approval.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Operation, Plugin, Request, json};
use crate::authz::{Authorizer, Decision};
use crate::cluster::ClusterState;
use crate::request::{Attributes, RequestInfo, User};

pub(super) const GROUP: &str = "certificates.k8s.io";

pub(super) struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

/// Whether the user may do this for the signer, by its name or for all signers of its domain.
pub(crate) async fn may(authorizer: &dyn Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let info = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..RequestInfo::default()
        };
        if authorizer.authorize(&Attributes::new(user.clone(), info)).await.0 == Decision::Allow {
            return true;
        }
    }
    false
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is(GROUP, "certificatesigningrequests", "approval") {
            return Ok(());
        }
        // The name as it is stored: the spec cannot be changed here, but what is sent could say anything.
        let signer = request.old.map(|old| json::text(&old.0, "/spec/signerName")).unwrap_or_default();
        if may(&*self.authorizer, request.user, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::certificate_signing::CertificateSigning;
    use super::super::cluster_trust_bundle_attest::ClusterTrustBundleAttest;
    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    /// Lets jane approve, sign and attest for all signers of `example.com`.
    struct Jane;

    #[async_trait]
    impl Authorizer for Jane {
        async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
            let info = &attributes.info;
            let good =
                info.resource == "signers" && info.name == "example.com/*" && attributes.user.name == "jane";
            (if good { Decision::Allow } else { Decision::NoOpinion }, String::new())
        }
    }

    fn request(signer: &str, status: Value) -> Value {
        json!({ "kind": "CertificateSigningRequest", "metadata": { "name": "c" },
            "spec": { "signerName": signer }, "status": status })
    }

    #[tokio::test]
    async fn signers_belong_to_those_who_may() {
        let cluster = FakeCluster::new();
        let approval = CertificateApproval::new(Arc::new(Jane));
        let signing = CertificateSigning::new(Arc::new(Jane));
        let attest = ClusterTrustBundleAttest::new(Arc::new(Jane));
        let kind = "CertificateSigningRequest";
        for (signer, good) in [("example.com/web", true), ("other.com/web", false)] {
            let update = |path, status: Value| {
                Write::update(path, kind, request(signer, json!({})), request(signer, status))
            };
            let outcome = run(
                &approval,
                &cluster,
                update("certificatesigningrequests/approval.certificates.k8s.io", json!({})),
            )
            .await;
            match outcome {
                Ok(_) => assert!(good),
                Err(status) => assert_eq!(
                    status.message,
                    format!(
                        "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: user not permitted to approve \
                     requests with signerName {signer:?}"
                    )
                ),
            }
            let path = "certificatesigningrequests/status.certificates.k8s.io";
            assert!(run(&signing, &cluster, update(path, json!({}))).await.is_ok(), "nothing is signed");
            let signed = run(&signing, &cluster, update(path, json!({ "certificate": "eA==" }))).await;
            assert_eq!(signed.is_ok(), good);

            let bundle = json!({ "kind": "ClusterTrustBundle", "metadata": { "name": "b" },
                "spec": { "signerName": signer } });
            let write =
                Write::create("clustertrustbundles.certificates.k8s.io", "ClusterTrustBundle", bundle);
            assert_eq!(run(&attest, &cluster, write).await.is_ok(), good);
        }
    }
}
