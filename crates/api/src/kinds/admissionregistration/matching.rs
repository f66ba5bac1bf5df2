//! What the six kinds share: rules, selectors and the defaults of webhooks.
//! Upstream: pkg/apis/admissionregistration.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::Column;
use crate::kinds::check::{one_of, one_of_if_set, required};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::meta::LabelSelector;
use crate::meta_validation::{label_selector_errors, push_invalid};
use crate::names::{
    is_dns1035_label, is_dns1123_subdomain, is_path_segment, is_port_number, is_qualified_name,
};
use crate::types::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, RuleWithOperations,
    Variable, WebhookClientConfig,
};

const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCHES: [&str; 2] = ["Equivalent", "Exact"];

pub(super) fn default_resources(resources: &mut MatchResources) {
    default_text(&mut resources.match_policy, "Equivalent");
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = items_mut(&mut resources.resource_rules).iter_mut();
    for rule in rules.chain(items_mut(&mut resources.exclude_resource_rules)) {
        default_text(&mut rule.scope, "*");
    }
}

pub(super) fn default_rules(rules: &mut Option<Vec<RuleWithOperations>>) {
    for rule in items_mut(rules) {
        default_text(&mut rule.scope, "*");
    }
}

pub(super) fn default_client(config: &mut WebhookClientConfig) {
    if let Some(service) = &mut config.service {
        service.port.get_or_insert(443);
    }
}

/// The parts of a webhook that both kinds have.
pub(super) struct Webhook<'a> {
    pub(super) name: &'a str,
    pub(super) review_versions: &'a [String],
    pub(super) rules: &'a [RuleWithOperations],
    pub(super) client: &'a WebhookClientConfig,
    pub(super) failure_policy: &'a Option<String>,
    pub(super) match_policy: &'a Option<String>,
    pub(super) side_effects: &'a str,
    pub(super) timeout: Option<i32>,
    pub(super) conditions: &'a [MatchCondition],
    pub(super) namespaces: &'a Option<LabelSelector>,
    pub(super) objects: &'a Option<LabelSelector>,
}

impl Webhook<'_> {
    pub(super) fn validate(&self, errors: &mut ErrorList, path: &Path) {
        let name_path = path.child("name");
        if self.name.is_empty() {
            errors.push(field::required(&name_path, ""));
        } else {
            push_invalid(errors, &name_path, self.name, is_dns1123_subdomain(self.name));
            if self.name.split('.').count() < 3 {
                let message = "should be a domain with at least three segments separated by dots";
                errors.push(field::invalid(&name_path, self.name, message));
            }
        }
        let versions = path.child("admissionReviewVersions");
        if self.review_versions.is_empty() {
            errors.push(field::required(&versions, "must specify one of v1, v1beta1"));
        } else {
            let mut seen = HashSet::new();
            for (index, version) in self.review_versions.iter().enumerate() {
                let at = versions.index(index);
                match !seen.insert(version) {
                    true => errors.push(field::invalid(&at, &**version, "duplicate version")),
                    false => push_invalid(errors, &at, version, is_dns1035_label(version)),
                }
            }
            if !self.review_versions.iter().any(|version| matches!(&**version, "v1" | "v1beta1")) {
                let message = "must include at least one of v1, v1beta1";
                errors.push(field::invalid(&versions, self.review_versions.to_vec(), message));
            }
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let rule = NamedRuleWithOperations {
                api_groups: rule.api_groups.clone(),
                api_versions: rule.api_versions.clone(),
                operations: rule.operations.clone(),
                resources: rule.resources.clone(),
                scope: rule.scope.clone(),
                resource_names: None,
            };
            self::rule(errors, &rule, &path.child("rules").index(index));
        }
        one_of_if_set(errors, &path.child("failurePolicy"), self.failure_policy, &POLICIES);
        one_of_if_set(errors, &path.child("matchPolicy"), self.match_policy, &MATCHES);
        let effects = ["None", "NoneOnDryRun"];
        match self.side_effects {
            "" => errors
                .push(field::required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun")),
            other if !effects.contains(&other) => {
                errors.push(field::not_supported(&path.child("sideEffects"), other, &effects));
            }
            _ => {}
        }
        for (name, selector) in [("namespaceSelector", self.namespaces), ("objectSelector", self.objects)] {
            if let Some(selector) = selector {
                errors.extend(label_selector_errors(selector, &path.child(name)));
            }
        }
        if let Some(seconds) = self.timeout.filter(|seconds| !(1..=30).contains(seconds)) {
            let message = "the timeout value must be between 1 and 30 seconds";
            errors.push(field::invalid(&path.child("timeoutSeconds"), seconds, message));
        }
        conditions(errors, self.conditions, &path.child("matchConditions"));
        client(errors, self.client, &path.child("clientConfig"));
    }
}

