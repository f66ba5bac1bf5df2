//! Creating, reading, changing and deleting one object.

use http::Method;
use serde_json::json;
use store::Store;

use crate::world::{World, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let world = World::new().await;
    let admin = &world.admin;
    let created = admin.post(MAPS, &config_map("a")).await.is(201);
    assert_eq!(created.text("/metadata/namespace"), "default");
    assert_eq!(created.text("/metadata/uid").len(), 36);
    assert!(created.text("/metadata/creationTimestamp").ends_with('Z'));
    let read = admin.get(&format!("{MAPS}/a")).await.is(200);
    assert_eq!(read.body, created.body);

    let again = admin.post(MAPS, &config_map("a")).await.is(409);
    assert_eq!(again.text("/reason"), "AlreadyExists");
    assert_eq!(again.message(), "configmaps \"a\" already exists");

    let mut changed = read.body.clone();
    changed["data"]["k"] = "w".into();
    let updated = admin.put(&format!("{MAPS}/a"), &changed).await.is(200);
    assert_eq!(updated.text("/data/k"), "w");
    assert_ne!(updated.text("/metadata/resourceVersion"), read.text("/metadata/resourceVersion"));

    let stale = admin.put(&format!("{MAPS}/a"), &changed).await.is(409);
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    assert_eq!(stale.text("/reason"), "Conflict");

    let gone = admin.delete(&format!("{MAPS}/a"), None).await.is(200);
    assert_eq!(gone.text("/status"), "Success");
    assert_eq!(gone.text("/details/kind"), "configmaps");
    assert_eq!(gone.text("/details/uid"), created.text("/metadata/uid"));
    let missing = admin.get(&format!("{MAPS}/a")).await.is(404);
    assert_eq!(missing.message(), "configmaps \"a\" not found");
    assert_eq!(missing.text("/details/name"), "a");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let world = World::new().await;
    let created = world.admin.post(MAPS, &config_map("a")).await.is(201);
    let same = world.admin.put(&format!("{MAPS}/a"), &created.body).await.is(200);
    assert_eq!(same.text("/metadata/resourceVersion"), created.text("/metadata/resourceVersion"));
}

#[tokio::test]
async fn names_are_generated() {
    let world = World::new().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let (a, b) = (world.admin.post(MAPS, &body).await.is(201), world.admin.post(MAPS, &body).await.is(201));
    assert!(a.text("/metadata/name").starts_with("gen-"));
    assert_eq!(a.text("/metadata/name").len(), "gen-".len() + 5);
    assert_ne!(a.text("/metadata/name"), b.text("/metadata/name"));
}

#[tokio::test]
async fn patches_of_all_three_kinds_are_applied() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post("/apis/apps/v1/namespaces/default/deployments", &deployment()).await.is(201);
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "two"}]}}}});
    let patched = admin.patch(path, "strategic-merge-patch+json", &image).await.is(200);
    let containers = patched.at("/spec/template/spec/containers").as_array().unwrap().clone();
    assert_eq!(containers.len(), 2, "strategic merge keeps the other container");
    assert_eq!(patched.at("/metadata/generation"), 2);

    let replicas = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(admin.patch(path, "json-patch+json", &replicas).await.is(200).at("/spec/replicas"), 5);
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let labelled = admin.patch(path, "merge-patch+json", &label).await.is(200);
    assert_eq!(labelled.text("/metadata/labels/x"), "y");
    assert_eq!(labelled.at("/metadata/generation"), 3, "labels do not count as a new generation");
    admin.patch(path, "foo", &label).await.is(415);
}

