//! What a request meets: the schema it belongs to, the seats it waits for.

use foundation::ManualClock;
use http::Method;
use serde_json::json;

use super::seats::{Limits, Queuing};
use super::*;

fn plan(metrics: &Metrics) -> Plan {
    let schemas = bootstrap::schemas("2026-01-01T00:00:00Z").into_iter().map(|object| {
        let level = object.0["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap().to_owned();
        let name = object.name().to_owned();
        let typed = serde_json::from_value(object.0).unwrap();
        Schema::new(typed, (1, header(&level)), Some(10), metrics.schema(1, &level, &name))
    });
    Plan::new(schemas.collect())
}

fn info(method: &str, path: &str) -> RequestInfo {
    RequestInfo::parse(&method.parse::<Method>().unwrap(), path, None)
}

#[test]
fn requests_belong_to_upstreams_schemas() {
    let plan = plan(&Metrics::new());
    let all = User::AUTHENTICATED;
    let accounts = ["system:serviceaccounts", all];
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &str, &str, &str)] = &[
        ("admin", &["system:masters", all], "GET", "/api/v1/pods", "exempt"),
        ("bob", &[all], "GET", "/healthz", "probes"),
        ("bob", &[all], "GET", "/metrics", "global-default"),
        ("bob", &[all], "GET", "/api/v1/pods", "global-default"),
        ("system:anonymous", &["system:unauthenticated"], "GET", "/readyz", "probes"),
        ("system:kube-scheduler", &[all], "GET", "/api/v1/pods", "kube-scheduler"),
        ("system:kube-scheduler", &[all], "PUT", lease, "system-leader-election"),
        ("system:kube-scheduler", &[all], "DELETE", lease, "kube-scheduler"),
        ("system:serviceaccount:kube-system:endpoint-controller", &accounts, "PUT", "/api/v1/namespaces/a/endpoints/e", "endpoint-controller"),
        ("system:serviceaccount:kube-system:x", &accounts, "PUT", "/api/v1/namespaces/a/endpoints/e", "workload-leader-election"),
        ("system:serviceaccount:kube-system:x", &accounts, "GET", "/api/v1/pods", "kube-system-service-accounts"),
        ("system:serviceaccount:default:x", &accounts, "GET", "/api/v1/pods", "service-accounts"),
        ("system:node:n", &["system:nodes", all], "PATCH", "/api/v1/nodes/n/status", "system-node-high"),
        ("system:node:n", &["system:nodes", all], "GET", "/api/v1/pods", "system-nodes"),
        ("nobody", &["strange"], "GET", "/api/v1/pods", ""),
    ];
    for (user, groups, method, path, want) in table {
        let found = plan.find(&User::new(*user, groups), &info(method, path));
        assert_eq!(found.map_or("", |schema| schema.name.as_str()), *want, "{user} {method} {path}");
    }
}

fn fairness(clock: &ManualClock) -> Arc<Fairness> {
    let fairness = Fairness::new(Options::default(), Arc::new(clock.clone()));
    let object = json!({
        "metadata": {"name": "s", "uid": "u1"},
        "spec": {"priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
        }]},
    });
    let metrics = fairness.metrics.schema(1, "l", "s");
    let schema = Schema::new(serde_json::from_value(object).unwrap(), (7, header("u2")), Some(2), metrics);
    let queuing = Some(Queuing { queues: 4, hand: 1, length: 1 });
    let limits = Limits { nominal: 1, lower: 1, upper: 1, exempt: false, queuing };
    let names = BTreeMap::from([(7, "l".to_owned())]);
    fairness.configure(Plan::new(vec![schema]), vec![(7, limits)], names);
    Arc::new(fairness)
}

async fn admit(fairness: &Fairness) -> Admission {
    let user = User::new("bob", &[]);
    fairness.admit(&user, &info("GET", "/api/v1/pods"), |_| Width::ONE, Duration::from_secs(60)).await
}

