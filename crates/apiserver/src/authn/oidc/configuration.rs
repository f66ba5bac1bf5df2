//! Reads an AuthenticationConfiguration (apiserver.config.k8s.io/v1).
//!
//! Its form is read here, what it may say is held by `validation`, and what comes out are the providers.
//! Not here: reading the file, and reading it again (the settings of the server).
//! Upstream: apiserver/pkg/apis/apiserver/types.go.

mod validation;

use std::sync::Arc;

use api::field::ErrorList;
use client::Transport;
use foundation::SharedClock;
use serde::Deserialize;

use super::Issuer;
use super::keys::{Dial, KeySet};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML of this form.
    #[error("the authentication configuration cannot be read: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error(
        "the authentication configuration must be an AuthenticationConfiguration of apiserver.config.k8s.io/v1"
    )]
    Kind,
    /// Fields have values that cannot be.
    #[error("{}", aggregate(.0))]
    Invalid(ErrorList),
}

/// All errors in one line, as upstream writes an aggregate.
fn aggregate(errors: &ErrorList) -> String {
    match errors.as_slice() {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// What a configuration says.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The providers.
    pub issuers: Vec<Issuer>,
    /// The paths that are open to everybody; `*` is all of them. `None`: as the server has it.
    pub anonymous_paths: Option<Vec<String>>,
}

// What is missing is told by validation, in upstream's words; a field of another name is told by serde.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Anonymous {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerFields,
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<UserRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct IssuerFields {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    /// Which way out of the cluster is taken. There is one here; what upstream knows is accepted.
    egress_selector_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserRule {
    expression: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mappings {
    username: Prefixed,
    groups: Prefixed,
    uid: Plain,
    extra: Vec<Extra>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plain {
    claim: String,
    expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    key: String,
    value_expression: String,
}

impl Configuration {
    /// Reads a file's text. Nobody in it may call themselves one of `own_issuers`, by which this server makes
    /// ServiceAccount tokens. `dial` makes the way to a provider from a URL and the authorities that it names; it is
    /// asked when the first token comes.
    ///
    /// # Errors
    /// Everything in it that cannot be.
    pub fn read(
        text: &str,
        own_issuers: &[String],
        clock: &SharedClock,
        dial: impl Fn(&str, Option<&str>) -> Result<Arc<dyn Transport>, String> + Clone + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let file: File = serde_yaml_ng::from_str(text)?;
        let version = file.api_version.strip_prefix("apiserver.config.k8s.io/").unwrap_or_default();
        if file.kind != "AuthenticationConfiguration" || !["v1", "v1beta1", "v1alpha1"].contains(&version) {
            return Err(Error::Kind);
        }
        let mappings = validation::check(&file, own_issuers).map_err(Error::Invalid)?;
        let issuers = file.jwt.into_iter().zip(mappings).map(|(jwt, mapping)| {
            let fields = jwt.issuer;
            let document = match fields.discovery_url.is_empty() {
                true => format!("{}/.well-known/openid-configuration", fields.url.trim_end_matches('/')),
                false => fields.discovery_url,
            };
            let authority = Some(fields.certificate_authority).filter(|pem| !pem.is_empty());
            let dial = dial.clone();
            let dial: Dial = Arc::new(move |url| dial(url, authority.as_deref()));
            Issuer {
                keys: Arc::new(KeySet::new(fields.url.clone(), document, dial, clock.clone())),
                url: fields.url,
                audiences: fields.audiences,
                algorithms: Vec::new(),
                mapping: Arc::new(mapping),
            }
        });
        let anonymous_paths = file.anonymous.map(|anonymous| match anonymous.enabled {
            false => Vec::new(),
            true if anonymous.conditions.is_empty() => vec!["*".to_owned()],
            true => anonymous.conditions.into_iter().map(|condition| condition.path).collect(),
        });
        Ok(Self { issuers: issuers.collect(), anonymous_paths })
    }
}
