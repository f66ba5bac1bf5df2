//! Protobuf, CBOR and gzip: requests, answers, lists, watches, errors.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http::Method;
use schema::{Schema, cbor, protobuf};
use serde_json::{Value, json};

use crate::custom::{DEFINITIONS, definition};
use crate::world::{Answer, User_, Watch, World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn get(user: &User_, path: &str, accept: &str) -> Answer {
    user.ask(Method::GET, path, &[("accept", accept)], Bytes::new()).await
}

fn kind(definition: &str) -> Schema {
    Schema::built_in(definition).unwrap()
}

fn content_type(answer: &Answer) -> &str {
    answer.headers["content-type"].to_str().unwrap()
}

#[tokio::test]
async fn protobuf_is_read_and_written() {
    let world = World::new().await;
    let admin = &world.admin;
    let map = kind("io.k8s.api.core.v1.ConfigMap");
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let body = protobuf::encode(&config_map("a"), &map).unwrap();
    let made = admin.ask(Method::POST, MAPS, &headers, body).await.is(201);
    assert_eq!(content_type(&made), PROTOBUF);
    let made = protobuf::decode(&made.bytes, &map).unwrap();
    let path = format!("{MAPS}/a");
    assert_eq!(admin.get(&path).await.is(200).body, made, "the same in every encoding");

    let list = get(admin, MAPS, "application/vnd.kubernetes.protobuf,application/json").await.is(200);
    let list = protobuf::decode(&list.bytes, &kind("io.k8s.api.core.v1.ConfigMapList")).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert!(list["items"].as_array().unwrap().iter().any(|item| item["data"]["k"] == "v"), "{list}");
    assert!(list["metadata"]["resourceVersion"].is_string());

    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let partial = get(admin, MAPS, &partial).await.is(200);
    let meta = kind("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList");
    let partial = protobuf::decode(&partial.bytes, &meta).unwrap();
    assert_eq!(
        (&partial["kind"], &partial["items"][0]["data"]),
        (&json!("PartialObjectMetadataList"), &Value::Null)
    );

    let missing = get(admin, &format!("{MAPS}/none"), PROTOBUF).await.is(404);
    let status = kind("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    let status = protobuf::decode(&missing.bytes, &status).unwrap();
    assert_eq!(status["message"], "configmaps \"none\" not found");

    let table = get(admin, MAPS, &format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")).await.is(406);
    assert!(
        String::from_utf8_lossy(&table.bytes).contains("only the following media types are accepted"),
        "{table:?}"
    );
    let garbage = admin.ask(Method::POST, MAPS, &headers, "k8s\0\u{7f}").await.is(400);
    assert_eq!(content_type(&garbage), PROTOBUF);
}

#[tokio::test]
async fn scales_statuses_and_pods_have_protobuf_forms() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post("/api/v1/namespaces/default/pods", &pod("p")).await.is(201);
    let got = get(admin, "/api/v1/namespaces/default/pods/p", PROTOBUF).await.is(200);
    let decoded = protobuf::decode(&got.bytes, &kind("io.k8s.api.core.v1.Pod")).unwrap();
    let json = admin.get("/api/v1/namespaces/default/pods/p").await.is(200).body;
    assert_eq!(decoded["spec"], json["spec"]);
    assert_eq!(decoded["metadata"], json["metadata"]);
    let options = protobuf::encode(
        &json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}),
        &kind("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
    );
    let headers = [("content-type", PROTOBUF)];
    let path = "/api/v1/namespaces/default/pods/p";
    admin.ask(Method::DELETE, path, &headers, options.unwrap()).await.is(200);
    admin.get(path).await.is(404);
}

#[tokio::test]
async fn watches_are_framed_by_length() {
    let world = World::new().await;
    let admin = &world.admin;
    let newest = admin.get(MAPS).await.text("/metadata/resourceVersion").to_owned();
    let path = format!("{MAPS}?watch=1&resourceVersion={newest}");
    let mut watches = [admin.watch_as(&path, PROTOBUF).await, admin.watch_as(&path, PROTOBUF).await];
    let mut sequence = admin.watch_as(&path, "application/cbor-seq").await;
    let made = admin.post(MAPS, &config_map("w")).await.is(201).body;
    for watch in &mut watches {
        let length = watch.bytes(4).await;
        let length = u32::from_be_bytes(length[..].try_into().unwrap());
        let frame = watch.bytes(usize::try_from(length).unwrap()).await;
        assert_eq!(&frame[..7], b"\x0a\x05ADDED");
        let at = frame.windows(4).position(|four| four == b"k8s\0").unwrap();
        let object = protobuf::decode(&frame[at..], &kind("io.k8s.api.core.v1.ConfigMap")).unwrap();
        assert_eq!(object, made);
    }
    let item = cbor::decode(&sequence.frame().await).unwrap();
    assert_eq!(item, json!({"type": "ADDED", "object": made}));
    let yaml = get(admin, &path, "application/yaml").await.is(406);
    assert!(yaml.message().contains("application/json;stream=watch"), "{yaml:?}");
}

#[tokio::test]
async fn cbor_is_read_and_written() {
    let world = World::new().await;
    let admin = &world.admin;
    let headers = [("content-type", "application/cbor"), ("accept", "application/cbor")];
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AP8="}});
    let body = cbor::encode(&secret, Some(&kind("io.k8s.api.core.v1.Secret")));
    let path = "/api/v1/namespaces/default/secrets";
    let made = admin.ask(Method::POST, path, &headers, body).await.is(201);
    assert_eq!(content_type(&made), "application/cbor");
    assert!(made.bytes.windows(4).any(|four| four == [0xd6, 0x42, 0x00, 0xff]), "bytes are bytes");
    assert_eq!(cbor::decode(&made.bytes).unwrap()["data"], secret["data"]);
    let list = get(admin, path, "application/cbor").await.is(200);
    assert_eq!(cbor::decode(&list.bytes).unwrap()["items"][0]["data"], secret["data"]);
    let config =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"l": "x"}});
    let apply = [("content-type", "application/apply-patch+cbor")];
    let path = format!("{path}/s?fieldManager=m");
    let applied = admin.ask(Method::PATCH, &path, &apply, cbor::encode(&config, None)).await.is(200);
    assert_eq!(applied.text("/data/l"), "eA==");
    admin.ask(Method::PATCH, &path, &apply, vec![0x9f]).await.is(400);
}