/// What is wrong with the place of a webhook.
pub(in crate::kinds) fn client(errors: &mut ErrorList, config: &WebhookClientConfig, path: &Path) {
    match (&config.url, &config.service) {
        (None, None) | (Some(_), Some(_)) => {
            errors.push(field::required(path, "exactly one of url or service is required"));
        }
        (Some(url), None) => self::url(errors, url, &path.child("url")),
        (None, Some(service)) => {
            let path = path.child("service");
            for (member, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                if value.is_empty() {
                    errors
                        .push(field::required(&path.child(member), format!("service {member} is required")));
                }
            }
            if let Some(port) = service.port {
                let problems = is_port_number(port.into());
                if !problems.is_empty() {
                    let message = format!("port is not valid: {}", problems.join(", "));
                    errors.push(field::invalid(&path.child("port"), port, message));
                }
            }
            url_path(errors, text(&service.path), &path.child("path"));
        }
    }
}

/// Upstream: apiserver/pkg/util/webhook/validation.go, `ValidateWebhookURL`.
fn url(errors: &mut ErrorList, url: &str, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        let message = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(field::invalid(path, scheme, message));
    }
    if host.is_empty() {
        errors.push(field::invalid(path, "", format!("host must be provided{FORM}")));
    }
    for (part, message) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(field::invalid(path, part, message));
        }
    }
}

/// What is wrong with the path of a webhook's Service. Upstream: the same file, `ValidateWebhookService`.
fn url_path(errors: &mut ErrorList, target: &str, path: &Path) {
    if matches!(target, "" | "/") {
        return;
    }
    if target == "//" {
        return errors.push(field::invalid(path, target, "segment[0] may not be empty"));
    }
    if !target.starts_with('/') {
        errors.push(field::invalid(path, target, "must start with a '/'"));
    }
    // Upstream leaves the first character out whatever it is.
    let inner: String = target.chars().skip(1).collect();
    for (index, segment) in inner.strip_suffix('/').unwrap_or(&inner).split('/').enumerate() {
        if segment.is_empty() {
            errors.push(field::invalid(path, target, format!("segment[{index}] may not be empty")));
        } else {
            for problem in is_dns1123_subdomain(segment) {
                errors.push(field::invalid(path, target, format!("segment[{index}]: {problem}")));
            }
        }
    }
}

/// What is wrong with the variables of a policy, but for what compiling them tells.
pub(super) fn variables(errors: &mut ErrorList, variables: &[Variable], path: &Path) {
    for (index, variable) in variables.iter().enumerate() {
        let at = path.index(index);
        if variable.name.trim().is_empty() {
            errors.push(field::required(&at.child("name"), "name is not specified"));
        } else if !is_cel_identifier(&variable.name) {
            let message = "name is not a valid CEL identifier";
            errors.push(field::invalid(&at.child("name"), &*variable.name, message));
        }
        if variable.expression.trim().is_empty() {
            errors.push(field::required(&at.child("expression"), "expression is not specified"));
        }
    }
}

/// Whether the text is a name in CEL, and no word of the language.
fn is_cel_identifier(text: &str) -> bool {
    const WORDS: [&str; 21] = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ];
    let starts = text.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    starts && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) && !WORDS.contains(&text)
}

