//! PodCertificateRequest: a kubelet's wish for a certificate for a pod.
//! Upstream: pkg/registry/certificates/podcertificaterequest and the validation in pkg/apis/certificates/validation.
//! Not here: whether the certificate fits the request (the API server's, which can read both).

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Subresources, Typed};
use crate::kinds::check::json as value_of;
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta_validation::{immutable, user_annotations_errors};
use crate::names::is_dns1123_subdomain;
use crate::types::certificates::v1::{PodCertificateRequest, PodCertificateRequestStatus};

use super::certificate_signing_request::signer_name;

/// The conditions that end a request.
const TERMINAL: &[&str] = &["Issued", "Denied", "Failed"];

const DAY: i32 = 24 * 3600;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        selectable_fields: vec![
            SelectableField::new("spec.signerName", "/spec/signerName"),
            SelectableField::new("spec.podName", "/spec/podName"),
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
        ],
        columns: vec![
            Column::object_name(),
            Column::new("PodName", "string", "The pod that is to have the certificate."),
            Column::new("ServiceAccountName", "string", "What the pod runs as."),
            Column::new("NodeName", "string", "Where the pod runs."),
            Column::new("SignerName", "string", "Who is to sign."),
            Column::new("State", "string", "How far it is."),
            Column::wide("UserAnnotations", "string", "What the pod's author says to the signer."),
        ],
        hooks: Arc::new(
            Typed::<PodCertificateRequest>::new()
                .status(|| Some(json!({})))
                .default_with(|request| {
                    request.spec.max_expiration_seconds.get_or_insert(DAY);
                })
                .cells(cells)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "certificates.k8s.io",
            "v1",
            "PodCertificateRequest",
            "podcertificaterequests",
            Scope::Namespaced,
        )
    }
}

/// The least and the most seconds that a certificate of this signer may be asked to live: an hour, and 91 days or, from
/// a signer of Kubernetes itself, one.
pub(crate) fn lifetime_bounds(signer: &str) -> (i32, i32) {
    const HOUR: i32 = 3600;
    let domain = signer.split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    (HOUR, if own { DAY } else { 91 * DAY })
}

fn validate(request: &PodCertificateRequest) -> ErrorList {
    const UID_MAX: usize = 128;
    const REQUEST_MAX: usize = 10 * 1024;
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &request.spec;
    signer_name(&mut errors, &spec.signer_name, &path.child("signerName"));
    if let Some(annotations) = &spec.unverified_user_annotations {
        errors.extend(user_annotations_errors(annotations, &path.child("unverifiedUserAnnotations")));
    }
    for (name, value, uid, uid_value) in [
        ("podName", &spec.pod_name, "podUID", &spec.pod_uid),
        ("serviceAccountName", &spec.service_account_name, "serviceAccountUID", &spec.service_account_uid),
        ("nodeName", &spec.node_name, "nodeUID", &spec.node_uid),
    ] {
        for message in is_dns1123_subdomain(value) {
            errors.push(field::invalid(&path.child(name), &**value, message));
        }
        let path = path.child(uid);
        if uid_value.is_empty() {
            errors.push(field::invalid(&path, "", "must not be empty"));
        }
        if uid_value.len() > UID_MAX {
            errors.push(field::too_long(&path, UID_MAX));
        }
    }
    let lifetime = path.child("maxExpirationSeconds");
    let (least, most) = lifetime_bounds(&spec.signer_name);
    match spec.max_expiration_seconds {
        None => errors.push(field::required(&lifetime, "must be set")),
        Some(seconds) if !(least..=most).contains(&seconds) => {
            let message = format!("must be in the range [{least}, {most}]");
            errors.push(field::invalid(&lifetime, seconds, message));
        }
        Some(_) => {}
    }
    if spec.stub_pkc_s10_request.0.len() > REQUEST_MAX {
        errors.push(field::too_long(&path.child("stubPKCS10Request"), REQUEST_MAX));
    }
    errors
}

fn validate_update(new: &PodCertificateRequest, old: &PodCertificateRequest) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}

fn status(request: &PodCertificateRequest) -> PodCertificateRequestStatus {
    request.status.clone().unwrap_or_default()
}

fn ended(status: &PodCertificateRequestStatus, how: &[&str]) -> bool {
    items(&status.conditions).iter().any(|condition| how.contains(&&*condition.type_))
}

