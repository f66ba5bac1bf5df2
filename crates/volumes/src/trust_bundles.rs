//! Which roots of trust a clusterTrustBundle source of a volume puts into its file.
//!
//! A snapshot of all ClusterTrustBundles, from which a source chooses one by name or several by signer and labels. Their
//! certificates are put together, each once, in an order that is the same for as long as the node runs and another
//! the next time, so that nobody comes to depend on it.
//! Not here: watching the bundles (`objects`).
//! Upstream: `pkg/kubelet/clustertrustbundle`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use api::meta::LabelSelector;
use api::selector::labels::Selector;
use api::types::certificates::v1::ClusterTrustBundle;
use api::types::core::v1::ClusterTrustBundleProjection;

use crate::Error;

/// The longest label selector, in bytes of its text.
const SELECTOR_MAX: usize = 100 * 1024;

/// The ClusterTrustBundles as of a moment.
#[derive(Clone, Debug, Default)]
pub struct TrustBundles {
    bundles: Arc<Vec<Arc<ClusterTrustBundle>>>,
    /// What the order of certificates depends on.
    seed: u64,
}

impl TrustBundles {
    /// These bundles; `seed` is the same for all snapshots of one run of the node.
    pub fn new(bundles: Vec<Arc<ClusterTrustBundle>>, seed: u64) -> TrustBundles {
        TrustBundles { bundles: Arc::new(bundles), seed }
    }

    /// The certificates that `source` chooses, as PEM; nothing where none has to be there.
    pub(crate) fn anchors(&self, source: &ClusterTrustBundleProjection) -> Result<String, Error> {
        let optional = source.optional == Some(true);
        if let Some(name) = &source.name {
            let named = self.bundles.iter().find(|bundle| bundle.metadata.name.as_ref() == Some(name));
            return match named {
                Some(bundle) => Ok(self.normalized([&**bundle])),
                None if optional => Ok(String::new()),
                None => Err(Error::Invalid(format!(
                    "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found"
                ))),
            };
        }
        let Some(signer) = &source.signer_name else {
            let message = "ClusterTrustBundle projection requires either name or signerName to be set";
            return Err(Error::Invalid(message.to_owned()));
        };
        let chosen = self.signed(signer, source.label_selector.as_ref())?;
        if chosen.is_empty() && !optional {
            let message = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
            return Err(Error::Invalid(message.to_owned()));
        }
        Ok(self.normalized(chosen))
    }

    /// The bundles of a signer that the selector matches: none without a selector, all with an empty one.
    fn signed(
        &self,
        signer: &str,
        selector: Option<&LabelSelector>,
    ) -> Result<Vec<&ClusterTrustBundle>, Error> {
        let selector = Selector::from_label_selector(selector)
            .map_err(|error| Error::Invalid(format!("while parsing label selector: {error}")))?;
        let length = selector.to_string().len();
        if length > SELECTOR_MAX {
            let message = format!("label selector length ({length}) is larger than {SELECTOR_MAX}");
            return Err(Error::Invalid(message));
        }
        let empty = BTreeMap::new();
        let chosen = self.bundles.iter().filter(|bundle| {
            bundle.spec.signer_name.as_deref() == Some(signer)
                && selector.matches(bundle.metadata.labels.as_ref().unwrap_or(&empty))
        });
        Ok(chosen.map(|bundle| &**bundle).collect())
    }