fn deployment() -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "a", "image": "one"}, {"name": "b", "image": "one"}]},
            },
        },
    })
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_scale_sets_replicas() {
    let world = World::new().await;
    let admin = &world.admin;
    let mut body = deployment();
    body["status"] = json!({"replicas": 9});
    let created = admin.post("/apis/apps/v1/namespaces/default/deployments", &body).await.is(201);
    assert_eq!(created.at("/status/replicas"), &serde_json::Value::Null);
    assert_eq!(created.at("/metadata/generation"), 1);
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let mut status = created.body.clone();
    status["status"] = json!({"replicas": 2, "observedGeneration": 1});
    status["spec"]["replicas"] = 7.into();
    let written = admin.put(&format!("{path}/status"), &status).await.is(200);
    assert_eq!(written.at("/status/replicas"), 2);
    assert_eq!(written.at("/spec/replicas"), 2);
    assert_eq!(written.at("/metadata/generation"), 1);

    let scale = admin.get(&format!("{path}/scale")).await.is(200);
    assert_eq!((scale.at("/spec/replicas"), scale.at("/status/replicas")), (&json!(2), &json!(2)));
    assert_eq!(scale.text("/status/selector"), "app=d");
    let mut more = scale.body.clone();
    more["spec"]["replicas"] = 3.into();
    assert_eq!(admin.put(&format!("{path}/scale"), &more).await.is(200).at("/spec/replicas"), 3);
    admin.put(&format!("{path}/scale"), &more).await.is(409);
    let patched =
        admin.patch(&format!("{path}/scale"), "merge-patch+json", &json!({"spec": {"replicas": 4}})).await;
    assert_eq!(patched.is(200).at("/spec/replicas"), 4);
    assert_eq!(admin.get(path).await.is(200).at("/spec/replicas"), 4);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let world = World::new().await;
    let dry = world.admin.post(&format!("{MAPS}?dryRun=All"), &config_map("a")).await.is(201);
    assert_eq!(dry.text("/metadata/name"), "a");
    world.admin.get(&format!("{MAPS}/a")).await.is(404);
    world.admin.post(MAPS, &config_map("a")).await.is(201);
    world.admin.delete(&format!("{MAPS}/a?dryRun=All"), None).await.is(200);
    world.admin.get(&format!("{MAPS}/a")).await.is(200);
}

#[tokio::test]
async fn finalizers_hold_a_deletion_until_they_are_gone() {
    let world = World::new().await;
    let admin = &world.admin;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(MAPS, &body).await.is(201);
    let path = format!("{MAPS}/a");
    let held = admin.delete(&path, None).await.is(200);
    assert!(!held.text("/metadata/deletionTimestamp").is_empty());
    let added = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    admin.patch(&path, "merge-patch+json", &added).await.is(422);
    let none = json!({"metadata": {"finalizers": null}});
    admin.patch(&path, "merge-patch+json", &none).await.is(200);
    admin.get(&path).await.is(404);
}

#[tokio::test]
async fn propagation_becomes_finalizers_and_preconditions_hold() {
    let world = World::new().await;
    let admin = &world.admin;
    let created = admin.post(MAPS, &config_map("a")).await.is(201);
    let path = format!("{MAPS}/a");
    let wrong = admin.delete(&path, Some(&json!({"preconditions": {"uid": "x"}}))).await.is(409);
    let uid = created.text("/metadata/uid");
    assert_eq!(
        wrong.message(),
        format!(
            "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x) does not match the UID \
             in record ({uid}). The object might have been deleted and then recreated"
        ),
        "the kind, where other conflicts name the resource"
    );
    assert_eq!(wrong.at("/details"), &json!({"name": "a", "kind": "ConfigMap"}));
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    admin.delete(&path, Some(&stale)).await.is(409);
    let options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground",
        "preconditions": {"uid": created.text("/metadata/uid")},
    });
    let waiting = admin.delete(&path, Some(&options)).await.is(200);
    assert_eq!(waiting.at("/metadata/finalizers"), &json!(["foregroundDeletion"]));
    let orphan = admin.delete(&format!("{path}?propagationPolicy=Orphan"), None).await.is(200);
    assert_eq!(orphan.at("/metadata/finalizers"), &json!(["orphan"]));
    let background = admin.delete(&format!("{path}?propagationPolicy=Background"), None).await.is(200);
    assert_eq!(background.text("/status"), "Success");
    admin.get(&path).await.is(404);

    // Only the option of old is answered with 202, and only where the object still waits for something.
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(MAPS, &held).await.is(201);
    admin.post(MAPS, &config_map("free")).await.is(201);
    for (name, query, code) in [
        ("held", "propagationPolicy=Background", 200),
        ("held", "orphanDependents=true", 200),
        ("held", "orphanDependents=false", 202),
        ("free", "orphanDependents=false", 200),
    ] {
        admin.delete(&format!("{MAPS}/{name}?{query}"), None).await.is(code);
    }
}

