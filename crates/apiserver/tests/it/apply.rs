//! Server-side apply, and who owns what after every other kind of write.

use http::Method;
use serde_json::{Value, json};

use crate::custom::{DEFINITIONS, definition};
use crate::world::{Answer, User_, World, config_map};

const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(user: &User_, path: &str, query: &str, config: &Value) -> Answer {
    let headers = [("content-type", "application/apply-patch+yaml"), ("user-agent", "tester/1.0")];
    user.ask(Method::PATCH, &format!("{path}?{query}"), &headers, config.to_string()).await
}

/// Manager, operation, subresource and fields of each entry.
fn entries(answer: &Answer) -> Vec<(&str, &str, &str, &Value)> {
    let list = answer.at("/metadata/managedFields").as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            (text("manager"), text("operation"), text("subresource"), &entry["fieldsV1"])
        })
        .collect()
}

fn data(values: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": values})
}

fn deployment(replicas: Option<i64>) -> Value {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
            },
        },
    });
    if let Some(replicas) = replicas {
        deployment["spec"]["replicas"] = replicas.into();
    }
    deployment
}

#[tokio::test]
async fn applying_creates_changes_and_removes() {
    let world = World::new().await;
    let admin = &world.admin;
    let unmanaged = apply(admin, MAP, "", &data(json!({}))).await.is(422);
    assert!(
        unmanaged.message().ends_with("fieldManager: Required value: is required for apply patch"),
        "{}",
        unmanaged.message()
    );
    let dry = apply(admin, MAP, "fieldManager=m&dryRun=All", &data(json!({"k": "1"}))).await.is(201);
    assert_eq!(dry.text("/data/k"), "1");
    admin.get(MAP).await.is(404);

    let made = apply(admin, MAP, "fieldManager=m", &data(json!({"k": "1", "l": "2"}))).await.is(201);
    assert_eq!(entries(&made), [("m", "Apply", "", &json!({"f:data": {"f:k": {}, "f:l": {}}}))]);
    let again = apply(admin, MAP, "fieldManager=m", &data(json!({"k": "1", "l": "2"}))).await.is(200);
    assert_eq!(again.body, made.body, "nothing changed, so nothing is written");
    let less = apply(admin, MAP, "fieldManager=m", &data(json!({"k": "1"}))).await.is(200);
    assert_eq!(less.at("/data"), &json!({"k": "1"}));

    let refused = apply(admin, MAP, "fieldManager=other", &data(json!({"k": "9"}))).await.is(409);
    assert_eq!(refused.message(), r#"Apply failed with 1 conflict: conflict with "m": .data.k"#);
    assert_eq!(refused.text("/reason"), "Conflict");
    assert_eq!(
        refused.at("/details/causes/0"),
        &json!({"reason": "FieldManagerConflict", "message": r#"conflict with "m""#, "field": ".data.k"})
    );
    let forced = apply(admin, MAP, "fieldManager=other&force=true", &data(json!({"k": "9"}))).await.is(200);
    assert_eq!(forced.text("/data/k"), "9");
    assert_eq!(entries(&forced).len(), 1, "the other owns nothing any more");
}

#[tokio::test]
async fn configurations_must_fit_the_path_and_the_kind() {
    let world = World::new().await;
    let admin = &world.admin;
    let query = "fieldManager=m";
    let mut other = data(json!({}));
    other["metadata"]["name"] = "b".into();
    let mut elsewhere = data(json!({}));
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    let mut known = data(json!({}));
    known["metadata"]["uid"] = "u".into();
    let mut managed = data(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let mut unknown = data(json!({}));
    unknown["date"] = json!({});
    #[rustfmt::skip]
    let table = [
        (json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}), 400, "invalid object type: /v1, Kind=Secret"),
        (json!({"apiVersion": "v1", "kind": "ConfigMap"}), 400, "the name of the object (a based on URL) was undeterminable: name must be provided"),
        (other, 400, "the name of the object (b) does not match the name on the URL (a)"),
        (elsewhere, 400, "the namespace of the object (kube-system) does not match the namespace on the request (default)"),
        (known, 409, "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid u, and no existing object was found"),
        (managed, 400, "metadata.managedFields must be nil"),
        (unknown, 500, "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .date: field not declared in schema"),
    ];
    for (config, code, message) in table {
        let answer = apply(admin, MAP, query, &config).await.is(code);
        assert_eq!(answer.message(), message, "{config}");
    }
    let headers = [("content-type", "application/apply-patch+yaml")];
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: \"1\"\n";
    let path = format!("{MAP}?{query}");
    admin.ask(Method::PATCH, &path, &headers, yaml).await.is(201);
    admin.ask(Method::PATCH, &path, &headers, ": :\n-").await.is(400);
    let forced = admin.patch(&format!("{MAP}?force=true"), "merge-patch+json", &json!({})).await.is(422);
    assert!(forced.message().contains("force: Forbidden: may not be specified for non-apply patch"));
    // Who may patch may not for that create.
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "get"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "p"}, "rules": rules});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.is(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "p"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "p"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "patcher"}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.is(201);
    let patcher = world.user("patcher", &[]);
    let mut fresh = data(json!({}));
    fresh["metadata"]["name"] = "new".into();
    let path = "/api/v1/namespaces/default/configmaps/new";
    let deadline = std::time::Instant::now() + crate::world::PATIENCE;
    while patcher.get(MAP).await.code == 403 {
        assert!(std::time::Instant::now() < deadline, "the role takes effect");
        tokio::task::yield_now().await;
    }
    let refused = apply(&patcher, path, query, &fresh).await.is(403);
    assert!(refused.message().contains("cannot create resource \"configmaps\""), "{}", refused.message());
}