fn validate_status_update(new: &PodCertificateRequest, old: &PodCertificateRequest) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let (new, old) = (status(new), status(old));
    let mut known = 0;
    for (index, condition) in items(&new.conditions).iter().enumerate() {
        let path = path.child("conditions").index(index);
        if !TERMINAL.contains(&&*condition.type_) {
            errors.push(field::not_supported(&path.child("type"), &*condition.type_, TERMINAL));
            continue;
        }
        known += 1;
        if known > 1 {
            let message =
                "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(field::invalid(&path.child("type"), &*condition.type_, message));
        }
        if condition.status != "True" {
            errors.push(field::not_supported(&path.child("status"), &*condition.status, &["True"]));
        }
        if condition.reason.is_empty() {
            errors.push(field::required(&path.child("reason"), "must be set"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    let mut stays = |as_it_is: &PodCertificateRequestStatus, message: &str| {
        if &new != as_it_is {
            errors.push(field::invalid(&path, value_of(&new), message));
        }
    };
    if ended(&old, TERMINAL) {
        stays(&old, "immutable after PodCertificateRequest is issued, denied, or failed");
    } else if ended(&new, &["Denied", "Failed"]) {
        let bare = PodCertificateRequestStatus { conditions: new.conditions.clone(), ..Default::default() };
        stays(
            &bare,
            "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
        );
    } else if !ended(&new, &["Issued"]) {
        stays(&old, "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"");
    }
    errors
}

fn cells(request: &PodCertificateRequest, _: Timestamp) -> Vec<Value> {
    let spec = &request.spec;
    let status = status(request);
    let ended = items(&status.conditions).iter().rfind(|condition| TERMINAL.contains(&&*condition.type_));
    vec![
        row::name(&request.metadata),
        spec.pod_name.as_str().into(),
        spec.service_account_name.as_str().into(),
        spec.node_name.as_str().into(),
        spec.signer_name.as_str().into(),
        ended.map_or("Pending", |condition| &condition.type_).into(),
        row::labels(spec.unverified_user_annotations.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: serde_json::Value) -> PodCertificateRequest {
        let mut value = json!({"metadata": {"name": "r"}, "spec": {
            "signerName": "example.com/s", "podName": "p", "podUID": "1", "serviceAccountName": "default",
            "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "maxExpirationSeconds": 3600,
            "stubPKCS10Request": "eA==",
        }});
        for (key, of) in change.as_object().expect("an object") {
            match key.as_str() {
                "status" => value["status"] = of.clone(),
                _ => value["spec"][key] = of.clone(),
            }
        }
        serde_json::from_value(value).expect("a request")
    }

    #[test]
    fn a_request_says_who_wants_what_for_how_long() {
        for (change, messages) in [
            (json!({}), &[][..]),
            (json!({"maxExpirationSeconds": 91 * 86400}), &[]),
            (
                json!({"maxExpirationSeconds": 3599}),
                &["spec.maxExpirationSeconds: Invalid value: 3599: must be in the range [3600, 7862400]"],
            ),
            (
                json!({"signerName": "kubernetes.io/kube-apiserver-client-pod", "maxExpirationSeconds": 86401}),
                &["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"],
            ),
            (
                json!({"maxExpirationSeconds": null}),
                &["spec.maxExpirationSeconds: Required value: must be set"],
            ),
            (json!({"nodeUID": ""}), &["spec.nodeUID: Invalid value: \"\": must not be empty"]),
            (json!({"signerName": ""}), &["spec.signerName: Required value"]),
            (json!({"unverifiedUserAnnotations": {"example.com/a": "b"}}), &[]),
            (
                json!({"unverifiedUserAnnotations": {"A": "b"}}),
                &[
                    "spec.unverifiedUserAnnotations: Invalid value: \"a\": must be a domain-prefixed key (such as \"acme.io/foo\")",
                ],
            ),
        ] {
            let said: Vec<String> = validate(&request(change)).iter().map(ToString::to_string).collect();
            assert_eq!(said, messages);
        }
        let changed = validate_update(&request(json!({"podUID": "4"})), &request(json!({})));
        assert_eq!(changed[0].detail, "field is immutable");
    }

    #[test]
    fn a_status_is_written_once() {
        let ended = |kind: &str| {
            json!({"status": {"conditions": [{
                "type": kind, "status": "True", "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}})
        };
        let mut with_chain = ended("Denied");
        with_chain["status"]["certificateChain"] = "x".into();
        for (new, old, message) in [
            (ended("Issued"), json!({}), None),
            (ended("Denied"), json!({}), None),
            (ended("Denied"), ended("Denied"), None),
            (
                ended("Issued"),
                ended("Denied"),
                Some("immutable after PodCertificateRequest is issued, denied"),
            ),
            (
                with_chain,
                json!({}),
                Some("non-condition status fields must be empty when denying or failing"),
            ),
            (json!({"status": {"certificateChain": "x"}}), json!({}), Some("status is immutable unless")),
            (ended("Other"), json!({}), Some("status.conditions[0].type: Unsupported value: \"Other\"")),
        ] {
            let said: Vec<String> = validate_status_update(&request(new), &request(old))
                .iter()
                .map(ToString::to_string)
                .collect();
            match message {
                None => assert!(said.is_empty(), "{said:?}"),
                Some(message) => assert!(said.len() == 1 && said[0].contains(message), "{said:?}"),
            }
        }
    }
}