#[tokio::test]
async fn an_update_of_another_object_than_was_meant_is_a_conflict_also_where_there_is_none() {
    let world = World::new().await;
    let admin = &world.admin;
    let created = admin.post(MAPS, &config_map("there")).await.is(201);
    for (name, found) in [("there", created.text("/metadata/uid")), ("none", "")] {
        let mut map = config_map(name);
        map["metadata"]["uid"] = "x".into();
        let refused = admin.put(&format!("{MAPS}/{name}"), &map).await.is(409);
        assert_eq!(
            refused.message(),
            format!(
                "Operation cannot be fulfilled on configmaps \"{name}\": StorageError: invalid object, Code: 4, Key: \
                 /registry/configmaps/default/{name}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in \
                 precondition: x, UID in object meta: {found}"
            )
        );
    }
    admin.put(&format!("{MAPS}/none"), &config_map("none")).await.is(404);
    // Also of a kind that an update creates.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "uid": "x"}});
    admin.put(&format!("{leases}/l"), &lease).await.is(409);
    lease["metadata"]["uid"] = "".into();
    admin.put(&format!("{leases}/l"), &lease).await.is(201);
}

#[tokio::test]
async fn who_does_not_say_who_they_are_owns_what_they_write_as_unknown() {
    let world = World::new().await;
    for (name, headers, manager) in [
        ("none", &[("content-type", "application/json")][..], "unknown"),
        ("empty", &[("content-type", "application/json"), ("user-agent", "/1.0")], "unknown"),
        ("named", &[("content-type", "application/json"), ("user-agent", "curl/8.0")], "curl"),
    ] {
        let body = config_map(name).to_string();
        let created = world.admin.ask(Method::POST, MAPS, headers, body).await.is(201);
        assert_eq!(created.text("/metadata/managedFields/0/manager"), manager, "{name}");
    }
}

#[tokio::test]
async fn a_job_leaves_its_pods_unless_told_otherwise_and_says_so() {
    let world = World::new().await;
    let admin = &world.admin;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = |name: &str| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
    };
    for name in ["silent", "told"] {
        admin.post(jobs, &job(name)).await.is(201);
    }
    let silent = admin.delete(&format!("{jobs}/silent"), None).await.is(200);
    assert_eq!(silent.at("/metadata/finalizers"), &json!(["orphan"]));
    let warning = silent.headers["warning"].to_str().unwrap();
    assert!(warning.contains("child pods are preserved by default when jobs are deleted"), "{warning}");
    let told = admin.delete(&format!("{jobs}/told?propagationPolicy=Background"), None).await.is(200);
    assert!(told.headers.get("warning").is_none());
    admin.get(&format!("{jobs}/told")).await.is(404);
}

#[tokio::test]
async fn events_go_away_by_themselves() {
    let world = World::with(|options| options.event_ttl = std::time::Duration::from_secs(1)).await;
    let admin = &world.admin;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Tested", "type": "Normal"});
    let created = admin.post("/api/v1/namespaces/default/events", &event).await.is(201);
    admin.post(MAPS, &config_map("a")).await.is(201);
    // Both views of it, and whoever watches, learn of the end.
    let from = created.text("/metadata/resourceVersion");
    let watch = format!(
        "/apis/events.k8s.io/v1/namespaces/default/events?watch=true&resourceVersion={from}&timeoutSeconds=30"
    );
    let mut watching = admin.watch(&watch).await;
    let seen = watching.next().await.unwrap();
    assert_eq!(
        (seen["type"].as_str(), seen["object"]["metadata"]["name"].as_str()),
        (Some("DELETED"), Some("e"))
    );
    admin.get("/api/v1/namespaces/default/events/e").await.is(404);
    admin.get(&format!("{MAPS}/a")).await.is(200);
}

