//! test/e2e/auth/projected_clustertrustbundle.go: roots of trust in the files of pods. What is about the API alone is
//! held by the API server's own tests.

use serde_json::{Value, json};
use testkit::image;

use super::{World, items};

const PODS: &str = "/api/v1/namespaces/e2e/pods";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const ONE: &str = "test.test/signer-one";
const TWO: &str = "test.test/signer-two";

/// A new authority's certificate, in the form that files have it in.
pub fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem().replace("\r\n", "\n")
}

/// The blocks of a text, sorted.
fn sorted(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let mut blocks: Vec<String> = text.split_inclusive(END).map(str::to_owned).collect();
    blocks.sort();
    blocks
}

/// One bundle of the test's set.
struct Bundle {
    signer: Option<&'static str>,
    alive: &'static str,
    pem: String,
}

impl World {
    fn bundle(&self, name: &str, signer: Option<&str>, alive: &str, pem: &str) {
        let mut body = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {"name": name, "labels": {"signer.alive": alive}}, "spec": {"trustBundle": pem},
        });
        if let Some(signer) = signer {
            body["spec"]["signerName"] = signer.into();
        }
        self.create(BUNDLES, &body);
    }

    /// Bundles of two signers, alive and not, and of none.
    fn bundles(&self) -> Vec<Bundle> {
        let mut bundles = Vec::new();
        for (index, (signer, alive)) in
            [(ONE, "true"), (ONE, "true"), (ONE, "false"), (TWO, "true"), (TWO, "false")]
                .into_iter()
                .enumerate()
        {
            let pem = authority();
            let name = format!("{}:{index}", signer.replace('/', ":"));
            self.bundle(&name, Some(signer), alive, &pem);
            bundles.push(Bundle { signer: Some(signer), alive, pem });
        }
        let pem = authority();
        self.bundle("test.test.signer-one.4", None, "true", &pem);
        bundles.push(Bundle { signer: None, alive: "true", pem });
        bundles
    }

    /// Runs a pod and returns what its container of this name printed.
    fn printed(&self, pod: &Value, container: &str) -> String {
        let name = pod["metadata"]["name"].as_str().unwrap();
        self.create(PODS, pod);
        self.until(&format!("{PODS}/{name}"), |answer| answer.body["status"]["phase"] == "Succeeded");
        self.cluster.kubectl(&["-n", "e2e", "logs", name, "-c", container])
    }
}

/// What a container prints that shows a file and its mode.
fn show(path: &str) -> String {
    format!("cat {path}; stat -L -c mode=%a {path}")
}

/// A pod with one volume and one container for each source.
fn pod(name: &str, sources: &[Value]) -> Value {
    let mut containers = Vec::new();
    let mut volumes = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let volume = format!("ctb-volume-{index}");
        let path = format!("/var/run/ctbtest/{}", source["path"].as_str().unwrap());
        containers.push(json!({
            "name": format!("projected-ctb-volume-test-{index}"), "image": image::BUSYBOX,
            "command": ["sh", "-c", show(&path)],
            "volumeMounts": [{"name": volume, "mountPath": "/var/run/ctbtest"}],
        }));
        volumes.push(json!({"name": volume, "projected": {"sources": [{"clusterTrustBundle": source}]}}));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": containers, "volumes": volumes},
    })
}

const CONTAINER: &str = "projected-ctb-volume-test-0";

