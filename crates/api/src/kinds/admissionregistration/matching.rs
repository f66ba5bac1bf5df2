//! What the six kinds share: rules, selectors and the defaults of webhooks.
//! Upstream: pkg/apis/admissionregistration.

use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::Column;
use crate::kinds::check::{one_of, one_of_if_set, required};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::meta::LabelSelector;
use crate::meta_validation::{label_selector_errors, push_invalid};
use crate::names::{is_dns1035_label, is_dns1123_subdomain, is_path_segment, is_qualified_name};
use crate::types::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, RuleWithOperations,
    WebhookClientConfig,
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
        } else if !self.review_versions.iter().any(|version| matches!(&**version, "v1" | "v1beta1")) {
            let message = "must include at least one of v1, v1beta1";
            errors.push(field::invalid(&versions, self.review_versions.to_vec(), message));
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
        (Some(url), None) if !url.starts_with("https://") => {
            let message = "'https' is the only allowed URL scheme";
            errors.push(field::invalid(
                &path.child("url"),
                &**url,
                format!("{message}; desired format: https://host[/path]"),
            ));
        }
        (Some(_), None) => {}
        (None, Some(service)) => {
            let path = path.child("service");
            required(errors, &path.child("name"), &service.name);
            required(errors, &path.child("namespace"), &service.namespace);
            if let Some(port) = service.port {
                crate::kinds::check::port_number(errors, &path.child("port"), port);
            }
            if let Some(target) = service.path.as_deref().filter(|target| !target.starts_with('/')) {
                errors.push(field::invalid(&path.child("path"), target, "must start with a '/'"));
            }
        }
    }
}

pub(super) fn conditions(errors: &mut ErrorList, conditions: &[MatchCondition], path: &Path) {
    const MAX: usize = 64;
    if conditions.len() > MAX {
        errors.push(field::too_many(path, conditions.len(), MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        required(errors, &at.child("expression"), condition.expression.trim());
        if condition.name.is_empty() {
            errors.push(field::required(&at.child("name"), ""));
        } else {
            push_invalid(errors, &at.child("name"), &condition.name, is_qualified_name(&condition.name));
            if conditions[..index].iter().any(|earlier| earlier.name == condition.name) {
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
    let operations = items(&rule.operations);
    let operations_path = path.child("operations");
    if operations.is_empty() {
        errors.push(field::required(&operations_path, ""));
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
    if !text(&rule.scope).is_empty() {
        one_of_if_set(errors, &path.child("scope"), &rule.scope, &SCOPES);
    }
}
