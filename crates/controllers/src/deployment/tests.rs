//! Tables of the Deployment controller: ReplicaSets in, scalings and status out.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, image: &str, extra: Value) -> Deployment {
    let mut spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "d"}},
        "template": template(image),
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {
            "name": "d", "namespace": "a", "uid": "d", "generation": 1,
            "annotations": {"deployment.kubernetes.io/revision": "2"},
        },
        "spec": spec,
        "status": {"observedGeneration": 1, "replicas": replicas},
    }))
    .unwrap()
}

/// A ReplicaSet of `image` with `replicas` pods, of which `available` are available; `desired` is the Deployment's size when
/// it was last scaled.
fn set(name: &str, revision: i64, image: &str, replicas: i32, available: i32, desired: i32) -> ReplicaSet {
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = json!(name);
    let surge = (desired + 3) / 4;
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "a", "uid": name, "generation": 1, "labels": {"app": "d"},
            "creationTimestamp": at(revision),
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": true,
            }],
            "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": (desired + surge).to_string(),
            },
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "d"}}, "template": template},
        "status": {"replicas": replicas, "availableReplicas": available, "readyReplicas": available, "observedGeneration": 1},
    }))
    .unwrap()
}

fn plan(deployment: Deployment, sets: Vec<ReplicaSet>) -> Plan {
    Fixture::new(Deployments).with(vec![deployment]).with(sets).plan("a", "d", at(1000))
}

/// The new sizes that a plan gives to ReplicaSets.
fn sizes(plan: &Plan) -> Vec<(String, i32)> {
    plan.actions()
        .filter(|action| action.endpoint.plural == "replicasets")
        .filter_map(|action| Some((action.name.clone(), action.object::<ReplicaSet>()?.spec.replicas?)))
        .collect()
}

fn owned(sizes: &[(&str, i32)]) -> Vec<(String, i32)> {
    sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
}

fn condition(plan: &Plan, kind: &str) -> Option<(String, String)> {
    let written =
        plan.actions().find(|action| action.to_string().starts_with("update deployments/status"))?;
    let status = written.object::<Deployment>()?.status?;
    let found = status.conditions?.into_iter().find(|condition| condition.type_.as_deref() == Some(kind))?;
    Some((found.status?, found.reason?))
}

#[test]
fn a_new_deployment_creates_its_replica_set_at_full_size() {
    let plan = plan(deployment(3, "v1", json!({})), vec![]);
    let created = plan.actions().next().unwrap();
    let set: ReplicaSet = created.object().unwrap();
    assert_eq!(set.spec.replicas, Some(3));
    let hash = set.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(set.metadata.name.as_deref(), Some(format!("d-{hash}").as_str()));
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    let event = created.on_success.clone().unwrap();
    assert_eq!(event.reason, "ScalingReplicaSet");
    assert_eq!(event.message, format!("Scaled up replica set d-{hash} from 0 to 3"));
    assert_eq!(condition(&plan, "Progressing"), Some(("True".to_owned(), "NewReplicaSetCreated".to_owned())));
}

#[test]
fn a_rollout_goes_within_surge_and_unavailability() {
    // 10 replicas, 25%: at most 13 pods, at least 8 available.
    for (what, old, new, expected) in [
        ("the new one takes the room", (10, 10), (0, 0), &[("new", 3)][..]),
        ("the old one gives what is spare", (10, 10), (3, 0), &[("old", 8)]),
        ("available new ones let old ones go", (8, 8), (5, 5), &[("old", 3)]),
        ("unavailable old ones go first", (10, 6), (3, 0), &[("old", 8)]),
        ("nothing to spare", (8, 8), (5, 0), &[]),
        ("the last step", (3, 3), (10, 10), &[("old", 0)]),
    ] {
        let sets = vec![set("old", 1, "v1", old.0, old.1, 10), set("new", 2, "v2", new.0, new.1, 10)];
        let plan = plan(deployment(10, "v2", json!({})), sets);
        assert_eq!(sizes(&plan), owned(expected), "{what}");
    }
}

#[test]
fn scaling_within_a_rollout_keeps_the_proportions() {
    // It was 10 (13 with surge) in 8 + 5; it becomes 20 (25): in proportion 15 + 10.
    let sets = vec![set("old", 1, "v1", 8, 8, 10), set("new", 2, "v2", 5, 5, 10)];
    let plan = plan(deployment(20, "v2", json!({})), sets);
    assert_eq!(sizes(&plan), owned(&[("old", 15), ("new", 10)]));
}

