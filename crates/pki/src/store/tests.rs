//! Keys and certificates on disk: made, kept, renewed, refused.

use std::os::unix::fs::PermissionsExt as _;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::csr;

const START: &str = "2026-11-21T10:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("pki"),
        node_name: "node-a".into(),
        node_ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        service_ips: vec!["10.43.0.1".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        extra_names: vec!["api.example.com".into(), "198.51.100.9".into()],
    }
}

/// What a TLS client would say of the server's certificate.
fn accepts(pki: &Pki, server: &Credential, name: &str, now: Timestamp) -> Result<(), String> {
    use rustls::client::danger::ServerCertVerifier as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(pki.cluster_authority().certificate().der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second() as u64));
    verifier
        .verify_server_cert(&server.chain()[0], &[], &name, &[], now)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

#[test]
fn the_serving_certificate_is_good_for_every_way_to_reach_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    let server = pki.credential(Leaf::ApiserverServing, now).unwrap();
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
        "10.43.0.1",
        "node-a",
        "192.0.2.7",
        "2001:db8::7",
        "api.example.com",
        "198.51.100.9",
    ] {
        accepts(&pki, &server, name, now).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(accepts(&pki, &server, "example.org", now).is_err());
    assert!(accepts(&pki, &server, "localhost", at("2027-11-22T10:00:00Z")).is_err(), "after its end");
    let client = pki.credential(Leaf::Admin, now).unwrap();
    assert!(accepts(&pki, &client, "localhost", now).is_err(), "a client certificate serves nothing");
}

#[test]
fn a_second_open_finds_the_same_identities() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let first = Pki::open(settings(dir.path()), now).unwrap();
    let admin = first.credential(Leaf::Admin, now).unwrap();
    let second = Pki::open(settings(dir.path()), now).unwrap();
    assert_eq!(first.cluster_authority().public_key_hash(), second.cluster_authority().public_key_hash());
    assert_eq!(first.service_account_key().public_info(), second.service_account_key().public_info());
    assert_eq!(admin.certificate_pem(), second.credential(Leaf::Admin, now).unwrap().certificate_pem());
}

#[test]
fn keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(settings(dir.path()), at(START)).unwrap();
    pki.credential(Leaf::Admin, at(START)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("pki")), 0o700);
    let mut keys = 0;
    for entry in std::fs::read_dir(dir.path().join("pki")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "key") {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            keys += 1;
        }
    }
    assert_eq!(keys, 4, "two authorities, the token key, one leaf");
}

#[test]
fn leaves_are_reissued_when_due_or_when_their_names_change() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    assert_eq!(pki.next_renewal(), None);
    let old = pki.credential(Leaf::ApiserverServing, now).unwrap();
    assert_eq!(pki.renew_due(now).unwrap(), []);

    let due = pki.next_renewal().unwrap();
    assert!(due > now && due < old.not_after());
    assert_eq!(pki.renew_due(due).unwrap(), [Leaf::ApiserverServing]);
    let new = pki.credential(Leaf::ApiserverServing, due).unwrap();
    assert!(new.not_after() > old.not_after());
    accepts(&pki, &new, "localhost", due).unwrap();
    assert!(pki.next_renewal().unwrap() > due, "the renewed one is due later");

    let mut moved = settings(dir.path());
    moved.node_ips = vec!["192.0.2.8".parse().unwrap()];
    let pki = Pki::open(moved, due).unwrap();
    let moved = pki.credential(Leaf::ApiserverServing, due).unwrap();
    accepts(&pki, &moved, "192.0.2.8", due).unwrap();
    assert!(accepts(&pki, &moved, "192.0.2.7", due).is_err());
}

