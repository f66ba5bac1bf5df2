//! Keys that OpenSSL made, in the forms that it and kubeadm write.

use super::*;

const KEYS: &[(&str, &str, &str)] = &[
    ("PKCS#8 RSA", include_str!("testdata/rsa.pem"), include_str!("testdata/rsa.pub")),
    ("PKCS#1", include_str!("testdata/rsa-pkcs1.pem"), include_str!("testdata/rsa.pub")),
    ("PKCS#8 P-256", include_str!("testdata/p256.pem"), include_str!("testdata/p256.pub")),
    ("SEC 1 P-256", include_str!("testdata/p256-sec1.pem"), include_str!("testdata/p256.pub")),
    ("PKCS#8 P-384", include_str!("testdata/p384.pem"), include_str!("testdata/p384.pub")),
    ("SEC 1 P-384", include_str!("testdata/p384-sec1.pem"), include_str!("testdata/p384.pub")),
    ("PKCS#8 P-521", include_str!("testdata/p521.pem"), include_str!("testdata/p521.pub")),
    ("SEC 1 P-521", include_str!("testdata/p521-sec1.pem"), include_str!("testdata/p521.pub")),
    ("P-521 without its point", include_str!("testdata/p521-bare.pem"), include_str!("testdata/p521.pub")),
];

#[test]
fn keys_of_all_forms_sign_and_their_public_halves_verify() {
    for (name, private, public) in KEYS {
        let key = SigningKey::from_pem(private).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let [public] =
            PublicKey::read_all(public).try_into().unwrap_or_else(|_| panic!("{name}: not one key"));
        assert_eq!(key.public(), public, "{name}");
        assert_eq!(PublicKey::read_all(private), [public.clone()], "{name}: a private key has a public half");
        let mut signed = key.sign(b"said").unwrap();
        assert!(public.verify(key.scheme(), b"said", &signed), "{name}");
        assert!(!public.verify(key.scheme(), b"something else", &signed), "{name}");
        let last = signed.len() - 1;
        signed[last] ^= 1;
        assert!(!public.verify(key.scheme(), b"said", &signed), "{name}");
    }
}

#[test]
fn what_cannot_sign_says_why() {
    let broken = include_str!("testdata/p384.pem").replace("PRIVATE KEY", "EC PRIVATE KEY");
    for (text, want) in [
        ("", "holds no private key"),
        (include_str!("testdata/rsa.pub"), "holds no private key"),
        (include_str!("testdata/p256-bare.pem"), "lacks its public half"),
        (include_str!("testdata/ed25519.pem"), "1.3.101.112 do not sign tokens"),
        (&broken, "it is no ECDSA private key"),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----", "password"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", "RSA key cannot be used"),
    ] {
        let problem = SigningKey::from_pem(text).unwrap_err();
        assert!(problem.contains(want), "{text}: {problem}");
    }
}
