//! The roles and bindings that exist from the start, and how stored ones are brought up to them.
//!
//! [`objects`] is the whole policy as it is to be stored; [`reconcile`] compares one of it with what is stored
//! and adds only what is missing, so that what people added stays and what they took away comes back (unless
//! they set `rbac.authorization.kubernetes.io/autoupdate` to `false`).
//! To add a role: a row in `bootstrap/cluster.rs`, `bootstrap/controllers.rs` or `bootstrap/namespaced.rs`.
//! Not here: writing them (the server does at its start).
//! Upstream: plugin/pkg/auth/authorizer/rbac/bootstrappolicy, component-helpers/auth/rbac/reconciliation.

mod cluster;
mod controllers;
mod namespaced;

use api::Object;
use api::types::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::rbac::rules::missing;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// Verbs that read.
const READ: &str = "get list watch";
/// Verbs that write.
const WRITE: &str = "create delete deletecollection patch update";
/// Both.
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";

/// One rule: verbs, groups, resources and names, each separated by spaces; the group without a name is `core`.
#[derive(Clone, Copy)]
struct Rule {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    paths: &'static str,
}

const fn rule(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", paths: "" }
}

const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Rule {
    Rule { verbs, groups, resources, names, paths: "" }
}

const fn paths(verbs: &'static str, paths: &'static str) -> Rule {
    Rule { verbs, groups: "", resources: "", names: "", paths }
}

/// To record events, which nearly everybody does.
const EVENTS: Rule = rule("create patch update", "core events.k8s.io", "events");

impl Rule {
    fn policy(&self) -> PolicyRule {
        let words = |text: &str| -> Option<Vec<String>> {
            let words: Vec<String> = text
                .split_whitespace()
                .map(|word| if word == "core" { String::new() } else { word.to_owned() })
                .collect();
            (!words.is_empty()).then_some(words)
        };
        PolicyRule {
            verbs: words(self.verbs).unwrap_or_default(),
            api_groups: words(self.groups),
            resources: words(self.resources),
            resource_names: words(self.names),
            non_resource_urls: words(self.paths),
        }
    }
}

/// Somebody a role is bound to: `user:…`, `group:…` or `sa:<namespace>:<name>`.
fn subject(text: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    match text.split_once(':') {
        Some(("user", name)) => json!({ "kind": "User", "apiGroup": group, "name": name }),
        Some(("group", name)) => json!({ "kind": "Group", "apiGroup": group, "name": name }),
        Some((_, account)) => {
            let (namespace, name) = account.split_once(':').unwrap_or(("kube-system", account));
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        None => json!({ "kind": "User", "apiGroup": group, "name": text }),
    }
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { AUTOUPDATE: "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn role(namespace: &str, name: &str, rules: &[Rule]) -> Object {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    let rules: Vec<PolicyRule> = rules.iter().map(Rule::policy).collect();
    Object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata(name, namespace),
        "rules": rules,
    }))
}

fn binding(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> Object {
    let (kind, role_kind) = match namespace {
        "" => ("ClusterRoleBinding", "ClusterRole"),
        _ => ("RoleBinding", "Role"),
    };
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata(name, namespace),
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role },
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().map(|text| subject(text)).collect();
    }
    Object(object)
}

/// The whole policy: ClusterRoles, ClusterRoleBindings, Roles, RoleBindings. The namespaces `kube-system` and
/// `kube-public` must exist before the last two are written.
pub fn objects() -> Vec<Object> {
    let mut objects = cluster::roles();
    objects.extend(controllers::roles());
    objects.extend(cluster::bindings());
    objects.extend(controllers::bindings());
    objects.extend(namespaced::objects());
    objects
}

/// The rules of the role `system:node`.
pub fn node_rules() -> Vec<PolicyRule> {
    cluster::NODE.iter().map(Rule::policy).collect()
}

/// What is to be done about a stored object of the policy.
#[derive(Debug, PartialEq)]
pub enum Reconciled {
    /// Nothing.
    Unchanged,
    /// Store this in its place.
    Update(Object),
    /// Delete it and create this: a binding's role cannot be changed.
    Recreate(Object),
}

