//! Keeps claims and volumes that are in use from vanishing: a finalizer that goes when the last user has gone. Says of each
//! claim whether a pod uses it, and since when none does.
//!
//! Reads claims, volumes and pods. Adds and removes the finalizers `kubernetes.io/pvc-protection` and
//! `kubernetes.io/pv-protection`; writes the condition `Unused` of claims.
//! Not here: binding ([`crate::volume_binder`]); the finalizer on new objects (admission sets it).
//! Upstream: `pkg/controller/volume/pvcprotection`, `pkg/controller/volume/pvprotection`.

use api::meta::Time;
use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod};
use client::{Change, Endpoint, Resource};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::{object, pods};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// The condition that says whether no pod uses a claim.
const UNUSED: &str = "Unused";
/// Pods by the keys of the claims they use.
const USERS: &str = "users-of-claim";

/// The controller of claims.
pub struct ClaimProtection;

/// The controller of volumes.
pub struct VolumeProtection;

/// Pods as the server lists them.
#[derive(serde::Deserialize)]
struct List {
    items: Vec<Pod>,
}

/// The keys of the claims that a pod uses.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", object::name(pod), volume.name)),
        (None, None) => None,
    });
    names.map(|name| client::cache_key(Some(object::namespace(pod)), &name)).collect()
}

