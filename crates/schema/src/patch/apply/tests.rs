//! Who owns what after a series of writes.

use serde_json::json;

use super::*;

const NOW: &str = "2024-01-01T00:00:00Z";

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", ignored: &[&["status"]], now: NOW, versions: &Single }
}

fn schema() -> Schema {
    Schema::built_in("io.k8s.api.apps.v1.Deployment").unwrap()
}

fn fresh() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})
}

fn object(metadata: Value, spec: Value) -> Value {
    let mut object = fresh();
    object["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    object["spec"] = spec;
    object
}

fn config(spec: Value) -> Value {
    object(json!({}), spec)
}

/// As the store keeps it.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = "u".into();
    object
}

fn containers(containers: Value) -> Value {
    json!({"template": {"spec": {"containers": containers}}})
}

fn owned(object: &Value, manager: &str) -> Option<Value> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().find(|entry| entry["manager"] == manager).map(|entry| entry["fieldsV1"].clone())
}

#[test]
fn the_first_apply_owns_what_it_sets() {
    let config = object(
        json!({"labels": {"a": "b"}, "finalizers": ["f"]}),
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
               "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}], "args": ["x"]}]}}}),
    );
    let applied = apply(&fresh(), &config, &schema(), &writer("kubectl"), false).unwrap();
    let mut expected = config.clone();
    expected["metadata"]["managedFields"] = json!([{
        "manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }}}},
            },
        },
    }]);
    assert_eq!(applied, expected);
    let live = stored(applied);
    let later = Writer { now: "2025-01-01T00:00:00Z", ..writer("kubectl") };
    assert_eq!(apply(&live, &config, &schema(), &later, false).unwrap(), live, "nothing changed");
}

#[test]
fn what_is_no_longer_applied_goes() {
    let first = config(json!({"replicas": 1, "paused": true, "template": {"spec": {
        "nodeSelector": {"a": "1", "b": "2"},
        "containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}],
        "securityContext": {"runAsUser": 1},
    }}}));
    let live = stored(apply(&fresh(), &first, &schema(), &writer("m"), false).unwrap());
    let second = config(json!({"replicas": 1, "template": {"spec": {
        "nodeSelector": {"b": "3"},
        "containers": [{"name": "a", "image": "x"}],
    }}}));
    let applied = apply(&live, &second, &schema(), &writer("m"), false).unwrap();
    assert_eq!(applied["spec"], second["spec"]);
}

#[test]
fn what_others_hold_stays() {
    let live = stored(
        apply(
            &fresh(),
            &config(containers(json!([{"name": "a", "image": "1"}]))),
            &schema(),
            &writer("one"),
            false,
        )
        .unwrap(),
    );
    let both = config(containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])));
    let live = apply(&live, &both, &schema(), &writer("two"), false).unwrap();
    assert_eq!(live["spec"], both["spec"], "the same value is no conflict");
    // Two stops applying the first container, which one still holds.
    let live = apply(
        &live,
        &config(containers(json!([{"name": "b", "image": "2"}]))),
        &schema(),
        &writer("two"),
        false,
    )
    .unwrap();
    assert_eq!(live["spec"], both["spec"]);
    // One stops too: now it goes.
    let live = apply(&live, &config(json!({"replicas": 1})), &schema(), &writer("one"), false).unwrap();
    assert_eq!(live["spec"]["template"], containers(json!([{"name": "b", "image": "2"}]))["template"]);
}

