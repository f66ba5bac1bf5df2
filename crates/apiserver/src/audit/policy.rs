//! The audit policy: the first rule that matches a request says what is recorded of it.
//!
//! Reads audit.k8s.io/v1 Policy files.
//! Upstream: apiserver/pkg/audit/policy/{checker,reader}.go, apiserver/pkg/apis/audit/validation.

use serde::Deserialize;

use crate::request::Attributes;

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and how it ended.
    Metadata,
    /// The object that was sent, too.
    Request,
    /// The answer, too.
    RequestResponse,
}

impl Level {
    /// From least to most.
    pub const ALL: [Self; 4] = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// It has come in.
    RequestReceived,
    /// The answer's head has been sent, of one that goes on for long.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed in it.
    Panic,
}

impl Stage {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_yaml_ng::Value,
    #[serde(default)]
    rules: Vec<RuleFields>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleFields {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// Stages of which nothing is.
    pub omit: Vec<Stage>,
    /// Whether `managedFields` are left out of objects.
    pub omit_managed_fields: bool,
}

/// A policy.
pub struct Policy {
    rules: Vec<(RuleFields, Verdict)>,
    default: Verdict,
}

impl Policy {
    /// Reads a policy file's text.
    ///
    /// # Errors
    /// A sentence about the first thing in it that cannot be.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml_ng::from_str(text)
            .map_err(|error| format!("the audit policy cannot be read: {error}"))?;
        if file.kind != "Policy" || file.api_version != "audit.k8s.io/v1" {
            return Err("the audit policy must be a Policy of audit.k8s.io/v1".to_owned());
        }
        if file.rules.is_empty() {
            return Err("the audit policy has no rules".to_owned());
        }
        let default = Verdict {
            level: Level::None,
            omit: file.omit_stages.clone(),
            omit_managed_fields: file.omit_managed_fields,
        };
        let mut rules = Vec::new();
        for (at, rule) in file.rules.into_iter().enumerate() {
            let resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if resources && !rule.non_resource_urls.is_empty() {
                return Err(format!(
                    "rules[{at}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                ));
            }
            for url in &rule.non_resource_urls {
                if url != "*" && !url.starts_with('/') {
                    return Err(format!(
                        "rules[{at}].nonResourceURLs: non-resource URL rules must begin with a '/' character: {url:?}"
                    ));
                }
                if url.trim_end_matches('*').contains('*') {
                    return Err(format!(
                        "rules[{at}].nonResourceURLs: non-resource URL wildcards '*' must be the final character of the rule: {url:?}"
                    ));
                }
            }
            if rule.resources.iter().any(|r| r.resources.is_empty() && !r.resource_names.is_empty()) {
                return Err(format!(
                    "rules[{at}].resources: using resourceNames requires at least one resource"
                ));
            }
            let mut omit = default.omit.clone();
            omit.extend(&rule.omit_stages);
            let omit_managed_fields = rule.omit_managed_fields.unwrap_or(default.omit_managed_fields);
            let verdict = Verdict { level: rule.level, omit, omit_managed_fields };
            rules.push((rule, verdict));
        }
        Ok(Self { rules, default })
    }

    /// What is recorded of a request.
    pub fn find(&self, attributes: &Attributes) -> Verdict {
        let found = self.rules.iter().find(|(rule, _)| rule.matches(attributes));
        found.map_or(&self.default, |(_, verdict)| verdict).clone()
    }
}

/// An empty list says nothing; any other must have the value.
fn allows(list: &[String], value: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == value)
}

impl RuleFields {
    fn matches(&self, attributes: &Attributes) -> bool {
        let (user, info) = (&attributes.user, &attributes.info);
        let member = self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group));
        if !allows(&self.users, &user.name) || !member || !allows(&self.verbs, &info.verb) {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return info.is_resource
                && allows(&self.namespaces, &info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|rule| rule.matches(attributes)));
        }
        if !self.non_resource_urls.is_empty() {
            let covers = |url: &String| {
                *url == info.path || url.strip_suffix('*').is_some_and(|start| info.path.starts_with(start))
            };
            return !info.is_resource && self.non_resource_urls.iter().any(covers);
        }
        true
    }
}

impl Resources {
    fn matches(&self, attributes: &Attributes) -> bool {
        let info = &attributes.info;
        if self.group != info.group {
            return false;
        }
        let named = allows(&self.resource_names, &info.name);
        let covers = |pattern: &String| match pattern.split_once('/') {
            None => pattern == "*" || (*pattern == info.resource && info.subresource.is_empty()),
            Some(("*", sub)) => !info.subresource.is_empty() && sub == info.subresource,
            Some((resource, "*")) => resource == info.resource,
            Some((resource, sub)) => resource == info.resource && sub == info.subresource,
        };
        self.resources.is_empty() || (named && self.resources.iter().any(covers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{RequestInfo, User};

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints]}]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", "/version"]}
- {level: Request, resources: [{group: "", resources: [configmaps]}], namespaces: [kube-system]}
- {level: Metadata, resources: [{group: "", resources: [secrets, "pods/*"]}, {group: apps, resources: ["*/scale"]}]}
- {level: RequestResponse, resources: [{group: "", resources: [nodes], resourceNames: [n1]}], omitManagedFields: true, omitStages: [Panic]}
- {level: Metadata, nonResourceURLs: ["*"]}
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::read(POLICY).unwrap();
        #[rustfmt::skip]
        let table = [
            ("system:kube-proxy", "/api/v1/endpoints?watch=1", Level::None),
            ("bob", "/version", Level::None),
            ("bob", "/apis", Level::None),
            ("bob", "/healthz", Level::Metadata),
            ("bob", "/api/v1/namespaces/kube-system/configmaps", Level::Request),
            ("bob", "/api/v1/namespaces/default/configmaps", Level::None),
            ("bob", "/api/v1/secrets", Level::Metadata),
            ("bob", "/api/v1/namespaces/a/pods/p/log", Level::Metadata),
            ("bob", "/apis/apps/v1/namespaces/a/deployments/d/scale", Level::Metadata),
            ("bob", "/apis/apps/v1/namespaces/a/deployments/d", Level::None),
            ("bob", "/api/v1/nodes/n1", Level::RequestResponse),
            ("bob", "/api/v1/nodes/n2", Level::None),
        ];
        for (user, path, want) in table {
            let (path, query) =
                path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            let info = RequestInfo::parse(&http::Method::GET, path, query);
            let attributes = Attributes::new(User::new(user, &[User::AUTHENTICATED]), info);
            let found = policy.find(&attributes);
            assert_eq!(found.level, want, "{user} {path}");
            assert!(found.omit.contains(&Stage::RequestReceived));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let read = |text: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}");
            Policy::read(&text).err().unwrap_or_default()
        };
        for (text, want) in [
            ("rules: []", "no rules"),
            ("rules: [{level: All}]", "unknown variant"),
            ("rules: [{level: None, resources: [{}], nonResourceURLs: [/x]}]", "both regular resources"),
            ("rules: [{level: None, nonResourceURLs: [x]}]", "must begin with a '/'"),
            ("rules: [{level: None, nonResourceURLs: ['/a*b']}]", "final character"),
            ("rules: [{level: None, resources: [{resourceNames: [x]}]}]", "requires at least one resource"),
        ] {
            assert!(read(text).contains(want), "{text}: {}", read(text));
        }
    }
}
