//! test/e2e/apimachinery/validatingadmissionpolicy.go

use serde_json::{Value, json};

use super::lifecycle::Kind;
use super::webhook_server::seen;
use crate::world::{World, config_map};

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "busybox"}]},
            },
        },
    })
}

pub fn on(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{
        "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
    }]})
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn binding(name: &str, policy: &str, actions: &[&str]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": policy, "validationActions": actions},
    })
}

async fn install(world: &World, spec: Value, binding: Value) {
    let made = world.admin.post(POLICIES, &policy("p", spec)).await.is(201);
    seen(world, POLICIES, &made).await;
    let made = world.admin.post(BINDINGS, &binding).await.is(201);
    seen(world, BINDINGS, &made).await;
}

/// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate against a Deployment [Conformance]
#[tokio::test]
async fn should_validate_against_a_deployment() {
    let world = World::new().await;
    let spec = json!({
        "matchConstraints": on("apps", "deployments"),
        "validations": [{
            "expression": "object.spec.replicas > 1",
            "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)",
        }],
    });
    install(&world, spec, binding("b", "p", &["Deny"])).await;
    let refused = world.admin.post(DEPLOYMENTS, &deployment("one", 1)).await.is(422);
    assert_eq!(
        refused.message(),
        "deployments.apps \"one\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants \
         replicas > 1, got 1"
    );
    assert_eq!(refused.text("/reason"), "Invalid");
    world.admin.post(DEPLOYMENTS, &deployment("two", 2)).await.is(201);
}

/// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should allow expressions to refer variables. [Conformance]
#[tokio::test]
async fn should_allow_expressions_to_refer_variables() {
    let world = World::new().await;
    let spec = json!({
        "matchConstraints": on("apps", "deployments"),
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [
            {"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"},
        ],
    });
    install(&world, spec, binding("b", "p", &["Deny"])).await;
    for (replicas, code) in [(1, 422), (4, 422), (3, 201)] {
        world.admin.post(DEPLOYMENTS, &deployment(&format!("d{replicas}"), replicas)).await.is(code);
    }
}

/// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations [Conformance]
#[tokio::test]
async fn should_support_validating_admission_policy_api_operations() {
    let world = World::new().await;
    let kind = Kind {
        group: GROUP,
        version: "v1",
        resource: "validatingadmissionpolicies",
        namespace: "",
        body: policy(
            "x",
            json!({
                "matchConstraints": on("apps", "deployments"), "validations": [{"expression": "true"}],
            }),
        ),
        status: Some((json!({"status": {"observedGeneration": 1}}), "/status/observedGeneration")),
    };
    kind.run(&world).await;
}

/// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations [Conformance]
#[tokio::test]
async fn should_support_validating_admission_policy_binding_api_operations() {
    let world = World::new().await;
    let kind = Kind {
        group: GROUP,
        version: "v1",
        resource: "validatingadmissionpolicybindings",
        namespace: "",
        body: binding("x", "replicalimit-policy.example.com", &["Deny"]),
        status: None,
    };
    kind.run(&world).await;
}

/// Not by name: what is shown of a scale.
#[tokio::test]
async fn a_scale_is_shown_as_one() {
    let world = World::new().await;
    let admin = &world.admin;
    let scale = |expression: &str, message: &str| json!({"expression": expression, "message": message});
    let spec = json!({
        "matchConstraints": on("apps", "deployments/scale"),
        "validations": [
            scale("object.kind == 'Scale' && oldObject.kind == 'Scale' && request.kind.kind == 'Scale'", "no scale"),
            scale("object.spec.replicas <= oldObject.spec.replicas + 1", "too many at once"),
            scale("!has(object.spec.template)", "the whole is shown"),
        ],
    });
    admin.post(DEPLOYMENTS, &deployment("d", 1)).await.is(201);
    install(&world, spec, binding("b", "p", &["Deny"])).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let to = |replicas: u32| json!({"spec": {"replicas": replicas}});
    let refused = admin.patch(&path, "merge-patch+json", &to(9)).await.is(422);
    assert!(refused.message().ends_with("too many at once"), "{}", refused.message());
    admin.patch(&path, "merge-patch+json", &to(2)).await.is(200);
    let mut scale = admin.get(&path).await.is(200).body;
    scale["spec"]["replicas"] = 3.into();
    admin.put(&path, &scale).await.is(200);
    assert_eq!(admin.get(&format!("{DEPLOYMENTS}/d")).await.is(200).at("/spec/replicas"), 3);
}