#[test]
fn conflicts_are_refused_unless_forced() {
    let first = config(
        json!({"replicas": 1, "paused": true, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}),
    );
    let live = stored(apply(&fresh(), &first, &schema(), &writer("one"), false).unwrap());
    let status = apply(&live, &config(json!({"replicas": 2})), &schema(), &writer("two"), false).unwrap_err();
    assert_eq!(status.code, 409);
    assert_eq!(status.message, r#"Apply failed with 1 conflict: conflict with "one": .spec.replicas"#);
    let details = status.details.unwrap();
    assert_eq!(details.causes[0].reason, "FieldManagerConflict");
    assert_eq!(details.causes[0].message, r#"conflict with "one""#);
    assert_eq!(details.causes[0].field, ".spec.replicas");

    let second =
        config(json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}));
    let status = apply(&live, &second, &schema(), &writer("two"), false).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\n- \
         .spec.template.spec.containers[name=\"a\"].image"
    );
    let forced = apply(&live, &second, &schema(), &writer("two"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(
        owned(&forced, "one").unwrap()["f:spec"],
        json!({"f:paused": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}}})
    );
}

#[test]
fn what_was_there_before_belongs_to_nobody_in_particular() {
    let live = stored(config(json!({"replicas": 3, "paused": true})));
    let status = apply(&live, &config(json!({"replicas": 1})), &schema(), &writer("m"), false).unwrap_err();
    assert_eq!(
        status.message,
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using apps/v1: .spec.replicas"#
    );
    let applied = apply(&live, &config(json!({"replicas": 3})), &schema(), &writer("m"), false).unwrap();
    assert_eq!(applied["spec"], live["spec"]);
    assert_eq!(
        owned(&applied, "before-first-apply"),
        Some(json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))
    );
    assert_eq!(owned(&applied, "m"), Some(json!({"f:spec": {"f:replicas": {}}})));
}

#[test]
fn other_writes_are_tracked_once_an_object_was_applied() {
    let mut untouched = stored(config(json!({"replicas": 2})));
    track(Some(&stored(config(json!({"replicas": 1})))), &mut untouched, &schema(), &writer("controller"))
        .unwrap();
    assert_eq!(untouched["metadata"].get("managedFields"), None);

    let live = stored(
        apply(&fresh(), &config(json!({"replicas": 1, "paused": true})), &schema(), &writer("m"), false)
            .unwrap(),
    );
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    new["spec"]["minReadySeconds"] = 1.into();
    new["status"] = json!({"replicas": 1});
    track(Some(&live), &mut new, &schema(), &writer("controller")).unwrap();
    assert_eq!(owned(&new, "m"), Some(json!({"f:spec": {"f:paused": {}}})));
    assert_eq!(
        owned(&new, "controller"),
        Some(json!({"f:spec": {"f:replicas": {}, "f:minReadySeconds": {}}}))
    );
    let status = apply(&new, &config(json!({"replicas": 1})), &schema(), &writer("m"), false).unwrap_err();
    assert!(
        status.message.contains(r#"conflict with "controller" using apps/v1: .spec.replicas"#),
        "{}",
        status.message
    );

    // A writer that sends no entries does not erase them; one that asks for it does.
    let mut silent = new.clone();
    silent["metadata"].as_object_mut().unwrap().remove("managedFields");
    track(Some(&new), &mut silent, &schema(), &writer("controller")).unwrap();
    assert_eq!(silent, new);
    let mut reset = new.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track(Some(&new), &mut reset, &schema(), &writer("controller")).unwrap();
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[test]
fn subresources_are_managers_of_their_own() {
    let live =
        stored(apply(&fresh(), &config(json!({"replicas": 1})), &schema(), &writer("m"), false).unwrap());
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    let status = Writer { subresource: "status", ignored: &[&["spec"], &["metadata"]], ..writer("m") };
    track(Some(&live), &mut new, &schema(), &status).unwrap();
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"]["f:status"]["f:replicas"], json!({}));
}

#[test]
fn many_updating_managers_are_merged() {
    let mut live =
        stored(apply(&fresh(), &config(json!({"replicas": 1})), &schema(), &writer("m"), false).unwrap());
    for n in 0..20 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("a{n:02}")] = "x".into();
        let (manager, now) = (format!("w{n:02}"), format!("2024-01-01T00:00:{n:02}Z"));
        track(Some(&live), &mut new, &schema(), &Writer { manager: &manager, now: &now, ..writer("") })
            .unwrap();
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry["operation"] == "Update").count(), 10);
    let ancient = owned(&live, "ancient-changes").unwrap();
    assert!(ancient["f:metadata"]["f:annotations"].get("f:a10").is_some(), "{ancient}");
    assert!(owned(&live, "w19").is_some() && owned(&live, "w05").is_none());
}

