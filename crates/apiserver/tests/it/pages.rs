//! The pages that people and probes read: `/statusz`, `/flagz`, health by name, and how priority and fairness stands.

use http::Method;

use crate::world::{Answer, World};

async fn page(world: &World, path: &str, accept: &str) -> Answer {
    world.admin.ask(Method::GET, path, &[("accept", accept)], "").await
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn what_the_server_is_and_how_it_was_started() {
    let world = World::with(|options| {
        options.flags =
            [("v".to_owned(), "2".to_owned()), ("audit-log-path".to_owned(), "-".to_owned())].into();
    })
    .await;
    for accept in ["", "*/*", "text/plain", "text/html, */*;q=0.1"] {
        let status = text(&page(&world, "/statusz", accept).await.is(200));
        assert!(
            status.starts_with("\nkube-apiserver statusz\nWarning: This endpoint is not meant"),
            "{status}"
        );
        assert!(status.contains("Binary version") && status.contains("/livez /metrics /readyz"), "{status}");
        let flags = text(&page(&world, "/flagz", accept).await.is(200));
        let lines: Vec<&str> = flags.lines().skip(3).collect();
        assert!(lines[0].starts_with("audit-log-path") && lines[0].ends_with('-'), "{flags}");
        assert_eq!(lines.len(), 2);
    }
    let of = |kind: &str| format!("application/json;v=v1beta1;g=config.k8s.io;as={kind}");
    let status = page(&world, "/statusz", &of("Statusz")).await.is(200);
    assert_eq!([status.text("/kind"), status.text("/apiVersion")], ["Statusz", "config.k8s.io/v1beta1"]);
    assert_eq!([status.text("/metadata/name"), status.text("/binaryVersion")], ["kube-apiserver", "1.37.0"]);
    assert!(status.at("/uptimeSeconds").is_i64() && status.at("/paths").is_array());
    let flags = page(&world, "/flagz", &of("Flagz")).await.is(200);
    assert_eq!(flags.at("/flags"), &serde_json::json!({"v": "2", "audit-log-path": "-"}));
    // Structured only by all of its names.
    for accept in
        [&of("Flagz"), "application/json", "application/json;v=v9;g=config.k8s.io;as=Statusz", "text/html"]
    {
        let refused = page(&world, "/statusz", accept).await.is(406);
        assert!(refused.message().contains("text/plain"), "{}", refused.message());
    }
    let listed = world.admin.get("/").await.is(200);
    let listed: Vec<_> =
        listed.at("/paths").as_array().unwrap().iter().filter_map(|path| path.as_str()).collect();
    for path in ["/statusz", "/flagz", "/healthz/ping", "/readyz/informer-sync"] {
        assert!(listed.contains(&path), "{path}");
    }
}

#[tokio::test]
async fn health_is_told_by_name() {
    let world = World::new().await;
    let ask = async |path: &str| world.admin.get(path).await;
    for check in
        ["ping", "log", "etcd", "poststarthook/rbac/bootstrap-roles", "poststarthook/crd-informer-synced"]
    {
        for endpoint in ["healthz", "livez", "readyz"] {
            assert_eq!(text(&ask(&format!("/{endpoint}/{check}")).await.is(200)), "ok");
        }
    }
    ask("/livez/shutdown").await.is(404);
    ask("/livez/informer-sync").await.is(404);
    ask("/readyz/informer-sync").await.is(200);
    ask("/healthz/poststarthook/nothing").await.is(404);
    let told = text(&ask("/readyz?verbose&exclude=etcd&exclude=nothing").await.is(200));
    assert!(told.contains("[+]etcd excluded: ok\n") && told.contains("[+]ping ok\n"), "{told}");
    let warning = "warn: some health checks cannot be excluded: no matches for \"nothing\"\n";
    assert!(told.contains(warning) && told.ends_with("readyz check passed\n"), "{told}");
}

#[tokio::test]
async fn priority_and_fairness_shows_how_it_stands() {
    let world = World::new().await;
    world.user("bob", &[]).get("/api/v1/namespaces/default/pods").await.is(403);
    let dump = async |what: &str| {
        text(&world.admin.get(&format!("/debug/api_priority_and_fairness/{what}")).await.is(200))
    };
    let levels = dump("dump_priority_levels").await;
    assert!(levels.starts_with("PriorityLevelName,"), "{levels}");
    let row = levels.lines().find(|line| line.starts_with("global-default,")).unwrap();
    let cells: Vec<&str> = row.split(',').map(str::trim).collect();
    // Nothing waits or runs, and one request was let through.
    assert_eq!(cells, ["global-default", "0", "true", "false", "0", "0", "1", "0", "0", "0"]);
    assert!(dump("dump_queues").await.starts_with("PriorityLevelName,"));
    assert!(!dump("dump_requests").await.contains("UserName"));
    assert!(dump("dump_requests?includeRequestDetails=1").await.contains("UserName,"));
    world.admin.get("/debug/api_priority_and_fairness/other").await.is(404);
    world.user("bob", &[]).get("/debug/api_priority_and_fairness/dump_queues").await.is(403);

    let off = World::with(|options| options.fairness.enabled = false).await;
    off.admin.get("/debug/api_priority_and_fairness/dump_queues").await.is(404);
}
