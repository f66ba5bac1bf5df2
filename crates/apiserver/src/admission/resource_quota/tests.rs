//! What counts against a quota, and what happens when many count at once.

use serde_json::{Value, json};

use super::super::testing::{Write, pod, run};
use super::*;
use crate::authz::fake::FakeCluster;

fn quota(spec: Value, used: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q", "namespace": "a" },
        "spec": spec, "status": { "used": used } })
}

fn named(name: &str, resources: Value) -> Value {
    let mut pod = pod(json!({ "containers": [{ "name": "c", "resources": resources }] }));
    pod["metadata"]["name"] = name.into();
    pod
}

fn create(pod: Value) -> Write {
    Write::create("pods", "Pod", pod)
}

fn plugin() -> ResourceQuota {
    ResourceQuota::new(foundation::SystemClock::shared(), Arc::default())
}

async fn used(cluster: &FakeCluster) -> Value {
    cluster.get(&quotas(), "a", "q").await.unwrap().0["status"]["used"].clone()
}

#[tokio::test]
async fn room_is_taken_until_there_is_none() {
    let cluster = FakeCluster::new();
    let hard = json!({ "pods": "3", "requests.cpu": "1", "limits.memory": "1Gi" });
    let taken = json!({ "pods": "1", "requests.cpu": "500m", "limits.memory": "256Mi" });
    cluster.put("resourcequotas", quota(json!({ "hard": hard }), taken));
    let plugin = plugin();
    let asks = |cpu: &str| json!({ "requests": { "cpu": cpu }, "limits": { "memory": "256Mi" } });
    run(&plugin, &cluster, create(named("p", asks("250m")))).await.unwrap();
    assert_eq!(
        used(&cluster).await,
        json!({ "pods": "2", "requests.cpu": "750m", "limits.memory": "512Mi" })
    );
    let error = run(&plugin, &cluster, create(named("p", asks("500m")))).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=750m, limited: \
         requests.cpu=1"
    );
    let dry = Write { dry_run: true, ..create(named("p", asks("250m"))) };
    run(&plugin, &cluster, dry).await.unwrap();
    run(&plugin, &cluster, create(named("p", asks("250m")))).await.unwrap();
    let error = run(&plugin, &cluster, create(named("p", asks("0")))).await.unwrap_err();
    assert!(error.message.ends_with("exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"));
}

#[tokio::test]
async fn containers_must_say_what_is_bounded() {
    let cluster = FakeCluster::new();
    let spec = json!({ "hard": { "limits.cpu": "1", "memory": "1Gi" } });
    cluster.put("resourcequotas", quota(spec, json!({})));
    let error = run(&plugin(), &cluster, create(named("p", json!({})))).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c; memory for: c"
    );
}

#[tokio::test]
async fn a_new_quota_counts_what_is_there() {
    let cluster = FakeCluster::new();
    for (name, phase) in [("one", "Running"), ("two", "Succeeded")] {
        let mut pod = named(name, json!({}));
        pod["status"]["phase"] = phase.into();
        cluster.put("pods", pod);
    }
    let spec = json!({ "hard": { "pods": "2", "count/deployments.apps": "1" } });
    cluster.put("resourcequotas", quota(spec, json!(null)));
    let plugin = plugin();
    run(&plugin, &cluster, create(named("three", json!({})))).await.unwrap();
    assert_eq!(used(&cluster).await, json!({ "pods": "2", "count/deployments.apps": "0" }));
    assert!(run(&plugin, &cluster, create(named("four", json!({})))).await.is_err());

    let deployment = json!({ "kind": "Deployment", "metadata": { "name": "d", "namespace": "a" } });
    let write = || Write::create("deployments.apps", "Deployment", deployment.clone());
    run(&plugin, &cluster, write()).await.unwrap();
    let error = run(&plugin, &cluster, write()).await.unwrap_err();
    assert!(error.message.contains("requested: count/deployments.apps=1"), "{}", error.message);
}

#[tokio::test]
async fn many_at_once_take_no_more_than_there_is() {
    let cluster = FakeCluster::new();
    cluster.put("resourcequotas", quota(json!({ "hard": { "pods": "10" } }), json!({ "pods": "0" })));
    // Two plugins stand for two servers, which share no locks.
    let servers = [Arc::new(plugin()), Arc::new(plugin())];
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..40 {
        let (plugin, cluster) = (servers[index % 2].clone(), cluster.clone());
        tasks.spawn(async move {
            run(&*plugin, &cluster, create(named(&format!("p{index}"), json!({})))).await.is_ok()
        });
    }
    let admitted = tasks.join_all().await.into_iter().filter(|ok| *ok).count();
    assert_eq!(admitted, 10);
    assert_eq!(used(&cluster).await, json!({ "pods": "10" }));
}

