//! CertificateSigningRequest: the wish for a certificate.
//! Not here: who asks (the API server sets it), parsing the request, signing.
//! Upstream: pkg/registry/certificates/certificates, pkg/apis/certificates.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::duration;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::kinds::check::json as value_of;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::names::{NameRule, is_dns1123_subdomain};
use crate::types::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// How it is served.
pub fn descriptor() -> Descriptor {
    let group = "certificates.k8s.io";
    Descriptor {
        resets: &[("", &["spec"]), ("approval", &["spec", "status.certificate"])],
        // Signers add `Failed` to what approvers decide, and own none of it.
        unowned: &[("status", &["status.conditions"])],
        short_names: vec!["csr".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new(
                "approval",
                group,
                "v1",
                "CertificateSigningRequest",
                Verbs::SUBRESOURCE,
            )],
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField::new("spec.signerName", "/spec/signerName")],
        name_rule: NameRule::PathSegment,
        columns: vec![
            Column::object_name(),
            Column::age(),
            Column::new("SignerName", "string", "Who is to sign."),
            Column::new("Requestor", "string", "Who asks."),
            Column::new("RequestedDuration", "string", "How long the certificate should be valid."),
            Column::new("Condition", "string", "How far it is."),
        ],
        hooks: Arc::new(
            Typed::<CertificateSigningRequest>::new()
                .status(|| Some(json!({})))
                .prepare_for_update(|new, old| new.spec.clone_from(&old.spec))
                .prepare_for_subresource_update(prepare_for_approval)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .validate_subresource_update(|_, new, old| {
                    validate_conditions(new, old, &["Approved", "Denied"])
                })
                .cells(cells),
        ),
        ..Descriptor::new(
            group,
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            Scope::Cluster,
        )
    }
}

/// Approving changes the conditions and nothing else.
fn prepare_for_approval(_: &str, new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
    new.spec.clone_from(&old.spec);
    let conditions = new.status.take().unwrap_or_default().conditions;
    let mut status = old.status.clone().unwrap_or_default();
    status.conditions = conditions;
    new.status = Some(status);
}

fn validate(request: &CertificateSigningRequest) -> ErrorList {
    const SECONDS_MIN: i32 = 600;
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &request.spec;
    if spec.request.0.is_empty() {
        errors.push(field::invalid(&path.child("request"), "", "PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages_path = path.child("usages");
    let usages = items(&spec.usages);
    if usages.is_empty() {
        errors.push(field::required(&usages_path, "usages must be specified"));
    }
    let mut seen = HashSet::new();
    for (index, usage) in usages.iter().enumerate() {
        if !USAGES.contains(&&**usage) {
            errors.push(field::not_supported(&usages_path.index(index), &**usage, USAGES));
        }
        if !seen.insert(usage) {
            errors.push(field::duplicate(&usages_path.index(index), &**usage));
        }
    }
    signer_name(&mut errors, &spec.signer_name, &path.child("signerName"));
    if spec.signer_name == "kubernetes.io/legacy-unknown" {
        let message = "the legacy signerName is not allowed via this API version";
        errors.push(field::invalid(&path.child("signerName"), &*spec.signer_name, message));
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|&seconds| seconds < SECONDS_MIN) {
        let message = format!("may not specify a duration less than {SECONDS_MIN} seconds (10 minutes)");
        errors.push(field::invalid(&path.child("expirationSeconds"), seconds, message));
    }
    errors
}

/// Refuses what is no `domain/path` of a signer.
pub(crate) fn signer_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        errors.push(field::invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
        return;
    };
    if !is_dns1123_subdomain(domain).is_empty() || domain.split('.').count() < 2 {
        errors.push(field::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for message in is_dns1123_subdomain(rest) {
        errors.push(field::invalid(path, rest, message));
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().map_or(&[], |status| items(&status.conditions))
}

fn validate_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> ErrorList {
    let mut errors = validate(new);
    errors.extend(validate_conditions(new, old, &[]));
    errors
}

fn validate_status_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> ErrorList {
    let mut errors = validate_conditions(new, old, &["Failed"]);
    let certificate = |request: &CertificateSigningRequest| {
        request.status.as_ref().and_then(|status| status.certificate.clone())
    };
    if certificate(old).is_some_and(|bytes| !bytes.0.is_empty()) {
        let path = Path::new("status").child("certificate");
        immutable(&mut errors, &path, &certificate(new), &certificate(old));
    }
    errors
}

/// Conditions stay once set; `allowed` are those that may be added this way.
fn validate_conditions(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    allowed: &[&str],
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let has =
        |list: &[CertificateSigningRequestCondition], kind: &str| list.iter().any(|one| one.type_ == kind);
    for kind in ["Approved", "Denied", "Failed"] {
        let (is, was) = (has(conditions(new), kind), has(conditions(old), kind));
        if was && !is {
            errors.push(field::forbidden(
                &path,
                format!("updates may not remove a condition of type \"{kind}\""),
            ));
        }
        if is && !was && !allowed.contains(&kind) {
            errors
                .push(field::forbidden(&path, format!("updates may not add a condition of type \"{kind}\"")));
        }
    }
    if has(conditions(new), "Approved") && has(conditions(new), "Denied") {
        let message = "Approved and Denied conditions are mutually exclusive";
        errors.push(field::invalid(&path, value_of(&conditions(new)), message));
    }
    for (index, condition) in conditions(new).iter().enumerate() {
        if condition.type_.is_empty() {
            errors.push(field::required(&path.index(index).child("type"), ""));
        }
        if matches!(&*condition.type_, "Approved" | "Denied" | "Failed") && condition.status != "True" {
            let path = path.index(index).child("status");
            errors.push(field::not_supported(&path, &*condition.status, &["True"]));
        }
    }
    errors
}

fn cells(request: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| conditions(request).iter().any(|condition| condition.type_ == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    if certificate.is_some_and(|bytes| !bytes.0.is_empty()) {
        state.push_str(",Issued");
    }
    let wanted = request.spec.expiration_seconds.map(|seconds| duration::human(seconds.into()));
    vec![
        row::name(&request.metadata),
        row::age(&request.metadata, now),
        row::or_none(&request.spec.signer_name),
        text(&request.spec.username).into(),
        wanted.unwrap_or_else(|| row::NONE.to_owned()).into(),
        state.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(conditions: Value) -> CertificateSigningRequest {
        serde_json::from_value(
            json!({"metadata": {"name": "r"}, "spec": {"request": "eA==", "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client"}, "status": {"conditions": conditions}}),
        )
        .unwrap()
    }

    #[test]
    fn conditions_are_set_where_they_belong() {
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let (none, yes) = (request(json!([])), request(approved));
        assert_eq!(validate(&none), []);
        assert_eq!(validate_update(&yes, &none).len(), 1);
        assert_eq!(validate_conditions(&yes, &none, &["Approved", "Denied"]), []);
        assert_eq!(validate_status_update(&none, &yes).len(), 1);
        assert_eq!(cells(&yes, Timestamp::UNIX_EPOCH)[5], "Approved");
    }
}