#[test]
fn lists_keep_the_applied_order() {
    let live = stored(
        apply(
            &fresh(),
            &config(containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]))),
            &schema(),
            &writer("one"),
            false,
        )
        .unwrap(),
    );
    let cases = [
        (json!([{"name": "d"}]), ["a", "b", "c", "d"].as_slice()),
        (json!([{"name": "c"}, {"name": "a"}]), &["c", "a", "b"]),
        (json!([{"name": "b"}, {"name": "x"}, {"name": "c"}]), &["a", "b", "x", "c"]),
    ];
    for (given, expected) in cases {
        let applied =
            apply(&live, &config(containers(given.clone())), &schema(), &writer("two"), false).unwrap();
        let names: Vec<&str> = applied["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|container| container["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{given}");
    }
}

#[test]
fn configurations_that_cannot_be_applied() {
    let twice = config(containers(json!([{"name": "a"}, {"name": "a"}])));
    let status = apply(&fresh(), &twice, &schema(), &writer("m"), false).unwrap_err();
    assert!(
        status.message.contains(r#".spec.template.spec.containers: duplicate entries for key [name="a"]"#),
        "{}",
        status.message
    );
    let nameless = config(containers(json!([{"image": "a"}])));
    assert!(apply(&fresh(), &nameless, &schema(), &writer("m"), false).is_err());
    let managed = object(json!({"managedFields": [{"manager": "x"}]}), json!({}));
    let status = apply(&fresh(), &managed, &schema(), &writer("m"), false).unwrap_err();
    assert_eq!((status.code, &*status.message), (400, "metadata.managedFields must be nil"));
}

#[test]
fn custom_resources_merge_by_their_schema() {
    let structural = crate::Structural::parse(
        api::GroupVersionKind::new("example.com", "v1", "Widget"),
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                      "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        }}}}),
    );
    let schema = Schema::from(structural.unwrap());
    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "labels": {"l": "1"}}, "spec": spec});
    let first =
        widget(json!({"keyed": [{"k": "a", "v": 1}], "plain": ["x"], "whole": {"a": 1}, "map": {"m": "1"}}));
    let live = stored(apply(&widget(json!({})), &first, &schema, &writer("one"), false).unwrap());
    assert_eq!(
        owned(&live, "one"),
        Some(json!({
            "f:metadata": {"f:labels": {"f:l": {}}},
            "f:spec": {
                "f:keyed": {"k:{\"k\":\"a\"}": {".": {}, "f:k": {}, "f:v": {}}},
                "f:plain": {}, "f:whole": {}, "f:map": {"f:m": {}},
            },
        }))
    );
    let second = widget(json!({"keyed": [{"k": "b", "v": 2}], "map": {"n": "2"}}));
    let merged = apply(&live, &second, &schema, &writer("two"), false).unwrap();
    assert_eq!(
        merged["spec"],
        json!({"keyed": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "plain": ["x"], "whole": {"a": 1}, "map": {"m": "1", "n": "2"}})
    );
}

