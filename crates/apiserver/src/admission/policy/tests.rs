//! Policies out of files while the files change.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::admission::Plugin;
use crate::admission::manifests::{Kinds, MUTATING_POLICIES, Manifests, VALIDATING_POLICIES};
use crate::admission::testing::{Write, run, surroundings};
use crate::authz::fake::FakeCluster;

/// A policy and its binding, named after `set`, which refuse ConfigMaps or mark them.
fn files(kinds: Kinds, set: &str) -> Vec<(PathBuf, String)> {
    let [(policy, _), (binding, _)] = kinds else { panic!("policies and their bindings") };
    let name = format!("{set}.static.k8s.io");
    let mut spec = json!({"matchConstraints": {"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}});
    let mut bound = json!({"policyName": name});
    if *policy == "ValidatingAdmissionPolicy" {
        spec["validations"] = json!([{"expression": "false", "message": set}]);
        bound["validationActions"] = json!(["Deny"]);
    } else {
        let expression = format!("Object{{metadata: Object.metadata{{labels: {{\"set\": \"{set}\"}}}}}}");
        spec["mutations"] =
            json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]);
        spec["reinvocationPolicy"] = "Never".into();
    }
    let object = |kind: &str, spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let objects = [object(policy, spec), object(binding, bound)];
    let named = objects.iter().enumerate();
    named.map(|(index, object)| (PathBuf::from(format!("{index}.json")), object.to_string())).collect()
}

#[tokio::test]
async fn a_request_sees_one_set_of_files_throughout() {
    for kinds in [VALIDATING_POLICIES, MUTATING_POLICIES] {
        let cluster = FakeCluster::new();
        cluster.put("namespaces", json!({"metadata": {"name": "a"}}));
        let manifests = Manifests::new(kinds);
        manifests.take(&files(kinds, "first")).unwrap();
        let state: Arc<dyn ClusterState> = cluster.clone();
        let plugin: Box<dyn Plugin> = match kinds == VALIDATING_POLICIES {
            true => Box::new(ValidatingAdmissionPolicy::new(surroundings(&state), &manifests)),
            false => Box::new(MutatingAdmissionPolicy::new(surroundings(&state), &manifests)),
        };
        // Those of the API are listed between a look for policies and one for bindings.
        cluster.during_list(move || assert!(manifests.take(&files(kinds, "second")).unwrap()));
        for set in ["first", "second"] {
            let map =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "a"}});
            let done = run(&*plugin, &cluster, Write::create("configmaps", "ConfigMap", map)).await;
            let by = match done {
                Ok((object, _)) => {
                    object["metadata"]["labels"]["set"].as_str().unwrap_or("nobody").to_owned()
                }
                Err(refusal) => refusal.message,
            };
            assert!(by.ends_with(set), "{kinds:?}: {by}");
        }
    }
}
