//! The rules of a FlowSchema: of whom and for what requests are.
//! Upstream: pkg/apis/flowcontrol/validation.

use std::collections::BTreeSet;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, dns_subdomain, json, required};
use crate::kinds::optional::items;
use crate::names::is_dns1123_label;
use crate::types::flowcontrol::v1::{PolicyRulesWithSubjects, Subject};

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// What is wrong with a rule.
pub(super) fn validate(errors: &mut ErrorList, path: &Path, rule: &PolicyRulesWithSubjects) {
    if rule.subjects.is_empty() {
        errors.push(field::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (index, one) in rule.subjects.iter().enumerate() {
        subject(errors, &path.child("subjects").index(index), one);
    }
    let (resources, others) = (items(&rule.resource_rules), items(&rule.non_resource_rules));
    if resources.is_empty() && others.is_empty() {
        let message = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(field::required(path, message));
    }
    for (index, rule) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(index);
        verbs(errors, &path, &rule.verbs);
        let groups_path = path.child("apiGroups");
        some(errors, &groups_path, &rule.api_groups, "resource rules must supply at least one api group");
        alone(errors, &groups_path, &rule.api_groups, "api groups");
        let resources_path = path.child("resources");
        some(errors, &resources_path, &rule.resources, "resource rules must supply at least one resource");
        alone(errors, &resources_path, &rule.resources, "resources");
        let path = path.child("namespaces");
        let namespaces = items(&rule.namespaces);
        if namespaces.is_empty() && rule.cluster_scope != Some(true) {
            let message = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(field::required(&path, message));
        } else if is_wild(namespaces) {
            alone(errors, &path, namespaces, "namespaces");
        } else {
            for (index, namespace) in namespaces.iter().enumerate() {
                for message in is_dns1123_label(namespace) {
                    let message =
                        format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                    errors.push(field::invalid(&path.index(index), namespace.as_str(), message));
                }
            }
        }
    }
    for (index, rule) in others.iter().enumerate() {
        let path = path.child("nonResourceRules").index(index);
        verbs(errors, &path, &rule.verbs);
        let path = path.child("nonResourceURLs");
        let urls = &rule.non_resource_urls;
        some(errors, &path, urls, "nonResourceURLs must contain at least one value");
        if is_wild(urls) {
            alone(errors, &path, urls, "non-resource URLs");
        } else {
            for (index, url) in urls.iter().enumerate() {
                if let Some(message) = wrong_with_path(url) {
                    errors.push(field::invalid(&path.index(index), url.as_str(), message));
                }
            }
        }
    }
}

/// Refuses conditions without a type, or of a type that another has.
pub(super) fn conditions<'a>(types: impl Iterator<Item = &'a str>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let mut seen = BTreeSet::new();
    for (index, kind) in types.enumerate() {
        let path = path.index(index).child("type");
        if !seen.insert(kind) {
            errors.push(field::duplicate(&path, kind));
        }
        if kind.is_empty() {
            errors.push(field::required(&path, "must not be empty"));
        }
    }
    errors
}

fn is_wild(list: &[String]) -> bool {
    list.iter().any(|one| one == "*")
}

fn some(errors: &mut ErrorList, path: &Path, list: &[String], message: &str) {
    if list.is_empty() {
        errors.push(field::required(path, message));
    }
}

/// Refuses `*` beside others.
fn alone(errors: &mut ErrorList, path: &Path, list: &[String], what: &str) {
    if is_wild(list) && list.len() > 1 {
        let message = format!("if '*' is present, must not specify other {what}");
        errors.push(field::invalid(path, json(&list), message));
    }
}

fn verbs(errors: &mut ErrorList, path: &Path, verbs: &[String]) {
    let path = path.child("verbs");
    some(errors, &path, verbs, "verbs must contain at least one value");
    alone(errors, &path, verbs, "verbs");
    if !is_wild(verbs) && verbs.iter().any(|verb| !VERBS.contains(&verb.as_str())) {
        errors.push(field::not_supported(&path, json(&verbs), VERBS));
    }
}

