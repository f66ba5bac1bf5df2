//! Reviews: what they answer, and what they refuse.

use async_trait::async_trait;

use super::*;
use crate::authz::Evaluation;
use crate::authz::fake::FakeCluster;

/// Allows jane everything on pods in namespace `a`.
struct Jane;

#[async_trait]
impl Authorizer for Jane {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let info = &attributes.info;
        if attributes.user.name == "jane" && info.resource == "pods" && info.namespace == "a" {
            (Decision::Allow, "because".to_owned())
        } else {
            (Decision::NoOpinion, String::new())
        }
    }
}

#[test]
fn a_value_does_not_become_a_requirement() {
    let one = |value: &str| json!([{"key": "metadata.name", "operator": "In", "values": [value]}]);
    for value in ["a", "a,spec.nodeName=n1", "a\\,spec.nodeName=n1"] {
        let text = field_text(&one(value)).unwrap();
        let read = fields::Selector::parse(&text).unwrap();
        assert_eq!(read, fields::Selector::equals("metadata.name", value), "{text}");
    }
}

fn review(kind: &str, spec: Value) -> Object {
    Object(json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {}, "spec": spec }))
}

#[tokio::test]
async fn reviews_tell_what_the_authorizer_says() {
    let pods = json!({ "verb": "get", "resource": "pods", "namespace": "a" });
    let spec = json!({ "user": "jane", "resourceAttributes": pods });
    let done = subject_access(review("SubjectAccessReview", spec), &Jane).await.unwrap();
    assert_eq!(done.0["status"], json!({ "allowed": true, "reason": "because" }));

    let spec = json!({ "resourceAttributes": pods });
    let bob = User::new("bob", &[]);
    let done = self_subject_access(review("SelfSubjectAccessReview", spec), &bob, &Jane).await;
    assert_eq!(done.unwrap().0["status"], json!({ "allowed": false }));

    let spec = json!({ "user": "jane", "resourceAttributes": pods });
    let local = review("LocalSubjectAccessReview", spec);
    let refused = local_subject_access(local.clone(), "b", &Jane).await.unwrap_err();
    assert!(
        refused.message.ends_with("Invalid value: \"a\": must match metadata.namespace"),
        "{}",
        refused.message
    );
    assert_eq!(local_subject_access(local, "a", &Jane).await.unwrap().0["status"]["allowed"], true);
}

#[tokio::test]
async fn a_review_asks_one_thing_about_somebody() {
    let pods = json!({ "verb": "get", "resource": "pods" });
    let path = json!({ "verb": "get", "path": "/" });
    for (spec, part) in [
        (json!({ "user": "jane" }), "exactly one of nonResourceAttributes or resourceAttributes"),
        (
            json!({ "user": "jane", "resourceAttributes": pods, "nonResourceAttributes": path }),
            "cannot be specified in combination",
        ),
        (json!({ "resourceAttributes": pods }), "at least one of user or group must be specified"),
    ] {
        let error = subject_access(review("SubjectAccessReview", spec), &Jane).await.unwrap_err();
        assert_eq!(error.code, 422);
        assert!(error.message.contains(part), "{}", error.message);
    }
}

/// Fails, and cannot say what one may do.
struct Broken;

#[async_trait]
impl Authorizer for Broken {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::NoOpinion, String::new())
    }

    async fn evaluate(&self, _: &Attributes) -> Evaluation {
        Evaluation { decision: Decision::NoOpinion, reason: String::new(), error: Some("nobody home".into()) }
    }

    fn unresolved(&self, _: &User) -> Vec<String> {
        vec!["no rules here".to_owned()]
    }
}

#[tokio::test]
async fn failures_are_told() {
    let spec = json!({ "user": "jane", "resourceAttributes": { "verb": "get", "resource": "pods" } });
    let done = subject_access(review("SubjectAccessReview", spec), &Broken).await.unwrap();
    assert_eq!(done.0["status"], json!({ "allowed": false, "evaluationError": "nobody home" }));
    let cluster = FakeCluster::new();
    let rbac = Rbac::new(cluster);
    let rules = review("SelfSubjectRulesReview", json!({ "namespace": "a" }));
    let done = self_subject_rules(rules, &User::new("jane", &[]), &Broken, &rbac).await.unwrap();
    assert_eq!(done.0["status"]["incomplete"], true);
    assert_eq!(done.0["status"]["evaluationError"], "no rules here");
}

#[tokio::test]
async fn metadata_and_selectors_are_checked() {
    let field = |selector: Value| json!({ "resource": "pods", "fieldSelector": selector });
    let label = |selector: Value| json!({ "resource": "pods", "labelSelector": selector });
    let at = "spec.resourceAttributes";
    #[rustfmt::skip]
    let table = [
        (json!({}), field(json!({ "rawSelector": "a=b", "requirements": [{ "key": "a", "operator": "Exists" }] })),
         format!("{at}.fieldSelector.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements")),
        (json!({}), label(json!({})),
         format!("{at}.labelSelector.requirements: Required value: when {at}.labelSelector is specified, requirements or rawSelector is required")),
        (json!({}), field(json!({ "requirements": [{ "key": "", "operator": "Exists" }] })),
         format!("{at}.fieldSelector.requirements[0].key: Required value: must be specified")),
        (json!({}), field(json!({ "requirements": [{ "key": "a", "operator": "In" }] })),
         format!("{at}.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'")),
        (json!({}), label(json!({ "requirements": [{ "key": "a", "operator": "Exists", "values": ["b"] }] })),
         format!("{at}.labelSelector.requirements[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'")),
        (json!({}), label(json!({ "requirements": [{ "key": "a", "operator": "Later" }] })), String::new()),
        (json!({ "name": "x" }), json!({ "resource": "pods" }), "metadata: Invalid value: {\"name\":\"x\"}: must be empty".to_owned()),
        (json!({ "creationTimestamp": null, "labels": {} }), json!({ "resource": "pods" }), String::new()),
    ];
    for (metadata, resource, want) in table {
        let spec = json!({ "user": "jane", "resourceAttributes": resource });
        let mut asked = review("SubjectAccessReview", spec);
        asked.0["metadata"] = metadata;
        match subject_access(asked, &Jane).await {
            Ok(_) => assert_eq!(want, "", "{resource}"),
            Err(status) => {
                assert_eq!(status.code, 422);
                assert!(!want.is_empty() && status.message.ends_with(&want), "{}", status.message);
            }
        }
    }
}

#[test]
fn requirements_are_asked_about_as_a_query_has_them() {
    let fields = json!([
        { "key": "spec.nodeName", "operator": "In", "values": ["n1"] },
        { "key": "status.phase", "operator": "NotIn", "values": ["Failed"] },
        { "key": "status.phase", "operator": "In", "values": ["A", "B"] },
    ]);
    assert_eq!(field_text(&fields).unwrap(), "spec.nodeName=n1,status.phase!=Failed");
    let labels = json!([
        { "key": "a", "operator": "In", "values": ["x", "y"] },
        { "key": "b", "operator": "NotIn", "values": ["z"] },
        { "key": "c", "operator": "Exists" },
        { "key": "d", "operator": "DoesNotExist" },
        { "key": "e", "operator": "Later" },
    ]);
    assert_eq!(label_text(&labels).unwrap(), "a in (x,y),b notin (z),c,!d");
}