#[test]
fn members_of_the_store_have_an_authority_of_their_own() {
    use rustls::server::WebPkiClientVerifier;
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    assert!(!dir.path().join("pki/peer-ca.key").exists(), "not before somebody needs it");
    let peer = pki.credential(Leaf::Peer { member: 0xab }, now).unwrap();
    let authority = pki.peer_authority(now).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(authority.certificate().der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let members = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second() as u64));
    let lets_in =
        |credential: &Credential| members.verify_client_cert(&credential.chain()[0], &[], time).is_ok();
    assert!(lets_in(&peer));
    assert!(!lets_in(&pki.credential(Leaf::Admin, now).unwrap()), "not even an administrator is a member");
    let chain = peer.chain();
    let (_, parsed) = x509_parser::parse_x509_certificate(chain[0].as_ref()).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(names, 2, "the name of all members, and its own");
    let again = Pki::open(settings(dir.path()), now).unwrap();
    let same = again.credential(Leaf::Peer { member: 0xab }, now).unwrap();
    assert_eq!(same.certificate_pem(), peer.certificate_pem());
    assert_ne!(
        again.credential(Leaf::Peer { member: 1 }, now).unwrap().certificate_pem(),
        peer.certificate_pem()
    );
}

#[test]
fn a_damaged_leaf_is_replaced_a_damaged_authority_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    pki.credential(Leaf::Admin, now).unwrap();
    let folder = dir.path().join("pki");
    std::fs::write(folder.join("admin.key"), "nonsense").unwrap();
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    pki.credential(Leaf::Admin, now).unwrap();
    assert!(std::fs::read_to_string(folder.join("admin.key")).unwrap().contains("PRIVATE KEY"));

    std::fs::write(folder.join("ca.key"), "nonsense").unwrap();
    let error = Pki::open(settings(dir.path()), now).unwrap_err().to_string();
    assert!(error.contains("ca.key is not usable: it holds no PRIVATE KEY block"), "{error}");
    std::fs::remove_file(folder.join("ca.key")).unwrap();
    let error = Pki::open(settings(dir.path()), now).unwrap_err().to_string();
    assert!(error.contains("ca.key does not"), "{error}");
}

#[test]
fn a_first_start_that_was_cut_off_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let first = Pki::open(settings(dir.path()), now).unwrap();
    std::fs::remove_file(dir.path().join("pki/ca.crt")).unwrap();
    let second = Pki::open(settings(dir.path()), now).unwrap();
    assert_eq!(first.cluster_authority().public_key_hash(), second.cluster_authority().public_key_hash());
}

#[test]
fn a_clock_outside_the_authority_is_named() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(settings(dir.path()), at(START)).unwrap();
    let early = Pki::open(settings(dir.path()), at("1970-01-02T00:00:00Z")).unwrap_err().to_string();
    assert!(early.contains("set the clock"), "{early}");
    // An authority that we have not made is not ours to renew.
    let key = Key::generate().unwrap();
    let key_text = key.to_pem();
    let theirs = Authority::self_signed("corporate", key, at(START)).unwrap();
    std::fs::write(dir.path().join("pki/ca.crt"), theirs.certificate().pem()).unwrap();
    std::fs::write(dir.path().join("pki/ca.key"), key_text).unwrap();
    let late = Pki::open(settings(dir.path()), at("2037-01-01T00:00:00Z")).unwrap_err().to_string();
    assert!(late.contains("expired at"), "{late}");
}

#[test]
fn an_authority_is_renewed_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(settings(dir.path()), at(START)).unwrap();
    let (old_end, hash) =
        (first.cluster_authority().not_after(), first.cluster_authority().public_key_hash());
    for (when, renewed) in
        [("2034-01-01T00:00:00Z", false), ("2035-01-01T00:00:00Z", true), ("2060-01-01T00:00:00Z", true)]
    {
        let now = at(when);
        let pki = Pki::open(settings(dir.path()), now).unwrap();
        assert_eq!(pki.cluster_authority().public_key_hash(), hash, "{when}");
        assert_eq!(pki.cluster_authority().not_after() > old_end, renewed, "{when}");
        // Whoever trusts the first certificate trusts what is signed now, and the other way round.
        let server = pki.credential(Leaf::ApiserverServing, now).unwrap();
        assert_eq!(accepts(&first, &server, "localhost", now), Ok(()), "{when}");
        assert_eq!(accepts(&pki, &server, "localhost", now), Ok(()), "{when}");
    }
    let back = Pki::open(settings(dir.path()), at(START)).unwrap();
    assert_eq!(back.cluster_authority().public_key_hash(), hash, "a clock that was ahead does no harm");
}