/// What is wrong with the name of the policy that is bound.
pub(super) fn policy_name(errors: &mut ErrorList, name: &str, path: &Path) {
    match name.is_empty() {
        true => errors.push(field::required(path, "")),
        false => push_invalid(errors, path, name, is_dns1123_subdomain(name)),
    }
}

pub(super) fn conditions(errors: &mut ErrorList, conditions: &[MatchCondition], path: &Path) {
    const MAX: usize = 64;
    if conditions.len() > MAX {
        errors.push(field::too_many(path, conditions.len(), MAX));
    }
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        required(errors, &at.child("expression"), condition.expression.trim());
        if condition.name.is_empty() {
            errors.push(field::required(&at.child("name"), ""));
        } else {
            push_invalid(errors, &at.child("name"), &condition.name, is_qualified_name(&condition.name));
            if !seen.insert(&condition.name) {
                errors.push(field::duplicate(&at.child("name"), &*condition.name));
            }
        }
    }
}

pub(super) fn failure_policy(errors: &mut ErrorList, policy: &Option<String>, path: &Path) {
    one_of_if_set(errors, path, policy, &POLICIES);
}

/// What is wrong with the kind of a policy's parameters.
pub(super) fn param_kind(errors: &mut ErrorList, kind: &ParamKind, path: &Path) {
    let (version_path, api_version) = (path.child("apiVersion"), text(&kind.api_version));
    let joined = |errors: &mut ErrorList, path: &Path, value: &str, prefix: &str, messages: Vec<String>| {
        if !messages.is_empty() {
            errors.push(field::invalid(path, value, format!("{prefix}{}", messages.join(","))));
        }
    };
    match api_version.split('/').collect::<Vec<_>>()[..] {
        [""] => errors.push(field::required(&version_path, "")),
        [version] => joined(errors, &version_path, version, "", is_dns1035_label(version)),
        [group, version] => {
            if !group.is_empty() {
                joined(errors, &version_path, group, "", is_dns1123_subdomain(group));
            }
            if version.is_empty() {
                errors.push(field::invalid(&version_path, api_version, "version must be specified"));
            } else {
                joined(errors, &version_path, version, "", is_dns1035_label(version));
            }
        }
        _ => {
            let message = format!("unexpected GroupVersion string: {api_version}");
            errors.push(field::invalid(&version_path, api_version, message));
        }
    }
    let (kind_path, kind) = (path.child("kind"), text(&kind.kind));
    if kind.is_empty() {
        errors.push(field::required(&kind_path, ""));
    } else {
        let messages = is_dns1035_label(&kind.to_lowercase());
        joined(errors, &kind_path, kind, "may have mixed case, but should otherwise match: ", messages);
    }
}

pub(super) fn resources(errors: &mut ErrorList, resources: &MatchResources, path: &Path) {
    one_of_if_set(errors, &path.child("matchPolicy"), &resources.match_policy, &MATCHES);
    for (name, selector) in
        [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)]
    {
        match selector {
            None => errors.push(field::required(&path.child(name), "")),
            Some(selector) => errors.extend(label_selector_errors(selector, &path.child(name))),
        }
    }
    for (name, rules) in [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ] {
        for (index, rule) in items(rules).iter().enumerate() {
            self::rule(errors, rule, &path.child(name).index(index));
        }
    }
}

/// Sets what happens when a binding's parameters are not found.
pub(super) fn default_parameters(parameters: &mut Option<ParamRef>) {
    if let Some(parameters) = parameters {
        default_text(&mut parameters.parameter_not_found_action, "Deny");
    }
}

/// What is wrong with the parameters of a binding.
pub(super) fn parameters(errors: &mut ErrorList, parameters: &ParamRef, path: &Path) {
    let name = text(&parameters.name);
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        push_invalid(errors, &path.child("name"), name, is_path_segment(name));
    }
    match &parameters.selector {
        None if name.is_empty() => {
            errors.push(field::required(path, "one of name or selector must be specified"));
        }
        None => {}
        Some(selector) => {
            errors.extend(label_selector_errors(selector, &path.child("selector")));
            if !name.is_empty() {
                errors.push(field::forbidden(&path.child("name"), exclusive));
                errors.push(field::forbidden(&path.child("selector"), exclusive));
            }
        }
    }
    let action = path.child("parameterNotFoundAction");
    one_of(errors, &action, text(&parameters.parameter_not_found_action), &["Allow", "Deny"]);
}