#[tokio::test]
async fn scopes_choose() {
    let spec = |change: Value| {
        let mut pod = named("p", json!({}));
        for (key, value) in change.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let class = |operator: &str| json!({ "matchExpressions": [{ "scopeName": "PriorityClass", "operator": operator, "values": ["high"] }] });
    let cpu = named("p", json!({ "requests": { "cpu": "1" } }));
    #[rustfmt::skip]
    let table = [
        (json!({ "scopes": ["Terminating"] }), spec(json!({ "activeDeadlineSeconds": 5 })), true),
        (json!({ "scopes": ["Terminating"] }), spec(json!({})), false),
        (json!({ "scopes": ["NotTerminating", "BestEffort"] }), spec(json!({})), true),
        (json!({ "scopes": ["BestEffort"] }), cpu.clone(), false),
        (json!({ "scopes": ["NotBestEffort"] }), cpu, true),
        (json!({ "scopeSelector": class("In") }), spec(json!({ "priorityClassName": "high" })), true),
        (json!({ "scopeSelector": class("In") }), spec(json!({})), false),
        (json!({ "scopeSelector": class("NotIn") }), spec(json!({})), true),
        (json!({ "scopes": ["CrossNamespacePodAffinity"] }), spec(json!({})), false),
        (json!({ "scopes": ["CrossNamespacePodAffinity"] }),
         spec(json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "namespaces": ["b"] }] } } })), true),
    ];
    for (mut rules, pod, bounded) in table {
        let cluster = FakeCluster::new();
        rules["hard"] = json!({ "pods": "0" });
        cluster.put("resourcequotas", quota(rules.clone(), json!({ "pods": "0" })));
        let refused = run(&plugin(), &cluster, create(pod.clone())).await.is_err();
        assert_eq!(refused, bounded, "{rules} {}", pod["spec"]);
    }
}

#[tokio::test]
async fn services_and_claims_are_counted_by_what_they_are() {
    let cluster = FakeCluster::new();
    let hard = json!({ "services.nodeports": "1", "requests.storage": "2Gi",
        "fast.storageclass.storage.k8s.io/requests.storage": "1Gi" });
    cluster.put("resourcequotas", quota(json!({ "hard": hard }), json!(null)));
    let plugin = plugin();
    let service = |kind: &str, ports: usize| {
        let ports: Vec<Value> = (0..ports).map(|port| json!({ "port": 80 + port })).collect();
        json!({ "kind": "Service", "metadata": { "name": "s", "namespace": "a" },
            "spec": { "type": kind, "ports": ports } })
    };
    let claim = |class: &str, size: &str| {
        json!({ "kind": "PersistentVolumeClaim", "metadata": { "name": "c", "namespace": "a" },
            "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } } })
    };
    let claims =
        |class, size| Write::create("persistentvolumeclaims", "PersistentVolumeClaim", claim(class, size));
    #[rustfmt::skip]
    let table = [
        (Write::create("services", "Service", service("ClusterIP", 3)), true),
        (Write::create("services", "Service", service("NodePort", 2)), false),
        (Write::create("services", "Service", service("NodePort", 1)), true),
        (Write::update("services", "Service", service("ClusterIP", 1), service("NodePort", 1)), false),
        (Write::update("services", "Service", service("NodePort", 1), service("ClusterIP", 1)), true),
        (Write::update("services", "Service", service("ClusterIP", 1), service("NodePort", 1)), true),
        (claims("fast", "2Gi"), false),
        (claims("slow", "1Gi"), true),
        (claims("fast", "1Gi"), true),
        (claims("slow", "1Mi"), false),
    ];
    for (index, (write, good)) in table.into_iter().enumerate() {
        assert_eq!(run(&plugin, &cluster, write).await.is_ok(), good, "row {index}");
    }
}

#[tokio::test]
async fn what_is_limited_needs_a_quota() {
    let limited = Limited {
        resource: GroupResource::new("", "pods"),
        contains: vec!["requests.example.com".to_owned()],
        scopes: vec![Scope {
            name: "PriorityClass".to_owned(),
            operator: "In".to_owned(),
            values: vec!["high".to_owned()],
        }],
    };
    let plugin = ResourceQuota::new(foundation::SystemClock::shared(), Arc::new([limited]));
    let asks = |resource: &str, class: &str| {
        let mut pod = named("p", json!({ "requests": { resource: "1" }, "limits": { resource: "1" } }));
        pod["spec"]["priorityClassName"] = class.into();
        create(pod)
    };
    let cluster = FakeCluster::new();
    let refused = async |resource: &str, class: &str| {
        run(&plugin, &cluster, asks(resource, class)).await.err().map(|error| error.message)
    };
    let says = |why: &str| Some(format!("pods \"p\" is forbidden: {why}"));
    let scope = says("insufficient quota to match these scopes: [{PriorityClass In [high]}]");
    let gpu = says("insufficient quota to consume: requests.example.com/gpu");
    assert_eq!(refused("cpu", "low").await, None);
    assert_eq!(refused("cpu", "high").await, scope);
    assert_eq!(refused("example.com/gpu", "low").await, gpu);
    let selector = json!({ "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }] });
    let covering = json!({ "hard": { "pods": "5" }, "scopeSelector": selector });
    cluster.put("resourcequotas", quota(covering, json!({ "pods": "0" })));
    assert_eq!(refused("cpu", "high").await, None);
    assert_eq!(refused("example.com/gpu", "high").await, gpu, "that quota bounds pods only");
    let hard = json!({ "hard": { "requests.example.com/gpu": "2" } });
    cluster.put("resourcequotas", quota(hard, json!({ "requests.example.com/gpu": "0" })));
    assert_eq!(refused("example.com/gpu", "low").await, None);
}
