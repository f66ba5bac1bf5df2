//! test/e2e/apimachinery/flowcontrol.go

use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::lifecycle::Kind;
use crate::world::{World, config_map};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Conformance: [sig-api-machinery] API priority and fairness should support FlowSchema API operations [Conformance]
#[tokio::test]
async fn should_support_flow_schema_api_operations() {
    let world = World::new().await;
    let status = json!({"status": {"conditions": [{
        "type": "E2E", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    let kind = Kind {
        group: GROUP,
        version: "v1",
        resource: "flowschemas",
        namespace: "",
        body: json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
            "spec": {
                "matchingPrecedence": 10_000, "priorityLevelConfiguration": {"name": "global-default"},
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                }],
            },
        }),
        status: None,
    };
    let admin = &world.admin;
    let resources = admin.get(&format!("/apis/{GROUP}/v1")).await.is(200);
    let names: Vec<_> =
        resources.at("/resources").as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"flowschemas") && names.contains(&"flowschemas/status"), "{names:?}");
    admin.post(&kind.path(), &kind.object("one")).await.is(201);
    let one = format!("{}/one", kind.path());
    // The server adds its own condition; the test's writes come after it.
    let mut watch =
        admin.watch(&format!("{}?watch=true&fieldSelector=metadata.name%3Done", kind.path())).await;
    while watch.next().await.unwrap()["object"]["status"]["conditions"][0]["type"] != "Dangling" {}
    let patch =
        json!({"metadata": {"annotations": {"patched": "true"}}, "spec": {"matchingPrecedence": 9999}});
    let patched = admin.patch(&one, "merge-patch+json", &patch).await.is(200);
    assert_eq!(patched.at("/spec/matchingPrecedence"), 9999);
    assert_eq!(patched.at("/metadata/generation"), 2);
    let mut updated = patched.body.clone();
    updated["spec"]["matchingPrecedence"] = 10_000.into();
    updated["metadata"]["annotations"]["updated"] = "true".into();
    assert_eq!(admin.put(&one, &updated).await.is(200).at("/spec/matchingPrecedence"), 10_000);
    let status_path = format!("{one}/status");
    let patched = admin.patch(&status_path, "strategic-merge-patch+json", &status).await.is(200);
    let types = |answer: &crate::world::Answer| -> Vec<String> {
        let conditions = answer.at("/status/conditions").as_array().cloned().unwrap_or_default();
        conditions.iter().filter_map(|c| c["type"].as_str().map(str::to_owned)).collect()
    };
    assert!(types(&patched).contains(&"E2E".to_owned()), "{patched:?}");
    let mut update = admin.get(&status_path).await.is(200).body;
    update["status"]["conditions"].as_array_mut().unwrap().push(json!({
        "type": "E2E2", "status": "False", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }));
    assert!(types(&admin.put(&status_path, &update).await.is(200)).contains(&"E2E2".to_owned()));
    for name in ["two", "three"] {
        admin.post(&kind.path(), &kind.object(name)).await.is(201);
    }
    admin.delete(&one, None).await.is(200);
    admin.get(&one).await.is(404);
    let selected = format!("{}?labelSelector=e2e%3Dlifecycle", kind.path());
    assert_eq!(admin.get(&selected).await.is(200).names(), ["three", "two"]);
    admin.delete(&selected, None).await.is(200);
    assert!(admin.get(&selected).await.is(200).names().is_empty());
}

/// Conformance: [sig-api-machinery] API priority and fairness should support PriorityLevelConfiguration API operations [Conformance]
#[tokio::test]
async fn should_support_priority_level_configuration_api_operations() {
    let world = World::new().await;
    let status = json!({"status": {"conditions": [{
        "type": "E2E", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    let kind = Kind {
        group: GROUP,
        version: "v1",
        resource: "prioritylevelconfigurations",
        namespace: "",
        body: json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"},
            }},
        }),
        status: Some((status, "/status/conditions/0/type")),
    };
    kind.run(&world).await;
}

#[tokio::test]
async fn answers_say_what_they_were_matched_with() {
    let world = World::new().await;
    let bob = world.user("bob", &[]);
    let answer = bob.get("/api/v1/pods").await.is(403);
    let uid = |kind: &str, name: &str| format!("/apis/{GROUP}/v1/{kind}/{name}");
    let schema = world.admin.get(&uid("flowschemas", "global-default")).await.is(200);
    let level = world.admin.get(&uid("prioritylevelconfigurations", "global-default")).await.is(200);
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], schema.text("/metadata/uid"));
    assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], level.text("/metadata/uid"));
    assert_eq!(schema.text("/status/conditions/0/reason"), "Found");
    let metrics = world.admin.get("/metrics").await.is(200);
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(
        metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245")
    );
}

#[tokio::test]
async fn a_level_without_seats_answers_429() {
    let world = World::new().await;
    let admin = &world.admin;
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "nothing"},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
        }},
    });
    admin.post(&format!("/apis/{GROUP}/v1/prioritylevelconfigurations"), &level).await.is(201);
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "bob"},
        "spec": {"matchingPrecedence": 3, "priorityLevelConfiguration": {"name": "nothing"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "bob"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        }]},
    });
    let schemas = format!("/apis/{GROUP}/v1/flowschemas");
    admin.post(&schemas, &schema).await.is(201);
    // The condition is written as the last step before the schema is in force.
    let mut watch = admin.watch(&format!("{schemas}?watch=true&fieldSelector=metadata.name%3Dbob")).await;
    while watch.next().await.unwrap()["object"]["status"]["conditions"][0]["reason"] != "Found" {}
    // Another change of the configuration is only applied after that one.
    let bob = world.user("bob", &[]);
    let path = "/api/v1/namespaces/default/configmaps";
    let answer = loop {
        let answer = bob.get(path).await;
        if answer.code == 429 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.bytes, "Too many requests, please try again later.\n");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    admin.post(path, &config_map("a")).await.is(201);
    admin.delete(&format!("{schemas}/bob"), None).await.is(200);
    while bob.ask(Method::GET, path, &[], Bytes::new()).await.code == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn mandatory_objects_come_back() {
    let world = World::new().await;
    let path = format!("/apis/{GROUP}/v1/flowschemas");
    let mut watch =
        world.admin.watch(&format!("{path}?watch=true&fieldSelector=metadata.name%3Dcatch-all")).await;
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "catch-all".to_owned()));
    world.admin.delete(&format!("{path}/catch-all"), None).await.is(200);
    assert_eq!(watch.event().await.0, "DELETED");
    assert_eq!(watch.event().await.0, "ADDED");
    let patch = json!({"spec": {"matchingPrecedence": 5}});
    let refused = world.admin.patch(&format!("{path}/catch-all"), "merge-patch+json", &patch).await.is(422);
    assert!(refused.message().contains("spec of 'catch-all' must equal the fixed value"), "{refused:?}");
}
