//! `dryRun=All` on every kind of write: the answer is that of the write, and nothing is written.

use http::Method;
use serde_json::{Value, json};

use crate::world::{World, config_map, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn world() -> World {
    let world = World::with(|options| {
        let key = pki::PrivateKey::generate(pki::KeyType::EcdsaP256).unwrap();
        let key = std::sync::Arc::new(pki::SigningKey::from_pem(&key.pem()).unwrap());
        options.authn.service_accounts = Some(apiserver::authn::token::Options::new("https://issuer", key));
    })
    .await;
    let admin = &world.admin;
    admin.post(PODS, &pod("p")).await.is(201);
    for name in ["a", "b"] {
        admin.post(MAPS, &config_map(name)).await.is(201);
    }
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    });
    admin.post(DEPLOYMENTS, &deployment).await.is(201);
    world
}

#[tokio::test]
async fn nothing_is_written() {
    let world = world().await;
    let admin = &world.admin;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    admin.post("/api/v1/nodes", &node).await.is(201);
    let read = async |path: &str| admin.get(path).await.is(200).body;
    let scale = read(&format!("{DEPLOYMENTS}/d/scale")).await;
    let more = {
        let mut scale = scale.clone();
        scale["spec"]["replicas"] = 5.into();
        scale
    };
    let mut map = read(&format!("{MAPS}/a")).await;
    map["data"]["k"] = "changed".into();
    let mut status = read(&format!("{PODS}/p")).await;
    status["status"]["phase"] = "Running".into();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"},
    });
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    // Method, path, body; code; what the answer says at a place; what stays at a place of an object.
    type Row<'a> = (&'a str, String, Value, u16, (&'a str, Value), (&'a str, &'a str, Value));
    let rows: [Row<'_>; 8] = [
        (
            "POST",
            MAPS.to_owned(),
            config_map("c"),
            201,
            ("/metadata/name", json!("c")),
            (MAPS, "/items/2", Value::Null),
        ),
        (
            "PUT",
            format!("{MAPS}/a"),
            map,
            200,
            ("/data/k", json!("changed")),
            ("/api/v1/namespaces/default/configmaps/a", "/data/k", json!("v")),
        ),
        (
            "PUT",
            format!("{PODS}/p/status"),
            status,
            200,
            ("/status/phase", json!("Running")),
            ("/api/v1/namespaces/default/pods/p", "/status/phase", json!("Pending")),
        ),
        (
            "PUT",
            format!("{DEPLOYMENTS}/d/scale"),
            more,
            200,
            ("/spec/replicas", json!(5)),
            ("/apis/apps/v1/namespaces/default/deployments/d", "/spec/replicas", json!(1)),
        ),
        (
            "POST",
            format!("{PODS}/p/binding"),
            binding,
            201,
            ("/status", json!("Success")),
            ("/api/v1/namespaces/default/pods/p", "/spec/nodeName", Value::Null),
        ),
        (
            "DELETE",
            format!("{MAPS}/a"),
            Value::Null,
            200,
            ("/status", json!("Success")),
            ("/api/v1/namespaces/default/configmaps/a", "/metadata/name", json!("a")),
        ),
        (
            "DELETE",
            MAPS.to_owned(),
            Value::Null,
            200,
            ("/items/1/metadata/name", json!("b")),
            (MAPS, "/items/1/metadata/name", json!("b")),
        ),
        (
            "DELETE",
            format!("{PODS}/p"),
            Value::Null,
            200,
            ("/metadata/name", json!("p")),
            ("/api/v1/namespaces/default/pods/p", "/metadata/deletionTimestamp", Value::Null),
        ),
    ];
    let before = read(MAPS).await["metadata"]["resourceVersion"].clone();
    for (method, path, body, code, (at, said), (object, place, stays)) in rows {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("content-type", "application/json")];
        let method: Method = method.parse().unwrap();
        let answer = admin.ask(method.clone(), &format!("{path}?dryRun=All"), &headers, body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.message());
        assert_eq!(answer.at(at), &said, "{method} {path}");
        let now = read(object).await;
        assert_eq!(now.pointer(place).cloned().unwrap_or_default(), stays, "{method} {path}");
    }
    assert_eq!(read(MAPS).await["metadata"]["resourceVersion"], before, "the store has seen no write");

    // A token that is only tried is none.
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = admin.post(&format!("{account}/token?dryRun=All"), &request).await.is(201);
    assert_eq!(answer.text("/kind"), "TokenRequest");
    // What is not the one known value is refused, also nothing at all: it could be meant as a wish to write nothing.
    for (bad, shown) in [
        ("dryRun=Some", r#"["Some"]"#),
        ("dryRun=All&dryRun=Some", r#"["All","Some"]"#),
        ("dryRun=", r#"[""]"#),
    ] {
        let path = format!("{MAPS}/a?{bad}");
        let patch = json!({"data": {"k": "changed"}});
        for answer in [
            admin.post(&format!("{MAPS}?{bad}"), &config_map("c")).await,
            admin.put(&path, &config_map("a")).await,
            admin.patch(&path, "merge-patch+json", &patch).await,
            admin.delete(&path, None).await,
            admin.delete(&format!("{MAPS}?{bad}"), None).await,
        ] {
            let wanted = format!("dryRun: Unsupported value: {shown}: supported values: \"All\"");
            let answer = answer.is(422);
            assert!(answer.message().ends_with(&wanted), "{bad}: {}", answer.message());
        }
    }
    assert_eq!(read(MAPS).await["metadata"]["resourceVersion"], before);
}
