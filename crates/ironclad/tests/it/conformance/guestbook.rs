//! test/e2e/kubectl/kubectl.go, "Guestbook application": an application of three parts over real containers, which find
//! each other by the names of their Services.

use serde_json::{Value, json};
use testkit::{image, wait};

use super::{World, items};

/// What each part does with a request, as a CGI program. Who reads asks a follower; who writes asks the leader, which tells
/// the followers that have registered with it.
const PROGRAM: &str = r##"#!/bin/sh
echo 'Content-Type: application/json'
echo
IFS='&'
for pair in $QUERY_STRING; do
  case $pair in
    cmd=*) cmd=${pair#cmd=} ;;
    value=*) value=${pair#value=} ;;
    host=*) host=${pair#host=} ;;
  esac
done
unset IFS
at=/cgi-bin/guestbook
case $ROLE-$cmd in
  frontend-get) exec wget -qO- "http://follower$at?cmd=get" ;;
  frontend-set) exec wget -qO- "http://leader$at?cmd=set&value=$value" ;;
  leader-register) echo "$host" >> /tmp/followers && echo '{}' ;;
  leader-set)
    for follower in $(cat /tmp/followers); do
      wget -qO /dev/null "http://$follower$at?cmd=store&value=$value"
    done
    echo '{"message": "Updated"}' ;;
  follower-store) echo "$value" > /tmp/value; echo '{}' ;;
  follower-get) echo "{\"data\": \"$(cat /tmp/value 2>/dev/null)\"}" ;;
esac
"##;

/// A follower is ready once the leader knows it.
const START: &str = "mkdir -p /tmp/www/cgi-bin; cd /tmp/www; cp /program/guestbook cgi-bin/; \
    httpd -p 80 -h /tmp/www; \
    if [ $ROLE = follower ]; then \
      until wget -qO /dev/null http://leader/cgi-bin/guestbook?cmd=register\\&host=$ADDRESS; do sleep 1; done; \
    fi; echo yes > ready; exec sleep 3600";

fn part(role: &str, replicas: usize) -> [Value; 2] {
    let labels = json!({"app": "guestbook", "tier": role});
    let container = json!({
        "name": role, "image": image::BUSYBOX, "command": ["sh", "-c", START], "ports": [{"containerPort": 80}],
        "env": [
            {"name": "ROLE", "value": role},
            {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 80}, "periodSeconds": 1},
    });
    let program = json!({"name": "program", "configMap": {"name": "guestbook", "defaultMode": 0o755}});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": role, "namespace": "e2e"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [program],
            }},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": role, "namespace": "e2e", "labels": labels},
        "spec": {"selector": labels, "ports": [{"port": 80}]},
    });
    [service, deployment]
}

fn application() -> String {
    let program = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "guestbook", "namespace": "e2e"},
        "data": {"guestbook": PROGRAM},
    });
    let parts = [("leader", 1), ("follower", 2), ("frontend", 3)];
    let parts = parts.iter().flat_map(|(role, replicas)| part(role, *replicas));
    let items: Vec<Value> = std::iter::once(program).chain(parts).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Conformance: [sig-cli] Kubectl client Guestbook application should create and stop a working application [Conformance]
#[test]
fn create_and_stop_a_working_application() {
    let world = World::node();
    world.feed(&["create", "-f", "-"], &application());
    for role in ["leader", "follower", "frontend"] {
        let name = format!("deployment/{role}");
        wait::until(&name, || {
            let output =
                world.cluster.try_kubectl(&["-n", "e2e", "rollout", "status", &name, "--timeout=10s"]);
            if output.success { Ok(()) } else { Err(output.stderr) }
        });
    }
    let guestbook = |command: &str| {
        format!("/api/v1/namespaces/e2e/services/frontend/proxy/cgi-bin/guestbook?{command}&key=messages")
    };
    world.until(&guestbook("cmd=get"), |answer| answer.body == json!({"data": ""}));
    world.until(&guestbook("cmd=set&value=TestEntry"), |answer| answer.body == json!({"message": "Updated"}));
    world.until(&guestbook("cmd=get"), |answer| answer.body == json!({"data": "TestEntry"}));
    // Whichever of the followers is asked.
    for _ in 0..8 {
        assert_eq!(world.read(&guestbook("cmd=get")), json!({"data": "TestEntry"}));
    }
    world.feed(&["delete", "--grace-period=0", "--force", "-f", "-"], &application());
    let left = world.cluster.kubectl(&["-n", "e2e", "get", "deployments,services", "--no-headers"]);
    assert_eq!(left, "");
    world.until("/api/v1/namespaces/e2e/pods", |answer| items(&answer.body).is_empty());
}
