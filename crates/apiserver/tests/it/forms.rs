//! What answers look like: objects that were deleted, rows, partial metadata, indented JSON, warnings.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::custom::{DEFINITIONS, definition};
use crate::world::{Answer, World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn get_as(world: &World, path: &str, accept: &str) -> Answer {
    world.admin.ask(Method::GET, path, &[("accept", accept)], Bytes::new()).await
}

fn table(version: &str) -> String {
    format!("application/json;as=Table;v={version};g=meta.k8s.io")
}

#[tokio::test]
async fn some_kinds_answer_a_deletion_with_the_object() {
    let world = World::new().await;
    let admin = &world.admin;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {}});
    let template = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"},
        "template": pod("x")});
    for (plural, body) in [
        ("services", service),
        ("persistentvolumeclaims", claim),
        ("serviceaccounts", account),
        ("resourcequotas", quota),
        ("podtemplates", template),
    ] {
        let path = format!("/api/v1/namespaces/default/{plural}");
        admin.post(&path, &body).await.is(201);
        let name = body["metadata"]["name"].as_str().unwrap();
        let deleted = admin.delete(&format!("{path}/{name}"), None).await.is(200);
        assert_eq!(
            (deleted.text("/kind"), deleted.text("/metadata/name")),
            (body["kind"].as_str().unwrap(), name)
        );
    }
    admin.post(MAPS, &config_map("m")).await.is(201);
    let deleted = admin.delete(&format!("{MAPS}/m"), None).await.is(200);
    assert_eq!((deleted.text("/kind"), deleted.text("/details/kind")), ("Status", "configmaps"));
    let document = admin.get("/openapi/v3/api/v1").await.is(200);
    for (plural, schema) in [
        ("services", "io.k8s.api.core.v1.Service"),
        ("configmaps", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
    ] {
        let operation =
            &document.body["paths"][format!("/api/v1/namespaces/{{namespace}}/{plural}/{{name}}")]["delete"];
        let answer = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(answer["$ref"], format!("#/components/schemas/{schema}"));
    }
}

#[tokio::test]
async fn a_scale_has_a_table_and_metadata_of_its_own() {
    let world = World::new().await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}, "spec": {
        "replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]}}});
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    world.admin.post(path, &set).await.is(201);
    let path = format!("{path}/r/scale");
    let shown = get_as(&world, &path, &table("v1")).await.is(200);
    let names: Vec<&Value> =
        shown.at("/columnDefinitions").as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(shown.at("/rows/0/cells").as_array().unwrap()[..3], [json!("r"), json!(3), json!(0)]);
    let partial = get_as(&world, &path, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    let partial = partial.is(200);
    assert_eq!((partial.text("/kind"), partial.text("/metadata/name")), ("PartialObjectMetadata", "r"));
    assert!(partial.at("/spec").is_null());
}

#[tokio::test]
async fn rows_of_ended_pods_say_so() {
    let world = World::new().await;
    for (name, phase) in [("a", "Running"), ("b", "Succeeded"), ("c", "Failed")] {
        world.admin.post(PODS, &pod(name)).await.is(201);
        let status = json!({"status": {"phase": phase}});
        world.admin.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", &status).await.is(200);
    }
    let shown = get_as(&world, PODS, &table("v1")).await.is(200);
    let condition = |reason: &str, message: &str| json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
    assert_eq!(shown.at("/rows/0/conditions"), &Value::Null);
    assert_eq!(
        shown.at("/rows/1/conditions"),
        &condition("Succeeded", "The pod has completed successfully.")
    );
    assert_eq!(shown.at("/rows/2/conditions"), &condition("Failed", "The pod failed."));
}

#[tokio::test]
async fn rows_of_flow_schemas_are_in_the_order_of_matching() {
    let world = World::new().await;
    let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    for (name, precedence) in [("aaa-late", 9998), ("zzz-early", 3), ("aab-early", 3)] {
        let schema = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
            "spec": {"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "workload-low"}},
        });
        world.admin.post(schemas, &schema).await.is(201);
    }
    let shown = get_as(&world, schemas, &table("v1")).await.is(200);
    let names: Vec<&str> =
        shown.at("/rows").as_array().unwrap().iter().map(|row| row["cells"][0].as_str().unwrap()).collect();
    let ours: Vec<&str> =
        names.into_iter().filter(|name| name.contains("-early") || name.contains("-late")).collect();
    assert_eq!(ours, ["aab-early", "zzz-early", "aaa-late"]);
}

