//! test/e2e/auth/projected_podcertificate.go: certificates of pods, from a signer that the test is itself. What is about
//! the API alone is held by the API server's own tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use testkit::image;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;

use super::{World, items};

const PODS: &str = "/api/v1/namespaces/e2e/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/e2e/deployments";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/e2e/podcertificaterequests";
const SIGNER: &str = "e2e.example.com/spiffe";

/// A signer with a root and an intermediate authority: SPIFFE identities for pods.
struct Signer {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    fn new(world: &World) -> Signer {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params
        };
        let key = KeyPair::generate().unwrap();
        let root = params("e2e root").self_signed(&key).unwrap().pem();
        let above = Issuer::new(params("e2e root"), key);
        let key = KeyPair::generate().unwrap();
        let intermediate = params("e2e intermediate").signed_by(&key, &above).unwrap().pem();
        let bundle = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {"name": "e2e.example.com:spiffe:primary-bundle"},
            "spec": {"signerName": SIGNER, "trustBundle": root},
        });
        world.create("/apis/certificates.k8s.io/v1/clustertrustbundles", &bundle);
        Signer { root, intermediate, issuer: Issuer::new(params("e2e intermediate"), key) }
    }

    /// Waits for so many open requests and issues what they want.
    fn issue(&self, world: &World, count: usize) {
        for request in open(world, count) {
            let path = format!("{REQUESTS}/{}/status", request["metadata"]["name"].as_str().unwrap());
            let mut answered = request.clone();
            answered["status"] = self.status(&request["spec"]);
            let answer = world.put(&path, &answered);
            assert_eq!(answer.code, 200, "{}", answer.body);
        }
    }

    fn status(&self, spec: &Value) -> Value {
        let stub = STANDARD.decode(spec["stubPKCS10Request"].as_str().unwrap()).unwrap();
        let request =
            CertificateSigningRequestParams::from_der(&stub.into()).expect("it is signed by its key");
        let seconds = spec["maxExpirationSeconds"].as_i64().unwrap().min(24 * 3600);
        let start = Timestamp::from_second(Timestamp::now().as_second() - 120).unwrap();
        let end = start + SignedDuration::from_secs(seconds);
        let date = |at: Timestamp| {
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(at.as_second() as u64)
        };
        let own = format!("/ns/e2e/sa/{}", spec["serviceAccountName"].as_str().unwrap());
        let path = spec["unverifiedUserAnnotations"]["spiffe/path-overriding"].as_str().unwrap_or(&own);
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://cluster.local{path}").try_into().unwrap())];
        (params.not_before, params.not_after) = (date(start), date(end));
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&request.public_key, &self.issuer).unwrap().pem();
        json!({
            "conditions": [{"type": "Issued", "status": "True", "reason": "Issued", "message": "by the test",
                            "lastTransitionTime": start}],
            "certificateChain": format!("{leaf}{}", self.intermediate),
            "notBefore": start, "notAfter": end, "beginRefreshAt": end - SignedDuration::from_mins(30),
        })
    }
}

/// The requests for certificates that nobody has answered, once there are so many.
fn open(world: &World, count: usize) -> Vec<Value> {
    let open = |list: &Value| -> Vec<Value> {
        let open = items(list).iter().filter(|one| one["status"]["conditions"].is_null());
        open.cloned().collect()
    };
    let list = world.until(REQUESTS, |answer| open(&answer.body).len() == count);
    open(&list)
}

/// A pod that prints its certificates and goes on.
fn inspector(name: &str, change: Value) -> Value {
    let mut source = json!({"signerName": SIGNER, "keyType": "ED25519",
                            "credentialBundlePath": "all.pem", "certificateChainPath": "chain.pem"});
    for (key, value) in change.as_object().unwrap() {
        source[key] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "spiffe", "projected": {"sources": [{"podCertificate": source}]}}],
            "containers": [{
                "name": "inspector", "image": image::BUSYBOX,
                "command": ["sh", "-c", "cat /run/spiffe/chain.pem; sleep 3600"],
                "volumeMounts": [{"name": "spiffe", "mountPath": "/run/spiffe"}],
            }],
        },
    })
}

