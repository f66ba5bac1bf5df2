//! What is refused, and in which words.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::world::{World, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test]
async fn a_body_over_three_mebibytes_is_too_large() {
    let world = World::new().await;
    let body = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(3 * 1024 * 1024));
    let refused = world.admin.ask(Method::POST, MAPS, &JSON, body).await.is(413);
    assert_eq!(refused.text("/reason"), "RequestEntityTooLarge");
    assert_eq!(refused.message(), "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn endless_nesting_is_refused() {
    let world = World::new().await;
    for body in [
        "[".repeat(1_000_000),
        "{\"a\":".repeat(500_000),
        format!("{{\"metadata\":{}", "[".repeat(1_000_000)),
    ] {
        let refused = world.admin.ask(Method::POST, MAPS, &JSON, body).await.is(400);
        assert_eq!(refused.text("/reason"), "BadRequest");
    }
}

#[tokio::test]
async fn bad_names_are_invalid() {
    let world = World::new().await;
    let refused = world.admin.post(MAPS, &config_map("Not_A_Name")).await.is(422);
    assert_eq!(refused.text("/reason"), "Invalid");
    assert_eq!(refused.text("/details/causes/0/field"), "metadata.name");
    assert!(
        refused.message().starts_with("ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value")
    );
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let refused = world.admin.post(MAPS, &nameless).await.is(422);
    assert!(refused.message().contains("name or generateName is required"), "{}", refused.message());
}

