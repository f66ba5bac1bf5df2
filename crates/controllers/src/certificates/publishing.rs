//! Publishes the authority of the API server's serving certificate as a ClusterTrustBundle.
//!
//! Reads the ClusterTrustBundles of the signer `kubernetes.io/kube-apiserver-serving`; creates the one that has the name of
//! its content, and deletes the others.
//! Not here: the ConfigMap in every namespace (`root_ca`).
//! Upstream: `pkg/controller/certificates/clustertrustbundlepublisher`.

use api::meta::ObjectMeta;
use api::types::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use client::ListOptions;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use ring::digest;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// How much of the digest of its content is in a bundle's name.
const DIGEST_BYTES: usize = 12;

/// The controller. It has one key.
pub struct Publishing {
    pem: String,
    name: String,
}

impl Publishing {
    /// Publishes these certificates, PEM.
    pub fn new(pem: &str) -> Publishing {
        let digest = digest::digest(&digest::SHA256, pem.as_bytes());
        let digest: String =
            digest.as_ref()[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Publishing { pem: pem.to_owned(), name: format!("{}:{digest}", SIGNER.replace('/', ":")) }
    }

    fn key() -> Key {
        Key::cluster("kube-apiserver-serving")
    }
}

impl Controller for Publishing {
    const NAME: &'static str = "kube-apiserver-serving-clustertrustbundle-publisher";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.select::<ClusterTrustBundle>(ListOptions::fields(format!("spec.signerName={SIGNER}")));
        watches.map::<ClusterTrustBundle>(|_, _, wake| wake(Publishing::key()));
        // There may be none that could wake it.
        watches.trigger().wake(Publishing::key());
    }

    fn plan(&self, view: &View<'_>, _: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let bundles = view.list::<ClusterTrustBundle>();
        let is_current =
            |bundle: &ClusterTrustBundle| bundle.metadata.name.as_deref() == Some(self.name.as_str());
        match bundles.iter().find(|bundle| is_current(bundle)) {
            None => {
                plan.act(Action::create(&ClusterTrustBundle {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: ClusterTrustBundleSpec {
                        signer_name: Some(SIGNER.to_owned()),
                        trust_bundle: self.pem.clone(),
                    },
                }));
            }
            Some(bundle) if bundle.spec.trust_bundle != self.pem => {
                let mut updated = ClusterTrustBundle::clone(bundle);
                updated.spec.trust_bundle.clone_from(&self.pem);
                plan.act(Action::update(&updated));
            }
            Some(_) => {}
        }
        for bundle in bundles.iter().filter(|bundle| !is_current(bundle)) {
            plan.act(Action::delete(&**bundle));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn plans() {
        let own = Publishing::new("new").name;
        let bundle = |name: &str, pem: &str| -> ClusterTrustBundle {
            serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {"signerName": SIGNER, "trustBundle": pem},
            }))
            .unwrap()
        };
        assert!(own.starts_with("kubernetes.io:kube-apiserver-serving:"), "{own}");
        let old = "kubernetes.io:kube-apiserver-serving:0";
        for (what, bundles, want) in [
            ("none", vec![], vec![format!("create clustertrustbundles {own}")]),
            ("there", vec![bundle(&own, "new")], vec![]),
            ("changed", vec![bundle(&own, "x")], vec![format!("update clustertrustbundles {own}")]),
            (
                "of another authority",
                vec![bundle(old, "old")],
                vec![
                    format!("create clustertrustbundles {own}"),
                    format!("delete clustertrustbundles {old}"),
                ],
            ),
        ] {
            let fixture = Fixture::new(Publishing::new("new")).with(bundles);
            assert_eq!(fixture.lines("", "kube-apiserver-serving", Timestamp::UNIX_EPOCH), want, "{what}");
        }
    }
}
