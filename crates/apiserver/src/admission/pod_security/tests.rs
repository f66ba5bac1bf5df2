//! The levels' tables: what each allows and how it words what it does not.

use serde_json::json;

use super::super::testing::{Write, pod, run};
use super::*;
use crate::audit::tests::annotated;
use crate::authz::fake::FakeCluster;
use crate::request::User;

fn namespace(labels: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a", "labels": labels } })
}

fn cluster(labels: Value) -> Arc<FakeCluster> {
    let cluster = FakeCluster::new();
    cluster.put("namespaces", namespace(labels));
    cluster
}

fn plugin() -> PodSecurity {
    PodSecurity::new(Defaults::default())
}

fn enforce(level: &str) -> Value {
    json!({ "pod-security.kubernetes.io/enforce": level })
}

/// A container that the restricted standard has nothing against.
fn good() -> Value {
    json!({ "name": "c", "image": "i", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" } } })
}

#[tokio::test]
async fn a_bare_pod_is_told_everything_at_once() {
    let write = Write::create("pods", "Pod", pod(json!({ "containers": [{ "name": "c" }] })));
    let error = run(&plugin(), &cluster(enforce("restricted")), write).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
         (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
         (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must \
         set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let write = Write::create("pods", "Pod", pod(json!({ "containers": [good()] })));
    run(&plugin(), &cluster(enforce("restricted")), write).await.unwrap();
    let write = Write::create("pods", "Pod", pod(json!({ "containers": [{ "name": "c" }] })));
    run(&plugin(), &cluster(enforce("baseline")), write).await.unwrap();
}

#[test]
fn every_check_finds_its_own() {
    let spec = |change: Value| {
        let mut spec = json!({ "containers": [good()] });
        for (pointer, value) in change.as_object().unwrap() {
            if let Some(field) = pointer.strip_prefix("c.") {
                spec["containers"][0][field] = value.clone();
            } else if let Some(field) = pointer.strip_prefix("s.") {
                spec["containers"][0]["securityContext"][field] = value.clone();
            } else {
                spec[pointer] = value.clone();
            }
        }
        spec
    };
    let level = |level, version| LevelVersion { level, version };
    let (base, strict) = (level(Level::Baseline, None), level(Level::Restricted, None));
    #[rustfmt::skip]
    let table = [
        (base, json!({ "hostNetwork": true, "hostPID": true }), "host namespaces (hostNetwork=true, hostPID=true)"),
        (base, json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }), "hostPath volumes (volume \"v\")"),
        (strict, json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }, { "name": "e", "emptyDir": {} }] }),
         "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"),
        (base, json!({ "c.ports": [{ "hostPort": 80 }, { "hostPort": 81 }] }), "hostPort (container \"c\" uses hostPorts 80, 81)"),
        (base, json!({ "s.privileged": true }), "privileged (container \"c\" must not set securityContext.privileged=true)"),
        (base, json!({ "s.procMount": "Unmasked" }), "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")"),
        (base, json!({ "s.procMount": "Unmasked", "hostUsers": false }), ""),
        (base, json!({ "s.capabilities": { "add": ["SYS_ADMIN", "CHOWN"] } }),
         "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"),
        (strict, json!({ "s.capabilities": { "drop": ["ALL"], "add": ["CHOWN"] } }),
         "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)"),
        (base, json!({ "s.seLinuxOptions": { "type": "spc_t", "user": "u" } }),
         "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)"),
        (base, json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
         "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"),
        (base, json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }, { "name": "net.ipv4.tcp_rmem" }, { "name": "net.ipv4.tcp_notsent_lowat" }] } }),
         "forbidden sysctls (kernel.msgmax)"),
        (level(Level::Baseline, Some(36)), json!({ "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_notsent_lowat" }] } }),
         "forbidden sysctls (net.ipv4.tcp_notsent_lowat)"),
        (level(Level::Baseline, Some(31)), json!({ "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } }),
         "forbidden sysctls (net.ipv4.tcp_rmem)"),
        (base, json!({ "c.livenessProbe": { "httpGet": { "host": "192.0.2.1" } } }),
         "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"192.0.2.1\")"),
        (strict, json!({ "s.runAsNonRoot": false }), "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)"),
        (strict, json!({ "securityContext": { "runAsUser": 0 } }), "runAsUser=0 (pod must not set runAsUser=0)"),
        (strict, json!({}), ""),
    ];
    for (standard, change, want) in table {
        let findings = checks::evaluate(standard, &json!({}), &spec(change.clone()));
        assert_eq!(details(&findings), want, "{standard} {change}");
    }
}

#[tokio::test]
async fn what_makes_pods_is_only_warned_about() {
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "d", "namespace": "a" },
        "spec": { "template": { "spec": { "hostPID": true, "containers": [] } } } });
    let write = Write::create("deployments.apps", "Deployment", deployment);
    let (_, warnings) = run(&plugin(), &cluster(enforce("baseline")), write).await.unwrap();
    assert_eq!(warnings, ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]);
}