#[tokio::test]
async fn every_write_records_its_manager() {
    let world = World::new().await;
    let admin = &world.admin;
    let agent = [("content-type", "application/json"), ("user-agent", "kubectl/v1.37 (linux)")];
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = admin.ask(Method::POST, maps, &agent, config_map("a").to_string()).await.is(201);
    assert_eq!(entries(&made), [("kubectl", "Update", "", &json!({"f:data": {".": {}, "f:k": {}}}))]);
    let patched = admin
        .patch(&format!("{MAP}?fieldManager=patcher"), "merge-patch+json", &json!({"data": {"l": "1"}}))
        .await
        .is(200);
    assert_eq!(entries(&patched)[1], ("patcher", "Update", "", &json!({"f:data": {"f:l": {}}})));
    let mut put = patched.body.clone();
    put["data"] = json!({"k": "changed", "l": "1"});
    put["metadata"].as_object_mut().unwrap().remove("managedFields");
    let put = admin.put(&format!("{MAP}?fieldManager=putter"), &put).await.is(200);
    let owners: Vec<&str> = entries(&put).iter().map(|(manager, ..)| *manager).collect();
    assert_eq!(owners, ["kubectl", "patcher", "putter"]);
    assert_eq!(entries(&put)[0].3, &json!({"f:data": {}}), "the map is still its creator's");
    // A patch that changes nothing is no write, although the time went on.
    let same = admin
        .patch(&format!("{MAP}?fieldManager=putter"), "merge-patch+json", &json!({"data": {"k": "changed"}}))
        .await
        .is(200);
    assert_eq!(same.body, put.body);
    let cleared = json!({"metadata": {"managedFields": [{}]}});
    let cleared = admin.patch(MAP, "merge-patch+json", &cleared).await.is(200);
    assert_eq!(entries(&cleared), []);
    // From then on nobody is recorded, until someone applies.
    let later = admin.patch(MAP, "merge-patch+json", &json!({"data": {"m": "1"}})).await.is(200);
    assert_eq!(entries(&later), []);
    let applied = apply(admin, MAP, "fieldManager=m", &data(json!({"n": "1"}))).await.is(200);
    let owners: Vec<&str> = entries(&applied).iter().map(|(manager, ..)| *manager).collect();
    assert_eq!(owners, ["m", "before-first-apply"]);
}

#[tokio::test]
async fn status_and_scale_are_managers_of_their_own() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = format!("{DEPLOYMENTS}/d");
    apply(admin, &path, "fieldManager=m", &deployment(Some(1))).await.is(201);
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"replicas": 1}, "spec": {"replicas": 99, "selector": {}, "template": {}}});
    let applied = apply(admin, &format!("{path}/status"), "fieldManager=m", &status).await.is(200);
    assert_eq!(applied.at("/spec/replicas"), &json!(1), "the status is all that is applied");
    let own = entries(&applied).into_iter().find(|entry| entry.2 == "status").unwrap();
    assert_eq!((own.0, own.1, own.3), ("m", "Apply", &json!({"f:status": {"f:replicas": {}}})));

    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3}});
    let refused = apply(admin, &format!("{path}/scale"), "fieldManager=scaler", &scale).await.is(409);
    assert_eq!(refused.message(), r#"Apply failed with 1 conflict: conflict with "m": .spec.replicas"#);
    let scaled =
        apply(admin, &format!("{path}/scale"), "fieldManager=scaler&force=true", &scale).await.is(200);
    assert_eq!(scaled.at("/spec/replicas"), &json!(3));
    let after = admin.get(&path).await.is(200);
    assert!(entries(&after).contains(&("scaler", "Apply", "scale", &json!({"f:spec": {"f:replicas": {}}}))));
    // The owner who stops applying it leaves it to the scaler.
    let left = apply(admin, &path, "fieldManager=m", &deployment(None)).await.is(200);
    assert_eq!(left.at("/spec/replicas"), &json!(3));
    let put = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 5}});
    admin.put(&format!("{path}/scale?fieldManager=hand"), &put).await.is(200);
    let after = admin.get(&path).await.is(200);
    assert!(entries(&after).contains(&("hand", "Update", "scale", &json!({"f:spec": {"f:replicas": {}}}))));
    apply(admin, &format!("{DEPLOYMENTS}/none/status"), "fieldManager=m", &{
        let mut none = status.clone();
        none["metadata"]["name"] = "none".into();
        none
    })
    .await
    .is(404);
}

