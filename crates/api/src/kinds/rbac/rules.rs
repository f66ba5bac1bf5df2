//! Rules, role references and subjects, which the four kinds share.
//! Upstream: pkg/apis/rbac/validation.

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_subdomain, json, required};
use crate::kinds::optional::{default_text, is_unset, items, text};
use crate::kinds::row;
use crate::meta_validation::push_invalid;
use crate::names::is_path_segment;
use crate::types::rbac::v1::{PolicyRule, RoleRef, Subject};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks the rules of a role. Those of a namespaced one cannot name URLs.
pub(super) fn policy_rules(errors: &mut ErrorList, rules: &[PolicyRule], namespaced: bool, path: &Path) {
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if rule.verbs.is_empty() {
            errors.push(field::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        let (groups, resources) = (items(&rule.api_groups), items(&rule.resources));
        let urls = items(&rule.non_resource_urls);
        if !urls.is_empty() {
            let path = path.child("nonResourceURLs");
            if namespaced {
                let message = "namespaced rules cannot apply to non-resource URLs";
                errors.push(field::invalid(&path, urls.to_vec(), message));
            }
            if !groups.is_empty() || !resources.is_empty() || !items(&rule.resource_names).is_empty() {
                let message = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(field::invalid(&path, urls.to_vec(), message));
            }
            continue;
        }
        if groups.is_empty() {
            let message = "resource rules must supply at least one api group";
            errors.push(field::required(&path.child("apiGroups"), message));
        }
        if resources.is_empty() {
            let message = "resource rules must supply at least one resource";
            errors.push(field::required(&path.child("resources"), message));
        }
    }
}

/// Fills in who is meant by a binding.
pub(super) fn default_binding(role: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    default_text(&mut role.api_group, GROUP);
    for subject in subjects.iter_mut().flatten() {
        if is_unset(&subject.api_group) && matches!(&*subject.kind, "User" | "Group") {
            default_text(&mut subject.api_group, GROUP);
        }
    }
}

/// Checks a binding. `kinds` are the kinds of roles it may name.
pub(super) fn binding(
    errors: &mut ErrorList,
    role: &RoleRef,
    kinds: &[&str],
    subjects: &[Subject],
    in_namespace: bool,
) {
    let path = Path::new("roleRef");
    if text(&role.api_group) != GROUP {
        errors.push(field::not_supported(&path.child("apiGroup"), text(&role.api_group), &[GROUP]));
    }
    if !kinds.contains(&&*role.kind) {
        errors.push(field::not_supported(&path.child("kind"), &*role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(field::required(&path.child("name"), ""));
    } else {
        push_invalid(errors, &path.child("name"), &role.name, is_path_segment(&role.name));
    }
    for (index, subject) in subjects.iter().enumerate() {
        self::subject(errors, subject, in_namespace, &Path::new("subjects").index(index));
    }
}

fn subject(errors: &mut ErrorList, subject: &Subject, in_namespace: bool, path: &Path) {
    required(errors, &path.child("name"), &subject.name);
    let group = text(&subject.api_group);
    let group_path = path.child("apiGroup");
    match &*subject.kind {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                dns_subdomain(errors, &path.child("name"), &subject.name);
            }
            if !group.is_empty() {
                errors.push(field::not_supported(&group_path, group, &[""]));
            }
            if !in_namespace && is_unset(&subject.namespace) {
                errors.push(field::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" if group != GROUP => errors.push(field::not_supported(&group_path, group, &[GROUP])),
        "User" | "Group" => {}
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(field::not_supported(&path.child("kind"), other, &kinds));
        }
    }
}

/// What a binding binds cannot change: the binding's meaning would.
pub(super) fn role_is_kept(errors: &mut ErrorList, new: &RoleRef, old: &RoleRef) {
    if new != old {
        errors.push(field::invalid(&Path::new("roleRef"), json(new), "cannot change roleRef"));
    }
}

/// Users, groups and service accounts of a binding, three cells.
pub(super) fn subject_cells(subjects: &[Subject]) -> [serde_json::Value; 3] {
    let of = |kind: &str| {
        subjects
            .iter()
            .filter(|subject| subject.kind == kind)
            .map(|subject| match text(&subject.namespace) {
                namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                    format!("{namespace}/{}", subject.name)
                }
                _ => subject.name.clone(),
            })
            .collect::<Vec<_>>()
            .join(", ")
            .into()
    };
    [of("User"), of("Group"), of("ServiceAccount")]
}

/// The columns of a binding; `kind` is its name as upstream writes it.
pub(super) fn binding_columns(kind: &str) -> Vec<crate::kind::Column> {
    use crate::kind::Column;
    let wide = |name: &'static str| Column {
        description: format!("{name} in the {kind}").into(),
        ..Column::wide(name, "string", "")
    };
    vec![
        Column::object_name(),
        Column::new("Role", "string", "The role that is bound."),
        Column::age(),
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ]
}

/// The row of a binding.
pub(super) fn binding_cells(
    meta: &crate::meta::ObjectMeta,
    role: &RoleRef,
    subjects: &[Subject],
    now: jiff::Timestamp,
) -> Vec<serde_json::Value> {
    let [users, groups, accounts] = subject_cells(subjects);
    vec![
        row::name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        row::age(meta, now),
        users,
        groups,
        accounts,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as value};

    use super::*;

    #[test]
    fn rules() {
        for (rule, namespaced, errors) in [
            (value!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), true, 0),
            (value!({"verbs": []}), true, 3),
            (value!({"verbs": ["get"], "nonResourceURLs": ["/x"]}), true, 1),
            (value!({"verbs": ["get"], "nonResourceURLs": ["/x"]}), false, 0),
            (value!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}), false, 1),
        ] {
            let rule: PolicyRule = serde_json::from_value(rule.clone()).unwrap();
            let mut found = ErrorList::new();
            policy_rules(&mut found, &[rule], namespaced, &Path::new("rules"));
            assert_eq!(found.len(), errors, "{found:?}");
        }
    }

    #[test]
    fn subjects() {
        let check = |subject: Value, in_namespace: bool| {
            let mut role: RoleRef =
                serde_json::from_value(value!({"kind": "ClusterRole", "name": "r"})).unwrap();
            let mut subjects = Some(vec![serde_json::from_value(subject).unwrap()]);
            default_binding(&mut role, &mut subjects);
            let mut errors = ErrorList::new();
            binding(&mut errors, &role, &["ClusterRole"], items(&subjects), in_namespace);
            errors.len()
        };
        for (subject, in_namespace, errors) in [
            (value!({"kind": "User", "name": "system:x"}), false, 0),
            (value!({"kind": "ServiceAccount", "name": "a", "namespace": "n"}), false, 0),
            (value!({"kind": "ServiceAccount", "name": "a"}), false, 1),
            (value!({"kind": "ServiceAccount", "name": "a"}), true, 0),
            (value!({"kind": "Robot", "name": "a"}), false, 1),
            (value!({"kind": "User", "name": "", "apiGroup": "x"}), false, 2),
        ] {
            assert_eq!(check(subject.clone(), in_namespace), errors, "{subject}");
        }
    }
}
