//! What the server shows of itself, whom it believes beside those that its own authority vouches for, and how it leaves.

use std::path::Path;

use client::{Config, HttpsTransport, Identity, Transport as _, kubeconfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::json;
use testkit::{Cluster, Options, wait};

use crate::IRONCLAD;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, PEM.
fn signed(by: &Authority, subject: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

/// Whether a server that shows a certificate for `name` answers.
fn is_shown(cluster: &Cluster, name: &str) -> Result<(), String> {
    let config = kubeconfig::load(&cluster.kubeconfig()).unwrap();
    let config = Config { tls_server_name: Some(name.to_owned()), ..config };
    let request = http::Request::get("/version").body(Default::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(HttpsTransport::new(&config).unwrap().send(request));
    answer.map(drop).map_err(|error| format!("{error:?}"))
}

fn flag(name: &str, file: &Path) -> String {
    format!("--{name}={}", file.display())
}

#[test]
fn certificates_of_ones_own_are_shown_followed_and_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (own, others) = (authority("cluster"), authority("people"));
    let serve = |name: &str| {
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let (certificate, key) = signed(&own, "server", &[name, "localhost", "127.0.0.1"], server);
        std::fs::write(file("tls.key"), key).unwrap();
        std::fs::write(file("tls.crt"), certificate).unwrap();
    };
    serve("one.example.com");
    std::fs::write(file("clients.crt"), others.pem()).unwrap();
    let options = Options::hollow(IRONCLAD, 1)
        .flag(&flag("tls-cert-file", &file("tls.crt")))
        .flag(&flag("tls-private-key-file", &file("tls.key")))
        .flag(&flag("client-ca-file", &file("clients.crt")));
    let cluster = Cluster::start_on(options, |data_dir| {
        let pki = data_dir.join("pki");
        std::fs::create_dir_all(&pki).unwrap();
        std::fs::write(pki.join("ca.crt"), own.pem()).unwrap();
        std::fs::write(pki.join("ca.key"), own.key().serialize_pem()).unwrap();
    });
    is_shown(&cluster, "one.example.com").unwrap();
    is_shown(&cluster, "two.example.com").unwrap_err();
    serve("two.example.com");
    wait::until("the new certificate is shown", || is_shown(&cluster, "two.example.com"));

    let (certificate, key) = signed(&others, "bob", &[], ExtendedKeyUsagePurpose::ClientAuth);
    let bob = Identity::ClientCertificate { certificate_pem: certificate.into(), key_pem: key.into() };
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = cluster.send_as(Some(bob), "POST", path, "application/json", review.to_string());
    assert_eq!(answer.body["status"]["userInfo"]["username"], "bob", "{}", answer.body);
    // Extension servers are told of both authorities.
    let told = cluster.field(
        &["configmap", "extension-apiserver-authentication", "-n", "kube-system"],
        "{.data.client-ca-file}",
    );
    assert_eq!(told.matches("BEGIN CERTIFICATE").count(), 2, "{told}");
}

#[test]
fn a_server_that_is_told_to_stop_serves_on_for_a_while_and_is_not_ready() {
    let mut cluster = Cluster::start(Options::hollow(IRONCLAD, 1).flag("--shutdown-delay-duration=10m"));
    cluster.signal_server(15);
    let ask = |path: &str| cluster.send("GET", path, "application/json", "").code;
    wait::until("it is not ready", || match ask("/readyz") {
        500 => Ok(()),
        code => Err(format!("/readyz is answered with {code}")),
    });
    assert_eq!((ask("/livez"), ask("/api/v1/nodes")), (200, 200));
    // Told again: at once, which ends this test before the ten minutes are over.
    cluster.stop_server();
}