#[tokio::test]
async fn what_is_no_object_of_the_path_is_refused() {
    let world = World::new().await;
    let admin = &world.admin;
    for (body, code) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("\"x\"", 400),
        (r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}"#, 400),
        (r#"{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"x"}}"#, 400),
        (r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"other"}}"#, 400),
        (r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"k":1}}"#, 400),
        (r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":7}"#, 400),
    ] {
        let refused = admin.ask(Method::POST, MAPS, &JSON, body).await;
        assert_eq!(refused.code, code, "{body}: {}", String::from_utf8_lossy(&refused.bytes));
        assert_eq!(refused.text("/kind"), "Status");
    }
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    admin.ask(Method::POST, MAPS, &protobuf, "no protobuf").await.is(400);
    let text = [("content-type", "text/plain")];
    admin.ask(Method::POST, MAPS, &text, "").await.is(415);
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let world = World::new().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "u"}, "dta": {}});
    let strict = world.admin.post(&format!("{MAPS}?fieldValidation=Strict"), &body).await.is(400);
    assert!(strict.message().contains("unknown field \"dta\""), "{}", strict.message());
    let warned = world.admin.post(&format!("{MAPS}?fieldValidation=Warn&dryRun=All"), &body).await.is(201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    let ignored = world.admin.post(&format!("{MAPS}?fieldValidation=Ignore"), &body).await.is(201);
    assert!(ignored.headers.get("warning").is_none());
    assert!(ignored.at("/dta").is_null());
    world.admin.post(&format!("{MAPS}?fieldValidation=Maybe"), &body).await.is(422);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_cannot_be_done_not_allowed() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(crate::custom::DEFINITIONS, &crate::custom::definition()).await.is(201);
    for path in [
        "/apis/apps/v1/nothings",
        "/apis/apps/v9/deployments",
        "/apis/apps/v9",
        "/apis/apiregistration.k8s.io/v1/nothings",
        "/api/v2/pods",
        "/api/v2",
        "/api/v1/namespaces/default/pods/x/nothing",
    ] {
        let missing = admin.get(path).await.is(404);
        assert_eq!(missing.text("/kind"), "Status", "{path}");
    }
    // What no group of the server's own has is nobody's.
    for path in [
        "/nothing",
        "/apis/nothing",
        "/apis/nothing/v1",
        "/apis/nothing/v1/bars",
        "/apis/example.com/v9",
        "/apis/example.com/v1/namespaces/default/nothings",
        "/apiss/apps/v1",
    ] {
        let missing = admin.get(path).await.is(404);
        assert_eq!(missing.bytes, "404 page not found\n", "{path}");
        assert_eq!(missing.headers["content-type"], "text/plain; charset=utf-8", "{path}");
        assert_eq!(missing.headers["x-content-type-options"], "nosniff", "{path}");
    }
    let map = format!("{MAPS}/a");
    for (method, path) in [
        ("POST", "/api/v1/pods"),
        ("PUT", MAPS),
        ("POST", map.as_str()),
        ("OPTIONS", map.as_str()),
        ("POST", "/api/v1/namespaces/default/pods/x/status"),
        ("DELETE", "/api/v1/namespaces"),
        ("DELETE", "/apis/apps/v1/namespaces/default/deployments/x/scale"),
        ("GET", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("BREW", MAPS),
    ] {
        let refused = admin.ask(method.parse().unwrap(), path, &JSON, "{}").await.is(405);
        let message = "the server does not allow this method on the requested resource";
        assert_eq!(refused.message(), message, "{method} {path}");
        assert_eq!(refused.text("/reason"), "MethodNotAllowed", "{method} {path}");
        assert_eq!(refused.at("/details"), &json!({}), "{method} {path}");
    }
    let mismatch = admin.put(&format!("{MAPS}/a"), &config_map("b")).await.is(400);
    assert_eq!(mismatch.message(), "the name of the object (b) does not match the name on the URL (a)");
}

#[tokio::test]
async fn a_body_of_another_kind_or_version_is_told_what_it_says_it_is() {
    let world = World::new().await;
    let admin = &world.admin;
    let scheme = "in scheme \"pkg/api/legacyscheme/scheme.go:30\"";
    for (media_type, body, said) in [
        (
            "json",
            r#"{"apiVersion":"v2","kind":"ConfigMap"}"#,
            format!(
                "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for \
                 version \"v2\" {scheme}"
            ),
        ),
        (
            "json",
            r#"{"apiVersion":"apps/v1","kind":"Nothing"}"#,
            format!(
                "Nothing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nothing\" is registered for \
                 version \"apps/v1\" {scheme}"
            ),
        ),
        ("yaml", "- a\n- b\n", "couldn't get version/kind; json parse error: ".to_owned()),
        ("json", r#"["a","b"]"#, "couldn't get version/kind; json parse error: ".to_owned()),
    ] {
        let media_type = format!("application/{media_type}");
        let answer = admin.ask(Method::POST, MAPS, &[("content-type", &media_type)], body).await.is(400);
        assert!(answer.message().contains(&said), "{body}: {}", answer.message());
    }
    // A version that there is, but not here.
    let scaler = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let other = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"});
    assert_eq!(
        admin.post(scaler, &other).await.is(400).message(),
        "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
    );
    // A patch that leaves something else is one that does not fit.
    admin.post(MAPS, &config_map("a")).await.is(201);
    let patch = json!({"kind": "Foo"});
    let refused = admin.patch(&format!("{MAPS}/a"), "merge-patch+json", &patch).await.is(422);
    assert!(
        refused.message().ends_with(&format!("no kind \"Foo\" is registered for version \"v1\" {scheme}")),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn who_may_not_is_forbidden_and_hears_why() {
    let world = World::new().await;
    let bob = world.user("bob", &[]);
    let refused = bob.get(MAPS).await.is(403);
    assert_eq!(refused.text("/reason"), "Forbidden");
    assert_eq!(
        refused.message(),
        "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    // Impersonation needs permission too, and gives the other's rights.
    let as_bob = [("impersonate-user", "bob")];
    world.admin.ask(Method::GET, MAPS, &as_bob, Bytes::new()).await.is(403);
    let as_admin = [("impersonate-user", "admin"), ("impersonate-group", "system:masters")];
    let refused = bob.ask(Method::GET, MAPS, &as_admin, Bytes::new()).await.is(403);
    let first = "cannot impersonate-on:user-info:list resource \"configmaps\"";
    assert!(refused.message().contains(first), "{}", refused.message());
}

#[tokio::test]
async fn a_path_cannot_leave_its_place() {
    let world = World::new().await;
    for path in [
        "/api/v1/namespaces/default/configmaps/..%2f..%2fsecrets",
        "/api/v1/namespaces/%00/pods",
        "//api//v1",
    ] {
        let answer = world.admin.get(path).await;
        assert!(matches!(answer.code, 200 | 400 | 404), "{path}: {}", answer.code);
        assert_ne!(answer.text("/kind"), "SecretList");
    }
}

#[tokio::test]
async fn a_patch_that_leaves_no_object_is_refused() {
    let world = World::new().await;
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    for value in [json!([]), json!("x"), json!(7), json!(null)] {
        let patch = json!([{"op": "replace", "path": "", "value": value}]);
        let refused = world.admin.patch(&format!("{MAPS}/a"), "json-patch+json", &patch).await;
        assert!((400..500).contains(&refused.code), "{value}: {refused:?}");
    }
}

#[tokio::test]
async fn options_of_a_deletion_that_are_none_delete_nothing() {
    let world = World::new().await;
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!("{MAPS}/a");
    for options in [
        json!({"dryRun": "All"}),
        json!({"preconditions": {"uid": 7}}),
        json!({"preconditions": "x"}),
        json!({"gracePeriodSeconds": "0"}),
    ] {
        world.admin.delete(&path, Some(&options)).await.is(400);
    }
    world.admin.get(&path).await.is(200);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    world.admin.delete(&path, Some(&options)).await.is(200);
}

#[tokio::test]
async fn long_sets_and_many_managers_are_merged_in_one_go() {
    let world = World::new().await;
    let finalizers: Vec<String> = (0..60_000).map(|index| format!("a/{index}")).collect();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(finalizers);
    let apply = world.admin.patch(&format!("{MAPS}/a?fieldManager=m"), "apply-patch+yaml", &object).await;
    assert!(apply.code < 500, "{}", apply.code);
    let entry = |index: usize| {
        json!({"manager": format!("m{index}"), "operation": "Update", "apiVersion": "x/v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}}}})
    };
    let mut object = config_map("b");
    object["metadata"]["managedFields"] = (0..15_000).map(entry).collect();
    let made = world.admin.post(MAPS, &object).await.is(201);
    assert!(made.at("/metadata/managedFields").as_array().unwrap().len() < 20);
}
