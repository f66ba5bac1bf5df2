//! Lists: selectors, pieces, resourceVersions, forms.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::world::{World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(names: &[&str]) -> World {
    let world = World::new().await;
    for name in names {
        let mut body = config_map(name);
        body["metadata"]["labels"] = json!({"name": name});
        world.admin.post(MAPS, &body).await.is(201);
    }
    world
}

#[tokio::test]
async fn a_list_sees_every_write_before_it() {
    let world = World::new().await;
    for at in 0..50 {
        let name = format!("m{at}");
        let created = world.admin.post(MAPS, &config_map(&name)).await.is(201);
        let list = world.admin.get(MAPS).await.is(200);
        assert_eq!(list.names().len(), at + 1);
        assert_eq!(list.text("/metadata/resourceVersion"), created.text("/metadata/resourceVersion"));
    }
}

#[tokio::test]
async fn selectors_narrow_a_list() {
    let world = with_maps(&["a", "b", "c"]).await;
    for (query, names) in [
        ("labelSelector=name%3Da", &["a"][..]),
        ("labelSelector=name%20in%20(a,c)", &["a", "c"]),
        ("labelSelector=name!=a", &["b", "c"]),
        ("fieldSelector=metadata.name%3Db", &["b"]),
        ("fieldSelector=metadata.namespace%3Dother", &[]),
    ] {
        assert_eq!(world.admin.get(&format!("{MAPS}?{query}")).await.is(200).names(), names, "{query}");
    }
    let unknown = world.admin.get(&format!("{MAPS}?fieldSelector=data.k%3Dv")).await.is(400);
    assert_eq!(
        unknown.message(),
        "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    world.admin.get(&format!("{MAPS}?labelSelector=a%3D%3D%3Db")).await.is(400);
}

#[tokio::test]
async fn pods_are_found_by_node() {
    let world = World::new().await;
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        let mut body = pod(name);
        body["spec"]["nodeName"] = node.into();
        world.admin.post("/api/v1/namespaces/default/pods", &body).await.is(201);
    }
    let list = world.admin.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.is(200);
    assert_eq!(list.names(), ["a", "c"]);
    let none = world.admin.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn3").await.is(200);
    assert_eq!(none.at("/items"), &json!([]));
    for (selector, expected) in [
        ("spec.host%3Dn1", &["a", "c"][..]),
        ("spec.host%3Dn1,metadata.name!%3Da", &["c"]),
        // Taken, and of no object.
        ("status.podIPs%3D10.0.0.1", &[]),
        ("status.podIPs%3D,spec.host!%3Dn1", &["b"]),
        ("status.podIPs!%3D10.0.0.1", &["a", "b", "c"]),
    ] {
        let list = world.admin.get(&format!("/api/v1/pods?fieldSelector={selector}")).await.is(200);
        assert_eq!(list.names(), expected, "{selector}");
    }
    world.admin.get("/api/v1/pods?fieldSelector=spec.hosts%3Dn1").await.is(400);
}

#[tokio::test]
async fn pieces_of_a_list_are_of_one_revision() {
    let world = with_maps(&["a", "b", "c", "d"]).await;
    let first = world.admin.get(&format!("{MAPS}?limit=2")).await.is(200);
    assert_eq!(first.names(), ["a", "b"]);
    assert_eq!(first.at("/metadata/remainingItemCount"), 2);
    world.admin.delete(&format!("{MAPS}/c"), None).await.is(200);
    world.admin.post(MAPS, &config_map("e")).await.is(201);
    let token = first.text("/metadata/continue");
    let second = world.admin.get(&format!("{MAPS}?limit=10&continue={token}")).await.is(200);
    assert_eq!(second.names(), ["c", "d"]);
    assert_eq!(second.text("/metadata/resourceVersion"), first.text("/metadata/resourceVersion"));
    assert_eq!(second.text("/metadata/continue"), "");
    let both = format!("{MAPS}?continue={token}&resourceVersion=5");
    assert_eq!(
        world.admin.get(&both).await.is(400).message(),
        "specifying resource version is not allowed when using continue"
    );
    world.admin.get(&format!("{MAPS}?continue=garbage")).await.is(400);
}