#[tokio::test]
async fn only_what_matters_is_looked_at_again() {
    let spec = |image: &str| pod(json!({ "hostPID": true, "containers": [{ "name": "c", "image": image }] }));
    let cluster = cluster(enforce("baseline"));
    let same = Write::update("pods", "Pod", spec("a"), spec("a"));
    run(&plugin(), &cluster, same).await.unwrap();
    let changed = Write::update("pods", "Pod", spec("a"), spec("b"));
    assert!(run(&plugin(), &cluster, changed).await.unwrap_err().is_forbidden());
}

#[tokio::test]
async fn labels_are_checked_and_raising_a_level_warns() {
    let cluster = cluster(json!({}));
    for name in ["p2", "p1"] {
        let mut bad = pod(json!({ "hostPID": true, "containers": [] }));
        bad["metadata"]["name"] = name.into();
        cluster.put("pods", bad);
    }
    let wrong = Write::create("namespaces", "Namespace", namespace(enforce("strict")));
    let error = run(&plugin(), &cluster, wrong).await.unwrap_err();
    assert_eq!(error.code, 422);
    assert!(
        error.message.contains(
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of \
             privileged, baseline, restricted"
        ),
        "{}",
        error.message
    );
    let raise =
        Write::update("namespaces", "Namespace", namespace(json!({})), namespace(enforce("baseline")));
    let (_, warnings) = run(&plugin(), &cluster, raise).await.unwrap();
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"a\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "p1 (and 1 other pod): host namespaces",
        ]
    );
}

#[tokio::test]
async fn the_audit_log_is_told_what_was_enforced_and_what_would_not_pass() {
    let label = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
    let bad = || pod(json!({ "hostPID": true, "containers": [] }));
    let deployment = json!({ "metadata": { "name": "d", "namespace": "a" }, "spec": { "template": bad() } });
    let deploy = || Write::create("deployments.apps", "Deployment", deployment.clone());
    let create = || Write::create("pods", "Pod", bad());
    let violation = "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    let audit = json!({ label("audit"): "baseline" });
    let wrong = "Failed to parse policy: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": \
                 must be one of privileged, baseline, restricted";
    #[rustfmt::skip]
    let table = [
        (json!({}), create(), json!({ label("enforce-policy"): "privileged:latest" })),
        (json!({}), deploy(), json!({})),
        (audit.clone(), create(), json!({ label("enforce-policy"): "privileged:latest", label("audit-violations"): violation })),
        (audit, deploy(), json!({ label("audit-violations"): violation })),
        (json!({ label("enforce"): "baseline", label("enforce-version"): "v1.25" }), create(), json!({ label("enforce-policy"): "baseline:v1.25" })),
        (json!({ label("enforce"): "x" }), create(), json!({ label("enforce-policy"): "restricted:latest", label("error"): wrong })),
    ];
    for (labels, write, want) in table {
        let cluster = cluster(labels.clone());
        let (_, notes) = annotated("Metadata", run(&plugin(), &cluster, write)).await;
        assert_eq!(notes, want, "{labels}");
    }
}

#[tokio::test]
async fn who_is_exempt_is_let_through_and_noted() {
    let exemptions = Exemptions {
        usernames: vec!["jane".into()],
        namespaces: vec!["kube-system".into()],
        runtime_classes: vec!["sandboxed".into()],
    };
    let plugin = PodSecurity::new(Defaults { exemptions, ..Defaults::default() });
    let cluster = cluster(enforce("restricted"));
    let bad = |class: Option<&str>, namespace: &str| {
        let mut bad = pod(json!({ "hostPID": true, "containers": [], "runtimeClassName": class }));
        bad["metadata"]["namespace"] = namespace.into();
        Write::create("pods", "Pod", bad)
    };
    let bob = || User::new("bob", &[]);
    for (write, want) in [
        (bad(None, "a"), Some("user")),
        (bad(None, "a").by(bob()), None),
        (bad(Some("other"), "a").by(bob()), None),
        (bad(Some("sandboxed"), "a").by(bob()), Some("runtimeClass")),
        (bad(None, "kube-system").by(bob()), Some("namespace")),
    ] {
        let (outcome, notes) = annotated("Metadata", run(&plugin, &cluster, write)).await;
        assert_eq!(outcome.is_ok(), want.is_some(), "{outcome:?}");
        assert_eq!(notes["pod-security.kubernetes.io/exempt"].as_str(), want);
    }
    let mut exempt = namespace(enforce("baseline"));
    exempt["metadata"]["name"] = "kube-system".into();
    let (_, warnings) =
        run(&plugin, &cluster, Write::create("namespaces", "Namespace", exempt)).await.unwrap();
    assert_eq!(
        warnings,
        [
            "namespace \"kube-system\" is exempt from Pod Security, and the policy (enforce=baseline:latest) will be ignored"
        ]
    );
}
