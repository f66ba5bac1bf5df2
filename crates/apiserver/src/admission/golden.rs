//! Compares what the whole chain adds to pods with what a real server added to the same manifests.
//! Runs where `IRONCLAD_TESTDATA` names the folder of wire fixtures.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{GroupVersionKind, GroupVersionResource, Object};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::json::{items, text};
use super::testing::surroundings;
use super::{Chain, Operation, Options, Request, build};
use crate::authz::fake::FakeCluster;
use crate::cluster::ClusterState;
use crate::request::User;

fn chain() -> Chain {
    let cluster = FakeCluster::new();
    for namespace in ["default", "kube-system"] {
        cluster.put(
            "namespaces",
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        );
        cluster.put(
            "serviceaccounts",
            json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": namespace } }),
        );
    }
    for (name, value) in [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)]
    {
        cluster.put(
            "priorityclasses.scheduling.k8s.io",
            json!({ "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass", "metadata": { "name": name }, "value": value }),
        );
    }
    let cluster: Arc<dyn ClusterState> = cluster;
    build(&Options::default(), &surroundings(&cluster)).unwrap()
}

/// What admission gave the pod, with the random part of names taken out.
fn additions(pod: &Value) -> Value {
    const PREFIX: &str = "kube-api-access-";
    let mut spec = pod["spec"].clone();
    // Typed encoders leave out what is empty; that is the engine's part, not admission's.
    for toleration in spec["tolerations"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = toleration.as_object_mut() {
            fields.retain(|_, value| *value != "");
        }
    }
    let spec = &spec;
    let volume = items(spec, "/volumes").find(|volume| text(volume, "/name").starts_with(PREFIX)).cloned();
    let volume = volume.map(|mut volume| {
        if let Some(sources) = volume["projected"]["sources"].as_array_mut() {
            // The server that answered belonged to a distribution that projects an authority of its own, too.
            sources.retain(|source| text(source, "/configMap/name") != "openshift-service-ca.crt");
        }
        volume["projected"].clone()
    });
    let mut mounts = BTreeMap::new();
    for list in ["initContainers", "containers"] {
        for container in items(spec, &format!("/{list}")) {
            let paths: Vec<&str> = items(container, "/volumeMounts")
                .filter(|mount| text(mount, "/name").starts_with(PREFIX))
                .map(|mount| text(mount, "/mountPath"))
                .collect();
            mounts.insert(text(container, "/name").to_owned(), json!(paths));
        }
    }
    let fields = [
        "serviceAccount",
        "serviceAccountName",
        "tolerations",
        "priority",
        "priorityClassName",
        "preemptionPolicy",
        "imagePullSecrets",
        "overhead",
    ];
    let fields: BTreeMap<&str, &Value> = fields.iter().map(|field| (*field, &spec[*field])).collect();
    json!({ "fields": fields, "volume": volume, "mounts": mounts })
}

#[tokio::test]
async fn pods_get_what_a_real_server_gives_them() {
    let Ok(root) = std::env::var("IRONCLAD_TESTDATA") else {
        eprintln!("skipped: set IRONCLAD_TESTDATA to the folder of recordings");
        return;
    };
    let chain = chain();
    let user = User::new("kubernetes-admin", &["system:masters", "system:authenticated"]);
    let mut compared = 0;
    for entry in std::fs::read_dir(format!("{root}/golden")).unwrap() {
        let path = entry.unwrap().path();
        let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let documents = serde_yaml_ng::Deserializer::from_str(text(&golden, "/manifest"));
        let manifests: Vec<Value> =
            documents.map_while(|document| Value::deserialize(document).ok()).collect();
        for answer in items(&golden, "/objects").filter(|object| object["kind"] == "Pod") {
            let name = text(answer, "/metadata/name");
            let manifest = manifests.iter().find(|m| m["kind"] == "Pod" && text(m, "/metadata/name") == name);
            let Some(manifest) = manifest.filter(|_| !name.is_empty()) else { continue };
            let mut pod = Object(manifest.clone());
            let namespace = match text(answer, "/metadata/namespace") {
                "kube-system" => "kube-system",
                _ => "default",
            };
            let mut request = Request {
                operation: Operation::Create,
                kind: GroupVersionKind::new("", "v1", "Pod"),
                resource: GroupVersionResource::new("", "v1", "pods"),
                subresource: "",
                namespace,
                name,
                user: &user,
                dry_run: true,
                object: Some(&mut pod),
                old: None,
                options: Value::Null,
                warnings: Vec::new(),
                reinvocation: Default::default(),
            };
            let outcome = chain.admit(&mut request).await;
            if outcome
                .as_ref()
                .is_err_and(|status| status.message.contains("error looking up service account"))
            {
                // The real server had accounts of other files.
                continue;
            }
            outcome.unwrap_or_else(|status| panic!("{}: {status}", path.display()));
            assert_eq!(additions(&pod.0), additions(answer), "{}: {name}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 80, "only {compared} pods were compared");
}
