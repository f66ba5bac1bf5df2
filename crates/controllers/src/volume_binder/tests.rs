//! A claim and a volume on their way to each other, step by step, and what is in the way.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn volume(extra: Value, phase: &str) -> PersistentVolume {
    let mut spec =
        json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "v", "uid": "v"}, "spec": spec, "status": {"phase": phase}}),
    )
    .unwrap()
}

fn claim(extra: Value, annotations: Value, phase: &str) -> PersistentVolumeClaim {
    let mut spec = json!({
        "resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c",
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "a", "uid": "p", "annotations": annotations},
        "spec": spec,
        "status": {"phase": phase},
    }))
    .unwrap()
}

fn class(provisioner: &str, mode: &str) -> StorageClass {
    serde_json::from_value(json!({
        "metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode,
    }))
    .unwrap()
}

fn reference() -> Value {
    json!({"claimRef": {"namespace": "a", "name": "p", "uid": "p"}})
}

fn bound() -> Value {
    json!({"pv.kubernetes.io/bind-completed": "yes"})
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

#[test]
fn claims_step_by_step() {
    let named = || json!({"volumeName": "v"});
    for (what, claim, volume, lines, said) in [
        (
            "a volume is found",
            claim(json!({}), json!({}), "Pending"),
            Some(volume(json!({}), "Available")),
            vec!["update persistentvolumes v"],
            "",
        ),
        (
            "the volume says so",
            claim(json!({}), json!({}), "Pending"),
            Some(volume(reference(), "Available")),
            vec!["update persistentvolumeclaims a/p"],
            "",
        ),
        (
            "the claim says so",
            claim(named(), bound(), "Pending"),
            Some(volume(reference(), "Bound")),
            vec!["update persistentvolumeclaims/status a/p"],
            "",
        ),
        (
            "a volume asked for by name",
            claim(named(), json!({}), "Pending"),
            Some(volume(json!({}), "Available")),
            vec!["update persistentvolumes v"],
            "",
        ),
        (
            "one that does not satisfy",
            claim(named(), json!({}), "Pending"),
            Some(volume(json!({"accessModes": ["ReadOnlyMany"]}), "Available")),
            vec![],
            "VolumeMismatch",
        ),
        (
            "one that is another's",
            claim(named(), json!({}), "Pending"),
            Some(volume(json!({"claimRef": {"namespace": "a", "name": "q"}}), "Bound")),
            vec![],
            "",
        ),
        (
            "nothing there",
            claim(json!({}), json!({}), ""),
            None,
            vec!["update persistentvolumeclaims/status a/p"],
            "ProvisioningFailed",
        ),
        (
            "its volume is gone",
            claim(named(), bound(), "Bound"),
            None,
            vec!["update persistentvolumeclaims/status a/p"],
            "ClaimLost",
        ),
        (
            "its volume is another's",
            claim(named(), bound(), "Bound"),
            Some(volume(json!({"claimRef": {"namespace": "a", "name": "p", "uid": "old"}}), "Bound")),
            vec!["update persistentvolumeclaims/status a/p"],
            "ClaimMisbound",
        ),
    ] {
        let fixture = Fixture::new(VolumeBinder).with(vec![claim]).with(volume);
        let plan = fixture.plan("a", "p", now());
        let made: Vec<_> = plan.actions().map(ToString::to_string).collect();
        let events: Vec<_> = plan.events.iter().map(|event| event.reason.as_str()).collect();
        assert_eq!(
            (made, events.join(",")),
            (lines.iter().map(ToString::to_string).collect(), said.to_owned()),
            "{what}"
        );
    }
}

#[test]
fn a_bound_claim_takes_over_what_the_volume_is() {
    let fixture = Fixture::new(VolumeBinder)
        .with(vec![claim(json!({"volumeName": "v"}), bound(), "Pending")])
        .with(vec![volume(reference(), "Bound")]);
    let plan = fixture.plan("a", "p", now());
    let written: PersistentVolumeClaim = plan.actions().next().unwrap().object().unwrap();
    let status = written.status.clone().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Bound"));
    assert_eq!(status.capacity.unwrap()["storage"].0, "5Gi");
    let fixture = fixture.with(vec![written]);
    assert_eq!(fixture.lines("a", "p", now()), Vec::<String>::new(), "and is left alone from then on");
}

#[test]
fn who_waits_for_whom_is_said() {
    let waiting = || claim(json!({}), json!({}), "Pending");
    let asked = json!({
        "volume.kubernetes.io/storage-provisioner": "x/y", "volume.beta.kubernetes.io/storage-provisioner": "x/y",
    });
    for (what, claim, class, lines, message) in [
        (
            "its first pod",
            waiting(),
            class("x/y", "WaitForFirstConsumer"),
            vec![],
            "waiting for first consumer to be created before binding",
        ),
        (
            "the provisioner is asked",
            waiting(),
            class("x/y", "Immediate"),
            vec!["update persistentvolumeclaims a/p"],
            "",
        ),
        (
            "the provisioner",
            claim(json!({}), asked, "Pending"),
            class("x/y", "Immediate"),
            vec![],
            "Waiting for a volume to be created either by the external provisioner 'x/y' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
        ),
    ] {
        let fixture = Fixture::new(VolumeBinder).with(vec![claim]).with(vec![class]);
        let plan = fixture.plan("a", "p", now());
        let made: Vec<_> = plan.actions().map(ToString::to_string).collect();
        let said: Vec<_> = plan.events.iter().map(|event| event.message.as_str()).collect();
        assert_eq!(
            (made, said.join("")),
            (lines.iter().map(ToString::to_string).collect(), message.to_owned()),
            "{what}"
        );
    }
}

#[test]
fn volumes_say_whose_they_are() {
    let status = "update persistentvolumes/status v";
    let named = |name: &str| claim(json!({"volumeName": name}), json!({}), "Pending");
    for (what, volume, claim, lines) in [
        ("free", volume(json!({}), ""), None, vec![status]),
        ("free and said so", volume(json!({}), "Available"), None, vec![]),
        ("bound", volume(reference(), "Available"), Some(named("v")), vec![status]),
        (
            "its claim has another",
            volume(reference(), "Bound"),
            Some(named("w")),
            vec!["update persistentvolumes v"],
        ),
    ] {
        let fixture = Fixture::new(VolumeBinder).with(vec![volume]).with(claim);
        assert_eq!(fixture.lines("", "v", now()), lines, "{what}");
    }
}

#[test]
fn a_volume_is_released_only_when_its_claim_is_certainly_gone() {
    let fixture = Fixture::new(VolumeBinder).with(vec![volume(reference(), "Bound")]);
    let path = "/api/v1/namespaces/a/persistentvolumeclaims/p";
    assert_eq!(fixture.plan("", "v", now()).questions, [path]);
    let gone = api::Status::not_found(&api::GroupResource::new("", "persistentvolumeclaims"), "p");
    let plan = fixture.with_answer(path, Err(gone)).plan("", "v", now());
    let written: PersistentVolume = plan.actions().next().unwrap().object().unwrap();
    assert_eq!(written.status.unwrap().phase.as_deref(), Some("Released"));
}

#[test]
fn a_new_volume_wakes_the_claims_of_its_class() {
    let fixture = Fixture::new(VolumeBinder).with(vec![claim(json!({}), json!({}), "Pending")]);
    fixture.woken();
    let fixture = fixture.with(vec![volume(json!({}), "")]);
    let mut woken = fixture.woken();
    woken.sort();
    assert_eq!(woken, ["a/p", "v"]);
    // Each of them looks at all volumes of the class: what helps none of them wakes none.
    for (what, volume, expected) in [
        ("its phase", volume(json!({}), "Available"), vec!["v"]),
        ("its capacity", volume(json!({"capacity": {"storage": "9Gi"}}), "Available"), vec!["a/p", "v"]),
        ("it failed", volume(json!({"capacity": {"storage": "9Gi"}}), "Failed"), vec!["v"]),
        ("it is free again", volume(json!({"capacity": {"storage": "9Gi"}}), "Available"), vec!["a/p", "v"]),
    ] {
        fixture.caches().informer::<PersistentVolume>().feed(vec![volume]);
        let mut woken = fixture.woken();
        woken.sort();
        assert_eq!(woken, expected, "{what}");
    }
}
