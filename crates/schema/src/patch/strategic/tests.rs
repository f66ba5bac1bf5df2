//! One row for each rule of strategic merge.

use serde_json::json;

use super::*;

fn patch_as(short: &str, document: Value, patch: Value) -> Result<Value, (u16, String)> {
    let schema = Schema::built_in(&format!("io.k8s.api.{short}")).unwrap();
    apply(document, &patch, &schema).map_err(|status| (status.code, status.message))
}

/// Cases over a pod's spec.
fn pod(document: Value, patch: Value) -> Result<Value, (u16, String)> {
    patch_as("core.v1.Pod", json!({"spec": document}), json!({"spec": patch}))
        .map(|mut patched| patched["spec"].take())
}

#[test]
fn maps_merge() {
    let cases = [
        // Fields merge, nulls remove, unmatched nulls vanish.
        (
            json!({"nodeName": "a", "hostname": "h"}),
            json!({"nodeName": "b"}),
            json!({"nodeName": "b", "hostname": "h"}),
        ),
        (
            json!({"nodeName": "a", "hostname": "h"}),
            json!({"hostname": null, "x": null}),
            json!({"nodeName": "a"}),
        ),
        (
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null, "c": "3"}}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        ),
        (json!({}), json!({"nodeSelector": {"a": null, "c": "3"}}), json!({"nodeSelector": {"c": "3"}})),
        (json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": null}), json!({})),
        // $patch: replace and delete on maps.
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        // With nothing to act on a directive takes its map with it.
        (json!({}), json!({"nodeSelector": {"$patch": "delete"}}), json!({})),
        (
            json!({}),
            json!({"securityContext": {"seLinuxOptions": {"$patch": "replace", "user": "u"}, "runAsUser": 1}}),
            json!({"securityContext": {"runAsUser": 1}}),
        ),
        // A value of another type is replaced.
        (json!({"priority": 1}), json!({"priority": {"a": 1}}), json!({"priority": {"a": 1}})),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(pod(document, patch.clone()), Ok(expected), "{patch}");
    }
}

#[test]
fn lists_of_maps_merge_by_key() {
    let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    let cases = [
        // Merged elements stand in the patch's order, others keep their place.
        (
            json!({"containers": [{"name": "b", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
        ),
        (
            json!({"containers": [{"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
        ),
        (
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]}),
        ),
        // Nulls remove fields of an element, and vanish from a new one.
        (
            json!({"containers": [{"name": "a", "image": null}]}),
            json!({"containers": [{"name": "a"}, {"name": "b", "image": "2"}]}),
        ),
        (
            json!({"containers": [{"name": "b"}, {"name": "c", "image": null}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
        ),
        // Directives of elements.
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}]}),
        ),
        (json!({"containers": [{"name": "x", "$patch": "delete"}]}), two.clone()),
        (
            json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
            json!({"containers": [{"name": "z"}]}),
        ),
        (json!({"containers": [{"$patch": "replace"}]}), json!({"containers": []})),
        (json!({"containers": []}), two.clone()),
        (json!({"containers": null}), json!({})),
        // Nested lists merge too.
        (
            json!({"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}]}]}),
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "2"}]}),
        ),
    ];
    for (patch, expected) in cases {
        assert_eq!(pod(two.clone(), patch.clone()), Ok(expected), "{patch}");
    }
    let ports = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}]}]});
    assert_eq!(
        pod(
            ports,
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 81, "protocol": "UDP"}]}]})
        ),
        Ok(
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x", "protocol": "UDP"}]}]})
        )
    );
    // No merge strategy: tolerations are replaced.
    assert_eq!(
        pod(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]})),
        Ok(json!({"tolerations": [{"key": "b"}]}))
    );
    // A new list has its directives taken out.
    assert_eq!(
        pod(
            json!({}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "image": null}]})
        ),
        Ok(json!({"containers": [{"name": "b"}]}))
    );
}

#[test]
fn element_order() {
    let cases = [
        // What the client lists is ordered so, what only the server has keeps its place.
        (
            json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "a"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}], "containers": [{"name": "n", "image": "i"}]}),
            json!({"containers": [{"name": "a"}, {"name": "n", "image": "i"}, {"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "i"}, {"name": "b", "$patch": "delete"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "i"}]}),
        ),
        // The list is new.
        (
            json!({}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        // There is no list at all.
        (json!({}), json!({"$setElementOrder/containers": [{"name": "b"}]}), json!({})),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(pod(document, patch.clone()), Ok(expected), "{patch}");
    }
    // Scalars.
    let meta = |document: Value, patch: Value| {
        patch_as("core.v1.Pod", json!({"metadata": document}), json!({"metadata": patch}))
            .map(|mut patched| patched["metadata"].take())
    };
    assert_eq!(
        meta(
            json!({"finalizers": ["a", "s", "b"]}),
            json!({"$setElementOrder/finalizers": ["b", "a", "n"], "finalizers": ["n"]})
        ),
        Ok(json!({"finalizers": ["s", "b", "a", "n"]}))
    );
}

#[test]
fn lists_of_scalars() {
    let meta = |document: Value, patch: Value| {
        patch_as("core.v1.Pod", json!({"metadata": document}), json!({"metadata": patch}))
            .map(|mut patched| patched["metadata"].take())
    };
    let cases = [
        // Merged and without doubles.
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["b", "c"]}),
            json!({"finalizers": ["a", "b", "c"]}),
        ),
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]}),
            json!({"finalizers": ["a", "c"]}),
        ),
        (json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!({})),
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}),
            json!({"finalizers": ["c", "b"]}),
        ),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(meta(document, patch.clone()), Ok(expected), "{patch}");
    }
    // Without a merge strategy they are replaced.
    assert_eq!(
        pod(
            json!({"containers": [{"name": "a", "args": ["1"]}]}),
            json!({"containers": [{"name": "a", "args": ["2"]}]})
        ),
        Ok(json!({"containers": [{"name": "a", "args": ["2"]}]}))
    );
}

