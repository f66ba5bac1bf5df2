//! test/e2e/apimachinery/mutatingadmissionpolicy.go

use serde_json::{Value, json};

use super::lifecycle::Kind;
use super::validatingadmissionpolicy::{DEPLOYMENTS, deployment, on};
use super::webhook_server::seen;
use crate::world::World;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn policy(mutations: &Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "p"},
        "spec": {
            "matchConstraints": on("apps", "deployments"), "reinvocationPolicy": "Never", "failurePolicy": "Fail",
            "variables": [{"name": "many", "expression": "object.spec.replicas > 1"}],
            "mutations": mutations,
        },
    })
}

fn binding() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p"},
    })
}

async fn mutated(mutations: Value, object: &Value) -> crate::world::Answer {
    let world = World::new().await;
    let made = world.admin.post(POLICIES, &policy(&mutations)).await.is(201);
    seen(&world, POLICIES, &made).await;
    let made = world.admin.post(BINDINGS, &binding()).await.is(201);
    seen(&world, BINDINGS, &made).await;
    world.admin.post(DEPLOYMENTS, object).await
}

/// Conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment [Conformance]
#[tokio::test]
async fn should_mutate_a_deployment() {
    let mutations = json!([apply(
        "Object{spec: Object.spec{replicas: variables.many ? object.spec.replicas : object.spec.replicas + 99}}"
    )]);
    let made = mutated(mutations, &deployment("d", 1)).await.is(201);
    assert_eq!(made.at("/spec/replicas"), 100);
    assert_eq!(made.text("/spec/template/spec/containers/0/image"), "busybox", "the rest stays");
}

/// Conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment with annotations [Conformance]
#[tokio::test]
async fn should_mutate_a_deployment_with_annotations() {
    let mutations = json!([
        apply("Object{metadata: Object.metadata{annotations: {'my-foo-annotation': 'myAnnotationValue'}}}"),
        patch(
            "[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/b'), value: 'two'}]"
        ),
        apply(
            "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: \
             [Object.spec.template.spec.containers{name: 'sidecar', image: 'nginx'}]}}}}",
        ),
    ]);
    let made = mutated(mutations, &deployment("d", 1)).await.is(201);
    let annotations = json!({"my-foo-annotation": "myAnnotationValue", "example.com/b": "two"});
    assert_eq!(made.at("/metadata/annotations"), &annotations);
    let containers = made.at("/spec/template/spec/containers").as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["c", "sidecar"], "merged by name");
    assert_eq!(containers[1]["terminationMessagePath"], "/dev/termination-log", "defaulted");
}

/// Not by name: types inside an object are named by their place.
#[tokio::test]
async fn misnamed_types_are_refused() {
    let mutations = json!([apply("Object{spec: Object.status{replicas: 1}}")]);
    let refused = mutated(mutations, &deployment("d", 1)).await.is(403);
    let message = "unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path from root \
                   Object type";
    assert!(refused.message().contains(message), "{}", refused.message());
}

/// Conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicy API operations [Conformance]
#[tokio::test]
async fn should_support_mutating_admission_policy_api_operations() {
    let world = World::new().await;
    let body = policy(&json!([apply("Object{metadata: Object.metadata{labels: {'a': 'b'}}}")]));
    let kind = Kind {
        group: GROUP,
        version: "v1",
        resource: "mutatingadmissionpolicies",
        namespace: "",
        body,
        status: None,
    };
    kind.run(&world).await;
}

/// Conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicyBinding API operations [Conformance]
#[tokio::test]
async fn should_support_mutating_admission_policy_binding_api_operations() {
    let world = World::new().await;
    let resource = "mutatingadmissionpolicybindings";
    let kind = Kind { group: GROUP, version: "v1", resource, namespace: "", body: binding(), status: None };
    kind.run(&world).await;
}