#[test]
fn elements_that_cannot_be_told_apart_are_one_item() {
    let pod = crate::table::table().definition("io.k8s.api.core.v1.Pod").unwrap();
    let of = |values: &[&str]| {
        let env: Vec<Value> = values.iter().map(|value| json!({"name": "A", "value": value})).collect();
        json!({"spec": {"containers": [{"name": "c", "env": env}]}})
    };
    let item = r#".spec.containers[name="c"].env[name="A"]"#;
    let (name, value) = (format!("{item}.name"), format!("{item}.value"));
    let (whole, all) = (vec![item.to_owned()], vec![item.to_owned(), name, value.clone()]);
    for (old, new, added, removed, modified) in [
        (&["1", "2"][..], &["1", "2"][..], &vec![], &vec![], &vec![]),
        (&["1", "2"], &["1", "3"], &vec![], &vec![], &whole),
        (&["1", "2"], &["2", "1"], &vec![], &vec![], &whole),
        (&["1", "2"], &["1"], &all, &whole, &vec![]),
        (&["1"], &["1", "2"], &whole, &all, &vec![]),
        (&["1"], &["2"], &vec![], &vec![], &vec![value]),
        (&["1", "2"], &["1", "2", "3"], &vec![], &vec![], &whole),
    ] {
        let found = shape::Difference::between(&of(old), &of(new), shape::Shape::Struct(pod));
        let found = [found.added, found.removed, found.modified].map(|set| set.paths());
        assert_eq!([&found[0], &found[1], &found[2]], [added, removed, modified], "{old:?} {new:?}");
    }
    // Whoever makes such a list owns the item, and nothing of it.
    let mut new =
        object(json!({}), containers(json!([{"name": "c", "env": [{"name": "A"}, {"name": "A"}]}])));
    track(None, &mut new, &schema(), &writer("me")).unwrap();
    let env = owned(&new, "me").unwrap()["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"].take();
    assert_eq!(env, json!({".": {}, "k:{\"name\":\"A\"}": {}}));
}

#[test]
fn what_is_below_a_member_without_a_schema_goes_when_it_is_an_object_no_more() {
    let none: [&str; 0] = [];
    for (old, new, added, removed, modified) in [
        (json!({"b": 1, "c": {"d": 2}}), json!(3), &none[..], &[".a.b", ".a.c", ".a.c.d"][..], &[".a"][..]),
        (json!("x"), json!({"b": 1}), &[".a.b"], &none, &[".a"]),
        (json!({"b": 1}), json!([1]), &none, &[".a.b"], &[".a"]),
        (json!({"b": 1}), json!({}), &none, &[".a.b"], &none),
        (json!({}), json!(1), &none, &none, &[".a"]),
        (json!(1), json!(2), &none, &none, &[".a"]),
    ] {
        let found = shape::Difference::between(&json!({"a": old}), &json!({"a": new}), shape::Shape::Untyped);
        let found = [found.added, found.removed, found.modified].map(|set| set.paths());
        assert_eq!([&found[0][..], &found[1], &found[2]], [added, removed, modified], "{old} {new}");
    }
}

#[test]
fn a_new_object_belongs_to_its_creator() {
    let mut new = stored(object(
        json!({"labels": {"a": "b"}}),
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "Recreate"},
               "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}], "securityContext": {}}}}),
    ));
    new["status"] = json!({"replicas": 1});
    track(None, &mut new, &schema(), &writer("kubectl-create")).unwrap();
    let entry = &new["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["time"]), (&json!("Update"), &json!(NOW)));
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:resources": {}}},
                        "f:securityContext": {},
                    },
                },
            },
        })
    );
    // The status that came along is the status' writer's, even where the main object is written.
    let mut later = new.clone();
    later["status"] = json!({"replicas": 2});
    track(Some(&new), &mut later, &schema(), &writer("other")).unwrap();
    assert_eq!(later["metadata"], new["metadata"]);
}

