//! Compares defaulting and validation with the recorded answers of a real API server (v1.32) to several hundred
//! manifests. The recordings are found by the environment variable `IRONCLAD_TESTDATA`; without it the test says so and
//! passes.
//!
//! What admission and allocation add on the server is removed from the recording; each rule says why. What differs on
//! purpose, because a later version than the recorded one is served, is listed in `KNOWN`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::kind::{Descriptor, Verbs};
use api::quantity;
use api::{Status, kinds, meta_validation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Recordings that differ, each with the reason.
const KNOWN: &[(&str, &str)] = &[(
    "k8stree_fixtures_pkg_kubectl_cmd_apply_rc-lastapplied-args.yaml",
    "`kubectl` replaced the annotation with the last applied configuration",
)];

struct Recording {
    name: String,
    accepted: bool,
    manifest: String,
    objects: Vec<Value>,
    stderr: String,
}

fn recordings(folder: &Path) -> Vec<Recording> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of recordings")
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            Recording {
                name: file.file_stem().unwrap().to_string_lossy().into_owned(),
                accepted: value["accepted"].as_bool().unwrap(),
                manifest: value["manifest"].as_str().unwrap().to_owned(),
                objects: value["objects"].as_array().cloned().unwrap_or_default(),
                stderr: value["stderr"].as_str().unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// The documents of a manifest, lists unfolded; `None` when it is not well-formed YAML.
fn documents(manifest: &str) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(manifest) {
        let value = Value::deserialize(document).ok()?;
        match value.get("items").and_then(Value::as_array) {
            Some(items) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                all.extend(items.iter().cloned());
            }
            _ if value.is_null() => {}
            _ => all.push(value),
        }
    }
    Some(all)
}

fn descriptors() -> BTreeMap<(String, String), std::sync::Arc<Descriptor>> {
    kinds::all()
        .into_iter()
        .map(|kind| ((kind.group_version().to_string(), kind.kind.to_string()), kind))
        .collect()
}

/// What the engine does around the hooks on creation, as far as it shows in an answer.
fn create(kind: &Descriptor, mut object: Value) -> Result<Value, Status> {
    drop_nulls(&mut object);
    let fields = object.as_object_mut().expect("a document with a kind is an object");
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().expect("metadata is an object");
    if kind.is_namespaced() {
        metadata.entry("namespace").or_insert_with(|| json!("default"));
    } else {
        metadata.remove("namespace");
    }
    metadata.insert("uid".into(), json!("00000000-0000-0000-0000-000000000000"));
    kind.hooks.default(&mut object);
    if kind.kind == "Pod" {
        // ServiceAccount admission, without which a token volume is refused.
        object["spec"]
            .as_object_mut()
            .expect("spec")
            .entry("serviceAccountName")
            .or_insert_with(|| json!("default"));
    }
    kind.hooks.prepare_for_create(&mut object);
    let mut errors = meta_validation::validate_create(kind, &object);
    errors.extend(kind.hooks.validate(&object));
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if errors.is_empty() { Ok(object) } else { Err(Status::invalid(&kind.group_kind(), &name, errors)) }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Keys under which amounts of resources stand: compared as amounts, because decoding (not done here) makes them
/// canonical.
const AMOUNTS: &[&str] = &[
    "limits",
    "requests",
    "capacity",
    "hard",
    "used",
    "max",
    "min",
    "default",
    "defaultRequest",
    "overhead",
    "maxLimitRequestRatio",
];

fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| {
                *value != json!("<alloc>") && *value != json!(["<alloc>"]) && !value.is_null()
            });
            for (key, value) in fields.iter_mut() {
                if AMOUNTS.contains(&&**key)
                    && let Value::Object(amounts) = value
                {
                    amounts.values_mut().for_each(amount);
                }
                if matches!(&**key, "sizeLimit" | "averageValue") {
                    amount(value);
                }
                normalize(value);
            }
            // An empty list or map of the request is left out of the answer by decoding.
            fields.retain(|key, value| !(value.as_array().is_some_and(Vec::is_empty) && key != "rules"));
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        _ => {}
    }
}