/// A path begins with a slash, has no blanks and no empty elements, and a `*` only as its last element.
fn wrong_with_path(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn subject(errors: &mut ErrorList, path: &Path, subject: &Subject) {
    let (user, group, account) = (path.child("user"), path.child("group"), path.child("serviceAccount"));
    let mut forbid = |path: &Path, set: bool, name: &str, kind: &str| {
        if set {
            let message = format!("{name} is forbidden when subject kind is not '{kind}'");
            errors.push(field::forbidden(path, message));
        }
    };
    let kind = subject.kind.as_str();
    if !["Group", "ServiceAccount", "User"].contains(&kind) {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.push(field::not_supported(&path.child("kind"), kind, &kinds));
        return;
    }
    if kind != "ServiceAccount" {
        forbid(&account, subject.service_account.is_some(), "serviceAccount", "ServiceAccount");
    }
    if kind != "User" {
        forbid(&user, subject.user.is_some(), "user", "User");
    }
    if kind != "Group" {
        forbid(&group, subject.group.is_some(), "group", "Group");
    }
    match kind {
        "User" => match &subject.user {
            None => errors.push(field::required(&user, "user is required when subject kind is 'User'")),
            Some(named) => required(errors, &user.child("name"), &named.name),
        },
        "Group" => match &subject.group {
            None => errors.push(field::required(&group, "group is required when subject kind is 'Group'")),
            Some(named) => required(errors, &group.child("name"), &named.name),
        },
        _ => match &subject.service_account {
            None => {
                let message = "serviceAccount is required when subject kind is 'ServiceAccount'";
                errors.push(field::required(&account, message));
            }
            Some(named) => {
                match named.name.as_str() {
                    "" => errors.push(field::required(&account.child("name"), "")),
                    "*" => {}
                    name => dns_subdomain(errors, &account.child("name"), name),
                }
                let path = account.child("namespace");
                if named.namespace.is_empty() {
                    errors.push(field::required(&path, "must specify namespace for service account"));
                } else {
                    dns_label(errors, &path, &named.namespace);
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(rule: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        validate(&mut errors, &Path::new("r"), &serde_json::from_value(rule).unwrap());
        errors.iter().map(ToString::to_string).collect()
    }

    fn of_subject(subject: Value) -> Vec<String> {
        let any = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        texts(json!({"subjects": [subject], "nonResourceRules": any}))
    }

    fn of_resources(rule: Value) -> Vec<String> {
        let mut whole =
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["a"]});
        whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        texts(json!({"subjects": [{"kind": "User", "user": {"name": "u"}}], "resourceRules": [whole]}))
    }

    #[test]
    fn subjects() {
        for (subject, expected) in [
            (json!({"kind": "User", "user": {"name": "u"}}), vec![]),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}}), vec![]),
            (
                json!({"kind": "Robot"}),
                vec![
                    r#"r.subjects[0].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User""#,
                ],
            ),
            (
                json!({"kind": "Group", "user": {"name": "u"}}),
                vec![
                    "r.subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                    "r.subjects[0].group: Required value: group is required when subject kind is 'Group'",
                ],
            ),
            (
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "", "name": ""}}),
                vec![
                    "r.subjects[0].serviceAccount.name: Required value",
                    "r.subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
                ],
            ),
        ] {
            assert_eq!(of_subject(subject), expected);
        }
    }

    #[test]
    fn resources() {
        for (rule, expected) in [
            (json!({}), vec![]),
            (json!({"namespaces": [], "clusterScope": true}), vec![]),
            (
                json!({"verbs": ["get", "fly"]}),
                vec![
                    r#"r.resourceRules[0].verbs: Unsupported value: ["get","fly"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch""#,
                ],
            ),
            (
                json!({"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "a"], "namespaces": []}),
                vec![
                    r#"r.resourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs"#,
                    "r.resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    r#"r.resourceRules[0].resources: Invalid value: ["*","a"]: if '*' is present, must not specify other resources"#,
                    "r.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                ],
            ),
        ] {
            assert_eq!(of_resources(rule), expected);
        }
        assert_eq!(of_resources(json!({"namespaces": ["A"]})).len(), 1);
    }

    #[test]
    fn paths() {
        for (path, wrong) in [
            ("/", None),
            ("/healthz", None),
            ("/logs/*", None),
            ("", Some("must not be empty")),
            ("healthz", Some("must start with slash")),
            ("/a b", Some("must not contain white-space")),
            ("/a//b", Some("must not contain double slash")),
            ("/a*", Some("wildcard can only do suffix matching")),
            ("/*/*", Some("wildcard can only do suffix matching")),
        ] {
            assert_eq!(wrong_with_path(path), wrong, "{path}");
        }
    }
}
