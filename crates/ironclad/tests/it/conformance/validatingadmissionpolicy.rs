//! test/e2e/apimachinery/validatingadmissionpolicy.go: what the status says of expressions that do not fit.

use serde_json::{Value, json};

use super::World;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";

impl World {
    /// Makes a policy, and gives the warnings that its status comes to have.
    fn checked(&self, name: &str, group: &str, resource: &str, validations: Value) -> Vec<Value> {
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "e2e"}},
                    "resourceRules": [{
                        "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"],
                        "resources": [resource],
                    }],
                },
                "validations": validations,
            },
        });
        self.create(POLICIES, &policy);
        let told = |status: &Value| status["typeChecking"].is_object();
        let policy = self.until(&format!("{POLICIES}/{name}"), |answer| told(&answer.body["status"]));
        let status = &policy["status"];
        assert_eq!(status["observedGeneration"], policy["metadata"]["generation"]);
        status["typeChecking"]["expressionWarnings"].as_array().cloned().unwrap_or_default()
    }
}

#[track_caller]
fn warns(warning: &Value, field: &str, of: &str) {
    assert_eq!(warning["fieldRef"], field);
    let text = warning["warning"].as_str().unwrap();
    assert!(text.contains(of), "{text}");
}

/// [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should type check validation expressions
#[test]
fn should_type_check_validation_expressions() {
    let world = World::hollow(1);
    let fine = json!([{"expression": "object.spec.replicas > 1"}]);
    assert_eq!(world.checked("correct", "apps", "deployments", fine), Vec::<Value>::new());
    let confused = json!([{
        "expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
    }]);
    let warnings = world.checked("confused", "apps", "deployments", confused);
    let [first, second] = warnings.as_slice() else { panic!("{warnings:?}") };
    let greater = "found no matching overload for '_>_' applied to '(int, string)'";
    warns(first, "spec.validations[0].expression", greater);
    assert!(
        first["warning"].as_str().unwrap().starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: ")
    );
    let plus = "found no matching overload for '_+_' applied to '(string, int)'";
    warns(second, "spec.validations[0].messageExpression", plus);
    // What is in every pod: quantities, ports of two types, times.
    let pods = json!([
        {"expression": "object.spec.containers.all(c, !has(c.resources.limits) || quantity(c.resources.limits['cpu']).isGreaterThan(quantity('0')))"},
        {"expression": "object.spec.containers.all(c, c.livenessProbe.httpGet.port == 80)"},
        {"expression": "object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')"},
        {"expression": "object.metadata.labels.exists(key, key == 'a') && object.spec.volumes.all(v, has(v.name))"},
    ]);
    assert_eq!(world.checked("pods", "", "pods", pods), Vec::<Value>::new());
}

/// [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should type check a CRD
#[test]
fn should_type_check_a_crd() {
    let world = World::hollow(1);
    let group = "stable.e2e.example.com";
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("crontabs.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "CronTab", "plural": "crontabs", "singular": "crontab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {
                    "cronSpec": {"type": "string"}, "image": {"type": "string"}, "replicas": {"type": "integer"},
                }}},
            }}}],
        },
    });
    world.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd);
    world.until(&format!("/openapi/v3/apis/{group}/v1"), |answer| answer.code == 200);
    let fine = json!([{"expression": "object.spec.replicas > 1"}]);
    assert_eq!(world.checked("correct", group, "crontabs", fine), Vec::<Value>::new());
    let confused =
        json!([{"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.maxRetries < 10"}]);
    let warnings = world.checked("confused", group, "crontabs", confused);
    let [first, second] = warnings.as_slice() else { panic!("{warnings:?}") };
    let greater = "found no matching overload for '_>_' applied to '(int, string)'";
    warns(first, "spec.validations[0].expression", greater);
    warns(second, "spec.validations[1].expression", "undefined field 'maxRetries'");
}
