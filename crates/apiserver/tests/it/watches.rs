//! Watches: where they start, what they see, how they end.

use serde_json::{Value, json};

use crate::world::{World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_starts_where_it_is_asked_to() {
    let world = World::new().await;
    let admin = &world.admin;
    let a = admin.post(MAPS, &config_map("a")).await.is(201);
    let revision = a.text("/metadata/resourceVersion");
    let mut all = admin.watch(&format!("{MAPS}?watch=1")).await;
    let mut after = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    admin.post(MAPS, &config_map("b")).await.is(201);
    admin.patch(&format!("{MAPS}/b"), "merge-patch+json", &json!({"data": {"k": "w"}})).await.is(200);
    admin.delete(&format!("{MAPS}/a"), None).await.is(200);
    let rest = [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")];
    assert_eq!(all.event().await, ("ADDED".into(), "a".into()));
    for watch in [&mut all, &mut after] {
        for (event, name) in rest {
            assert_eq!(watch.event().await, (event.into(), name.into()));
        }
    }
    // And again from the past, which is now in the cache's ring.
    let mut replay = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    for (event, name) in rest {
        assert_eq!(replay.event().await, (event.into(), name.into()));
    }
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(MAPS, &config_map("a")).await.is(201);
    let mut watch = admin.watch(&format!("{MAPS}?watch=1&labelSelector=color%3Dred")).await;
    for color in ["red", "blue"] {
        let patch = json!({"metadata": {"labels": {"color": color}}});
        admin.patch(&format!("{MAPS}/a"), "merge-patch+json", &patch).await.is(200);
    }
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["labels"]["color"], "red", "the last state that was selected");
}

#[tokio::test]
async fn a_kubelets_watch_sees_its_pods_only() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1";
    let mut watch = admin.watch(path).await;
    for (name, node) in [("other", "n2"), ("mine", "n1")] {
        let mut body = pod(name);
        body["spec"]["nodeName"] = node.into();
        admin.post("/api/v1/namespaces/default/pods", &body).await.is(201);
    }
    assert_eq!(watch.event().await, ("ADDED".into(), "mine".into()));
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark_and_goes_on() {
    let world = World::new().await;
    let admin = &world.admin;
    let a = admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = admin.watch(&path).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let revision = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    assert!(
        revision(&bookmark["object"]["metadata"]["resourceVersion"])
            >= revision(a.at("/metadata/resourceVersion"))
    );
    admin.post(MAPS, &config_map("b")).await.is(201);
    assert_eq!(watch.event().await, ("ADDED".into(), "b".into()));
    let refused = admin.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    refused.is(422);
}

#[tokio::test]
async fn a_bookmark_comes_in_the_form_of_what_is_before_it() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    for (form, kind, inner) in [
        ("", "ConfigMap", ""),
        (";as=Table;g=meta.k8s.io;v=v1", "Table", "/rows/0/object"),
        (";as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "PartialObjectMetadata", ""),
    ] {
        let mut watch = admin.watch_as(&path, &format!("application/json{form}")).await;
        assert_eq!(watch.next().await.unwrap()["object"]["kind"], kind);
        let bookmark = watch.next().await.unwrap();
        assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!(kind)));
        let metadata = &bookmark["object"].pointer(inner).unwrap()["metadata"];
        assert_eq!(metadata["annotations"], json!({"k8s.io/initial-events-end": "true"}), "{kind}");
        assert_eq!(metadata.get("creationTimestamp"), None, "{kind}");
        assert!(!metadata["resourceVersion"].as_str().unwrap().is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_with_a_bookmark() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.get(MAPS).await.is(200);
    let mut watch = admin
        .watch(&format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1&allowWatchBookmarks=1"))
        .await;
    let complete = watch.next().await.unwrap();
    assert_eq!(
        complete["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true",
        "{complete}"
    );
    // Moves the revision on, in another resource.
    admin.post("/api/v1/namespaces/default/pods", &pod("p")).await.is(201);
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_revision_that_is_too_old_is_told_in_the_stream() {
    let world = World::new().await;
    let admin = &world.admin;
    let made = admin.post(MAPS, &config_map("a")).await.is(201);
    let now = made.text("/metadata/resourceVersion").parse().unwrap();
    store::Store::compact(&*world.store, now).await.unwrap();
    let mut watch = admin.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let error = watch.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(error["object"]["code"], 410);
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(error["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn watches_come_as_tables_and_as_metadata() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!("{MAPS}?watch=1");
    let mut tables = admin.watch_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let mut partial =
        admin.watch_as(&path, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    admin.post(MAPS, &config_map("b")).await.is(201);
    let first = tables.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    let second = tables.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    let event = partial.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert!(event["object"].get("data").is_none());
}

#[tokio::test]
async fn a_watch_that_nobody_reads_does_not_hold_up_another() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(MAPS, &config_map("a")).await.is(201);
    let _stuck = admin.watch(&format!("{MAPS}?watch=1")).await;
    let mut good = admin.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(good.event().await, ("ADDED".into(), "a".into()));
    for at in 0..300 {
        let patch = json!({"data": {"k": at.to_string()}});
        admin.patch(&format!("{MAPS}/a"), "merge-patch+json", &patch).await.is(200);
        assert_eq!(good.next().await.unwrap()["object"]["data"]["k"], at.to_string());
    }
}

#[tokio::test]
async fn every_watch_ends_when_the_server_stops() {
    let world = World::new().await;
    let mut watch = world.admin.watch(&format!("{MAPS}?watch=1")).await;
    world.tasks.shutdown(std::time::Duration::from_secs(5)).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_server_that_drains_ends_watches_that_have_more_to_say() {
    let world = World::new().await;
    let admin = &world.admin;
    let first = admin.post(MAPS, &config_map("a")).await.is(201);
    let revision = first.text("/metadata/resourceVersion");
    let mut watch = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    for name in ["b", "c"] {
        admin.post(MAPS, &config_map(name)).await.is(201);
    }
    let server = world.server.server();
    server.hub.catch_up().await.unwrap();
    server.draining.cancel();
    assert_eq!(watch.next().await, None);
}
