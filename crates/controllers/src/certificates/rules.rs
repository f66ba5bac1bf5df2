//! What each of the cluster's own signers demands of a request.
//!
//! The messages are those of the condition `Failed` with reason `SignerValidationFailure`.
//! Upstream: `pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer`.

use std::collections::BTreeSet;

use pki::csr::Subject;

/// Who signs clients of the API server.
pub(super) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Who signs nodes as clients of the API server.
pub(super) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Who signs the servers of nodes.
pub(super) const NODE_SERVER: &str = "kubernetes.io/kubelet-serving";
/// Who signs whatever is approved, as before signers had names. No current version of the API takes requests for it.
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Checks a request for one of the cluster's own signers; `None` for a signer of others.
pub(super) fn check(signer: &str, subject: &Subject, usages: &[String]) -> Option<Result<(), String>> {
    match signer {
        API_CLIENT => Some(api_client(usages)),
        NODE_CLIENT => Some(node_client(subject, usages)),
        NODE_SERVER => Some(node_server(subject, usages)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(usage) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if !usages.iter().any(|usage| usage == "client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

/// Checks a node's request for a certificate as a client.
pub(super) fn node_client(subject: &Subject, usages: &[String]) -> Result<(), String> {
    in_nodes(subject)?;
    for (names, what) in [
        (subject.dns_names.len(), "DNS"),
        (subject.emails.len(), "Email"),
        (subject.ip_addresses.len(), "IP"),
        (subject.uris.len(), "URI"),
    ] {
        if names > 0 {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    is_node(subject)?;
    exactly(usages, "client auth")
}

/// Checks a node's request for a certificate as a server.
pub(super) fn node_server(subject: &Subject, usages: &[String]) -> Result<(), String> {
    in_nodes(subject)?;
    if subject.dns_names.is_empty() && subject.ip_addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (names, what) in [(subject.emails.len(), "Email"), (subject.uris.len(), "URI")] {
        if names > 0 {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    exactly(usages, "server auth")?;
    is_node(subject)
}

fn in_nodes(subject: &Subject) -> Result<(), String> {
    if subject.organizations == ["system:nodes"] {
        return Ok(());
    }
    Err("subject organization is not system:nodes".to_owned())
}

fn is_node(subject: &Subject) -> Result<(), String> {
    if subject.common_name.starts_with("system:node:") {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".to_owned())
}

/// The usages are `digital signature`, this one and, for RSA keys, `key encipherment`.
fn exactly(usages: &[String], usage: &str) -> Result<(), String> {
    let all: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let plain = BTreeSet::from(["digital signature", usage]);
    let with_rsa = BTreeSet::from(["digital signature", "key encipherment", usage]);
    if all == plain || all == with_rsa {
        return Ok(());
    }
    let wanted = if usage < "digital signature" {
        [usage, "digital signature", "key encipherment"]
    } else {
        ["digital signature", "key encipherment", usage]
    };
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signer_has_its_rules() {
        let node = || Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        };
        let named = || Subject { dns_names: vec!["n1".to_owned()], ..node() };
        let mail = || Subject { emails: vec!["a@b".to_owned()], ..named() };
        let user = Subject { common_name: "jane".to_owned(), ..Subject::default() };
        let other = Subject { common_name: "n1".to_owned(), ..node() };
        let (sign, client, server) = ("digital signature", "client auth", "server auth");
        for (signer, subject, usages, want) in [
            (API_CLIENT, user.clone(), vec![client], Ok(())),
            (
                API_CLIENT,
                user.clone(),
                vec![client, server],
                Err("invalid usage for client certificate: server auth"),
            ),
            (
                API_CLIENT,
                user.clone(),
                vec![sign],
                Err("missing required usage for client certificate: client auth"),
            ),
            (NODE_CLIENT, node(), vec![sign, client], Ok(())),
            (NODE_CLIENT, node(), vec![sign, "key encipherment", client], Ok(())),
            (
                NODE_CLIENT,
                node(),
                vec![client],
                Err("usages did not match [client auth digital signature key encipherment]"),
            ),
            (NODE_CLIENT, user, vec![sign, client], Err("subject organization is not system:nodes")),
            (NODE_CLIENT, named(), vec![sign, client], Err("DNS subjectAltNames are not allowed")),
            (
                NODE_CLIENT,
                other,
                vec![sign, client],
                Err("subject common name does not begin with system:node:"),
            ),
            (NODE_SERVER, named(), vec![sign, server], Ok(())),
            (NODE_SERVER, node(), vec![sign, server], Err("DNS or IP subjectAltName is required")),
            (NODE_SERVER, mail(), vec![sign, server], Err("Email subjectAltNames are not allowed")),
            (
                NODE_SERVER,
                named(),
                vec![sign, client],
                Err("usages did not match [digital signature key encipherment server auth]"),
            ),
            (LEGACY, mail(), vec!["any"], Ok(())),
        ] {
            let usages: Vec<String> = usages.into_iter().map(str::to_owned).collect();
            let said = check(signer, &subject, &usages).expect("one of ours");
            assert_eq!(
                said.as_ref().map_err(String::as_str),
                want.as_ref().map_err(|text| *text),
                "{signer} {usages:?}"
            );
        }
        assert!(check("example.com/other", &node(), &[]).is_none());
    }
}