#[tokio::test]
async fn a_token_of_a_compacted_revision_is_expired_and_offers_another() {
    let world = with_maps(&["a", "b", "c"]).await;
    let first = world.admin.get(&format!("{MAPS}?limit=1")).await.is(200);
    world.admin.delete(&format!("{MAPS}/b"), None).await.is(200);
    let now = world.admin.get(MAPS).await.is(200).text("/metadata/resourceVersion").parse().unwrap();
    store::Store::compact(&*world.store, now).await.unwrap();
    let token = first.text("/metadata/continue");
    let expired = world.admin.get(&format!("{MAPS}?limit=1&continue={token}")).await.is(410);
    assert_eq!(expired.text("/reason"), "Expired");
    let other = expired.text("/metadata/continue");
    assert_eq!(world.admin.get(&format!("{MAPS}?continue={other}")).await.is(200).names(), ["c"]);
}

#[tokio::test]
async fn resource_versions_mean_what_upstream_says() {
    let world = with_maps(&["a", "b"]).await;
    let old = world.admin.get(&format!("{MAPS}/a")).await.is(200);
    let old = old.text("/metadata/resourceVersion");
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(world.admin.get(&exact).await.is(200).names(), ["a"]);
    let not_older = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=NotOlderThan");
    assert_eq!(world.admin.get(&not_older).await.is(200).names(), ["a", "b"]);
    world.admin.get(&format!("{MAPS}?resourceVersion=0")).await.is(200);
    for bad in ["resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Exact"] {
        world.admin.get(&format!("{MAPS}?{bad}")).await.is(422);
    }
    world.admin.get(&format!("{MAPS}?resourceVersion=x")).await.is(400);
    let future = world.admin.get(&format!("{MAPS}?resourceVersion=99999999")).await.is(504);
    assert!(future.message().starts_with("Too large resource version: 99999999, current: "));
    assert_eq!(future.text("/details/causes/0/reason"), "ResourceVersionTooLarge");
}

#[tokio::test]
async fn tables_and_partial_metadata_come_by_accept() {
    let world = with_maps(&["a"]).await;
    let ask = |accept: &'static str, path: &'static str| {
        let admin = &world.admin;
        async move { admin.ask(Method::GET, path, &[("accept", accept)], Bytes::new()).await.is(200) }
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", MAPS).await;
    assert_eq!(table.text("/kind"), "Table");
    assert_eq!(table.text("/columnDefinitions/0/name"), "Name");
    assert_eq!(table.text("/rows/0/cells/0"), "a");
    assert_eq!(table.text("/rows/0/object/kind"), "PartialObjectMetadata");
    let columns = table.at("/columnDefinitions").as_array().unwrap().len();
    assert_eq!(table.at("/rows/0/cells").as_array().unwrap().len(), columns);
    let partial = ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", MAPS).await;
    assert_eq!(partial.text("/kind"), "PartialObjectMetadataList");
    assert_eq!(partial.text("/items/0/metadata/labels/name"), "a");
    assert!(partial.at("/items/0/data").is_null());
    let refused = world.admin.ask(Method::GET, MAPS, &[("accept", "text/html")], Bytes::new()).await;
    assert_eq!(refused.is(406).text("/reason"), "NotAcceptable");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let world = with_maps(&["a", "b", "c"]).await;
    let deleted = world.admin.delete(&format!("{MAPS}?labelSelector=name!=b"), None).await.is(200);
    assert_eq!(deleted.names(), ["a", "c"]);
    assert_eq!(world.admin.get(MAPS).await.is(200).names(), ["b"]);
}

#[tokio::test]
async fn a_list_of_the_past_in_one_namespace_counts_that_namespace_only() {
    let world = World::new().await;
    let admin = &world.admin;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "zoo"}});
    admin.post("/api/v1/namespaces", &namespace).await.is(201);
    let mut revision = String::new();
    for (namespace, name) in [("default", "a"), ("default", "b"), ("default", "c"), ("zoo", "d")] {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let made = admin.post(&path, &crate::world::config_map(name)).await.is(201);
        revision = made.text("/metadata/resourceVersion").to_owned();
    }
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut path = format!("{maps}?limit=1&resourceVersionMatch=Exact&resourceVersion={revision}");
    let mut seen = Vec::new();
    for left in [json!(2), json!(1), Value::Null] {
        let piece = admin.get(&path).await.is(200);
        assert_eq!(piece.at("/metadata/remainingItemCount"), &left);
        seen.extend(piece.names().into_iter().map(str::to_owned));
        path = format!("{maps}?limit=1&continue={}", piece.text("/metadata/continue"));
    }
    assert_eq!(seen, ["a", "b", "c"]);
    assert!(path.ends_with('='), "the list ends with its namespace");
    // A token leads nowhere but into the namespace of the path.
    let all = format!("/api/v1/configmaps?limit=3&resourceVersionMatch=Exact&resourceVersion={revision}");
    let token = admin.get(&all).await.is(200).text("/metadata/continue").to_owned();
    let other = admin.get(&format!("/api/v1/namespaces/zoo/configmaps?continue={token}")).await.is(200);
    assert_eq!(other.names(), ["d"]);
    let none = admin.get(&format!("{maps}?continue={token}")).await.is(200);
    assert_eq!(none.names(), Vec::<&str>::new());
}

