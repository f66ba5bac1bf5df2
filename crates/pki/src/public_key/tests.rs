//! What OpenSSL signed, and files with several keys.

use super::*;

#[test]
fn signatures_of_others_are_checked() {
    let rsa = &PublicKey::read_all(include_str!("../signing_key/testdata/rsa.pub"))[0];
    let p521 = &PublicKey::read_all(include_str!("../signing_key/testdata/p521.pub"))[0];
    let pss = include_bytes!("../signing_key/testdata/rsa-pss.signature").as_slice();
    let asn1 = include_bytes!("../signing_key/testdata/p521.signature").as_slice();
    for (key, scheme, message, signed, good) in [
        (rsa, Scheme::Pss(Hash::Sha256), "said", pss, true),
        (rsa, Scheme::Pss(Hash::Sha384), "said", pss, false),
        (rsa, Scheme::Pkcs1(Hash::Sha256), "said", pss, false),
        (rsa, Scheme::EcdsaAsn1(Hash::Sha256), "said", pss, false),
        (p521, Scheme::EcdsaAsn1(Hash::Sha512), "said", asn1, true),
        (p521, Scheme::EcdsaAsn1(Hash::Sha512), "else", asn1, false),
        (p521, Scheme::EcdsaAsn1(Hash::Sha256), "said", asn1, false),
        (p521, Scheme::EcdsaFixed(Hash::Sha512), "said", asn1, false),
    ] {
        assert_eq!(key.verify(scheme, message.as_bytes(), signed), good, "{scheme:?} {message}");
    }
}

#[test]
fn what_is_read_is_written_as_it_was() {
    for text in [
        include_str!("../signing_key/testdata/rsa.pub"),
        include_str!("../signing_key/testdata/p256.pub"),
        include_str!("../signing_key/testdata/p384.pub"),
        include_str!("../signing_key/testdata/p521.pub"),
    ] {
        let key = &PublicKey::read_all(text)[0];
        assert_eq!(pem::encode("PUBLIC KEY", &key.info()), text);
    }
}

#[test]
fn a_file_may_hold_many_keys_and_other_things() {
    let text = [
        "a note\n",
        include_str!("../signing_key/testdata/p256-sec1.pem"),
        include_str!("../signing_key/testdata/p521.crt"),
        "-----BEGIN BROKEN-----\n",
        include_str!("../signing_key/testdata/rsa.pub"),
    ]
    .concat();
    let kinds: Vec<&str> = PublicKey::read_all(&text)
        .iter()
        .map(|key| match key {
            PublicKey::Rsa { .. } => "RSA",
            PublicKey::Ec { curve, .. } => curve.name(),
            PublicKey::Ed25519(_) => "Ed25519",
        })
        .collect();
    assert_eq!(kinds, ["P-256", "P-521", "RSA"]);
    assert!(PublicKey::read_all("nothing").is_empty());
}

#[test]
fn a_request_by_a_key_on_p521_is_read() {
    let request = include_str!("../signing_key/testdata/p521.csr");
    let subject = crate::csr::inspect(request).unwrap();
    assert_eq!((subject.common_name.as_str(), subject.organizations), ("jane", vec!["dev".to_owned()]));
}