#[tokio::test]
async fn a_request_waits_its_turn_and_the_full_queue_refuses() {
    let clock = ManualClock::default();
    let fairness = fairness(&clock);
    let Admission::Run(first) = admit(&fairness).await else { panic!("there is room") };
    let mut headers = http::HeaderMap::new();
    first.mark(&mut headers);
    assert_eq!(headers["x-kubernetes-pf-flowschema-uid"], "u1");
    assert_eq!(headers["x-kubernetes-pf-prioritylevel-uid"], "u2");

    let waiting = tokio::spawn({
        let fairness = fairness.clone();
        async move { matches!(admit(&fairness).await, Admission::Run(_)) }
    });
    clock.wait_for_sleepers(1).await;
    assert_eq!(fairness.seats.lock().usage(7), (1, 1));
    assert!(matches!(admit(&fairness).await, Admission::Refuse(_)), "the only queue of the flow is full");
    drop(first);
    assert!(waiting.await.unwrap());
    assert_eq!(fairness.seats.lock().usage(7), (0, 0));
}

#[tokio::test]
async fn nobody_waits_for_ever_and_who_leaves_leaves_nothing_behind() {
    let clock = ManualClock::default();
    let fairness = fairness(&clock);
    let Admission::Run(first) = admit(&fairness).await else { panic!("there is room") };
    let waiting = tokio::spawn({
        let fairness = fairness.clone();
        async move { matches!(admit(&fairness).await, Admission::Refuse(_)) }
    });
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(15));
    assert!(waiting.await.unwrap(), "a quarter of its deadline is over");

    let waiting = tokio::spawn({
        let fairness = fairness.clone();
        async move {
            admit(&fairness).await;
        }
    });
    clock.wait_for_sleepers(1).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(fairness.seats.lock().usage(7), (1, 0));
    drop(first);
    assert_eq!(fairness.seats.lock().usage(7), (0, 0));
}

#[tokio::test]
async fn a_write_keeps_its_seats_while_those_who_watch_are_told() {
    let clock = ManualClock::default();
    let fairness = fairness(&clock);
    let after = Duration::from_millis(5);
    let width = |_| Width { initial: 1, last: 1, after };
    let (user, write) = (User::new("bob", &[]), info("PUT", "/api/v1/namespaces/a/pods/p"));
    let Admission::Run(first) = fairness.admit(&user, &write, width, Duration::from_secs(60)).await else {
        panic!("there is room")
    };
    drop(first);
    let waiting = tokio::spawn({
        let fairness = fairness.clone();
        async move { matches!(admit(&fairness).await, Admission::Run(_)) }
    });
    // The one that waits, and the seats that are kept.
    clock.wait_for_sleepers(2).await;
    assert_eq!(fairness.seats.lock().usage(7), (1, 1), "its client has its answer, and its seat is not free");
    clock.advance(after);
    assert!(waiting.await.unwrap());
    assert_eq!(fairness.seats.lock().usage(7), (0, 0));
}

#[tokio::test]
async fn without_it_reads_and_writes_are_bounded_each_for_itself() {
    let options = |reads| Options { enabled: false, reads, writes: 1 };
    let fairness = Fairness::new(options(1), Arc::new(ManualClock::default()));
    let ask = async |user: &User, method, path| {
        fairness.admit(user, &info(method, path), |_| Width::ONE, Duration::from_secs(60)).await
    };
    let (bob, admin) = (User::new("bob", &[]), User::new("admin", &[User::MASTERS]));
    let pods = "/api/v1/namespaces/a/pods";
    let Admission::Run(reading) = ask(&bob, "GET", pods).await else { panic!("there is room") };
    #[rustfmt::skip]
    let table = [
        (&bob, "GET", pods, false), (&admin, "GET", pods, true),
        (&bob, "GET", "/api/v1/watch/pods", true), (&bob, "POST", pods, true),
    ];
    for (user, method, path, runs) in table {
        assert_eq!(
            matches!(ask(user, method, path).await, Admission::Run(_)),
            runs,
            "{} {method} {path}",
            user.name
        );
    }
    drop(reading);
    assert!(matches!(ask(&bob, "GET", pods).await, Admission::Run(_)), "its place is free again");

    let unbounded = Fairness::new(options(0), Arc::new(ManualClock::default()));
    assert!(matches!(
        unbounded.admit(&bob, &info("GET", pods), |_| Width::ONE, Duration::ZERO).await,
        Admission::Run(_)
    ));
}
