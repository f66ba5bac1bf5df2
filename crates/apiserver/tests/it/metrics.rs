//! `/metrics`: the names and labels that dashboards and alerts rely on, which upstream marks as stable.

use serde_json::json;

use crate::conformance::webhook::{VALIDATING, configuration, rule, webhook};
use crate::conformance::webhook_server::{WebhookServer, reviewed, seen};
use crate::world::{World, config_map};

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
    let watch = admin.watch(&format!("{MAPS}?watch=1")).await;
    let answer = admin.get("/metrics").await.is(200);
    let text = String::from_utf8_lossy(&answer.bytes);
    drop(watch);
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
