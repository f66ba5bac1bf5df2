//! Reads an AuthorizationConfiguration (apiserver.config.k8s.io/v1): which authorizers are asked, in which order.
//!
//! Upstream: apiserver/pkg/apis/apiserver/{types,validation/validation}.go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Transport;
use serde::Deserialize;

use super::webhook::{self, FailurePolicy};
use super::{Mode, Options};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML of this form.
    #[error("the authorization configuration cannot be read: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error(
        "the authorization configuration must be an AuthorizationConfiguration of apiserver.config.k8s.io/v1"
    )]
    Kind,
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    authorizers: Vec<Fields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    webhook: Option<WebhookFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFields {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: Option<String>,
    failure_policy: String,
    connection_info: ConnectionFields,
    #[serde(default)]
    match_conditions: Vec<ConditionFields>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionFields {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionFields {
    expression: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

/// A server and the path to post to, out of a kubeconfig.
pub type Dial<'a> = &'a dyn Fn(&Path) -> Result<(Arc<dyn Transport>, String), String>;

/// Reads a file's text. `dial` reads the kubeconfigs of webhooks.
///
/// # Errors
/// The first thing in it that cannot be.
pub fn read(text: &str, dial: Dial<'_>) -> Result<Options, Error> {
    let file: File = serde_yaml_ng::from_str(text)?;
    if file.kind != "AuthorizationConfiguration"
        || !file.api_version.starts_with("apiserver.config.k8s.io/v1")
    {
        return Err(Error::Kind);
    }
    if file.authorizers.is_empty() {
        return Err(wrong("authorizers", "at least one authorization mode must be defined"));
    }
    let mut modes = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (at, fields) in file.authorizers.into_iter().enumerate() {
        let path = format!("authorizers[{at}]");
        if names.contains(&fields.name) {
            return Err(wrong(format!("{path}.name"), format!("duplicate value: {:?}", fields.name)));
        }
        let bad_name = api::names::is_dns1123_subdomain(&fields.name);
        if let Some(problem) = bad_name.into_iter().next() {
            return Err(wrong(format!("{path}.name"), problem));
        }
        names.push(fields.name.clone());
        if fields.kind != "Webhook" && fields.webhook.is_some() {
            return Err(wrong(format!("{path}.webhook"), "must be unset unless type=Webhook"));
        }
        modes.push(match (fields.kind.as_str(), fields.webhook) {
            ("Node", _) => Mode::Node,
            ("RBAC", _) => Mode::Rbac,
            ("AlwaysAllow", _) => Mode::AlwaysAllow,
            ("AlwaysDeny", _) => Mode::AlwaysDeny,
            ("Webhook", Some(fields_of)) => Mode::Webhook(read_webhook(fields.name, fields_of, &path, dial)?),
            ("Webhook", None) => return Err(wrong(format!("{path}.webhook"), "required when type=Webhook")),
            (other, _) => {
                let problem =
                    format!("unsupported value: {other:?}: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook");
                return Err(wrong(format!("{path}.type"), problem));
            }
        });
    }
    Ok(Options { modes, names })
}

fn read_webhook(
    name: String,
    fields: WebhookFields,
    path: &str,
    dial: Dial<'_>,
) -> Result<webhook::Options, Error> {
    let at = |field: &str| format!("{path}.webhook.{field}");
    let duration = |field: &str, text: &str| {
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        parsed.filter(|d| !d.is_zero()).ok_or_else(|| wrong(at(field), "must be greater than zero"))
    };
    let ttl = |field: &str, text: Option<&String>, default: u64, keep: bool| match (keep, text) {
        (false, _) => Ok(Duration::ZERO),
        (true, None) => Ok(Duration::from_secs(default)),
        (true, Some(text)) => duration(field, text),
    };
    let timeout = duration("timeout", &fields.timeout)?;
    if timeout > Duration::from_secs(30) {
        return Err(wrong(at("timeout"), "must be <= 30s"));
    }
    if fields.subject_access_review_version != "v1" {
        return Err(wrong(at("subjectAccessReviewVersion"), "unsupported value, only v1 is served"));
    }
    let conditions = fields.match_conditions;
    if !conditions.is_empty() && fields.match_condition_subject_access_review_version.as_deref() != Some("v1")
    {
        return Err(wrong(at("matchConditionSubjectAccessReviewVersion"), "must be v1"));
    }
    let failure = match fields.failure_policy.as_str() {
        "NoOpinion" => FailurePolicy::NoOpinion,
        "Deny" => FailurePolicy::Deny,
        other => {
            return Err(wrong(at("failurePolicy"), format!("unsupported value: {other:?}: NoOpinion, Deny")));
        }
    };
    let kubeconfig = match (fields.connection_info.kind.as_str(), fields.connection_info.kube_config_file) {
        ("KubeConfigFile", Some(file)) => file,
        ("KubeConfigFile", None) => return Err(wrong(at("connectionInfo.kubeConfigFile"), "required")),
        (other, _) => {
            return Err(wrong(
                at("connectionInfo.type"),
                format!("unsupported value: {other:?}: KubeConfigFile"),
            ));
        }
    };
    let (transport, post_to) =
        dial(&kubeconfig).map_err(|problem| wrong(at("connectionInfo.kubeConfigFile"), problem))?;
    let conditions = conditions.iter().enumerate().map(|(index, condition)| {
        let path = at(&format!("matchConditions[{index}].expression"));
        webhook::condition(&condition.expression).map_err(|problem| wrong(path, problem))
    });
    Ok(webhook::Options {
        name,
        transport,
        path: post_to,
        authorized: ttl(
            "authorizedTTL",
            fields.authorized_ttl.as_ref(),
            300,
            fields.cache_authorized_requests,
        )?,
        unauthorized: ttl(
            "unauthorizedTTL",
            fields.unauthorized_ttl.as_ref(),
            30,
            fields.cache_unauthorized_requests,
        )?,
        timeout,
        failure,
        conditions: conditions.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_files_and_mistakes_are_named() {
        let dial = |_: &Path| Err("no such file".to_owned());
        let read = |text: &str| {
            let text =
                format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n{text}");
            super::read(&text, &dial).map_err(|error| error.to_string())
        };
        let options = read("authorizers: [{type: RBAC, name: rbac}, {type: Node, name: node}]").unwrap();
        assert!(matches!(options.modes.as_slice(), [Mode::Rbac, Mode::Node]));
        assert_eq!(options.names, ["rbac", "node"]);
        let webhook = "timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /k}";
        #[rustfmt::skip]
        let table = [
            ("authorizers: []".to_owned(), "at least one"),
            ("authorizers: [{type: RBAC, name: a}, {type: Node, name: a}]".to_owned(), "duplicate value"),
            ("authorizers: [{type: Magic, name: a}]".to_owned(), "unsupported value: \"Magic\""),
            ("authorizers: [{type: Webhook, name: a}]".to_owned(), "required when type=Webhook"),
            (format!("authorizers: [{{type: RBAC, name: a, webhook: {{{webhook}}}}}]"), "must be unset"),
            (format!("authorizers: [{{type: Webhook, name: a, webhook: {{{webhook}}}}}]"), "no such file"),
            (format!("authorizers: [{{type: Webhook, name: a, webhook: {{{}}}}}]", webhook.replace("3s", "31s")), "must be <= 30s"),
            (format!("authorizers: [{{type: Webhook, name: a, webhook: {{{webhook}, matchConditions: [{{expression: 'true'}}]}}}}]"), "must be v1"),
        ];
        for (text, want) in table {
            let problem = read(&text).expect_err(&text);
            assert!(problem.contains(want), "{text}: {problem}");
        }
    }
}
