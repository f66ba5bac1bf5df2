//! `/metrics`: the names and labels that dashboards and alerts rely on, which upstream marks as stable.

use serde_json::json;

use crate::conformance::webhook::{VALIDATING, configuration, rule, webhook};
use crate::conformance::webhook_server::{WebhookServer, reviewed, seen};
use crate::custom::{DEFINITIONS, definition};
use crate::world::{Answer, World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn what_upstream_marks_as_stable_is_there_with_its_labels() {
    let world = World::new().await;
    let admin = &world.admin;
    let server = WebhookServer::start(&world, |_, review| reviewed(review, json!({"allowed": true}))).await;
    let hook =
        webhook("counted.example.com", server.client("/"), json!([rule("", &["configmaps"], &["CREATE"])]));
    let made = configuration("ValidatingWebhookConfiguration", "counted", vec![hook]);
    let made = admin.post(VALIDATING, &made).await.is(201);
    seen(&world, VALIDATING, &made).await;
    admin.post(MAPS, &config_map("a")).await.is(201);
    admin.post(&format!("{MAPS}?dryRun=All"), &config_map("b")).await.is(201);
    admin.get(MAPS).await.is(200);
    admin.get("/api/v1/endpoints").await.is(200);
    let mut watch = admin.watch(&format!("{MAPS}?watch=1")).await;
    watch.next().await.expect("what is there");
    let mut listing =
        admin.watch("/api/v1/namespaces/default/secrets?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").await;
    listing.next().await.expect("that all was sent");
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    admin.patch("/api/v1/namespaces/default", "merge-patch+json", &label).await.is(200);
    let mut privileged = pod("privileged");
    privileged["spec"]["hostNetwork"] = true.into();
    admin.post("/api/v1/namespaces/default/pods", &privileged).await.is(403);
    let answer = admin.get("/metrics").await.is(200);
    let text = String::from_utf8_lossy(&answer.bytes);
    drop((watch, listing));
    let admission = |name: &str| {
        format!(
            r#"{name}{{name="counted.example.com",type="validating",operation="CREATE",rejected="false"}}"#
        )
    };
    for series in [
        r#"apiserver_request_total{verb="POST",dry_run="All",group="",version="v1",resource="configmaps",subresource="",scope="namespace",component="apiserver",code="201"}"#,
        r#"apiserver_request_duration_seconds_bucket{verb="LIST",dry_run="",group="",version="v1",resource="configmaps",subresource="",scope="namespace",component="apiserver",le="0.005"}"#,
        r#"apiserver_response_sizes_bucket{verb="LIST",group="",version="v1",resource="configmaps",subresource="",scope="namespace",component="apiserver",le="1000"}"#,
        r#"apiserver_longrunning_requests{verb="WATCH",group="",version="v1",resource="configmaps",subresource="",scope="namespace",component="apiserver"}"#,
        r#"apiserver_current_inflight_requests{request_kind="readOnly"}"#,
        r#"apiserver_storage_objects{resource="configmaps"}"#,
        r#"apiserver_resource_objects{group="",resource="configmaps"}"#,
        r#"apiserver_admission_step_admission_duration_seconds_count{type="admit",operation="CREATE",rejected="false"}"#,
        r#"apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",type="admit",operation="CREATE",rejected="false"}"#,
        &admission("apiserver_admission_webhook_admission_duration_seconds_count"),
        r#"apiserver_admission_webhook_request_total{name="counted.example.com",type="validating",operation="CREATE",code="200",rejected="false"}"#,
        r#"apiserver_requested_deprecated_apis{group="",version="v1",resource="endpoints",subresource="",removed_release=""} 1"#,
        r#"apiserver_watch_events_total{group="",version="v1",resource="configmaps"}"#,
        r#"apiserver_watch_events_sizes_bucket{group="",version="v1",resource="configmaps",le="1024"}"#,
        r#"apiserver_init_events_total{group="",resource="configmaps"}"#,
        r#"apiserver_cache_list_total{group="",resource="configmaps",index=""}"#,
        r#"apiserver_watch_cache_events_received_total{group="",resource="configmaps"}"#,
        r#"apiserver_terminated_watchers_total{group="",resource="configmaps"}"#,
        r#"apiserver_request_filter_duration_seconds_bucket{filter="priorityandfairness",le="0.0001"}"#,
        r#"apiserver_authorization_decisions_total{type="RBAC",name="rbac",decision="allowed"}"#,
        r#"apiserver_current_inqueue_requests{request_kind="mutating"} 0"#,
        r#"apiserver_flowcontrol_current_limit_seats{priority_level="global-default"}"#,
        r#"apiserver_flowcontrol_priority_level_seat_utilization_bucket{phase="executing",priority_level="global-default",le="0.99"}"#,
        r#"apiserver_request_body_size_bytes_bucket{group="",resource="configmaps",verb="create",le="50000"}"#,
        r#"apiserver_request_body_size_bytes_bucket{group="",resource="configmaps",verb="create",le="3050000"}"#,
        r#"apiserver_watch_cache_read_wait_seconds_bucket{group="",resource="configmaps",le="0.005"}"#,
        r#"apiserver_watch_list_duration_seconds_bucket{group="",version="v1",resource="secrets",scope="namespace",le="0.05"}"#,
        r#"pod_security_evaluations_total{decision="deny",policy_level="baseline",policy_version="latest",mode="enforce",request_operation="create",resource="pod",subresource=""}"#,
        "go_goroutines ",
        "apiserver_flowcontrol_nominal_limit_seats{",
        "apiserver_flowcontrol_dispatched_requests_total{",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_count_of_a_kind_goes_with_it() {
    let world = World::new().await;
    let admin = &world.admin;
    let mut made = definition();
    // The page is the process's, and other tests have things of their own.
    made["spec"]["group"] = "fleeting.example.com".into();
    made["metadata"]["name"] = "things.fleeting.example.com".into();
    admin.post(DEFINITIONS, &made).await.is(201);
    let series = r#"apiserver_resource_objects{group="fleeting.example.com",resource="things"} 0"#;
    let shows = |answer: &Answer| String::from_utf8_lossy(&answer.bytes).lines().any(|line| line == series);
    admin.until("/metrics", |answer| shows(answer)).await;
    admin.delete(&format!("{DEFINITIONS}/things.fleeting.example.com"), None).await.is(200);
    admin.until("/metrics", |answer| !shows(answer)).await;
}

#[tokio::test]
async fn health_checks_are_told_one_by_one() {
    let world = World::new().await;
    let admin = &world.admin;
    for endpoint in ["/readyz", "/livez"] {
        admin.get(endpoint).await.is(200);
    }
    let answer = admin.get("/metrics/slis").await.is(200);
    let text = String::from_utf8_lossy(&answer.bytes);
    for series in [
        r#"kubernetes_healthcheck{name="etcd",type="readyz"} 1"#,
        r#"kubernetes_healthcheck{name="ping",type="livez"} 1"#,
        r#"kubernetes_healthchecks_total{name="poststarthook/rbac/bootstrap-roles",type="readyz",status="success"}"#,
    ] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series} is missing in\n{text}");
    }
    let everything = admin.get("/metrics").await.is(200);
    assert!(
        !String::from_utf8_lossy(&everything.bytes).contains("kubernetes_healthcheck"),
        "a page of its own"
    );
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_serves_and_is_not_ready() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.get("/readyz").await.is(200);
    world.server.announce_stop();
    admin.get("/readyz").await.is(500);
    admin.get("/livez").await.is(200);
    admin.post(MAPS, &config_map("late")).await.is(201);
}
