//! Policies out of files (`staticManifestsDir`): from the start, beside those of the API, and over them.

use std::path::PathBuf;

use apiserver::admission::AllManifests;
use serde_json::{Value, json};

use crate::world::{World, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

/// A policy that refuses objects with a label, where it is bound.
fn policy(name: &str, rule: Value, label: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{
                "expression": format!("!has(object.metadata.labels) || !('{label}' in object.metadata.labels)"),
                "message": format!("{label} is not to be"),
            }],
        },
    })
}

fn binding(name: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": policy, "validationActions": ["Deny"]},
    })
}

fn rule(group: &str, resources: &[&str]) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources})
}

/// Puts these objects into force, as a file of each.
fn take(manifests: &AllManifests, objects: &[Value]) {
    let files: Vec<(PathBuf, String)> = objects
        .iter()
        .enumerate()
        .map(|(index, object)| (PathBuf::from(format!("{index}.json")), object.to_string()))
        .collect();
    assert!(manifests.validating_policies.take(&files).unwrap(), "they change something");
}

fn labelled(name: &str, label: &str) -> Value {
    let mut map = config_map(name);
    map["metadata"]["labels"] = json!({label: ""});
    map
}

#[tokio::test]
async fn what_stands_in_files_judges_everything_and_is_out_of_reach() {
    let manifests = AllManifests::default();
    let admission = rule("admissionregistration.k8s.io", &["validatingadmissionpolicies"]);
    let set = [
        policy("maps.static.k8s.io", rule("", &["configmaps"]), "red"),
        binding("maps.static.k8s.io", "maps.static.k8s.io"),
        policy("admission.static.k8s.io", admission, "loose"),
        binding("admission.static.k8s.io", "admission.static.k8s.io"),
        policy("unbound.static.k8s.io", rule("", &["configmaps"]), "blue"),
    ];
    take(&manifests, &set);
    let given = manifests.clone();
    let world = World::with(move |options| options.admission.manifests = given).await;
    let admin = &world.admin;

    let refused = admin.post(MAPS, &labelled("a", "red")).await.is(422);
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'maps.static.k8s.io' with binding \
         'maps.static.k8s.io' denied request: red is not to be"
    );
    admin.post(MAPS, &labelled("b", "blue")).await.is(201);
    // Configurations of admission too, which those of the API never judge.
    let mut own = policy("own", rule("admissionregistration.k8s.io", &["*"]), "any");
    own["metadata"]["labels"] = json!({"loose": ""});
    let refused = admin.post(POLICIES, &own).await.is(422);
    assert!(refused.message().contains("loose is not to be"), "{}", refused.message());

    // The API neither shows them nor makes some of their names, and binds none of them.
    assert!(admin.get(POLICIES).await.is(200).names().is_empty());
    admin.get(&format!("{POLICIES}/maps.static.k8s.io")).await.is(404);
    let reserved = admin.post(BINDINGS, &binding("x.static.k8s.io", "maps.static.k8s.io")).await.is(422);
    assert!(
        reserved.message().contains("are reserved for static manifest-based configurations"),
        "{}",
        reserved.message()
    );
    let bound = binding("unbound", "unbound.static.k8s.io");
    admin.post(BINDINGS, &bound).await.is(201);
    admin.post(MAPS, &labelled("c", "blue")).await.is(201);

    // Another set takes their place at once.
    take(&manifests, &set[4..]);
    admin.post(MAPS, &labelled("d", "red")).await.is(201);
    admin.post(POLICIES, &own).await.is(201);
}
