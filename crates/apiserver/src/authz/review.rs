//! Answers SubjectAccessReview, LocalSubjectAccessReview, SelfSubjectAccessReview and SelfSubjectRulesReview.
//!
//! Each function takes the object that was posted and fills in its status; nothing is stored.
//! Upstream: pkg/registry/authorization, pkg/apis/authorization/validation.

use api::field::{self, Path};
use api::selector::fields;
use api::{GroupKind, Object, Status};
use serde_json::{Value, json};

use super::rbac::{Rbac, join_errors};
use super::{Authorizer, Decision};
use crate::request::{Attributes, RequestInfo, User};

const GROUP: &str = "authorization.k8s.io";

/// Evaluates a SubjectAccessReview: may the user in the spec do this.
///
/// # Errors
/// 422 where the spec does not say one thing exactly.
pub async fn subject_access(review: Object, authorizer: &dyn Authorizer) -> Result<Object, Status> {
    let user = spec_user(&review);
    decide(review, user, authorizer, true, None).await
}

/// Evaluates a LocalSubjectAccessReview in `namespace`.
///
/// # Errors
/// 400 where the namespaces differ; 422 as [`subject_access`].
pub async fn local_subject_access(
    review: Object,
    namespace: &str,
    authorizer: &dyn Authorizer,
) -> Result<Object, Status> {
    let asked = review.0.pointer("/spec/resourceAttributes/namespace").and_then(Value::as_str);
    if asked.unwrap_or_default() != namespace {
        let message =
            format!("spec.resourceAttributes.namespace must match namespace: {}", asked.unwrap_or_default());
        return Err(Status::bad_request(message));
    }
    let user = spec_user(&review);
    decide(review, user, authorizer, true, Some(namespace)).await
}

/// Evaluates a SelfSubjectAccessReview for `user`.
///
/// # Errors
/// As [`subject_access`].
pub async fn self_subject_access(
    review: Object,
    user: &User,
    authorizer: &dyn Authorizer,
) -> Result<Object, Status> {
    decide(review, user.clone(), authorizer, false, None).await
}

/// Evaluates a SelfSubjectRulesReview: what may `user` do in the namespace of the spec.
///
/// # Errors
/// 400 without a namespace; the RBAC index cannot be read.
pub async fn self_subject_rules(mut review: Object, user: &User, rbac: &Rbac) -> Result<Object, Status> {
    let namespace = review.0.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let resolved = rbac.rules_for(user, namespace).await?;
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in &resolved.rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            let mut entry = json!({
                "verbs": rule.verbs,
                "apiGroups": rule.api_groups.clone().unwrap_or_default(),
                "resources": rule.resources,
            });
            if let Some(names) = rule.resource_names.as_ref().filter(|names| !names.is_empty()) {
                entry["resourceNames"] = json!(names);
            }
            resource_rules.push(entry);
        }
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            path_rules.push(json!({ "verbs": rule.verbs, "nonResourceURLs": urls }));
        }
    }
    let mut status = json!({
        "resourceRules": resource_rules,
        "nonResourceRules": path_rules,
        "incomplete": false,
    });
    if !resolved.errors.is_empty() {
        status["incomplete"] = true.into();
        status["evaluationError"] = join_errors(&resolved.errors).into();
    }
    review.0["status"] = status;
    Ok(review)
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn spec_user(review: &Object) -> User {
    let spec = &review.0["spec"];
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: text(spec, "user"),
        uid: text(spec, "uid"),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_ascii_lowercase(), strings(values))).collect(),
    }
}

fn attributes(spec: &Value, user: User) -> Attributes {
    let resource = &spec["resourceAttributes"];
    if resource.is_object() {
        let info = RequestInfo {
            is_resource: true,
            verb: text(resource, "verb"),
            namespace: text(resource, "namespace"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            name: text(resource, "name"),
            ..RequestInfo::default()
        };
        let selector = |field: &str| {
            let raw = resource[field]["rawSelector"].as_str();
            raw.map(str::to_owned).or_else(|| selector_text(&resource[field]["requirements"]))
        };
        return Attributes {
            field_selector: selector("fieldSelector"),
            label_selector: selector("labelSelector"),
            user,
            info,
        };
    }
    let path = &spec["nonResourceAttributes"];
    let info = RequestInfo { verb: text(path, "verb"), path: text(path, "path"), ..RequestInfo::default() };
    Attributes::new(user, info)
}

/// Requirements in the form a query carries. Only equality means anything to an authorizer here.
fn selector_text(requirements: &Value) -> Option<String> {
    let parts: Vec<String> = requirements
        .as_array()?
        .iter()
        .filter_map(|requirement| {
            let values = requirement["values"].as_array()?;
            match (requirement["operator"].as_str()?, values.as_slice()) {
                ("In", [one]) => {
                    // Escaped: a value must not become a requirement of its own.
                    let selector = fields::Selector::equals(requirement["key"].as_str()?, one.as_str()?);
                    Some(selector.to_string())
                }
                _ => None,
            }
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

fn validate(review: &Object, other_user: bool, local: Option<&str>) -> Result<(), Status> {
    let spec = Path::new("spec");
    let value = &review.0["spec"];
    let (resource, path) = (&value["resourceAttributes"], &value["nonResourceAttributes"]);
    let mut errors = Vec::new();
    match (resource.is_object(), path.is_object()) {
        (true, true) => errors.push(field::invalid(
            &spec.child("nonResourceAttributes"),
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(field::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if local.is_some() && path.is_object() {
        errors.push(field::invalid(
            &spec.child("nonResourceAttributes"),
            path.clone(),
            "disallowed on this kind of request",
        ));
    }
    let groups_given = value["groups"].as_array().is_some_and(|groups| !groups.is_empty());
    if other_user && text(value, "user").is_empty() && !groups_given {
        errors.push(field::invalid(
            &spec.child("user"),
            text(value, "user"),
            "at least one of user or group must be specified",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind::new(GROUP, review.kind()), review.name(), errors))
}

async fn decide(
    mut review: Object,
    user: User,
    authorizer: &dyn Authorizer,
    other_user: bool,
    local: Option<&str>,
) -> Result<Object, Status> {
    validate(&review, other_user, local)?;
    let (decision, reason) = authorizer.authorize(&attributes(&review.0["spec"], user)).await;
    let mut status = json!({ "allowed": decision == Decision::Allow });
    if decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    review.0["status"] = status;
    Ok(review)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

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
            let text = selector_text(&one(value)).unwrap();
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
        assert!(local_subject_access(local.clone(), "b", &Jane).await.unwrap_err().is_bad_request());
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
}