fn amount(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Some(canonical) = quantity::canonical(&text) {
        *value = json!(canonical);
    }
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    object["metadata"].as_object_mut().expect("metadata")
}

/// Takes out of the recording what admission and allocation added, and out of the answer what the engine sets.
fn strip(recorded: &mut Value, ours: &mut Value) {
    for object in [&mut *recorded, &mut *ours] {
        let metadata = metadata(object);
        for field in ["uid", "generation", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
    match recorded["kind"].as_str() {
        Some("Pod") => strip_pod(recorded, ours),
        Some("Service") => strip_service(recorded, ours),
        // StorageObjectInUseProtection; the time of the recording.
        Some("PersistentVolumeClaim" | "PersistentVolume") => {
            metadata(recorded).remove("finalizers");
            for object in [recorded, ours] {
                object["status"].as_object_mut().expect("status").remove("lastPhaseTransitionTime");
            }
        }
        // Who asks: set by the server.
        Some("CertificateSigningRequest") => {
            for field in ["username", "groups", "extra", "uid"] {
                recorded["spec"].as_object_mut().expect("spec").remove(field);
            }
        }
        // Defaulted since v1.35, where MaxUnavailableStatefulSet is on.
        Some("StatefulSet")
            if recorded["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].is_null() =>
        {
            if let Some(rolling) = ours["spec"]["updateStrategy"]["rollingUpdate"].as_object_mut() {
                rolling.remove("maxUnavailable");
            }
        }
        // The generated selector and labels hold the uid.
        Some("Job") => {
            for object in [recorded, ours] {
                metadata(object).remove("labels");
                object["spec"].as_object_mut().unwrap().remove("selector");
                if let Some(metadata) = object["spec"]["template"]["metadata"].as_object_mut() {
                    metadata.remove("labels");
                }
            }
        }
        _ => {}
    }
}

fn strip_pod(recorded: &mut Value, ours: &mut Value) {
    for object in [recorded, ours] {
        let spec = object["spec"].as_object_mut().unwrap();
        // Priority, DefaultTolerationSeconds, ServiceAccount.
        for field in ["priority", "preemptionPolicy", "tolerations", "serviceAccount", "serviceAccountName"] {
            spec.remove(field);
        }
        if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !volume["name"].as_str().unwrap().starts_with("kube-api-access"));
        }
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                    mounts.retain(|mount| {
                        mount["mountPath"] != "/var/run/secrets/kubernetes.io/serviceaccount"
                    });
                }
            }
        }
        normalize(object);
    }
}

fn strip_service(recorded: &mut Value, ours: &mut Value) {
    for object in [recorded, ours] {
        let spec = object["spec"].as_object_mut().unwrap();
        // The allocator's.
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
            spec.remove(field);
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
    }
}

fn differences(path: &str, recorded: &Value, ours: &Value, out: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = format!("{path}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(&path, a, b, out),
                    (a, b) => out.push(format!("{path}: recorded {}, ours {}", show(a), show(b))),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, out);
            }
        }
        _ if recorded == ours => {}
        _ => out.push(format!("{path}: recorded {}, ours {}", show(Some(recorded)), show(Some(ours)))),
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

/// The causes `kubectl` prints of a 422, sorted; empty when the recording failed for another reason.
fn recorded_causes(stderr: &str) -> Vec<String> {
    let Some((_, rest)) = stderr.split_once("is invalid: ") else { return Vec::new() };
    let mut causes: Vec<String> = if rest.starts_with('\n') || rest.starts_with("* ") {
        rest.lines().filter_map(|line| line.strip_prefix("* ")).map(str::to_owned).collect()
    } else {
        vec![rest.lines().next().unwrap_or_default().to_owned()]
    };
    // v1.32 printed maps the way Go does, later versions as JSON.
    for cause in &mut causes {
        if let (Some(start), Some(end)) = (cause.find("map[string]string"), cause.find(": `selector`")) {
            let shown = cause[start..end].trim_start_matches("map[string]string").to_owned();
            cause.replace_range(start..end, if shown == "(nil)" { "null" } else { &shown });
        }
    }
    causes.sort();
    causes
}