#[test]
fn retained_keys() {
    let deployment = |document: Value, patch: Value| {
        patch_as(
            "apps.v1.Deployment",
            json!({"spec": {"strategy": document}}),
            json!({"spec": {"strategy": patch}}),
        )
        .map(|mut patched| patched["spec"]["strategy"].take())
    };
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}});
    assert_eq!(
        deployment(rolling.clone(), json!({"$retainKeys": ["type"], "type": "Recreate"})),
        Ok(json!({"type": "Recreate"}))
    );
    assert_eq!(
        deployment(
            rolling.clone(),
            json!({"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": null})
        ),
        Ok(json!({"type": "Recreate"}))
    );
    for wrong in [json!({"$retainKeys": ["type"], "rollingUpdate": {}}), json!({"$retainKeys": "type"})] {
        assert_eq!(
            deployment(rolling.clone(), wrong),
            Err((400, "invalid patch format of retainKeys".into()))
        );
    }
}

#[test]
fn errors() {
    let one = || json!({"containers": [{"name": "a"}]});
    let cases = [
        (
            one(),
            json!({"containers": [{"image": "x"}]}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            one(),
            json!({"containers": [{"$patch": "delete"}]}),
            500,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            one(),
            json!({"containers": [{"$patch": "merge"}]}),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (one(), json!({"containers": [{"$patch": "x"}]}), 500, "unknown patch type: x in map: map[$patch:x]"),
        (one(), json!({"$patch": "merge"}), 500, "unknown patch type: merge in map: map[$patch:merge]"),
        (
            one(),
            json!({"containers": ["a"]}),
            500,
            "list element types are not identical: [[map[name:a]] [a]]",
        ),
        (
            json!({"containers": [[]]}),
            json!({"containers": [[]]}),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            one(),
            json!({"$setElementOrder/containers": 1}),
            500,
            "expected a []interface {}, but received a int64",
        ),
        (one(), json!({"$setElementOrder": []}), 400, "invalid patch format of setElementOrder list"),
        (one(), json!({"$deleteFromPrimitiveList": []}), 400, "invalid patch format of primitive list"),
        (
            one(),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}),
            500,
            "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]",
        ),
    ];
    for (document, patch, code, message) in cases {
        let (actual, text) = pod(document, patch.clone()).unwrap_err();
        assert_eq!(actual, code, "{patch}: {text}");
        assert!(text.contains(message), "{patch}: {text}");
    }
}

/// Each element looked for among all others would be 10⁹ comparisons here, and the test would not end.
#[test]
fn long_lists_are_merged_by_index() {
    const LENGTH: usize = 40_000;
    let named = |n: usize| json!({"name": format!("e{n}"), "value": "old"});
    let document = json!({
        "metadata": {"finalizers": (0..LENGTH).map(|n| format!("f{n}")).collect::<Vec<_>>()},
        "spec": {"containers": [{"name": "c", "env": (0..LENGTH).map(named).collect::<Vec<_>>()}]},
    });
    // Backwards: the first quarter goes, the second stays, the third changes, the last is the server's, a new one comes.
    let changes = (0..3 * LENGTH / 4).rev().map(|n| match n / (LENGTH / 4) {
        0 => json!({"name": format!("e{n}"), "$patch": "delete"}),
        1 => json!({"name": format!("e{n}")}),
        _ => json!({"name": format!("e{n}"), "value": "new"}),
    });
    let env: Vec<Value> = std::iter::once(json!({"name": "first", "value": "new"})).chain(changes).collect();
    let order: Vec<Value> = env.iter().filter(|change| change.get("$patch").is_none()).cloned().collect();
    let patch = json!({
        "metadata": {
            "$deleteFromPrimitiveList/finalizers": (0..LENGTH / 2).map(|n| format!("f{n}")).collect::<Vec<_>>(),
            "finalizers": (LENGTH / 2..LENGTH + 1).map(|n| format!("f{n}")).collect::<Vec<_>>(),
        },
        "spec": {"containers": [{"name": "c", "$setElementOrder/env": order, "env": env}]},
    });
    let schema = Schema::built_in("io.k8s.api.core.v1.Pod").unwrap();
    let patched = apply(document, &patch, &schema).unwrap();
    let env = patched["spec"]["containers"][0]["env"].as_array().unwrap();
    assert_eq!(env.len(), 3 * LENGTH / 4 + 1);
    assert_eq!(env[0], json!({"name": "first", "value": "new"}));
    assert_eq!(env[1], json!({"name": format!("e{}", 3 * LENGTH / 4 - 1), "value": "new"}));
    assert_eq!(env[LENGTH / 2], json!({"name": format!("e{}", LENGTH / 4), "value": "old"}));
    assert_eq!(env.last(), Some(&named(LENGTH - 1)));
    assert_eq!(patched["metadata"]["finalizers"].as_array().unwrap().len(), LENGTH / 2 + 1);
}