/// The columns of both kinds of bindings.
pub(super) fn binding_columns() -> Vec<Column> {
    vec![
        Column::object_name(),
        Column::new(
            "PolicyName",
            "string",
            "PolicyName indicates the policy definition which the policy binding binded to",
        ),
        Column::new(
            "ParamRef",
            "string",
            "ParamRef indicates the param resource which sets the configration param",
        ),
        Column::age(),
    ]
}

/// The column of the parameters.
pub(super) fn parameters_cell(parameters: Option<&ParamRef>) -> Value {
    let Some(parameters) = parameters else { return "<unset>".into() };
    match (text(&parameters.name), &parameters.selector) {
        ("", None) => "<unset>".into(),
        ("", selector) => row::selector(selector.as_ref()),
        (name, _) => {
            let namespace = text(&parameters.namespace);
            format!("{}/{name}", if namespace.is_empty() { "*" } else { namespace }).into()
        }
    }
}

/// The column of a policy's kind of parameters.
pub(super) fn kind_cell(kind: Option<&ParamKind>) -> Value {
    kind.map_or_else(
        || "<unset>".into(),
        |kind| format!("{}/{}", text(&kind.api_version), text(&kind.kind)).into(),
    )
}

fn rule(errors: &mut ErrorList, rule: &NamedRuleWithOperations, path: &Path) {
    let names = items(&rule.resource_names);
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        let at = path.child("resourceNames").index(index);
        push_invalid(errors, &at, name, is_path_segment(name));
        if !seen.insert(name) {
            errors.push(field::duplicate(&at, &**name));
        }
    }
    let operations = items(&rule.operations);
    let operations_path = path.child("operations");
    if operations.is_empty() {
        errors.push(field::required(&operations_path, ""));
    }
    if operations.len() > 1 && operations.iter().any(|operation| operation == "*") {
        let message = "if '*' is present, must not specify other operations";
        errors.push(field::invalid(&operations_path, operations.to_vec(), message));
    }
    for (index, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(&&**operation) {
            errors.push(field::not_supported(&operations_path.index(index), &**operation, &OPERATIONS));
        }
    }
    for (name, list) in
        [("apiGroups", &rule.api_groups), ("apiVersions", &rule.api_versions), ("resources", &rule.resources)]
    {
        let list = items(list);
        let path = path.child(name);
        if list.is_empty() {
            errors.push(field::required(&path, ""));
        }
        let star = "if '*' is present, must not specify other";
        if list.len() > 1 && list.iter().any(|entry| entry == "*") && name != "resources" {
            let what = if name == "apiGroups" { "API groups" } else { "API versions" };
            errors.push(field::invalid(&path, list.to_vec(), format!("{star} {what}")));
        }
        let may_be_empty = name == "apiGroups";
        for (index, _) in list.iter().enumerate().filter(|(_, entry)| !may_be_empty && entry.is_empty()) {
            errors.push(field::required(&path.index(index), ""));
        }
    }
    wildcards(errors, items(&rule.resources), &path.child("resources"));
    if !text(&rule.scope).is_empty() {
        one_of_if_set(errors, &path.child("scope"), &rule.scope, &SCOPES);
    }
}

