//! test/e2e/auth/subjectreviews.go

use serde_json::{Value, json};

use crate::world::World;

const BASE: &str = "/apis/authorization.k8s.io/v1";

/// Conformance: [sig-auth] SubjectReview should support SubjectReview API operations [Conformance]
#[tokio::test]
async fn should_support_subject_review_api_operations() {
    let world = World::new().await;
    let admin = &world.admin;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "e2e"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.is(201);
    let user = "system:serviceaccount:default:e2e";
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default"];
    let attributes = json!({"verb": "list", "group": "", "version": "v1", "resource": "configmaps", "namespace": "default"});
    let review = |kind: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": kind,
            "spec": {"resourceAttributes": attributes, "user": user, "groups": groups},
        })
    };
    let subject = format!("{BASE}/subjectaccessreviews");
    let local = format!("{BASE}/namespaces/default/localsubjectaccessreviews");
    let mut local_review = review("LocalSubjectAccessReview");
    local_review["metadata"] = json!({"namespace": "default"});
    for (path, body) in [(&subject, review("SubjectAccessReview")), (&local, local_review.clone())] {
        let answer = admin.post(path, &body).await.is(201);
        assert_eq!(answer.at("/status/allowed"), &Value::Bool(false), "{path}");
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "lists"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{rbac}/roles"), &role).await.is(201);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "lists"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lists"},
        "subjects": [{"kind": "ServiceAccount", "name": "e2e", "namespace": "default"}],
    });
    admin.post(&format!("{rbac}/rolebindings"), &binding).await.is(201);
    // What a review says, the real request must say too.
    let client = world.user(user, &groups);
    let mut allowed = client.get("/api/v1/namespaces/default/configmaps").await.code == 200;
    while !allowed {
        allowed = client.get("/api/v1/namespaces/default/configmaps").await.code == 200;
    }
    for (path, body) in [(&subject, review("SubjectAccessReview")), (&local, local_review)] {
        let answer = admin.post(path, &body).await.is(201);
        assert_eq!(answer.at("/status/allowed"), &Value::Bool(true), "{path}");
    }
    let own = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    });
    let answer = client.post(&format!("{BASE}/selfsubjectaccessreviews"), &own).await.is(201);
    assert_eq!(answer.at("/status/allowed"), &Value::Bool(true));
}