#[tokio::test]
async fn the_old_versions_of_tables_and_partial_metadata_are_served_too() {
    let world = with_maps(&["a"]).await;
    let ask = async |form: &str, path: &str| {
        let accept = format!("application/json;as={form};v=v1beta1;g=meta.k8s.io");
        world.admin.ask(Method::GET, path, &[("accept", &accept)], Bytes::new()).await.is(200)
    };
    let table = ask("Table", MAPS).await;
    assert_eq!([table.text("/kind"), table.text("/apiVersion")], ["Table", "meta.k8s.io/v1beta1"]);
    assert_eq!(table.text("/rows/0/object/apiVersion"), "meta.k8s.io/v1beta1");
    let list = ask("PartialObjectMetadataList", MAPS).await;
    assert_eq!(
        [list.text("/kind"), list.text("/apiVersion")],
        ["PartialObjectMetadataList", "meta.k8s.io/v1beta1"]
    );
    let one = ask("PartialObjectMetadata", &format!("{MAPS}/a")).await;
    assert_eq!(
        [one.text("/kind"), one.text("/apiVersion")],
        ["PartialObjectMetadata", "meta.k8s.io/v1beta1"]
    );
    assert_eq!((one.text("/metadata/name"), one.at("/data")), ("a", &serde_json::Value::Null));
}

#[tokio::test]
async fn a_list_and_an_object_are_not_taken_for_each_other() {
    let world = with_maps(&["a"]).await;
    for (form, path, message) in [
        ("PartialObjectMetadata", MAPS.to_owned(), "is a list (*core.ConfigMapList)"),
        ("PartialObjectMetadataList", format!("{MAPS}/a"), "is not a list (*core.ConfigMap)"),
    ] {
        let accept = format!("application/json;as={form};v=v1;g=meta.k8s.io,application/json");
        let refused = world.admin.ask(Method::GET, &path, &[("accept", &accept)], Bytes::new()).await.is(406);
        let message = format!("you requested {form}, but the requested object {message}");
        assert_eq!([refused.text("/reason"), refused.text("/message")], ["NotAcceptable", &message]);
    }
}

