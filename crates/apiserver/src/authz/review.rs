//! Answers SubjectAccessReview, LocalSubjectAccessReview, SelfSubjectAccessReview and SelfSubjectRulesReview.
//!
//! Each function takes the object that was posted and fills in its status; nothing is stored.
//! Upstream: pkg/registry/authorization, pkg/apis/authorization/validation.

use api::field::{self, ErrorList, Path};
use api::names::{is_label_value, is_qualified_name};
use api::selector::fields;
use api::{GroupKind, Object, Status};
use serde_json::{Map, Value, json};

use super::rbac::{Rbac, join_errors};
use super::{Authorizer, Decision};
use crate::request::{Attributes, RequestInfo, User};

const GROUP: &str = "authorization.k8s.io";

/// Evaluates a SubjectAccessReview: may the user in the spec do this.
///
/// # Errors
/// 422 where the spec does not say one thing exactly, or the metadata says anything.
pub async fn subject_access(review: Object, authorizer: &dyn Authorizer) -> Result<Object, Status> {
    let user = spec_user(&review);
    decide(review, user, authorizer, true, None).await
}

/// Evaluates a LocalSubjectAccessReview in `namespace`.
///
/// # Errors
/// As [`subject_access`], and where the namespaces differ.
pub async fn local_subject_access(
    review: Object,
    namespace: &str,
    authorizer: &dyn Authorizer,
) -> Result<Object, Status> {
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
pub async fn self_subject_rules(
    mut review: Object,
    user: &User,
    authorizer: &dyn Authorizer,
    rbac: &Rbac,
) -> Result<Object, Status> {
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
    let mut errors = authorizer.unresolved(user);
    errors.extend(resolved.errors);
    if !errors.is_empty() {
        status["incomplete"] = true.into();
        status["evaluationError"] = join_errors(&errors).into();
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
        let selector = |field: &str, of: fn(&Value) -> Option<String>| {
            let raw = resource[field]["rawSelector"].as_str().filter(|raw| !raw.is_empty());
            raw.map(str::to_owned).or_else(|| of(&resource[field]["requirements"]))
        };
        return Attributes {
            field_selector: selector("fieldSelector", field_text),
            label_selector: selector("labelSelector", label_text),
            user,
            info,
        };
    }
    let path = &spec["nonResourceAttributes"];
    let info = RequestInfo { verb: text(path, "verb"), path: text(path, "path"), ..RequestInfo::default() };
    Attributes::new(user, info)
}

/// Requirements of fields in the form a query carries. What a query cannot say is left out: it would only narrow.
fn field_text(requirements: &Value) -> Option<String> {
    let parts = requirements.as_array()?.iter().filter_map(|requirement| {
        let [one] = requirement["values"].as_array()?.as_slice() else { return None };
        // Escaped: a value must not become a requirement of its own.
        let equal = fields::Selector::equals(requirement["key"].as_str()?, one.as_str()?).to_string();
        match requirement["operator"].as_str()? {
            "In" => Some(equal),
            "NotIn" => Some(equal.replacen('=', "!=", 1)),
            _ => None,
        }
    });
    joined(parts)
}

/// The same for labels.
fn label_text(requirements: &Value) -> Option<String> {
    let parts = requirements.as_array()?.iter().filter_map(|requirement| {
        let key = requirement["key"].as_str()?;
        let values: Vec<&str> =
            requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match requirement["operator"].as_str()? {
            "In" => Some(format!("{key} in ({})", values.join(","))),
            "NotIn" => Some(format!("{key} notin ({})", values.join(","))),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    joined(parts)
}

fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// What is wrong with a selector; `labels` says whether it is one of labels. Operators of newer clients pass.
fn selector_errors(selector: &Value, path: &Path, labels: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    if !selector.is_object() {
        return errors;
    }
    let raw = text(selector, "rawSelector");
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => errors.push(field::invalid(
            &path.child("rawSelector"),
            raw,
            "may not specified at the same time as requirements",
        )),
        (true, true) => errors.push(field::required(
            &path.child("requirements"),
            format!("when {path} is specified, requirements or rawSelector is required"),
        )),
        _ => {}
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(index);
        let (key, values) = (text(requirement, "key"), &requirement["values"]);
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        if key.is_empty() && !labels {
            errors.push(field::required(&path.child("key"), "must be specified"));
        }
        match requirement["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => errors.push(field::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(field::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            _ => {}
        }
        if labels {
            let wrong = is_qualified_name(&key);
            errors.extend(
                wrong.into_iter().map(|detail| field::invalid(&path.child("key"), key.as_str(), detail)),
            );
            for (at, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                let path = path.child("values").index(at);
                let wrong = is_label_value(value);
                errors.extend(wrong.into_iter().map(|detail| field::invalid(&path, value, detail)));
            }
        }
    }
    errors
}

/// What is said in the metadata of a review, which is nobody's.
fn metadata(review: &Object, local: bool) -> Map<String, Value> {
    let mut metadata = review.0["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("managedFields");
    if local {
        metadata.remove("namespace");
    }
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    metadata.retain(|_, value| !empty(value));
    metadata
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
    let said = metadata(review, local.is_some());
    if !said.is_empty() {
        let detail = if local.is_some() { "must be empty except for namespace" } else { "must be empty" };
        errors.push(field::invalid(&Path::new("metadata"), review.0["metadata"].clone(), detail));
    }
    for (name, labels) in [("fieldSelector", false), ("labelSelector", true)] {
        let path = spec.child("resourceAttributes").child(name);
        errors.extend(selector_errors(&resource[name], &path, labels));
    }
    if let Some(namespace) = local.filter(|_| resource.is_object()) {
        let asked = text(resource, "namespace");
        if asked != namespace {
            let path = spec.child("resourceAttributes").child("namespace");
            errors.push(field::invalid(&path, asked, "must match metadata.namespace"));
        }
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
    let said = authorizer.evaluate(&attributes(&review.0["spec"], user)).await;
    let mut status = json!({ "allowed": said.decision == Decision::Allow });
    if said.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !said.reason.is_empty() {
        status["reason"] = said.reason.into();
    }
    if let Some(error) = said.error {
        status["evaluationError"] = error.into();
    }
    review.0["status"] = status;
    Ok(review)
}

#[cfg(test)]
mod tests;
