//! What one RBAC rule allows, and whether rules cover other rules.
//! Pure functions over `PolicyRule`.
//! Upstream: pkg/apis/rbac/v1/evaluation_helpers.go, k8s.io/component-helpers/auth/rbac/validation.

use api::types::rbac::v1::PolicyRule;

use crate::request::RequestInfo;

/// Whether the rule allows the request.
pub fn allows(rule: &PolicyRule, info: &RequestInfo) -> bool {
    if !has(&rule.verbs, &info.verb) {
        return false;
    }
    if !info.is_resource {
        return list(&rule.non_resource_urls).iter().any(|pattern| path_matches(pattern, &info.path));
    }
    has(list(&rule.api_groups), &info.group)
        && resource_matches(list(&rule.resources), &info.resource, &info.subresource)
        && name_matches(list(&rule.resource_names), &info.name)
}

fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

fn has(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

fn resource_matches(resources: &[String], resource: &str, subresource: &str) -> bool {
    resources.iter().any(|rule| {
        if rule == "*" {
            return true;
        }
        match rule.split_once('/') {
            _ if subresource.is_empty() => rule == resource,
            Some((kind, sub)) => sub == subresource && (kind == "*" || kind == resource),
            None => false,
        }
    })
}

fn name_matches(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|allowed| allowed == name)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// The parts of `wanted` that no rule of `held` covers, each with one verb, group, resource and name.
pub fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(break_down);
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let part = |names: Option<Vec<String>>| PolicyRule {
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    verbs: vec![verb.clone()],
                    resource_names: names,
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    [] => parts.push(part(None)),
                    names => parts.extend(names.iter().map(|name| part(Some(vec![name.clone()])))),
                }
            }
        }
    }
    for path in list(&rule.non_resource_urls) {
        for verb in &rule.verbs {
            parts.push(PolicyRule {
                non_resource_urls: Some(vec![path.clone()]),
                verbs: vec![verb.clone()],
                ..PolicyRule::default()
            });
        }
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let every = |held: &[String], wanted: &[String]| {
        held.iter().any(|h| h == "*") || wanted.iter().all(|w| held.contains(w))
    };
    if !every(&held.verbs, &part.verbs) {
        return false;
    }
    if part.non_resource_urls.is_some() {
        return list(&part.non_resource_urls)
            .iter()
            .all(|path| list(&held.non_resource_urls).iter().any(|pattern| path_matches(pattern, path)));
    }
    let resources = list(&held.resources);
    let resource_covered = |wanted: &String| {
        resources.iter().any(|r| r == "*" || r == wanted)
            || wanted
                .split_once('/')
                .is_some_and(|(_, sub)| resources.iter().any(|r| *r == format!("*/{sub}")))
    };
    let (names, wanted_names) = (list(&held.resource_names), list(&part.resource_names));
    every(list(&held.api_groups), list(&part.api_groups))
        && list(&part.resources).iter().all(resource_covered)
        && (names.is_empty() || !wanted_names.is_empty() && wanted_names.iter().all(|n| names.contains(n)))
}

/// The rules with those for one group, one resource and the same names joined over their verbs, in order.
pub fn compact(rules: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let simple = |r: &PolicyRule| {
            list(&r.api_groups).len() == 1
                && list(&r.resources).len() == 1
                && list(&r.resource_names).len() <= 1
                && list(&r.non_resource_urls).is_empty()
        };
        let twin = out.iter_mut().find(|other| {
            simple(rule)
                && simple(other)
                && other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && list(&other.resource_names) == list(&rule.resource_names)
        });
        match twin {
            Some(twin) => {
                for verb in &rule.verbs {
                    if !twin.verbs.contains(verb) {
                        twin.verbs.push(verb.clone());
                    }
                }
            }
            None => out.push(rule.clone()),
        }
    }
    out
}

/// A rule in one line, for messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let mut parts = Vec::new();
    let fields = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    for (name, values) in fields {
        if !values.is_empty() {
            parts.push(format!("{name}:{}", quoted(values)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

/// A list of strings as Go's `%q` prints it: `["a" "b"]`.
pub fn quoted(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect()
    }

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
        PolicyRule {
            verbs: words(verbs),
            api_groups: Some(words(groups)),
            resources: Some(words(resources)),
            resource_names: Some(words(names)).filter(|n| !n.is_empty()),
            ..PolicyRule::default()
        }
    }

    fn info(method: &str, path: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), path, None)
    }

    #[test]
    fn rules_match_requests() {
        #[rustfmt::skip]
        let table = [
            (rule("get", "core", "pods", ""), "GET", "/api/v1/namespaces/a/pods/p", true),
            (rule("get", "core", "pods", ""), "GET", "/api/v1/namespaces/a/pods", false),
            (rule("get", "core", "pods", ""), "GET", "/api/v1/namespaces/a/pods/p/log", false),
            (rule("get", "core", "pods/log", ""), "GET", "/api/v1/namespaces/a/pods/p/log", true),
            (rule("get", "*", "*/scale", ""), "GET", "/apis/apps/v1/namespaces/a/deployments/d/scale", true),
            (rule("get", "*", "*/scale", ""), "GET", "/apis/apps/v1/namespaces/a/deployments/d", false),
            (rule("*", "*", "*", ""), "DELETE", "/apis/x.example/v1/things/t/status", true),
            (rule("get", "apps", "*", ""), "GET", "/api/v1/namespaces/a/pods/p", false),
            (rule("get", "core", "pods", "p"), "GET", "/api/v1/namespaces/a/pods/p", true),
            (rule("get", "core", "pods", "p"), "GET", "/api/v1/namespaces/a/pods/q", false),
            (rule("create", "core", "pods", "p"), "POST", "/api/v1/namespaces/a/pods", false),
            (rule("*", "*", "*", ""), "GET", "/metrics", false),
        ];
        for (rule, method, path, want) in table {
            assert_eq!(allows(&rule, &info(method, path)), want, "{} {method} {path}", describe(&rule));
        }
        let urls = |pattern: &str| PolicyRule {
            verbs: words("get"),
            non_resource_urls: Some(words(pattern)),
            ..PolicyRule::default()
        };
        for (pattern, path, want) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/etcd", false),
            ("/healthz/*", "/healthz/etcd", true),
            ("*", "/anything", true),
            ("/apis/*", "/apis", false),
        ] {
            assert_eq!(allows(&urls(pattern), &info("GET", path)), want, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_in_one_line_each() {
        let held = [rule("get list", "core", "pods */scale", ""), rule("get", "core", "secrets", "a b")];
        #[rustfmt::skip]
        let table = [
            (rule("get", "core", "pods", ""), ""),
            (rule("get", "core", "pods", "one"), ""),
            (rule("get list watch delete", "core", "pods", ""), r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#),
            (rule("get", "core", "deployments/scale", ""), ""),
            (rule("get", "core", "secrets", "a"), ""),
            (rule("get", "core", "secrets", ""), r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#),
            (rule("get", "core", "secrets", "c"), r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["c"], Verbs:["get"]}"#),
            (rule("*", "core", "pods", ""), r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#),
        ];
        for (wanted, want) in table {
            let lines: Vec<String> = compact(&missing(&held, &[wanted])).iter().map(describe).collect();
            assert_eq!(lines.join("\n"), want);
        }
    }
}