#[test]
fn server_side_apply_takes_over_from_client_side_apply() {
    let config = object(json!({}), json!({"replicas": 3, "paused": true}));
    let mut live = stored(config.clone());
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config.to_string()});
    track(None, &mut live, &schema(), &writer("kubectl-client-side-apply")).unwrap();
    let changed = object(json!({}), json!({"replicas": 4, "paused": true}));
    let applied = apply(&live, &changed, &schema(), &writer("kubectl"), false).unwrap();
    assert_eq!(applied["spec"]["replicas"], 4);
    let noted = &applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(noted.as_str(), Some(&*format!("{changed}\n")));
    // Of another manager's, or of what someone changed since, it is no excuse.
    assert_eq!(apply(&live, &changed, &schema(), &writer("me"), false).unwrap_err().code, 409);
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 7.into();
    track(Some(&live), &mut scaled, &schema(), &writer("autoscaler")).unwrap();
    let status = apply(&scaled, &changed, &schema(), &writer("kubectl"), false).unwrap_err();
    assert!(
        status.message.contains(r#"conflict with "autoscaler" using apps/v1: .spec.replicas"#),
        "{status}"
    );
}

#[test]
fn fields_that_do_not_exist_are_named() {
    let cases = [
        (json!({"foo": 1}), ".spec.foo: field not declared in schema"),
        (json!({"replicas": "3"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"paused": "x"}), ".spec.paused: expected boolean, got &{x}"),
        (
            containers(json!([{"name": "a", "x": 1}])),
            ".spec.template.spec.containers[name=\"a\"].x: field not declared in schema",
        ),
    ];
    for (spec, expected) in cases {
        let status = apply(&fresh(), &config(spec), &schema(), &writer("m"), false).unwrap_err();
        assert_eq!(status.code, 500);
        assert_eq!(
            status.message,
            format!("failed to create typed patch object (/d; apps/v1, Kind=Deployment): {expected}")
        );
    }
}

/// Found by the fuzz target: the second time, what others hold below went away.
#[test]
fn an_empty_struct_can_be_applied_again() {
    let others = json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let live = stored(object(json!({}), others.clone()));
    let config = config(json!({"replicas": 1, "template": {"spec": {}}}));
    let once = apply(&live, &config, &schema(), &writer("two"), false).unwrap();
    let again = apply(&once, &config, &schema(), &writer("two"), false);
    assert_eq!(again, Ok(once.clone()));
    assert_eq!(once["spec"], others);
}

/// The two versions of HorizontalPodAutoscaler, and none else.
struct Autoscalers;

fn autoscaler(version: &str) -> Option<std::sync::Arc<api::kind::Descriptor>> {
    let all = api::kinds::all().into_iter();
    all.filter(|found| found.kind == "HorizontalPodAutoscaler")
        .find(|found| found.group_version().to_string() == version)
}

impl Versions for Autoscalers {
    fn find(&self, version: &str) -> Version {
        match autoscaler(version) {
            Some(found) => Version::Known(std::sync::Arc::new(Schema::built_in(&found.schema).unwrap())),
            None => Version::Gone,
        }
    }

    fn convert(&self, object: &Value, version: &str) -> Result<Value, Status> {
        let mut object = object.clone();
        autoscaler(object["apiVersion"].as_str().unwrap()).unwrap().hooks.to_storage(&mut object);
        object["apiVersion"] = version.into();
        autoscaler(version).unwrap().hooks.from_storage(&mut object);
        Ok(object)
    }
}

fn scaling(version: &str, spec: Value) -> Value {
    let metadata = json!({"name": "h"});
    json!({"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec})
}

fn apply_scaling(live: &Value, config: &Value, manager: &str, force: bool) -> Result<Value, Status> {
    let version = config["apiVersion"].as_str().unwrap();
    let schema = Schema::built_in(&autoscaler(version).unwrap().schema).unwrap();
    let live = match live.pointer("/metadata/managedFields") {
        None => live.clone(),
        Some(entries) => {
            let mut converted = Autoscalers.convert(&without_managed_fields(live), version).unwrap();
            converted["metadata"]["managedFields"] = entries.clone();
            converted
        }
    };
    let writer = Writer { versions: &Autoscalers, ..writer(manager) };
    apply(&live, config, &schema, &writer, force)
}

fn cpu(percent: u32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}}])
}