#[test]
fn scaling_without_a_rollout_is_direct() {
    let plan = plan(deployment(5, "v2", json!({})), vec![set("new", 2, "v2", 3, 3, 3)]);
    assert_eq!(sizes(&plan), owned(&[("new", 5)]));
    let event = plan.actions().next().unwrap().on_success.clone().unwrap();
    assert_eq!(event.message, "Scaled up replica set new from 3 to 5");
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let paused = json!({"paused": true});
    let sets = || vec![set("old", 1, "v1", 3, 3, 3)];
    let rolled = plan(deployment(3, "v2", paused.clone()), sets());
    assert_eq!(sizes(&rolled), owned(&[]));
    assert_eq!(
        condition(&rolled, "Progressing"),
        Some(("Unknown".to_owned(), "DeploymentPaused".to_owned()))
    );
    assert_eq!(sizes(&plan(deployment(4, "v2", paused), sets())), owned(&[("old", 4)]));
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = || deployment(2, "v2", json!({"strategy": {"type": "Recreate"}}));
    let down = plan(recreate(), vec![set("old", 1, "v1", 2, 2, 2)]);
    assert_eq!(sizes(&down), owned(&[("old", 0)]));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "a", "uid": "p", "deletionTimestamp": at(1), "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "old", "uid": "old", "controller": true},
        ]},
        "status": {"phase": "Running"},
    }))
    .unwrap();
    let fixture = Fixture::new(Deployments)
        .with(vec![recreate()])
        .with(vec![set("old", 1, "v1", 0, 0, 2)])
        .with(vec![pod]);
    assert_eq!(sizes(&fixture.plan("a", "d", at(1000))), owned(&[]), "it still runs");
    fixture.woken();
    let fixture = fixture.with(Vec::<Pod>::new());
    assert_eq!(fixture.woken(), ["a/d"], "its end wakes the Deployment");
    let lines = fixture.lines("a", "d", at(1000));
    assert!(lines[0].starts_with("create replicasets a/d-"), "{lines:?}");
}

#[test]
fn a_rollback_takes_the_old_replica_set_with_a_new_revision() {
    let sets = vec![set("one", 1, "v1", 0, 0, 3), set("two", 2, "v2", 3, 3, 3)];
    let plan = plan(deployment(3, "v1", json!({})), sets);
    let updated: ReplicaSet = plan.actions().next().unwrap().object().unwrap();
    let annotations = updated.metadata.annotations.unwrap();
    assert_eq!(updated.metadata.name.as_deref(), Some("one"));
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn old_replica_sets_beyond_the_limit_are_deleted() {
    let mut done = deployment(1, "v9", json!({"revisionHistoryLimit": 1}));
    done.metadata.annotations =
        Some([("deployment.kubernetes.io/revision".to_owned(), "9".to_owned())].into());
    done.status = serde_json::from_value(json!({
        "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1,
    }))
    .unwrap();
    let sets = vec![
        set("a", 7, "v7", 0, 0, 1),
        set("b", 8, "v8", 0, 0, 1),
        set("c", 3, "v3", 0, 0, 1),
        set("new", 9, "v9", 1, 1, 1),
    ];
    let plan = plan(done, sets);
    let deleted: Vec<_> =
        plan.actions().map(ToString::to_string).filter(|line| line.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete replicasets a/c", "delete replicasets a/a"]);
}

#[test]
fn a_rollout_without_progress_times_out() {
    let mut stuck = deployment(1, "v2", json!({}));
    let progressing = |since: i64| {
        json!({
            "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
                            "lastUpdateTime": at(since), "lastTransitionTime": at(since)}],
        })
    };
    stuck.status = serde_json::from_value(progressing(900)).unwrap();
    let waiting = plan(stuck.clone(), vec![set("new", 2, "v2", 1, 0, 1)]);
    assert_eq!(waiting.requeue_at, Some(at(1501)), "a second after the deadline");
    stuck.status = serde_json::from_value(progressing(100)).unwrap();
    let late = plan(stuck, vec![set("new", 2, "v2", 1, 0, 1)]);
    assert_eq!(
        condition(&late, "Progressing"),
        Some(("False".to_owned(), "ProgressDeadlineExceeded".to_owned()))
    );
}

#[test]
fn a_name_that_is_taken_is_a_collision() {
    let fresh = deployment(1, "v1", json!({}));
    let first = plan(fresh.clone(), vec![]);
    let mut taken: ReplicaSet = first.actions().next().unwrap().object().unwrap();
    taken.metadata.owner_references = None;
    taken.metadata.labels = None;
    let second = plan(fresh, vec![taken]);
    let written: Deployment = second.actions().next().unwrap().object().unwrap();
    assert_eq!(written.status.unwrap().collision_count, Some(1));
}
