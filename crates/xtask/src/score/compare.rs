//! Whether two answers are the same but for what is drawn, allotted or timed anew with each answer.

use std::collections::BTreeSet;

use serde_json::Value;

/// Stands in recordings for what the server allotted.
const ALLOTTED: &str = "<alloc>";
/// Begins the name of the volume with a pod's token; the rest is drawn.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Keys of labels whose value is the object's UID.
const UIDS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Causes, or the message, of a failure that the recorded client did not print.
pub(super) fn unprinted(status: &Value, stderr: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes =
        status.pointer("/details/causes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut texts: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", text(&cause["field"]), text(&cause["message"])))
        .collect();
    if texts.is_empty() {
        texts.push(text(&status["message"]));
    }
    texts.retain(|text| !stderr.contains(text.as_str()));
    texts.into_iter().map(|text| format!("not recorded: {text}; recorded: {}", stderr.trim())).collect()
}

/// What differs between a recorded object and ours.
pub(super) fn objects(recorded: &Value, mut ours: Value) -> Vec<String> {
    let mut recorded = recorded.clone();
    normalize(&mut recorded);
    normalize(&mut ours);
    let mut found = Vec::new();
    let at = recorded["kind"].as_str().unwrap_or_default().to_owned();
    differences(&at, &recorded, &ours, &mut found);
    found
}

fn normalize(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for member in ["uid", "creationTimestamp", "resourceVersion", "managedFields"] {
            metadata.remove(member);
        }
        // The recorded client wrote it anew where the manifest had it.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    // The recorded client had a certificate, of which its user's extras tell.
    if object["kind"] == "CertificateSigningRequest"
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.remove("extra");
    }
    drawn(object);
}

/// Takes out what is drawn or is of the time of the answer, wherever it stands.
fn drawn(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| {
                !UIDS.contains(&key.as_str())
                    && !value.is_null()
                    && !matches!(
                        key.as_str(),
                        "lastTransitionTime" | "lastPhaseTransitionTime" | "creationTimestamp"
                    )
            });
            // The recorded server's distribution projects an authority of its own, too.
            if let Some(Value::Array(sources)) = fields.get_mut("sources") {
                sources.retain(|source| source["configMap"]["name"] != "openshift-service-ca.crt");
            }
            fields.values_mut().for_each(drawn);
        }
        Value::Array(items) => items.iter_mut().for_each(drawn),
        Value::String(text) if text.starts_with(TOKEN_VOLUME) => text.truncate(TOKEN_VOLUME.len()),
        _ => {}
    }
}

fn differences(path: &str, recorded: &Value, ours: &Value, found: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::String(allotted), _) if allotted == ALLOTTED && !ours.is_null() => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let null = &Value::Null;
                differences(
                    &format!("{path}.{key}"),
                    a.get(key).unwrap_or(null),
                    b.get(key).unwrap_or(null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if recorded == ours => {}
        _ => found.push(format!("{path}: recorded {recorded}, ours {ours}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_drawn_may_differ() {
        let recorded = json!({"kind": "A", "metadata": {"name": "a"}, "spec": {
            "clusterIP": "<alloc>", "volumes": [{"name": "kube-api-access-abcde"}], "n": 1,
        }});
        let ours = |n: i32, address: Value| {
            json!({"kind": "A", "metadata": {"name": "a", "uid": "1"}, "spec": {
                "clusterIP": address, "volumes": [{"name": "kube-api-access-xyzzy"}], "n": n,
            }})
        };
        assert!(objects(&recorded, ours(1, json!("10.0.0.1"))).is_empty());
        assert_eq!(objects(&recorded, ours(2, json!("10.0.0.1"))), ["A.spec.n: recorded 1, ours 2"]);
        assert_eq!(objects(&recorded, ours(1, Value::Null)).len(), 1);
    }

    #[test]
    fn every_cause_must_have_been_printed() {
        let status = json!({"details": {"causes": [
            {"field": "spec.a", "message": "Required value"}, {"field": "spec.b", "message": "Required value"},
        ]}});
        assert!(unprinted(&status, "* spec.a: Required value\n* spec.b: Required value").is_empty());
        assert_eq!(unprinted(&status, "is invalid: spec.a: Required value").len(), 1);
        assert_eq!(unprinted(&json!({"message": "no"}), "yes").len(), 1);
    }
}