impl Controller for ClaimProtection {
    const NAME: &'static str = "pvc-protection-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<PersistentVolumeClaim>();
        watches.index::<Pod>(USERS, claims_of);
        watches.map::<Pod>(|_, change, wake| {
            // Pods that end, come and go. A pod may be another one of the same name by now: both may matter.
            let ended = |pod: &Pod| (object::uid(pod).to_owned(), pods::is_terminal(pod));
            let old = match change {
                Change::Updated { old, new } if ended(old) == ended(new) => return,
                Change::Updated { old, .. } => Some(&**old),
                Change::Added(_) | Change::Deleted(_) => None,
            };
            for pod in std::iter::once(&**change.object()).chain(old) {
                for key in claims_of(pod) {
                    let (namespace, name) = client::split_key(&key);
                    wake(Key::new(namespace, name));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let Some(claim) = view.get_key::<PersistentVolumeClaim>(key) else { return Plan::nothing() };
        // A pod without a node holds nothing yet, and its kubelet will refuse a claim that is going.
        let uses = |pod: &Pod| !pods::node(pod).is_empty();
        let users = view.by_index::<Pod>(USERS, key.as_str());
        let mut is_used = users.iter().any(|pod| uses(pod));
        if !is_used && object::deleting(&*claim) && object::has_finalizer(&*claim, CLAIM_FINALIZER) {
            // The caches of claims and pods run apart: a pod may have got its node before the claim was deleted, and not be
            // seen yet. What this finalizer keeps is data, so the server is asked.
            let mut plan = Plan::nothing();
            let path = Endpoint::of::<Pod>().path(Some(key.namespace()), None, None);
            let answer = view.answers().get(&path).cloned();
            match answer.map(|answer| answer.map(|answer| api::json::typed::<List>(&answer))) {
                None => {
                    plan.ask(path);
                    return plan;
                }
                Some(Ok(Ok(List { items }))) => {
                    let used =
                        |pod: &Pod| uses(pod) && claims_of(pod).iter().any(|claim| claim == key.as_str());
                    is_used = items.iter().any(used);
                    // It is seen by and by.
                    plan.retry = is_used;
                }
                Some(_) => plan.retry = true,
            }
            if plan.retry {
                return plan;
            }
        }
        let plan = protect(&*claim, CLAIM_FINALIZER, is_used);
        if plan.actions().next().is_some() {
            return plan;
        }
        // Whoever has not ended wants it, also without a node.
        let is_wanted = users.iter().any(|pod| !pods::is_terminal(pod));
        tell(&claim, is_wanted, now)
    }
}

/// Says of a claim whether it is unused, if that is not said yet.
fn tell(claim: &PersistentVolumeClaim, is_wanted: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let (status, reason) = if is_wanted { ("False", "PodUsingPVC") } else { ("True", "NoPodsUsingPVC") };
    let mut changed = claim.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let found = conditions.iter().position(|condition| condition.type_ == UNUSED);
    if found.is_some_and(|at| conditions[at].status == status) {
        return plan;
    }
    let condition = PersistentVolumeClaimCondition {
        type_: UNUSED.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        last_transition_time: Some(Time(object::seconds(now))),
        ..PersistentVolumeClaimCondition::default()
    };
    match found {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    plan.act(Action::update_status(&changed));
    plan
}

impl Controller for VolumeProtection {
    const NAME: &'static str = "pv-protection-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<PersistentVolume>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let Some(volume) = view.get_key::<PersistentVolume>(key) else { return Plan::nothing() };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        protect(&*volume, VOLUME_FINALIZER, phase == Some("Bound"))
    }
}

fn protect<K: Resource>(object: &K, finalizer: &str, is_used: bool) -> Plan {
    let mut plan = Plan::nothing();
    let has = object::has_finalizer(object, finalizer);
    let mut changed = object.clone();
    let finalizers = changed.metadata_mut().finalizers.get_or_insert_default();
    match (object::deleting(object), has) {
        (true, true) if !is_used => finalizers.retain(|other| other != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return plan,
    }
    plan.act(Action::update(&changed));
    plan
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn metadata(name: &str, finalizer: Option<&str>, deleting: bool) -> Value {
        let mut metadata = json!({"name": name, "finalizers": finalizer.map(|one| vec![one])});
        if deleting {
            metadata["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        metadata
    }

    fn pod(node: &str, volume: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a"},
            "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
        }))
        .unwrap()
    }

    #[test]
    fn claims() {
        let uses = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}});
        let ephemeral = || json!({"name": "v", "ephemeral": {}});
        for (what, finalizer, deleting, pods, left) in [
            ("new", None, false, vec![], Some(1)),
            ("protected", Some(CLAIM_FINALIZER), false, vec![], None),
            ("going and used", Some(CLAIM_FINALIZER), true, vec![pod("n", uses())], None),
            (
                "going and used by the pod it was made for",
                Some(CLAIM_FINALIZER),
                true,
                vec![pod("n", ephemeral())],
                None,
            ),
            (
                "going and wanted by a pod without a node",
                Some(CLAIM_FINALIZER),
                true,
                vec![pod("", uses())],
                Some(0),
            ),
            ("going and unused", Some(CLAIM_FINALIZER), true, vec![], Some(0)),
            ("going unprotected", None, true, vec![], None),
        ] {
            let mut metadata = metadata("p-v", finalizer, deleting);
            metadata["namespace"] = "a".into();
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            let fixture = Fixture::new(ClaimProtection).with(vec![claim]).with(pods.clone());
            let fixture = fixture.with_answer("/api/v1/namespaces/a/pods", Ok(json!({"items": pods})));
            let plan = fixture.plan("a", "p-v", Timestamp::UNIX_EPOCH);
            let updates = plan.actions().filter(|action| matches!(action.verb, reconcile::Verb::Update));
            let written = updates.map(|action| {
                let claim: PersistentVolumeClaim = action.object().unwrap();
                claim.metadata.finalizers.unwrap_or_default().len()
            });
            assert_eq!(written.collect::<Vec<_>>(), Vec::from_iter(left), "{what}");
        }
    }