#[test]
fn what_was_set_in_another_version_is_owned_in_this_one() {
    let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    let old = scaling(
        "autoscaling/v1",
        json!({"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 50}),
    );
    let empty = scaling("autoscaling/v1", Value::Null);
    let live = stored(apply_scaling(&without(empty, "spec"), &old, "one", false).unwrap());

    let spec = json!({"scaleTargetRef": target, "maxReplicas": 7, "metrics": cpu(60)});
    let new = scaling("autoscaling/v2", spec);
    let refused = apply_scaling(&live, &new, "two", false).unwrap_err();
    let fields: Vec<_> = refused.details.unwrap().causes.into_iter().map(|cause| cause.field).collect();
    assert_eq!(
        fields,
        [".spec.maxReplicas", ".spec.targetCPUUtilizationPercentage"],
        "as the other wrote them"
    );

    let forced = apply_scaling(&live, &new, "two", true).unwrap();
    let left = json!({"f:spec": {"f:scaleTargetRef": {}}});
    assert_eq!(owned(&forced, "one").unwrap(), left);
    assert_eq!(forced["spec"]["metrics"], cpu(60));
    let same =
        scaling("autoscaling/v2", json!({"scaleTargetRef": target, "maxReplicas": 5, "metrics": cpu(50)}));
    assert!(apply_scaling(&live, &same, "two", false).is_ok(), "it says the same in other words");
}

#[test]
fn what_was_applied_in_another_version_goes_when_it_is_no_longer_applied() {
    let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    let old = scaling(
        "autoscaling/v1",
        json!({"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 50}),
    );
    let empty = without(scaling("autoscaling/v1", Value::Null), "spec");
    let live = stored(apply_scaling(&empty, &old, "one", false).unwrap());
    let new = scaling("autoscaling/v2", json!({"scaleTargetRef": target, "maxReplicas": 5}));
    let applied = apply_scaling(&live, &new, "one", false).unwrap();
    assert_eq!(applied["spec"], json!({"scaleTargetRef": target, "maxReplicas": 5}));
    // Unless somebody else applies it too.
    let other =
        scaling("autoscaling/v1", json!({"scaleTargetRef": target, "maxReplicas": 5, "minReplicas": 2}));
    let both = apply_scaling(&live, &other, "two", false).unwrap();
    let applied = apply_scaling(&both, &new, "one", false).unwrap();
    assert_eq!(applied["spec"]["minReplicas"], 2);
}

#[test]
fn nobody_owns_anything_in_a_version_that_is_gone() {
    let mut live = stored(scaling("autoscaling/v2", json!({"maxReplicas": 3})));
    let entry = |manager: &str, version: &str| {
        json!({"manager": manager, "operation": "Update", "apiVersion": version, "time": NOW,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:maxReplicas": {}}}})
    };
    live["metadata"]["managedFields"] =
        json!([entry("a", "autoscaling/v2beta2"), entry("b", "autoscaling/v1")]);
    let refused =
        apply_scaling(&live, &scaling("autoscaling/v2", json!({"maxReplicas": 4})), "c", false).unwrap_err();
    let message = "Apply failed with 1 conflict: conflict with \"b\" using autoscaling/v1: .spec.maxReplicas";
    assert_eq!(refused.message, message);

    let mut new = live.clone();
    new["spec"]["maxReplicas"] = 4.into();
    let schema = Schema::built_in("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler").unwrap();
    let writer = Writer { versions: &Autoscalers, ..writer("c") };
    track(Some(&live), &mut new, &schema, &writer).unwrap();
    assert_eq!(owned(&new, "a"), None);
    assert_eq!(owned(&new, "b"), None, "it was taken from them");
    assert_eq!(owned(&new, "c").unwrap(), json!({"f:spec": {"f:maxReplicas": {}}}));
}

fn without(mut object: Value, member: &str) -> Value {
    object.as_object_mut().unwrap().remove(member);
    object
}