#[tokio::test]
async fn answers_are_indented_for_who_asks_for_it_or_is_a_person() {
    let world = with_maps(&["a"]).await;
    let one = format!("{MAPS}/a");
    for (query, agent, indented) in [
        ("", "kubectl/v1.37", false),
        ("", "curl/8", true),
        ("", "Mozilla/5.0 (X11)", true),
        ("?pretty=true", "kubectl/v1.37", true),
        ("?pretty=1", "kubectl/v1.37", true),
        ("?pretty=false", "curl/8", false),
        ("?pretty=0", "curl/8", false),
    ] {
        let headers = [("user-agent", agent)];
        let answer =
            world.admin.ask(Method::GET, &format!("{one}{query}"), &headers, Bytes::new()).await.is(200);
        let is_indented = answer.bytes.starts_with(b"{\n  \"");
        assert_eq!(is_indented, indented, "{query} {agent}");
    }
}

/// Who deletes what a list finds deletes that, and nothing more: a piece where they ask for a piece, and nothing where what
/// they ask for is no more.
#[tokio::test]
async fn a_collection_is_deleted_in_the_pieces_that_are_asked_for() {
    let world = with_maps(&["a", "b", "c", "d", "e"]).await;
    let admin = &world.admin;
    let left = async || {
        let list = admin.get(MAPS).await.is(200);
        list.names().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let first = admin.delete(&format!("{MAPS}?limit=2"), None).await.is(200);
    assert_eq!(first.names(), ["a", "b"]);
    assert_eq!(first.at("/metadata/remainingItemCount"), 3);
    assert_eq!(left().await, ["c", "d", "e"]);

    // The next piece is of the same revision as the first: what came later is not meant.
    admin.post(MAPS, &config_map("f")).await.is(201);
    let token = first.text("/metadata/continue");
    let second = admin.delete(&format!("{MAPS}?limit=2&continue={token}"), None).await.is(200);
    assert_eq!(second.names(), ["c", "d"]);
    let token = second.text("/metadata/continue");
    let last = admin.delete(&format!("{MAPS}?continue={token}"), None).await.is(200);
    assert_eq!((last.names(), last.text("/metadata/continue")), (vec!["e"], ""));
    assert_eq!(left().await, ["f"]);

    // With a selector the piece is one of what it selects, and what is left is not counted.
    for name in ["g", "h", "i"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"z": "1"});
        admin.post(MAPS, &map).await.is(201);
    }
    let some = admin.delete(&format!("{MAPS}?labelSelector=z%3D1&limit=1"), None).await.is(200);
    assert_eq!(some.names(), ["g"]);
    assert!(!some.text("/metadata/continue").is_empty());
    assert_eq!(some.at("/metadata/remainingItemCount"), &Value::Null);
    assert_eq!(left().await, ["f", "h", "i"]);

    // As of a revision: what was there then. A resourceVersion alone means the same here.
    let revision = admin.get(MAPS).await.is(200).text("/metadata/resourceVersion").to_owned();
    admin.post(MAPS, &config_map("later")).await.is(201);
    let then = format!("{MAPS}?resourceVersion={revision}");
    let none = admin.delete(&format!("{then}&fieldSelector=metadata.name%3Dlater"), None).await.is(200);
    assert_eq!(none.at("/items"), &json!([]));
    let then = admin.delete(&format!("{then}&resourceVersionMatch=Exact"), None).await.is(200);
    assert_eq!(then.names(), ["f", "h", "i"]);
    assert_eq!(left().await, ["later"]);

    // What is no more, or cannot be, deletes nothing.
    let now = admin.get(MAPS).await.is(200).text("/metadata/resourceVersion").parse().unwrap();
    store::Store::compact(&*world.store, now).await.unwrap();
    for (query, code) in [
        (format!("resourceVersion={revision}&resourceVersionMatch=Exact"), 410),
        (format!("limit=2&continue={token}"), 410),
        ("resourceVersionMatch=Exact".to_owned(), 422),
        ("continue=%21%21".to_owned(), 400),
        ("limit=x".to_owned(), 400),
    ] {
        admin.delete(&format!("{MAPS}?{query}"), None).await.is(code);
    }
    assert_eq!(left().await, ["later"]);
    assert_eq!(admin.delete(MAPS, None).await.is(200).names(), ["later"]);
}
