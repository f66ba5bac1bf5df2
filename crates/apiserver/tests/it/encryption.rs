//! Secrets that the store cannot read.

use std::sync::Arc;

use apiserver::encryption::{Configuration, EncryptedStore};
use arc_swap::ArcSwap;
use foundation::SystemClock;
use serde_json::{Value, json};
use store::{Range, Store};

use crate::world::World;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn configuration(providers: &str) -> Arc<Configuration> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [secrets], providers: [{providers}]}}]"
    );
    Arc::new(Configuration::read(&text, &SystemClock::shared()).unwrap())
}

fn provider(kind: &str, name: &str, byte: u8) -> String {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    format!("{{{kind}: {{keys: [{{name: {name}, secret: {secret}}}]}}}}")
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"password": "aHVudGVyMg=="}})
}

async fn stored(world: &World, name: &str) -> Vec<u8> {
    let key = format!("/registry/core/secrets/default/{name}");
    let found = world.store.range(Range::key(key)).await.unwrap();
    found.kvs[0].value.to_vec()
}

#[tokio::test]
async fn secrets_are_unreadable_in_the_store_and_keys_can_be_rotated() {
    let current = Arc::new(ArcSwap::new(configuration("{identity: {}}")));
    let shared = current.clone();
    let world = World::over(|_| {}, |store| Arc::new(EncryptedStore::new(store, shared))).await;
    let admin = &world.admin;
    admin.post(SECRETS, &secret("plain")).await.is(201);
    assert!(stored(&world, "plain").await.starts_with(b"{"));

    let mut former = "{identity: {}}".to_owned();
    for (kind, byte) in [("aesgcm", 1), ("aescbc", 2), ("secretbox", 3)] {
        let provider = provider(kind, "key1", byte);
        current.store(configuration(&format!("{provider}, {former}")));
        former = format!("{provider}, {former}");
        let from = admin.get(SECRETS).await.is(200).text("/metadata/resourceVersion").to_owned();
        let made = admin.post(SECRETS, &secret(kind)).await.is(201);
        let bytes = stored(&world, kind).await;
        assert!(bytes.starts_with(format!("k8s:enc:{kind}:v1:key1:").as_bytes()), "{kind}");
        assert!(!bytes.windows(7).any(|window| window == b"aHVudGV"), "{kind}: the data shows");
        let read = admin.get(&format!("{SECRETS}/{kind}")).await.is(200);
        assert_eq!(read.body, made.body, "what is read is what was answered");
        assert!(!read.text("/metadata/resourceVersion").is_empty());
        let mut watch = admin.watch(&format!("{SECRETS}?watch=true&resourceVersion={from}")).await;
        assert_eq!(watch.next().await.unwrap()["object"], made.body, "and what is watched");
    }
    // Whatever key they were written with, all are read, changed, and deleted.
    let listed = admin.get(SECRETS).await.is(200);
    assert_eq!(listed.names(), ["aescbc", "aesgcm", "plain", "secretbox"]);
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    admin.patch(&format!("{SECRETS}/plain"), "merge-patch+json", &patch).await.is(200);
    assert!(stored(&world, "plain").await.starts_with(b"k8s:enc:secretbox:v1:key1:"));
    // What is replaced by itself is written with the new key: so a cluster's secrets are rotated. Once is enough.
    let path = format!("{SECRETS}/aesgcm");
    for writes in [true, false] {
        let before = admin.get(&path).await.is(200);
        let after = admin.put(&path, &before.body).await.is(200);
        assert_eq!(
            after.text("/metadata/resourceVersion") != before.text("/metadata/resourceVersion"),
            writes
        );
        assert!(stored(&world, "aesgcm").await.starts_with(b"k8s:enc:secretbox:v1:key1:"));
    }
    admin.delete(&format!("{SECRETS}/aesgcm"), None).await.is(200);

    current.store(configuration(&provider("aesgcm", "other", 9)));
    let lost = admin.get(&format!("{SECRETS}/aescbc")).await;
    assert_eq!(lost.code, 500, "without its key it is lost: {lost:?}");
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_ends_the_watches_of_secrets_only() {
    let current = Arc::new(ArcSwap::new(configuration(&provider("secretbox", "key1", 1))));
    let world = World::over(|_| {}, |store| Arc::new(EncryptedStore::new(store, current))).await;
    let admin = &world.admin;
    let maps = "/api/v1/namespaces/default/configmaps";
    admin.post(SECRETS, &secret("a")).await.is(201);
    let mut secrets = admin.watch(&format!("{SECRETS}?watch=1")).await;
    let mut others = admin.watch(&format!("{maps}?watch=1")).await;
    assert_eq!(secrets.event().await, ("ADDED".into(), "a".into()));
    // Another server has a key that this one was not given yet.
    let key = "/registry/core/secrets/default/foreign";
    let foreign = store::Op::put(key.to_owned(), "k8s:enc:secretbox:v1:key2:sealed");
    world.store.txn(store::Txn::of(vec![foreign])).await.unwrap();
    assert_eq!(secrets.next().await, None);
    admin.get(SECRETS).await.is(500);
    admin.post(maps, &crate::world::config_map("m")).await.is(201);
    assert_eq!(others.event().await, ("ADDED".into(), "m".into()), "the others go on");
    admin.delete(&format!("{SECRETS}/a"), None).await.is(200);
}

/// The option, and nothing else.
fn unsafely() -> Value {
    json!({"kind": "DeleteOptions", "apiVersion": "v1", "ignoreStoreReadErrorWithClusterBreakingPotential": true})
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_can_be_deleted_by_who_may() {
    let current = Arc::new(ArcSwap::new(configuration(&provider("secretbox", "key1", 1))));
    let shared = current.clone();
    let world = World::over(|_| {}, |store| Arc::new(EncryptedStore::new(store, shared))).await;
    let admin = &world.admin;
    let mut held = secret("held");
    held["metadata"]["finalizers"] = json!(["example.com/never"]);
    admin.post(SECRETS, &held).await.is(201);
    admin.post(SECRETS, &secret("lost")).await.is(201);

    let readable = admin.delete(&format!("{SECRETS}/held"), Some(&unsafely())).await.is(422);
    assert!(readable.message().contains("exclusively used to delete corrupt object(s)"), "{readable:?}");
    admin.delete(&format!("{SECRETS}/nobody"), Some(&unsafely())).await.is(422);

    current.store(configuration(&provider("secretbox", "key1", 2)));
    let listed = admin.get(SECRETS).await.is(500);
    assert_eq!(listed.text("/reason"), "StorageReadError");
    assert_eq!(listed.message(), "failed to read one or more secrets from the storage");
    let causes = listed.at("/details/causes").as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    let keys = ["held", "lost"].map(|name| format!("/registry/core/secrets/default/{name}"));
    assert_eq!(fields, keys, "all of them");
    assert!(causes.iter().all(|cause| cause["reason"] == "UnexpectedServerResponse"), "{causes:?}");

    let held = format!("{SECRETS}/held");
    for lost in [admin.get(&held).await.is(500), admin.delete(&held, None).await.is(500)] {
        assert_eq!(lost.text("/reason"), "InternalError");
        let told = "Internal error occurred: StorageError: corrupt object, Code: 7, Key: ";
        assert!(lost.message().starts_with(told), "{}", lost.message());
        assert!(lost.message().contains("data from the storage is not transformable"), "{}", lost.message());
    }
    let rules = |verbs: Value| json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]);
    let deleter = world.granted("deleter", rules(json!(["delete", "deletecollection"]))).await;
    let refused = deleter.delete(&held, Some(&unsafely())).await.is(403);
    let told =
        "secrets \"held\" is forbidden: not permitted to do \"unsafe-delete-ignore-read-errors\", reason: ";
    assert!(refused.message().starts_with(told), "{}", refused.message());
    let refused = admin.delete(SECRETS, Some(&unsafely())).await.is(422);
    assert!(refused.message().contains("is not allowed with DELETECOLLECTION"), "{}", refused.message());

    let allowed = json!(["delete", "unsafe-delete-ignore-read-errors"]);
    let allowed = world.granted("allowed", rules(allowed)).await;
    let gone = allowed.delete(&held, Some(&unsafely())).await.is(200);
    assert_eq!(gone.at("/details"), &json!({"name": "held", "kind": "Secret"}));
    let by_query = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
    allowed.delete(&format!("{SECRETS}/lost?{by_query}"), None).await.is(200);
    admin.get(&held).await.is(404);
    assert!(admin.get(SECRETS).await.is(200).names().is_empty());
}