/// A request made by OpenSSL's command line, as users make them: three organisations, two names.
const REQUEST: &str = include_str!("testdata/request.pem");

#[test]
fn signing_a_request_keeps_every_group() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    let asked = csr::inspect(REQUEST).unwrap();
    assert_eq!(asked.common_name, "jane");
    assert_eq!(asked.organizations, ["dev", "ops", "dev:leads"]);
    assert_eq!(asked.dns_names, ["jane.example.com"]);
    assert_eq!(asked.ip_addresses, ["192.0.2.44".parse::<IpAddr>().unwrap()]);

    let terms = csr::Terms {
        usages: &["key encipherment", "client auth", "digital signature", "server auth"],
        not_before: now,
        not_after: now + SignedDuration::from_hours(1),
    };
    let signed = csr::sign(pki.cluster_authority(), REQUEST, &terms).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(signed.der()).unwrap();
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    let unknown = csr::Terms { usages: &["cooking"], ..terms.clone() };
    let error = csr::sign(pki.cluster_authority(), REQUEST, &unknown).unwrap_err().to_string();
    assert!(error.contains("unrecognized usage values"), "{error}");
    let groups: Vec<&str> = parsed.subject().iter_organization().filter_map(|o| o.as_str().ok()).collect();
    assert_eq!(groups, ["dev", "ops", "dev:leads"]);
    assert_eq!(parsed.validity().not_after.timestamp(), at("2026-11-21T11:00:00Z").as_second());
    let credential = Credential::load(signed, Key::generate().unwrap());
    assert!(credential.is_err(), "the certificate is for the requester's key only");
}

#[test]
fn requests_not_signed_by_their_key_are_refused() {
    let mut der = pem::decode("CERTIFICATE REQUEST", REQUEST).unwrap().remove(0);
    let middle = der.windows(4).position(|w| w == b"jane").unwrap();
    der[middle] = b'J';
    let error = csr::inspect(&pem::encode("CERTIFICATE REQUEST", &der)).unwrap_err().to_string();
    assert!(error.contains("not signed by the key"), "{error}");
    assert!(csr::inspect("hello").unwrap_err().to_string().contains("PEM block type"));
}

#[test]
fn requests_with_names_that_no_rule_reads_are_refused() {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};
    let key = KeyPair::generate().unwrap();
    let asked = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        change(&mut params);
        csr::inspect(&params.serialize_request(&key).unwrap().pem().unwrap())
    };
    let good = asked(&|_| {}).unwrap();
    assert_eq!((good.organizations.len(), good.dns_names.len()), (1, 1));
    let hidden = DnValue::TeletexString("system:masters".try_into().unwrap());
    let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
    let other = SanType::OtherName((vec![1, 2, 3, 4], "x".into()));
    for (what, change) in [
        (
            "an organisation of another string type",
            &(|params: &mut CertificateParams| {
                params.distinguished_name.push(DnType::OrganizationName, hidden.clone());
            }) as &dyn Fn(&mut CertificateParams),
        ),
        ("the attribute of a user's UID", &|params| params.distinguished_name.push(uid.clone(), "u")),
        ("an alternative name of another kind", &|params| params.subject_alt_names.push(other.clone())),
    ] {
        assert!(asked(change).is_err(), "{what}");
    }
}

#[test]
fn a_kubeconfig_is_private_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let now = at(START);
    let pki = Pki::open(settings(dir.path()), now).unwrap();
    let admin = pki.credential(Leaf::Admin, now).unwrap();
    let path = dir.path().join("kubeconfig.yaml");
    crate::kubeconfig::Kubeconfig {
        server: "https://127.0.0.1:6443",
        cluster: "ironclad",
        user: "admin",
        authority: pki.cluster_authority().certificate(),
        credential: &admin,
    }
    .write(&path)
    .unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    for part in ["certificate-authority-data: LS0t", "client-certificate-data: LS0t", "client-key-data: LS0t"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.contains("server: \"https://127.0.0.1:6443\""));
}