/// What may not stand beside a wildcard in the list of resources.
fn wildcards(errors: &mut ErrorList, resources: &[String], path: &Path) {
    let (mut all_of, mut of_all): (HashSet<&str>, HashSet<&str>) = Default::default();
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        let Some((name, subresource)) = resource.split_once('/') else {
            // As upstream, where the last one decides.
            plain = resource != "*" && !resource.is_empty();
            continue;
        };
        for (seen, wildcard) in [
            (all_of.contains(name), format!("{name}/*")),
            (of_all.contains(subresource), format!("*/{subresource}")),
        ] {
            if seen {
                let message = format!("if '{wildcard}' is present, must not specify {resource}");
                errors.push(field::invalid(&path.index(index), &**resource, message));
            }
        }
        if subresource == "*" {
            all_of.insert(name);
        }
        if name == "*" {
            of_all.insert(subresource);
        }
    }
    let has = |wildcard: &str| resources.iter().any(|resource| resource == wildcard);
    if resources.len() > 1 && has("*/*") {
        let message = "if '*/*' is present, must not specify other resources";
        errors.push(field::invalid(path, resources.to_vec(), message));
    }
    if has("*") && plain {
        let message = "if '*' is present, must not specify other resources without subresources";
        errors.push(field::invalid(path, resources.to_vec(), message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl FnOnce(&mut ErrorList, &Path)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("at"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wildcards_stand_alone() {
        let all = r#"["*","pods"]"#;
        for (resources, expected) in [
            (vec!["pods", "pods/log"], vec![]),
            (vec!["*", "*/scale"], vec![]),
            (
                vec!["*", "pods"],
                vec![format!(
                    "at: Invalid value: {all}: if '*' is present, must not specify other resources without subresources"
                )],
            ),
            (
                vec!["pods/*", "pods/log"],
                vec![r#"at[1]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log"#.into()],
            ),
            (
                vec!["*/scale", "pods/scale"],
                vec![r#"at[1]: Invalid value: "pods/scale": if '*/scale' is present, must not specify pods/scale"#.into()],
            ),
            (
                vec!["*/*", "pods"],
                vec![
                    r#"at: Invalid value: ["*/*","pods"]: if '*/*' is present, must not specify other resources"#.into(),
                ],
            ),
        ] {
            let resources: Vec<String> = resources.into_iter().map(str::to_owned).collect();
            assert_eq!(texts(|errors, path| wildcards(errors, &resources, path)), expected, "{resources:?}");
        }
    }

    #[test]
    fn webhooks_are_reached_by_a_plain_url_or_a_service() {
        let form = "; desired format: https://host[/path]";
        for (config, expected) in [
            (json!({"url": "https://example.com:8443/a"}), vec![]),
            (
                json!({"url": "http://example.com"}),
                vec![format!(r#"at.url: Invalid value: "http": 'https' is the only allowed URL scheme{form}"#)],
            ),
            (json!({"url": "https:///a"}), vec![format!(r#"at.url: Invalid value: "": host must be provided{form}"#)]),
            (
                json!({"url": "https://u:p@h/?q=1#f"}),
                vec![
                    r#"at.url: Invalid value: "u:p": user information is not permitted in the URL"#.into(),
                    r#"at.url: Invalid value: "f": fragments are not permitted in the URL"#.into(),
                    r#"at.url: Invalid value: "q=1": query parameters are not permitted in the URL"#.into(),
                ],
            ),
            (json!({"service": {"name": "s", "namespace": "n", "path": "/a/b.c/"}}), vec![]),
            (
                json!({"service": {"name": "", "namespace": "n", "path": "/a//b", "port": 0}}),
                vec![
                    "at.service.name: Required value: service name is required".into(),
                    "at.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive".into(),
                    r#"at.service.path: Invalid value: "/a//b": segment[1] may not be empty"#.into(),
                ],
            ),
        ] {
            let config: WebhookClientConfig = serde_json::from_value(config).unwrap();
            assert_eq!(texts(|errors, path| client(errors, &config, path)), expected);
        }
    }

    #[test]
    fn variables_have_names_of_cel() {
        let given = [("ok_1", "1"), ("1st", "1"), ("in", "1"), (" ", " ")];
        let given =
            given.map(|(name, expression)| Variable { name: name.into(), expression: expression.into() });
        assert_eq!(
            texts(|errors, path| variables(errors, &given, path)),
            [
                r#"at[1].name: Invalid value: "1st": name is not a valid CEL identifier"#,
                r#"at[2].name: Invalid value: "in": name is not a valid CEL identifier"#,
                "at[3].name: Required value: name is not specified",
                "at[3].expression: Required value: expression is not specified",
            ]
        );
    }
}