#[tokio::test]
async fn a_table_shows_the_objects_that_it_is_asked_for() {
    let world = World::new().await;
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    for (include, kind) in
        [("", "PartialObjectMetadata"), ("Metadata", "PartialObjectMetadata"), ("Object", "ConfigMap")]
    {
        let shown = get_as(&world, &format!("{MAPS}?includeObject={include}"), &table("v1")).await.is(200);
        assert_eq!(shown.text("/rows/0/object/kind"), kind, "{include}");
    }
    let none = get_as(&world, &format!("{MAPS}?includeObject=None"), &table("v1")).await.is(200);
    assert_eq!(none.at("/rows/0/object"), &Value::Null);
    let refused = get_as(&world, &format!("{MAPS}?includeObject=Some"), &table("v1")).await.is(400);
    assert_eq!(refused.message(), "unrecognized includeObject value: \"Some\"");
    // Without a table nobody asks for it.
    world.admin.get(&format!("{MAPS}?includeObject=Some")).await.is(200);
}

#[tokio::test]
async fn the_forms_of_v1beta1_are_those_of_v1() {
    let world = World::new().await;
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    let shown = get_as(&world, MAPS, &table("v1beta1")).await.is(200);
    assert_eq!((shown.text("/kind"), shown.text("/apiVersion")), ("Table", "meta.k8s.io/v1beta1"));
    assert_eq!(shown.text("/rows/0/object/apiVersion"), "meta.k8s.io/v1beta1");
    for (path, kind) in
        [(MAPS.to_owned(), "PartialObjectMetadataList"), (format!("{MAPS}/a"), "PartialObjectMetadata")]
    {
        let accept = format!("application/json;as={kind};v=v1beta1;g=meta.k8s.io");
        let partial = get_as(&world, &path, &accept).await.is(200);
        assert_eq!((partial.text("/kind"), partial.text("/apiVersion")), (kind, "meta.k8s.io/v1beta1"));
    }
}

#[tokio::test]
async fn json_is_indented_for_who_reads_it() {
    let world = World::new().await;
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!("{MAPS}/a");
    let indented = |answer: &Answer| answer.bytes.starts_with(b"{\n  \"");
    for (query, agent, wanted) in [
        ("", "kubectl/v1.37", false),
        ("?pretty=true", "kubectl/v1.37", true),
        ("?pretty=1", "kubectl/v1.37", true),
        ("", "curl/8.5", true),
        ("", "Mozilla/5.0 (X11)", true),
        ("?pretty=false", "curl/8.5", false),
    ] {
        let headers = [("user-agent", agent)];
        let answer =
            world.admin.ask(Method::GET, &format!("{path}{query}"), &headers, Bytes::new()).await.is(200);
        assert_eq!(indented(&answer), wanted, "{query} {agent}");
        assert_eq!(answer.text("/metadata/name"), "a");
    }
}

/// The texts of the `Warning` headers, whatever they are written in.
fn warnings(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("warning").iter();
    values.map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn warnings_are_written_in_any_script_and_cut_when_there_are_many() {
    let world = World::new().await;
    let mut body = config_map("a");
    body["ключ"] = json!(1);
    body["a\u{7}b"] = json!(1);
    let made = world.admin.post(MAPS, &body).await.is(201);
    let unknown = "299 - \"unknown field \\\"ключ\\\"\"";
    assert!(warnings(&made).iter().any(|warning| warning == unknown), "{:?}", warnings(&made));
    let mut body = config_map("b");
    for at in 0..20 {
        body[format!("{at:0>300}")] = json!(1);
    }
    let made = world.admin.post(MAPS, &body).await.is(201);
    let warnings = warnings(&made);
    // 256 characters of each, until there are 4,096.
    assert_eq!(warnings.len(), 16);
    // Two characters of each are written with a backslash at most: the quotes of the field's name.
    assert!(warnings.iter().all(|warning| warning.len() <= "299 - \"\"".len() + 256 + 2), "{warnings:?}");
}

#[tokio::test]
async fn an_owner_counts_once() {
    let world = World::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "17"});
    let mut body = config_map("a");
    body["metadata"]["ownerReferences"] = json!([owner, owner]);
    let made = world.admin.post(MAPS, &body).await.is(201);
    assert_eq!(made.at("/metadata/ownerReferences"), &json!([owner]));
    let warning = ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and \
                   may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: 17";
    assert_eq!(made.warnings(), [warning]);
    let changed = world.admin.put(&format!("{MAPS}/a"), &body).await.is(200);
    assert_eq!(
        (changed.at("/metadata/ownerReferences"), changed.warnings()),
        (&json!([owner]), vec![warning.to_owned()])
    );
}

#[tokio::test]
async fn custom_resources_warn_of_new_finalizers_without_a_domain() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let things = "/apis/example.com/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "spec": {"size": 1},
        "metadata": {"name": "a", "finalizers": ["x.example.com"]}});
    let made = admin.post(things, &thing).await.is(201);
    let warning = "metadata.finalizers: \"x.example.com\": prefer a domain-qualified finalizer name including a path (/) to \
                   avoid accidental conflicts with other finalizer writers";
    assert_eq!(made.warnings(), [warning]);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let changed = admin.patch(&format!("{things}/a"), "merge-patch+json", &label).await.is(200);
    assert_eq!(changed.warnings(), [""; 0]);
}