#[tokio::test]
async fn an_event_is_written_though_the_store_has_lost_the_lease_for_it() {
    let world = World::new().await;
    let events = "/api/v1/namespaces/default/events";
    let event = |name: String| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Tested", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}})
    };
    for round in 0..3 {
        // The server knows a lease from the round before, which is not there any more.
        let (world, event) = (&world, &event);
        let together = (0..3).map(|n| async move {
            world.admin.post(events, &event(format!("e{round}.{n}"))).await.is(201);
        });
        futures::future::join_all(together).await;
        for lease in world.store.leases().await.unwrap() {
            world.store.lease_revoke(lease).await.unwrap();
        }
        world.admin.get(&format!("{events}/e{round}.0")).await.is(404);
    }
}

#[tokio::test]
async fn a_bound_pod_gets_its_grace_period_and_an_unbound_one_none() {
    let world = World::new().await;
    let admin = &world.admin;
    let pods = "/api/v1/namespaces/default/pods";
    admin.post(pods, &pod("free")).await.is(201);
    admin.delete(&format!("{pods}/free"), None).await.is(200);
    admin.get(&format!("{pods}/free")).await.is(404);

    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n1".into();
    admin.post(pods, &bound).await.is(201);
    let path = format!("{pods}/bound");
    let deleting = admin.delete(&path, None).await.is(200);
    assert_eq!(deleting.at("/metadata/deletionGracePeriodSeconds"), 30);
    let again = admin.delete(&path, Some(&json!({"gracePeriodSeconds": 60}))).await.is(200);
    assert_eq!(again.at("/metadata/deletionGracePeriodSeconds"), 30);
    let shorter = admin.delete(&path, Some(&json!({"gracePeriodSeconds": 5}))).await.is(200);
    assert_eq!(shorter.at("/metadata/deletionGracePeriodSeconds"), 5);
    admin.delete(&path, Some(&json!({"gracePeriodSeconds": 0}))).await.is(200);
    admin.get(&path).await.is(404);
}

#[tokio::test]
async fn yaml_goes_in_and_comes_out() {
    let world = World::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: written\ndata:\n  k: v\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let created = world.admin.ask(Method::POST, MAPS, &headers, yaml).await.is(201);
    assert_eq!(created.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&created.bytes).contains("\n  name: written\n"));
}

#[tokio::test]
async fn events_are_one_object_in_two_groups() {
    let world = World::new().await;
    let admin = &world.admin;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "hello", "type": "Normal",
    });
    admin.post("/api/v1/namespaces/default/events", &event).await.is(201);
    let other = admin.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.is(200);
    assert_eq!(other.text("/apiVersion"), "events.k8s.io/v1");
    assert_eq!(other.text("/note"), "hello");
    assert_eq!(other.text("/regarding/name"), "p");
    let list = admin.get("/apis/events.k8s.io/v1/events").await.is(200);
    assert_eq!(list.text("/items/0/note"), "hello");
}

#[tokio::test]
async fn a_name_that_cannot_be_generated_is_told_of_after_eight_tries() {
    /// Always the same, and counted by names.
    struct Stuck(foundation::SeededRandomness, std::sync::atomic::AtomicUsize);
    impl foundation::Randomness for Stuck {
        fn u64(&self) -> u64 {
            self.0.u64()
        }
        fn fill(&self, bytes: &mut [u8]) {
            self.0.fill(bytes);
        }
        fn name_suffix(&self) -> String {
            self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            "bbbbb".to_owned()
        }
    }
    let stuck = std::sync::Arc::new(Stuck(foundation::SeededRandomness::new(7), Default::default()));
    let world = World::with_randomness(stuck.clone()).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    let made = world.admin.post(MAPS, &map).await.is(201);
    assert_eq!(made.text("/metadata/name"), "g-bbbbb");
    let tried = stuck.1.load(std::sync::atomic::Ordering::SeqCst);
    let refused = world.admin.post(MAPS, &map).await.is(409);
    assert_eq!(stuck.1.load(std::sync::atomic::Ordering::SeqCst) - tried, 8);
    assert_eq!(refused.text("/reason"), "AlreadyExists");
    assert_eq!(
        refused.message(),
        "configmaps \"g-\" already exists, the server was not able to generate a unique name for the object"
    );
    assert_eq!(
        (refused.at("/details/retryAfterSeconds"), &refused.headers["retry-after"]),
        (&json!(1), &"1".parse().unwrap())
    );
}