    #[test]
    fn whether_a_claim_is_unused_is_said_once_and_since_when() {
        let ended = |phase: &str| {
            let mut pod = pod("n", json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
            pod.status = Some(serde_json::from_value(json!({"phase": phase})).unwrap());
            pod
        };
        let now = Timestamp::from_second(60).unwrap();
        let said = |status: &str| json!([{"type": "Resizing", "status": "True"}, {"type": UNUSED, "status": status}]);
        for (what, pods, conditions, wanted) in [
            ("new", vec![], json!([]), Some(("True", "NoPodsUsingPVC"))),
            ("known to be unused", vec![], said("True"), None),
            ("wanted by a pod", vec![ended("Pending")], said("True"), Some(("False", "PodUsingPVC"))),
            ("known to be used", vec![ended("Running")], said("False"), None),
            ("left", vec![ended("Succeeded")], said("False"), Some(("True", "NoPodsUsingPVC"))),
        ] {
            let mut claim = json!({"metadata": metadata("c", Some(CLAIM_FINALIZER), false)});
            claim["metadata"]["namespace"] = "a".into();
            claim["status"] = json!({"phase": "Bound", "conditions": conditions});
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            let fixture = Fixture::new(ClaimProtection).with(vec![claim]).with(pods);
            let plan = fixture.plan("a", "c", now);
            let written = plan.actions().next().map(|action| {
                let claim: PersistentVolumeClaim = action.object().unwrap();
                let all = claim.status.unwrap().conditions.unwrap();
                assert_eq!(all.len(), conditions.as_array().unwrap().len().max(1), "{what}");
                let found = all.into_iter().find(|condition| condition.type_ == UNUSED).unwrap();
                assert_eq!(found.last_transition_time, Some(Time(now)), "{what}");
                (found.status, found.reason.unwrap())
            });
            let wanted = wanted.map(|(status, reason): (&str, &str)| (status.to_owned(), reason.to_owned()));
            assert_eq!(written, wanted, "{what}");
        }
    }

    #[test]
    fn pods_that_come_end_and_go_wake_their_claims() {
        let uses = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let in_phase = |phase: &str| {
            let mut pod = pod("n", uses());
            pod.status = Some(serde_json::from_value(json!({"phase": phase})).unwrap());
            pod
        };
        let mut fixture = Fixture::new(ClaimProtection).with::<PersistentVolumeClaim>(vec![]);
        for (pods, wakes) in [
            (vec![in_phase("Pending")], true),
            (vec![in_phase("Running")], false),
            (vec![in_phase("Failed")], true),
            (vec![], true),
        ] {
            fixture = fixture.with::<Pod>(pods.clone());
            let woken = fixture.woken();
            assert_eq!(woken.contains(&"a/c".to_owned()), wakes, "{pods:?}: {woken:?}");
        }
    }

    #[test]
    fn the_server_is_asked_before_a_claim_is_let_go() {
        const PODS: &str = "/api/v1/namespaces/a/pods";
        let uses = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let mut metadata = metadata("c", Some(CLAIM_FINALIZER), true);
        metadata["namespace"] = "a".into();
        let down = api::Status::service_unavailable("down");
        for (what, answer, writes, retry) in [
            ("not asked", None, 0, false),
            ("a pod that the cache has not", Some(Ok(json!({"items": [pod("n", uses.clone())]}))), 0, true),
            ("one without a node", Some(Ok(json!({"items": [pod("", uses)]}))), 1, false),
            ("none", Some(Ok(json!({"items": []}))), 1, false),
            ("no answer", Some(Err(down)), 0, true),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            let mut fixture = Fixture::new(ClaimProtection).with(vec![claim]).with::<Pod>(vec![]);
            let asks = answer.is_none();
            if let Some(answer) = answer {
                fixture = fixture.with_answer(PODS, answer);
            }
            let plan = fixture.plan("a", "c", Timestamp::UNIX_EPOCH);
            assert_eq!((plan.actions().count(), plan.retry), (writes, retry), "{what}");
            assert_eq!(plan.questions == [PODS], asks, "{what}");
        }
    }

    #[test]
    fn volumes() {
        for (what, finalizer, deleting, phase, acts) in [
            ("new", None, false, "Available", true),
            ("going and bound", Some(VOLUME_FINALIZER), true, "Bound", false),
            ("going and free", Some(VOLUME_FINALIZER), true, "Released", true),
        ] {
            let volume: PersistentVolume = serde_json::from_value(json!({
                "metadata": metadata("v", finalizer, deleting), "status": {"phase": phase},
            }))
            .unwrap();
            let plan = Fixture::new(VolumeProtection).with(vec![volume]).plan("", "v", Timestamp::UNIX_EPOCH);
            assert_eq!(plan.actions().count() == 1, acts, "{what}");
        }
    }
}