/// What a pod's certificate says: its life in seconds and the path of its SPIFFE identity.
fn inspected(name: &str, change: Value) -> (i64, String) {
    let world = World::node();
    let signer = Signer::new(&world);
    world.create(PODS, &inspector(name, change));
    signer.issue(&world, 1);
    world.until(&format!("{PODS}/{name}"), |answer| answer.body["status"]["phase"] == "Running");
    let log = testkit::wait::until("the certificates in the log", || {
        let log = world.cluster.kubectl(&["-n", "e2e", "logs", name]);
        if log.matches("-----END CERTIFICATE-----").count() == 2 { Ok(log) } else { Err(log) }
    });
    let blocks: Vec<Pem> = Pem::iter_from_buffer(log.as_bytes()).map(Result::unwrap).collect();
    let leaf = blocks[0].parse_x509().unwrap();
    let identity = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://cluster.local").map(str::to_owned),
                _ => None,
            })
        }
        _ => None,
    });
    let whole = world.cluster.kubectl(&["-n", "e2e", "exec", name, "--", "cat", "/run/spiffe/all.pem"]);
    assert!(
        whole.starts_with("-----BEGIN PRIVATE KEY-----\n") && whole.ends_with(log.trim_start()),
        "{whole}"
    );
    let list = world.read(REQUESTS);
    let owner = &items(&list)[0]["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Pod"), &json!(name)), "it goes with its pod");
    let validity = leaf.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    (life, identity.expect("a SPIFFE identity"))
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] MaxExpirationSeconds validations should issue certificate with default life time (24h) when MaxExpirationSeconds is not set [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_issue_a_certificate_with_the_default_life_time() {
    assert_eq!(inspected("default-duration-pod", json!({})), (24 * 3600, "/ns/e2e/sa/default".to_owned()));
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] MaxExpirationSeconds validations should issue certificate with specified duration (1h) when MaxExpirationSeconds is set [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_issue_a_certificate_with_the_specified_duration() {
    assert_eq!(inspected("one-hour-duration-pod", json!({"maxExpirationSeconds": 3600})).0, 3600);
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should honor UserAnnotations for SPIFFE URI path [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_honor_user_annotations_for_the_path_of_the_identity() {
    let change =
        json!({"keyType": "ECDSAP384", "userAnnotations": {"spiffe/path-overriding": "/custom-workload"}});
    assert_eq!(inspected("path-override-pod", change).1, "/custom-workload");
}

/// A pod that calls the host's openssl, for which busybox has no match: a TLS server that demands certificates.
fn with_openssl(app: &str, key_type: &str, command: &str) -> Value {
    let host =
        |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let labels = json!({"app": app});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "volumes": [
                    {"name": "tls-config", "projected": {"sources": [
                        {"clusterTrustBundle": {"signerName": SIGNER, "labelSelector": {},
                                                "path": "spiffe-trust-bundle.pem"}},
                        {"podCertificate": {"signerName": SIGNER, "keyType": key_type,
                                            "credentialBundlePath": "spiffe-cred-bundle.pem"}},
                    ]}},
                    host("usr", "/usr"), host("lib", "/lib"), host("lib64", "/lib64"),
                ],
                "containers": [{
                    "name": app, "image": image::BUSYBOX, "command": ["sh", "-c", command],
                    "volumeMounts": [
                        mount("tls-config", "/run/tls-config"), mount("usr", "/usr"), mount("lib", "/lib"),
                        mount("lib64", "/lib64"),
                    ],
                }],
            },
        }},
    })
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] should allow server and client pods to establish an mTLS connection [MinimumKubeletVersion:1.37] [Conformance]
#[test]
fn should_allow_server_and_client_pods_to_establish_an_mtls_connection() {
    const CREDENTIALS: &str = "-cert /run/tls-config/spiffe-cred-bundle.pem \
        -cert_chain /run/tls-config/spiffe-cred-bundle.pem -key /run/tls-config/spiffe-cred-bundle.pem \
        -CAfile /run/tls-config/spiffe-trust-bundle.pem -verify_return_error";
    let world = World::node();
    let signer = Signer::new(&world);
    let server = format!("exec /usr/bin/openssl s_server -accept 443 -www -Verify 2 {CREDENTIALS}");
    world.create(DEPLOYMENTS, &with_openssl("server", "ECDSAP256", &server));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"name": "https", "port": 443}]},
    });
    world.create("/api/v1/namespaces/e2e/services", &service);
    // Asked again until the page is there, as upstream's client does, each time with a limit: openssl's client can wait
    // for ever for an answer to a request that it has not sent (seen once in a while after the handshake). By TLS 1.2,
    // in which nothing comes between the handshake and the answer.
    let client = format!(
        "until (echo 'GET / HTTP/1.0'; echo; sleep 1) | timeout 5 /usr/bin/openssl s_client \
         -connect server.e2e.svc:443 -quiet -tls1_2 -verify 2 {CREDENTIALS} | tee /proc/1/fd/1 | grep -q '</pre>'; \
         do sleep 0.2; done; sleep 3600"
    );
    world.create(DEPLOYMENTS, &with_openssl("client", "ED25519", &client));
    signer.issue(&world, 2);

    // The server's page shows the session and the certificate that the client has shown.
    let page = testkit::wait::until("the server's page", || {
        let log = world.cluster.try_kubectl(&["-n", "e2e", "logs", "-l", "app=client", "--tail=-1"]).stdout;
        if log.contains("Client certificate") && log.contains("</pre>") { Ok(log) } else { Err(log) }
    });
    assert!(page.contains("URI:spiffe://cluster.local/ns/e2e/sa/default"), "{page}");
    assert!(!signer.root.is_empty());
}

#[test]
fn a_pod_whose_signer_refuses_does_not_start_and_is_told_why() {
    let world = World::node();
    let name = "refused";
    world.create(PODS, &inspector(name, json!({})));
    let request = open(&world, 1).remove(0);
    let mut answered = request.clone();
    answered["status"] = json!({"conditions": [{
        "type": "Denied", "status": "True", "reason": "UnsupportedKeyType", "message": "not this one",
        "lastTransitionTime": Timestamp::now(),
    }]});
    let path = format!("{REQUESTS}/{}/status", request["metadata"]["name"].as_str().unwrap());
    assert_eq!(world.put(&path, &answered).code, 200);
    let told = |list: &Value, reason: &str, text: &str| {
        items(list).iter().any(|event| {
            event["involvedObject"]["name"] == name
                && event["reason"] == reason
                && event["message"].as_str().is_some_and(|message| message.contains(text))
        })
    };
    let said = "reason=\"UnsupportedKeyType\", message=\"not this one\"";
    world.until("/api/v1/namespaces/e2e/events", |answer| told(&answer.body, "Denied", said));
    let said = "PodCertificateRequest was permanently denied";
    world.until("/api/v1/namespaces/e2e/events", |answer| told(&answer.body, "FailedMount", said));
    assert_eq!(world.read(&format!("{PODS}/{name}"))["status"]["phase"], "Pending");
}