#[tokio::test]
async fn custom_resources_are_applied_by_their_schema() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let path = "/apis/example.com/v1/namespaces/default/things/t";
    let thing = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec});
    let made = apply(admin, path, "fieldManager=m", &thing(json!({"size": 1}))).await.is(201);
    assert_eq!(entries(&made)[0].3, &json!({"f:spec": {"f:size": {}}}), "defaults are nobody's");
    assert_eq!(made.text("/spec/color"), "red");
    let refused = apply(admin, path, "fieldManager=o", &thing(json!({"size": 2}))).await.is(409);
    assert_eq!(refused.message(), r#"Apply failed with 1 conflict: conflict with "m": .spec.size"#);
    let unknown = apply(admin, path, "fieldManager=m", &thing(json!({"size": 1, "x": 1}))).await.is(500);
    assert!(unknown.message().ends_with(".spec.x: field not declared in schema"), "{}", unknown.message());
    let invalid = apply(admin, path, "fieldManager=m", &thing(json!({"size": 0}))).await.is(422);
    assert!(invalid.message().contains("spec.size"), "{}", invalid.message());
}

#[tokio::test]
async fn fields_that_were_set_in_another_version_are_owned() {
    let world = World::new().await;
    let admin = &world.admin;
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let config = |version: &str, most: u32| {
        json!({
            "apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": most, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
        })
    };
    apply(admin, &path("v1"), "fieldManager=one", &config("v1", 3)).await.is(201);
    let refused = apply(admin, &path("v2"), "fieldManager=two", &config("v2", 4)).await.is(409);
    assert_eq!(refused.message(), r#"Apply failed with 1 conflict: conflict with "one": .spec.maxReplicas"#);
    apply(admin, &path("v2"), "fieldManager=two", &config("v2", 3)).await.is(200);
    let less = json!({"spec": {"maxReplicas": 9}});
    let patched =
        admin.patch(&format!("{}?fieldManager=three", path("v2")), "merge-patch+json", &less).await.is(200);
    let left: Vec<_> = entries(&patched).into_iter().filter(|(manager, ..)| *manager != "three").collect();
    for (manager, _, _, fields) in left {
        assert!(fields.pointer("/f:spec/f:maxReplicas").is_none(), "{manager} has lost it: {fields}");
    }
}

#[tokio::test]
async fn a_status_is_not_the_place_for_labels_where_upstream_keeps_them() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEPLOYMENTS, &deployment(Some(1))).await.is(201);
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"l": "m"}},
        "status": {"observedGeneration": 1},
    });
    let path = format!("{DEPLOYMENTS}/d/status");
    let applied = apply(admin, &path, "fieldManager=s", &config).await.is(200);
    assert_eq!(applied.at("/metadata/labels"), &Value::Null);
    let own = entries(&applied).into_iter().find(|(manager, ..)| *manager == "s").unwrap();
    assert_eq!(own.3, &json!({"f:status": {"f:observedGeneration": {}}}));

    // Of a definition, nothing of the metadata.
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let name = definition()["metadata"]["name"].as_str().unwrap().to_owned();
    let labels = json!({"metadata": {"labels": {"l": "m"}}});
    let patched =
        admin.patch(&format!("{DEFINITIONS}/{name}/status"), "merge-patch+json", &labels).await.is(200);
    assert_eq!(patched.at("/metadata/labels"), &Value::Null);
}

#[tokio::test]
async fn signers_own_none_of_a_signing_requests_conditions() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let meta = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"}});
    let mut made = meta.clone();
    made["spec"] = json!({"request": request, "signerName": "example.com/s", "usages": ["client auth"]});
    admin.post(path, &made).await.is(201);
    let mut failed = meta;
    failed["status"] = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "No"}]});
    let applied = apply(admin, &format!("{path}/r/status"), "fieldManager=signer", &failed).await.is(200);
    assert_eq!(applied.text("/status/conditions/0/type"), "Failed", "what it says is kept");
    let owned: Vec<&Value> = entries(&applied).into_iter().map(|(.., fields)| fields).collect();
    assert!(owned.iter().all(|fields| fields["f:status"]["f:conditions"].is_null()), "{owned:?}");
}