/// Not by name: parameters, actions, failure policies, what expressions may name.
#[tokio::test]
async fn parameters_actions_and_failures() {
    let world = World::new().await;
    let admin = &world.admin;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut params = config_map("limits");
    params["data"] = json!({"max": "3"});
    seen(&world, maps, &admin.post(maps, &params).await.is(201)).await;
    let spec = json!({
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": on("apps", "deployments"),
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
        "validations": [
            {"expression": "object.spec.replicas <= int(params.data.max)", "reason": "Forbidden", "message": "too many"},
            {"expression": "request.userInfo.username == 'admin' && namespaceObject.metadata.name == 'default'"},
            {"expression": "authorizer.requestResource.check('create').allowed()"},
            {"expression": "oldObject == null && request.operation == 'CREATE'"},
        ],
        "auditAnnotations": [{"key": "replicas", "valueExpression": "string(object.spec.replicas)"}],
    });
    let mut bound = binding("b", "p", &["Deny", "Audit"]);
    bound["spec"]["paramRef"] = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    install(&world, spec, bound.clone()).await;
    admin.post(DEPLOYMENTS, &deployment("few", 3)).await.is(201);
    admin.post(DEPLOYMENTS, &deployment("exempt", 9)).await.is(201);
    let refused = admin.post(DEPLOYMENTS, &deployment("many", 4)).await.is(403);
    assert!(refused.message().ends_with("denied request: too many"), "{}", refused.message());

    bound["metadata"]["resourceVersion"] =
        admin.get(&format!("{BINDINGS}/b")).await.at("/metadata/resourceVersion").clone();
    bound["spec"]["validationActions"] = json!(["Warn"]);
    seen(&world, BINDINGS, &admin.put(&format!("{BINDINGS}/b"), &bound).await.is(200)).await;
    let warned = admin.post(DEPLOYMENTS, &deployment("many", 4)).await.is(201);
    let warning = warned.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too many"),
        "{warning}"
    );

    bound["metadata"]["resourceVersion"] =
        admin.get(&format!("{BINDINGS}/b")).await.at("/metadata/resourceVersion").clone();
    bound["spec"]["validationActions"] = json!(["Deny"]);
    bound["spec"]["paramRef"]["name"] = "nowhere".into();
    seen(&world, BINDINGS, &admin.put(&format!("{BINDINGS}/b"), &bound).await.is(200)).await;
    let refused = admin.post(DEPLOYMENTS, &deployment("unbound", 1)).await.is(422);
    assert!(
        refused.message().ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{}",
        refused.message()
    );
}

/// Not by name: an expression that fails refuses or not, as the policy says; one that does not compile is not stored.
#[tokio::test]
async fn broken_expressions() {
    let world = World::new().await;
    let rule = |expression: &str, fails: &str| {
        json!({
            "failurePolicy": fails, "matchConstraints": on("apps", "deployments"),
            "validations": [{"expression": expression}],
        })
    };
    let refused =
        world.admin.post(POLICIES, &policy("p", rule("object.spec.replicas >", "Fail"))).await.is(422);
    assert!(
        refused.message().contains("spec.validations[0].expression: Invalid value"),
        "{}",
        refused.message()
    );
    install(&world, rule("object.spec.nowhere > 1", "Ignore"), binding("b", "p", &["Deny"])).await;
    world.admin.post(DEPLOYMENTS, &deployment("ignored", 1)).await.is(201);
    let path = format!("{POLICIES}/p");
    let strict = json!({"spec": {"failurePolicy": "Fail"}});
    let written = world.admin.patch(&path, "merge-patch+json", &strict).await.is(200);
    seen(&world, POLICIES, &written).await;
    let refused = world.admin.post(DEPLOYMENTS, &deployment("refused", 1)).await.is(422);
    let message = "expression 'object.spec.nowhere > 1' resulted in error: no such key: nowhere";
    assert!(refused.message().ends_with(message), "{}", refused.message());
}
