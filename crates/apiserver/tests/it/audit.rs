//! The audit log of real requests.

use std::path::Path;
use std::sync::Arc;

use apiserver::User;
use apiserver::audit::{self, policy::Policy};
use serde_json::{Value, json};

use crate::world::{PATIENCE, World, config_map};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, users: [admin], resources: [{group: "", resources: [configmaps]}]}
- {level: Metadata, users: [bob]}
"#;

/// A server that writes its audit log there.
async fn audited(path: &Path) -> World {
    World::with(|options| {
        options.audit.policy = Some(Arc::new(Policy::read(POLICY).unwrap()));
        options.audit.log = Some(audit::log::Options { path: path.to_owned(), ..Default::default() });
    })
    .await
}

/// The events in the log once there are `count`.
async fn events(path: &Path, count: usize) -> Vec<Value> {
    let read = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the events in time")
}

#[tokio::test]
async fn requests_are_written_down_as_the_policy_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let world = audited(&path).await;
    let configs = "/api/v1/namespaces/default/configmaps";
    let made = world.admin.post(configs, &config_map("a")).await.is(201);
    let refused = world.user("bob", &[]).get(configs).await.is(403);
    let events = events(&path, 2).await;
    let [create, list] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(create["auditID"], made.headers["audit-id"].to_str().unwrap());
    assert_eq!((&create["verb"], &create["stage"]), (&json!("create"), &json!("ResponseComplete")));
    assert_eq!(create["objectRef"]["name"], "a");
    assert_eq!(create["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(create["responseObject"]["metadata"]["uid"], made.text("/metadata/uid"));
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(list["auditID"], refused.headers["audit-id"].to_str().unwrap());
    assert_eq!(list["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(list["responseStatus"]["reason"], "Forbidden");
    assert!(list["requestObject"].is_null());
}

#[tokio::test]
async fn the_encoding_of_a_request_makes_no_difference() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let world = audited(&path).await;
    let configs = "/api/v1/namespaces/default/configmaps";
    world.admin.post(configs, &config_map("a")).await.is(201);
    let encodings =
        ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
    for (at, accept) in encodings.iter().enumerate() {
        for (of, code) in
            [(format!("{configs}/a"), 200), (configs.to_owned(), 200), (format!("{configs}/b"), 404)]
        {
            world.admin.ask(http::Method::GET, &of, &[("accept", accept)], "").await.is(code);
        }
        let told = events(&path, 1 + (at + 1) * 3).await;
        let [object, list, missing] = &told[told.len() - 3..] else { unreachable!() };
        assert_eq!(object["responseObject"]["data"], json!({"k": "v"}), "{accept}");
        assert_eq!(list["responseObject"]["items"][0]["data"], json!({"k": "v"}), "{accept}");
        assert_eq!(missing["responseStatus"]["reason"], "NotFound", "{accept}");
    }
    let mut changed = world.admin.get(&format!("{configs}/a")).await.is(200);
    changed.body["data"]["k"] = "w".into();
    world.admin.put(&format!("{configs}/a"), &changed.body).await.is(200);
    let told = events(&path, 1 + encodings.len() * 3 + 2).await;
    let reference = &told[told.len() - 1]["objectRef"];
    assert_eq!(reference["uid"], changed.text("/metadata/uid"));
    assert_eq!(reference["resourceVersion"], changed.text("/metadata/resourceVersion"));
}

#[tokio::test]
async fn a_client_may_name_its_request() {
    let world = World::new().await;
    let answer = world.admin.ask(http::Method::GET, "/version", &[("audit-id", "mine")], "").await.is(200);
    assert_eq!(answer.headers["audit-id"], "mine");
}

#[tokio::test]
async fn a_write_whose_client_goes_away_is_done_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let world = audited(&path).await;
    let configs = "/api/v1/namespaces/default/configmaps";
    let transport = world.server.in_process(User::new("admin", &[User::MASTERS]));
    let request = http::Request::post(configs).header("content-type", "application/json");
    let mut asking = transport.send(request.body(config_map("a").to_string().into()).unwrap());
    assert!(futures::poll!(&mut asking).is_pending());
    drop(asking);
    let told = events(&path, 1).await;
    assert_eq!((&told[0]["verb"], &told[0]["responseStatus"]["code"]), (&json!("create"), &json!(201)));
    assert_eq!(told[0]["objectRef"]["name"], "a");
    world.admin.get(&format!("{configs}/a")).await.is(200);
}