#[tokio::test]
async fn what_is_no_object_is_named_and_can_be_deleted() {
    let world = World::new().await;
    let admin = &world.admin;
    let maps = "/api/v1/namespaces/default/configmaps";
    admin.post(maps, &crate::world::config_map("good")).await.is(201);
    assert_eq!(admin.get(maps).await.is(200).names(), ["good"]);
    let mut watch = admin.watch(&format!("{maps}?watch=1")).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "good".into()));
    let key = "/registry/core/configmaps/default/bad";
    world.store.txn(store::Txn::of(vec![store::Op::put(key.to_owned(), "k8s\0v1ConfigMap")])).await.unwrap();
    assert_eq!(watch.next().await, None, "who watches hears of it by listing again");
    for path in [maps.to_owned(), format!("{maps}?limit=1&resourceVersion=0"), format!("{maps}?watch=1")] {
        let listed = admin.get(&path).await.is(500);
        assert_eq!(listed.text("/reason"), "StorageReadError", "{path}");
        assert_eq!(listed.text("/details/causes/0/field"), key, "{path}");
    }
    // It is told to those whom it concerns.
    assert_eq!(
        admin.get("/api/v1/namespaces/kube-system/configmaps?labelSelector=a=b").await.is(200).names().len(),
        0
    );
    admin.get(&format!("{maps}?fieldSelector=metadata.name=good")).await.is(200);
    admin.get("/api/v1/configmaps").await.is(500);
    let bad = format!("{maps}/bad");
    for lost in [admin.get(&bad).await.is(500), admin.delete(&bad, None).await.is(500)] {
        assert!(lost.message().contains("object not decodable revision="), "{}", lost.message());
    }
    admin.delete(&bad, Some(&unsafely())).await.is(200);
    assert_eq!(admin.get(maps).await.is(200).names(), ["good"]);
}

