//! What is said to an admission webhook, and what it answers.
//! Upstream: apiserver `pkg/admission/plugin/webhook/{request,errors}`, `k8s.io/api/admission/v1`.

use api::{Reason, Status};
use base64::Engine as _;
use serde_json::{Value, json};

use super::Webhook;
use super::call::{Failure, UNAVAILABLE};
use crate::admission::Request;
use crate::admission::dynamic::expressions::{Data, describe};
use crate::admission::dynamic::matching::Matched;

/// An answer that was understood.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub warnings: Vec<String>,
    /// Audit annotations, with the webhook's name before their keys.
    pub annotations: Vec<(String, String)>,
    /// A JSON patch.
    pub patch: Option<Value>,
}

/// The AdmissionReview of a request.
pub(super) fn review(
    webhook: &Webhook,
    request: &Request<'_>,
    matched: &Matched,
    data: &Data,
    uid: &str,
) -> Result<Value, Failure> {
    let version = webhook.review_versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
    let Some(version) = version else {
        return Err(Failure::Calling(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .to_owned(),
            // Nothing was asked: this server's own fault, to upstream.
            400,
        ));
    };
    let mut body = describe(request, matched, uid);
    body["object"] = data.object.clone();
    body["oldObject"] = data.old.clone();
    Ok(json!({
        "kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": body,
    }))
}

/// Reads an answer.
pub(super) fn answer(
    webhook: &Webhook,
    sent: &Value,
    body: &[u8],
    mutating: bool,
) -> Result<Answer, Failure> {
    let unclear = |why: String| Failure::Calling(why, UNAVAILABLE);
    let invalid = |what: String| unclear(format!("received invalid webhook response: {what}"));
    let review: Value = serde_json::from_slice(body).map_err(|error| {
        unclear(format!("failed to call webhook: couldn't get version/kind; json parse error: {error}"))
    })?;
    let response = &review["response"];
    if !response.is_object() {
        return Err(invalid("webhook response did not contain a response".to_owned()));
    }
    if sent["apiVersion"] == "admission.k8s.io/v1" {
        let (wanted, given) = (&sent["request"]["uid"], response["uid"].as_str().unwrap_or_default());
        if *wanted != given {
            let wanted = wanted.as_str().unwrap_or_default();
            return Err(invalid(format!("expected response.uid={wanted:?}, got {given:?}")));
        }
        if (&review["kind"], &review["apiVersion"]) != (&sent["kind"], &sent["apiVersion"]) {
            let shown = |review: &Value| {
                let text = |member: &str| review[member].as_str().unwrap_or_default().to_owned();
                format!("{}, Kind={}", text("apiVersion"), text("kind"))
            };
            return Err(invalid(format!(
                "expected webhook response of {}, got {}",
                shown(sent),
                shown(&review)
            )));
        }
    }
    let mut understood = Answer::default();
    understood.warnings = response["warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|w| w.as_str().map(str::to_owned))
        .collect();
    for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default().to_owned();
        understood.annotations.push((format!("{}/{key}", webhook.name), value));
    }
    if mutating {
        let (patch, kind) = (response["patch"].as_str(), response["patchType"].as_str());
        match (patch, kind) {
            (None | Some(""), None) => {}
            (Some(patch), Some("JSONPatch")) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(patch);
                let bytes = bytes.map_err(|error| invalid(error.to_string()))?;
                understood.patch = Some(
                    serde_json::from_slice(&bytes)
                        .map_err(|error| Failure::internal(Status::internal(error.to_string())))?,
                );
            }
            (None | Some(""), Some(_)) => {
                return Err(invalid("webhook returned response.patchType but not response.patch".to_owned()));
            }
            (_, None) => {
                return Err(invalid("webhook returned response.patch but not response.patchType".to_owned()));
            }
            (_, Some(other)) => {
                return Err(invalid(format!("webhook returned invalid response.patchType of {other:?}")));
            }
        }
    }
    if response["allowed"] != true {
        return Err(Failure::Denied(Box::new(denied(&webhook.name, &response["status"]))));
    }
    Ok(understood)
}

/// The refusal as the client gets it.
fn denied(name: &str, status: &Value) -> Status {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let by = format!("admission webhook {name:?} denied the request");
    let text = |member: &str| status[member].as_str().filter(|text| !text.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(why), _) | (None, Some(why)) => format!("{by}: {why}"),
        (None, None) => format!("{by} without explanation"),
    };
    // Reason and details are the webhook's, which may be none that is known.
    let mut whole = if status.is_object() { status.clone() } else { json!({}) };
    for (member, value) in [
        ("kind", json!("Status")),
        ("status", json!("Failure")),
        ("message", json!(message)),
        ("code", json!(code.unwrap_or(400))),
    ] {
        whole[member] = value;
    }
    Status::from_json(&whole).unwrap_or_else(|| Status::new(code.unwrap_or(400), Reason::Unknown, message))
}