/// Compares a stored role or binding with the policy's.
pub fn reconcile(stored: &Object, wanted: &Object) -> Reconciled {
    if stored.annotation(AUTOUPDATE) == Some("false") {
        return Reconciled::Unchanged;
    }
    let mut next = stored.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted.0["metadata"][field].as_object().into_iter().flatten() {
            if next.0["metadata"][field].get(key).is_none() {
                next.0["metadata"][field][key] = value.clone();
            }
        }
    }
    if wanted.kind().ends_with("Binding") {
        if stored.0["roleRef"] != wanted.0["roleRef"] {
            return Reconciled::Recreate(wanted.clone());
        }
        add_missing(&mut next.0["subjects"], &wanted.0["subjects"]);
    } else if wanted.0["aggregationRule"].is_object() {
        let selectors = &wanted.0["aggregationRule"]["clusterRoleSelectors"];
        add_missing(&mut next.0["aggregationRule"]["clusterRoleSelectors"], selectors);
    } else {
        let rules =
            |object: &Object| -> Vec<PolicyRule> { api::json::typed(&object.0["rules"]).unwrap_or_default() };
        let (held, wanted) = (rules(stored), rules(wanted));
        let lacking =
            wanted.into_iter().filter(|rule| !missing(&held, std::slice::from_ref(rule)).is_empty());
        let lacking: Vec<Value> = lacking.map(|rule| json!(rule)).collect();
        add_missing(&mut next.0["rules"], &lacking.into());
    }
    if next == *stored { Reconciled::Unchanged } else { Reconciled::Update(next) }
}

fn add_missing(list: &mut Value, wanted: &Value) {
    for item in wanted.as_array().into_iter().flatten() {
        if !list.as_array().is_some_and(|held| held.contains(item)) {
            match list.as_array_mut() {
                Some(held) => held.push(item.clone()),
                None => *list = json!([item]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_binding_has_its_role_and_no_name_is_there_twice() {
        let objects = objects();
        let key = |o: &Object| (o.kind().to_owned(), o.namespace().map(str::to_owned), o.name().to_owned());
        let keys: BTreeSet<_> = objects.iter().map(key).collect();
        assert_eq!(keys.len(), objects.len());
        for object in objects.iter().filter(|o| o.kind().ends_with("Binding")) {
            let role = &object.0["roleRef"];
            let wanted = (
                role["kind"].as_str().unwrap().to_owned(),
                object.namespace().map(str::to_owned),
                role["name"].as_str().unwrap().to_owned(),
            );
            assert!(keys.contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn aggregated_roles_carry_their_rules() {
        let objects = objects();
        let rules = |name: &str| -> Vec<PolicyRule> {
            let role = objects.iter().find(|o| o.kind() == "ClusterRole" && o.name() == name).unwrap();
            serde_json::from_value(role.0["rules"].clone()).unwrap()
        };
        assert!(!rules("view").is_empty());
        assert_eq!(missing(&rules("edit"), &rules("view")), []);
        assert_eq!(missing(&rules("admin"), &rules("edit")), []);
        assert!(!missing(&rules("view"), &rules("edit")).is_empty());
        assert_eq!(missing(&rules("admin"), &rules("system:aggregate-to-admin")), []);
    }

    #[test]
    fn reconciling_adds_what_is_missing_and_keeps_what_was_added() {
        let wanted = role("", "r", &[rule("get list", "core", "pods"), rule("get", "apps", "deployments")]);
        assert_eq!(reconcile(&wanted, &wanted), Reconciled::Unchanged);

        let mut stored = role("", "r", &[rule("*", "core", "*"), rule("get", "x.example", "things")]);
        stored.0["metadata"]["uid"] = "u".into();
        let Reconciled::Update(next) = reconcile(&stored, &wanted) else { panic!("one rule is missing") };
        assert_eq!(next.0["rules"].as_array().unwrap().len(), 3, "pods are covered by *");
        assert_eq!(next.uid(), "u");

        stored.0["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(&stored, &wanted), Reconciled::Unchanged);

        let bound = binding("", "b", "r", &["user:jane", "group:g"]);
        let other = binding("", "b", "r", &["user:bob"]);
        let Reconciled::Update(next) = reconcile(&other, &bound) else { panic!("subjects are missing") };
        assert_eq!(next.0["subjects"].as_array().unwrap().len(), 3);
        let elsewhere = binding("", "b", "another", &["user:jane"]);
        assert_eq!(reconcile(&elsewhere, &bound), Reconciled::Recreate(bound));
    }
}
