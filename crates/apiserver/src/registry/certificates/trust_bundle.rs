//! Whether a trust bundle consists of certificates of authorities, each there once.
//!
//! Text between the certificates is allowed; it never reaches a pod.
//! Not here: names and signers (the kind's validation), who may attest (`admission`).
//! Upstream: validateTrustBundle in pkg/apis/certificates/validation.

use std::collections::BTreeMap;

use api::field::{self, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The most bytes of a bundle; a longer one is its kind's to refuse.
const SIZE_MAX: usize = 1024 * 1024;

/// One block of PEM: its label, whether it has headers, what it holds.
pub(super) struct Block<'a> {
    pub(super) label: &'a str,
    pub(super) headers: bool,
    pub(super) content: Vec<u8>,
}

/// The well-formed blocks of a text; what is not one is passed over.
pub(super) fn blocks(text: &str) -> Vec<Block<'_>> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &str = "-----";
    const END: &str = "-----END ";
    let mut blocks = Vec::new();
    let (mut at, mut end) = (0, 0);
    while let Some(start) = text[at..].find(BEGIN) {
        at += start + BEGIN.len();
        let Some((label, body)) = text[at..].split_once(DASHES) else { break };
        let body_at = text.len() - body.len();
        // The next end is looked for once, not for each beginning before it. One of another label ends nothing.
        if end < body_at {
            let Some(next) = text[body_at..].find(END) else { break };
            end = body_at + next;
        }
        let Some(tail) =
            text[end + END.len()..].strip_prefix(label).and_then(|tail| tail.strip_prefix(DASHES))
        else {
            continue;
        };
        let body = &text[body_at..end];
        let headers = body.contains(':');
        let lines = body.lines().filter(|line| !line.contains(':'));
        let packed: String = lines.flat_map(str::split_ascii_whitespace).collect();
        let Ok(content) = STANDARD.decode(packed) else { continue };
        blocks.push(Block { label, headers, content });
        at = text.len() - tail.len();
    }
    blocks
}

/// What is wrong with a bundle.
pub(super) fn bundle_errors(bundle: &str) -> ErrorList {
    let path = Path::new("spec").child("trustBundle");
    if bundle.len() > SIZE_MAX {
        return ErrorList::new();
    }
    let wrong = |message: String| field::invalid(&path, "<value omitted>", message);
    let mut errors = ErrorList::new();
    let mut anchors: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (index, block) in blocks(bundle).into_iter().enumerate() {
        match problem(&block) {
            Some(problem) => errors.push(wrong(format!("entry {index} {problem}"))),
            None => anchors.entry(block.content).or_default().push(index),
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if anchors.is_empty() {
        errors.push(wrong("at least one trust anchor must be provided".to_owned()));
    }
    for indices in anchors.values().filter(|indices| indices.len() > 1) {
        let indices: Vec<String> = indices.iter().map(ToString::to_string).collect();
        errors.push(wrong(format!("duplicate trust anchor (indices [{}])", indices.join(" "))));
    }
    errors
}

fn problem(block: &Block<'_>) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if block.headers {
        return Some("has PEM block headers".to_owned());
    }
    let Ok((_, certificate)) = X509Certificate::from_der(&block.content) else {
        return Some("does not parse as X.509".to_owned());
    };
    (!certificate.is_ca()).then(|| "does not have the CA bit set".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(authority: bool) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        if authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_bundle_is_authorities_each_once() {
        let (one, other, leaf) = (certificate(true), certificate(true), certificate(false));
        let headers = one.replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nA: b\n\n");
        for (bundle, want) in [
            (format!("a note\n{one}between\n{other}"), &[][..]),
            (String::new(), &["at least one trust anchor must be provided"]),
            (leaf, &["entry 0 does not have the CA bit set"]),
            (format!("{one}{other}{one}"), &["duplicate trust anchor (indices [0 2])"]),
            (one.replace("CERTIFICATE", "KEY"), &["entry 0 has bad block type: KEY"]),
            (headers, &["entry 0 has PEM block headers"]),
            (
                format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                &["entry 1 does not parse as X.509"],
            ),
        ] {
            let said: Vec<String> = bundle_errors(&bundle).into_iter().map(|error| error.detail).collect();
            assert_eq!(said, want);
        }
    }
}