/// What is printed of a file with these blocks, in whatever order.
#[track_caller]
fn assert_shows<'a>(printed: &str, blocks: impl IntoIterator<Item = &'a str>) {
    let file = printed.strip_suffix("mode=644\n").unwrap_or_else(|| panic!("its mode is another: {printed}"));
    let wanted: String = blocks.into_iter().collect();
    assert_eq!(sorted(file), sorted(&wanted));
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be able to mount a single ClusterTrustBundle by name [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_be_able_to_mount_a_single_cluster_trust_bundle_by_name() {
    let world = World::node();
    let bundles = world.bundles();
    let there = pod("there", &[json!({"name": "test.test.signer-one.4", "path": "trust-anchors.pem"})]);
    assert_shows(&world.printed(&there, CONTAINER), [bundles[5].pem.as_str()]);
    let source = json!({"name": "does-not-exist.at.all", "path": "trust-anchors.pem", "optional": true});
    assert_shows(&world.printed(&pod("optional", &[source]), CONTAINER), []);
}

/// What a pod sees of `signer-one` with this selector.
fn by_signer(selector: Option<Value>, optional: bool, wanted: impl Fn(&Bundle) -> bool) {
    let world = World::node();
    let bundles = world.bundles();
    let mut source = json!({"signerName": ONE, "path": "trust-bundle.crt", "optional": optional});
    if let Some(selector) = selector {
        source["labelSelector"] = selector;
    }
    let printed = world.printed(&pod("by-signer", &[source]), CONTAINER);
    let wanted = bundles.iter().filter(|bundle| bundle.signer == Some(ONE) && wanted(bundle));
    assert_shows(&printed, wanted.map(|bundle| bundle.pem.as_str()));
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be capable to mount multiple trust bundles by signer+labels can combine multiple CTBs with signer name and label selector [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn can_combine_multiple_bundles_with_signer_name_and_label_selector() {
    by_signer(Some(json!({"matchLabels": {"signer.alive": "true"}})), false, |bundle| bundle.alive == "true");
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be capable to mount multiple trust bundles by signer+labels should start if only signer name and nil label selector + optional=true [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_start_with_a_signer_and_no_selector_if_optional() {
    by_signer(None, true, |_| false);
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be capable to mount multiple trust bundles by signer+labels should start if only signer name and explicit label selector matches nothing + optional=true [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_start_with_a_selector_that_matches_nothing_if_optional() {
    by_signer(Some(json!({"matchLabels": {"thismatches": "nothing"}})), true, |_| false);
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be capable to mount multiple trust bundles by signer+labels can combine all signer CTBs with an empty label selector [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn can_combine_all_bundles_of_a_signer_with_an_empty_selector() {
    by_signer(Some(json!({})), false, |_| true);
}

/// The pod is not started, and is told why; once the bundle is there it is.
fn prevented(source: Value, why: &str, late: (&str, Option<&str>)) {
    let world = World::node();
    world.bundles();
    world.create(PODS, &pod("waits", &[source]));
    world.until("/api/v1/namespaces/e2e/events", |answer| {
        items(&answer.body).iter().any(|event| {
            event["involvedObject"]["name"] == "waits"
                && event["reason"] == "FailedMount"
                && event["message"].as_str().is_some_and(|message| message.contains(why))
        })
    });
    let path = format!("{PODS}/waits");
    // The event may be there before the status is.
    let ready = |status: &Value| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.find(|one| one["type"] == "Ready").cloned()
    };
    let status = world.until(&path, |answer| ready(&answer.body["status"]).is_some())["status"].clone();
    assert_eq!(status["phase"], "Pending", "{status}");
    let ready = ready(&status).unwrap();
    assert_eq!(
        (&ready["status"], &ready["reason"], &ready["message"]),
        (
            &json!("False"),
            &json!("ContainersNotReady"),
            &json!("containers with unready status: [projected-ctb-volume-test-0]")
        )
    );
    let (name, signer) = late;
    world.bundle(name, signer, "unknown", &authority());
    world.until(&path, |answer| answer.body["status"]["phase"] == "Succeeded");
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should prevent a pod from starting if: sets optional=false and no trust bundle matches query [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_prevent_a_pod_from_starting_if_no_trust_bundle_matches() {
    let source = json!({"signerName": ONE, "path": "trust-bundle.crt", "optional": false,
                        "labelSelector": {"matchLabels": {"signer.alive": "unknown"}}});
    let why = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
    prevented(source, why, ("test.test:signer-one:late", Some(ONE)));
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should prevent a pod from starting if: sets optional=false and the configured CTB does not exist [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_prevent_a_pod_from_starting_if_the_named_bundle_does_not_exist() {
    let source = json!({"name": "does-not-exist", "path": "trust-bundle.crt", "optional": false});
    prevented(source, "\"does-not-exist\" not found", ("does-not-exist", None));
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be able to specify multiple CTB volumes [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_be_able_to_specify_multiple_volumes() {
    let world = World::node();
    let bundles = world.bundles();
    let body = pod(
        "several",
        &[
            json!({"name": "test.test.signer-one.4", "path": "trust-anchors.pem"}),
            json!({"signerName": ONE, "path": "trust-bundle.crt",
                   "labelSelector": {"matchLabels": {"signer.alive": "false"}}}),
        ],
    );
    assert_shows(&world.printed(&body, CONTAINER), [bundles[5].pem.as_str()]);
    let second =
        world.cluster.kubectl(&["-n", "e2e", "logs", "several", "-c", "projected-ctb-volume-test-1"]);
    assert_shows(&second, [bundles[2].pem.as_str()]);
}

/// Conformance: [sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should be able to mount a big number (>100) of CTBs [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_be_able_to_mount_a_big_number_of_bundles() {
    const SIGNER: &str = "test.test/signer-hundreds";
    /// One of the many, which the pods show.
    const SHOWN: usize = 117;
    let world = World::node();
    let bundles: Vec<String> = (0..150).map(|_| authority()).collect();
    let mut sources = Vec::new();
    for (index, pem) in bundles.iter().enumerate() {
        let name = format!("test.test:signer-hundreds:{index}");
        world.bundle(&name, Some(SIGNER), "true", pem);
        let path = format!("trust-anchors-{index}.pem");
        sources.push(json!({"clusterTrustBundle": {"name": name, "path": path}}));
    }
    let many = |name: &str, path: String, mounts: Vec<Value>, volumes: Vec<Value>| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "volumes": volumes, "containers": [{
                "name": CONTAINER, "image": image::BUSYBOX, "command": ["sh", "-c", show(&path)],
                "volumeMounts": mounts,
            }]},
        })
    };

    let one_volume = many(
        "one-volume",
        format!("/var/run/ctbtest/trust-anchors-{SHOWN}.pem"),
        vec![json!({"name": "ctb-volume", "mountPath": "/var/run/ctbtest"})],
        vec![json!({"name": "ctb-volume", "projected": {"sources": sources}})],
    );
    assert_shows(&world.printed(&one_volume, CONTAINER), [bundles[SHOWN].as_str()]);

    let name = |index: usize| format!("ctb-volume-{index}");
    let mount = |index: usize| json!({"name": name(index), "mountPath": format!("/var/run/ctbtest-{index}")});
    let volume =
        |(index, source): (usize, &Value)| json!({"name": name(index), "projected": {"sources": [source]}});
    let many_volumes = many(
        "many-volumes",
        format!("/var/run/ctbtest-{SHOWN}/trust-anchors-{SHOWN}.pem"),
        (0..sources.len()).map(mount).collect(),
        sources.iter().enumerate().map(volume).collect(),
    );
    assert_shows(&world.printed(&many_volumes, CONTAINER), [bundles[SHOWN].as_str()]);

    let joined =
        pod("joined", &[json!({"signerName": SIGNER, "labelSelector": {}, "path": "trust-anchors.pem"})]);
    assert_shows(&world.printed(&joined, CONTAINER), bundles.iter().map(String::as_str));
}