#[tokio::test]
async fn custom_resources_have_no_protobuf_form() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let path = "/apis/example.com/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"size": 1}});
    admin.post(path, &thing).await.is(201);
    get(admin, path, PROTOBUF).await.is(406);
    let list = get(admin, path, "application/vnd.kubernetes.protobuf,application/json").await.is(200);
    assert_eq!(content_type(&list), "application/json");
    get(admin, path, &format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).await.is(200);
    let cbor = get(admin, path, "application/cbor").await.is(200);
    assert_eq!(cbor::decode(&cbor.bytes).unwrap()["items"][0]["spec"]["size"], 1);
    let body = [("content-type", PROTOBUF)];
    admin.ask(Method::POST, path, &body, "k8s\0").await.is(415);
    // The definition itself is a built-in kind.
    let crd = get(admin, &format!("{DEFINITIONS}/things.example.com"), PROTOBUF).await.is(200);
    let crd_kind = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
    let decoded = protobuf::decode(&crd.bytes, &kind(crd_kind)).unwrap();
    let json = admin.get(&format!("{DEFINITIONS}/things.example.com")).await.body;
    assert_eq!(decoded["spec"]["versions"][0]["schema"], json["spec"]["versions"][0]["schema"]);
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_it() {
    let world = World::new().await;
    let admin = &world.admin;
    let mut large = config_map("large");
    large["data"]["k"] = "x".repeat(200_000).into();
    admin.post(MAPS, &large).await.is(201);
    let gzip = [("accept-encoding", "deflate, gzip;q=1.0")];
    for path in [format!("{MAPS}/large"), MAPS.to_owned()] {
        let plain = admin.get(&path).await.is(200);
        assert!(!plain.headers.contains_key("content-encoding"));
        let small = admin.ask(Method::GET, &path, &gzip, Bytes::new()).await.is(200);
        assert_eq!(small.headers["content-encoding"], "gzip");
        assert!(small.bytes.len() < 10_000, "{}", small.bytes.len());
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(&small.bytes[..]).read_to_end(&mut body).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), plain.body);
    }
    let little = admin.ask(Method::GET, "/api/v1/namespaces", &gzip, Bytes::new()).await.is(200);
    assert!(!little.headers.contains_key("content-encoding"), "below 128 KiB it is not worth it");
}

/// What a watch sends, for a client that takes gzip, until `last` was seen; `None` if it is not compressed.
async fn unpacked(admin: &User_, path: &str, last: &str) -> Option<Vec<Value>> {
    let request = http::Request::builder().uri(path).header("accept-encoding", "gzip").body(Bytes::new());
    let response = admin.send(request.unwrap()).await;
    assert_eq!(response.status(), 200, "{path}");
    let coding = response.headers().get("content-encoding")?;
    assert_eq!([coding, &response.headers()["vary"]], ["gzip", "Accept-Encoding"]);
    let mut watch = Watch::of(response.into_body());
    let (mut read, mut out) = (Vec::new(), flate2::write::GzDecoder::new(Vec::new()));
    loop {
        read.extend_from_slice(&watch.frame().await);
        out.write_all(&read).unwrap();
        read.clear();
        out.flush().unwrap();
        let text = String::from_utf8(out.get_ref().clone()).unwrap();
        if text.contains(last) {
            return Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
        }
    }
}

#[tokio::test]
async fn watches_that_begin_with_a_list_are_compressed_for_who_takes_it() {
    let world = World::new().await;
    let admin = &world.admin;
    for name in ["a", "b"] {
        admin.post(MAPS, &config_map(name)).await.is(201);
    }
    let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for query in [list, "allowWatchBookmarks=true", "allowWatchBookmarks=true&resourceVersion=0"] {
        let path = format!("{MAPS}?watch=1&{query}");
        let events = unpacked(admin, &path, "initial-events-end").await.unwrap_or_else(|| panic!("{query}"));
        let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["ADDED", "ADDED", "BOOKMARK"], "{query}");
    }
    for query in [
        "",
        "resourceVersion=1&allowWatchBookmarks=true",
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
    ] {
        assert_eq!(unpacked(admin, &format!("{MAPS}?watch=1&{query}"), "").await, None, "{query}");
    }
}