fn our_causes(status: &Status) -> Vec<String> {
    let details = status.details.as_ref().expect("a 422 has details");
    let mut causes: Vec<_> =
        details.causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    causes.sort();
    // `kubectl` prints equal causes once.
    causes.dedup();
    causes
}

enum Outcome {
    Same,
    /// Not about what this crate does: an unknown kind, a missing namespace, a decoding error.
    Elsewhere,
    Different(Vec<String>),
}

fn compare(
    recording: &Recording,
    descriptors: &BTreeMap<(String, String), std::sync::Arc<Descriptor>>,
) -> Outcome {
    let Some(documents) = documents(&recording.manifest) else { return Outcome::Elsewhere };
    let causes = recorded_causes(&recording.stderr);
    if !recording.accepted && causes.is_empty() {
        return Outcome::Elsewhere;
    }
    let mut found = Vec::new();
    let mut answers = Vec::new();
    for document in documents {
        let key = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
        let Some(kind) = descriptors.get(&(key("apiVersion"), key("kind"))) else {
            return Outcome::Elsewhere;
        };
        // A review: the server answers it, nothing is defaulted or stored.
        if !kind.verbs.contains(Verbs::GET) {
            return Outcome::Elsewhere;
        }
        match create(kind, document) {
            Ok(object) => answers.push(object),
            Err(status) if recording.accepted => found.push(format!("refused: {status}")),
            Err(status) if our_causes(&status) == causes => return Outcome::Same,
            Err(status) => {
                found.push(format!("causes: recorded {causes:#?}, ours {:#?}", our_causes(&status)))
            }
        }
    }
    if !recording.accepted && found.is_empty() {
        found.push(format!("accepted, recorded: {causes:#?}"));
    }
    if found.is_empty() && answers.len() != recording.objects.len() {
        return Outcome::Elsewhere;
    }
    if recording.accepted && found.is_empty() {
        for (recorded, mut ours) in recording.objects.iter().zip(answers) {
            let mut recorded = recorded.clone();
            strip(&mut recorded, &mut ours);
            normalize(&mut recorded);
            normalize(&mut ours);
            let at = format!("{}/{}", show(recorded.get("kind")), show(recorded["metadata"].get("name")));
            differences(&at, &recorded, &ours, &mut found);
        }
    }
    if found.is_empty() { Outcome::Same } else { Outcome::Different(found) }
}

#[test]
fn answers_are_those_of_the_recorded_server() {
    let Some(folder) = std::env::var_os("IRONCLAD_TESTDATA") else {
        eprintln!("skipped: set IRONCLAD_TESTDATA to the folder of recordings");
        return;
    };
    let descriptors = descriptors();
    let (mut same, mut elsewhere, mut known) = (0, 0, 0);
    let mut different = Vec::new();
    for recording in recordings(&PathBuf::from(folder).join("golden")) {
        match compare(&recording, &descriptors) {
            Outcome::Same => same += 1,
            Outcome::Elsewhere => elsewhere += 1,
            Outcome::Different(_) if KNOWN.iter().any(|(name, _)| *name == recording.name) => known += 1,
            Outcome::Different(found) => {
                different.push(format!("{}\n    {}", recording.name, found.join("\n    ")))
            }
        }
    }
    eprintln!(
        "recorded answers: {same} the same, {known} known to differ, {} different, {elsewhere} not about this crate",
        different.len()
    );
    assert!(different.is_empty(), "{} answers differ:\n{}", different.len(), different.join("\n"));
    assert!(same > 400, "too few recordings were compared: {same}");
}