#[tokio::test]
async fn a_server_starts_and_works_beside_what_is_no_object_and_rids_itself_of_it() {
    let world = World::new().await;
    let damaged = [
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "/registry/apiextensions.k8s.io/customresourcedefinitions/bad",
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "flowschemas",
            "/registry/flowcontrol.apiserver.k8s.io/flowschemas/bad",
        ),
        (
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            "/registry/rbac.authorization.k8s.io/clusterrolebindings/bad",
        ),
        (
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            "/registry/admissionregistration.k8s.io/validatingwebhookconfigurations/bad",
        ),
    ];
    for (.., key) in damaged {
        world
            .store
            .txn(store::Txn::of(vec![store::Op::put(key.to_owned(), "[\"no object\"]")]))
            .await
            .unwrap();
    }
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]);
    let user = world.granted("writer", rules).await;
    user.post("/api/v1/namespaces/default/configmaps", &crate::world::config_map("a")).await.is(201);

    let (_server, admin) = crate::servers::another(&world).await;
    for (group, plural, key) in damaged {
        let path = format!("/apis/{group}/v1/{plural}");
        let listed = admin.get(&path).await.is(500);
        assert_eq!(listed.text("/details/causes/0/field"), key);
        admin.delete(&format!("{path}/bad"), Some(&unsafely())).await.is(200);
        admin.get(&path).await.is(200);
    }
}

#[tokio::test]
async fn probes_hear_of_a_plugin_that_does_not_answer() {
    let plugin = "{kms: {apiVersion: v2, name: k, endpoint: 'unix:///nowhere/kms.sock'}}";
    let current = Arc::new(ArcSwap::new(configuration(plugin)));
    let world = World::new().await;
    assert!(current.load().has_plugins());
    world.server.check_encryption(current.clone());
    for (path, code) in [
        ("/readyz/kms-providers", 500),
        ("/readyz", 500),
        ("/healthz", 500),
        ("/livez", 200),
        ("/livez/kms-providers", 404),
    ] {
        world.admin.get(path).await.is(code);
    }
    current.store(configuration(&provider("secretbox", "key1", 1)));
    for path in ["/readyz/kms-providers", "/readyz", "/healthz"] {
        world.admin.get(path).await.is(200);
    }
}
