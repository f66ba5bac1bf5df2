//! test/e2e/auth/projected_clustertrustbundle.go: the part that is about the API.

use serde_json::json;

use super::lifecycle::Kind;
use crate::world::World;

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] CRUD Tests certificates.k8s.io/v1 ClusterTrustBundles [MinimumKubeletVersion:1.37] [Conformance]
#[tokio::test]
async fn crud_tests_of_cluster_trust_bundles() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let kind = Kind {
        group: "certificates.k8s.io",
        version: "v1",
        resource: "clustertrustbundles",
        namespace: "",
        body: json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "spec": {"trustBundle": pem},
        }),
        status: None,
    };
    kind.run(&world).await;
}