    /// A block that is none is passed over: the roots beside it, and those of other bundles, are no worse for it.
    fn normalized<'a>(&self, bundles: impl IntoIterator<Item = &'a ClusterTrustBundle>) -> String {
        let mut anchors = BTreeMap::new();
        let blocks = bundles.into_iter().flat_map(|bundle| pki::pem::blocks(&bundle.spec.trust_bundle));
        for (_, der) in blocks.filter(|(label, _)| label == "CERTIFICATE") {
            let mut hasher = DefaultHasher::new();
            (self.seed, &der).hash(&mut hasher);
            anchors.insert((hasher.finish(), der), ());
        }
        anchors.keys().map(|(_, der)| pki::pem::encode("CERTIFICATE", der)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn block(content: &str) -> String {
        pki::pem::encode("CERTIFICATE", content.as_bytes())
    }

    fn bundles(seed: u64) -> TrustBundles {
        let bundle = |name: &str, signer: Option<&str>, alive: &str, anchors: &[&str]| {
            let text: String = anchors.iter().map(|anchor| format!("a note\n{}", block(anchor))).collect();
            Arc::new(
                serde_json::from_value::<ClusterTrustBundle>(json!({
                    "metadata": {"name": name, "labels": {"alive": alive}},
                    "spec": {"signerName": signer, "trustBundle": text},
                }))
                .unwrap(),
            )
        };
        let one = Some("test.test/one");
        // One block that is no base64 between two that are whole.
        let mut broken: ClusterTrustBundle =
            (*bundle("test.test:two:d", Some("test.test/two"), "false", &["d", "?", "e"])).clone();
        let text = &mut broken.spec.trust_bundle;
        *text = text.replace("Pw==", "?w==");
        let broken = Arc::new(broken);
        TrustBundles::new(
            vec![
                bundle("plain", None, "true", &["p"]),
                bundle("test.test:one:a", one, "true", &["a", "shared"]),
                bundle("test.test:one:b", one, "false", &["b", "shared"]),
                bundle("test.test:two:c", Some("test.test/two"), "true", &["c"]),
                broken,
            ],
            seed,
        )
    }

    /// The content of the blocks in what a source chooses, sorted.
    fn chosen(source: Value) -> Result<Vec<String>, String> {
        let mut source = source;
        source["path"] = "f".into();
        let source: ClusterTrustBundleProjection = serde_json::from_value(source).unwrap();
        let text = bundles(7).anchors(&source).map_err(|error| error.to_string())?;
        let mut blocks: Vec<String> = pki::pem::decode("CERTIFICATE", &text)
            .unwrap()
            .into_iter()
            .map(|block| String::from_utf8(block).unwrap())
            .collect();
        blocks.sort();
        Ok(blocks)
    }

    #[test]
    fn a_source_chooses_by_name_or_by_signer_and_labels() {
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        for (source, want) in [
            (json!({"name": "plain"}), Ok(vec!["p"])),
            (json!({"name": "test.test:one:a"}), Ok(vec!["a", "shared"])),
            (json!({"name": "gone", "optional": true}), Ok(vec![])),
            (
                json!({"name": "gone"}),
                Err(
                    "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"gone\" not found",
                ),
            ),
            (json!({"signerName": "test.test/one", "labelSelector": {}}), Ok(vec!["a", "b", "shared"])),
            (
                json!({"signerName": "test.test/one", "labelSelector": {"matchLabels": {"alive": "true"}}}),
                Ok(vec!["a", "shared"]),
            ),
            (json!({"name": "test.test:two:d"}), Ok(vec!["d", "e"])),
            (json!({"signerName": "test.test/two", "labelSelector": {}}), Ok(vec!["c", "d", "e"])),
            (json!({"signerName": "test.test/one"}), Err(none)),
            (json!({"signerName": "test.test/one", "optional": true}), Ok(vec![])),
            (json!({"signerName": "test.test/three", "labelSelector": {}}), Err(none)),
            (json!({}), Err("ClusterTrustBundle projection requires either name or signerName to be set")),
        ] {
            let want = want
                .map(|blocks| blocks.into_iter().map(str::to_owned).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(chosen(source.clone()), want, "{source}");
        }
    }

    #[test]
    fn the_order_is_kept_while_the_node_runs_and_changes_with_it() {
        let source: ClusterTrustBundleProjection =
            serde_json::from_value(json!({"signerName": "test.test/one", "labelSelector": {}, "path": "f"}))
                .unwrap();
        let orders: std::collections::BTreeSet<String> =
            (0..20).map(|seed| bundles(seed).anchors(&source).unwrap()).collect();
        assert!(orders.len() > 1, "every run has the same order");
        assert_eq!(bundles(3).anchors(&source).unwrap(), bundles(3).anchors(&source).unwrap());
    }
}
