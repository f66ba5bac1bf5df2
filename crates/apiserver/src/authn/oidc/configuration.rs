//! Reads an AuthenticationConfiguration (apiserver.config.k8s.io/v1).
//!
//! Upstream: apiserver/pkg/apis/apiserver/{types,validation/validation}.go.

use std::sync::Arc;

use api::names::is_domain_prefixed_path;
use client::Transport;
use foundation::SharedClock;
use serde::Deserialize;

use super::Issuer;
use super::claims::{Check, Mapping, Rule, Source, compile};
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
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a configuration says.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The providers.
    pub issuers: Vec<Issuer>,
    /// The paths that are open to everybody; `*` is all of them. `None`: as the server has it.
    pub anonymous_paths: Option<Vec<String>>,
}

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
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerFields,
    #[serde(default)]
    claim_validation_rules: Vec<RuleFields>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<RuleFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerFields {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    audiences: Vec<String>,
    audience_match_policy: Option<String>,
    /// Which way out of the cluster is taken. There is one here; what upstream knows is accepted.
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleFields {
    claim: Option<String>,
    #[serde(default)]
    required_value: String,
    expression: Option<String>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    username: SourceFields,
    groups: Option<SourceFields>,
    uid: Option<SourceFields>,
    #[serde(default)]
    extra: Vec<ExtraFields>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFields {
    claim: Option<String>,
    prefix: Option<String>,
    expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtraFields {
    key: String,
    value_expression: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

impl Configuration {
    /// Reads a file's text. `dial` makes the way to a provider from a URL and the authorities that it names; it
    /// is asked when the first token comes.
    ///
    /// # Errors
    /// The first thing in it that cannot be.
    pub fn read(
        text: &str,
        clock: &SharedClock,
        dial: impl Fn(&str, Option<&str>) -> Result<Arc<dyn Transport>, String> + Clone + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let file: File = serde_yaml_ng::from_str(text)?;
        if file.kind != "AuthenticationConfiguration"
            || !file.api_version.starts_with("apiserver.config.k8s.io/v1")
        {
            return Err(Error::Kind);
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for (at, jwt) in file.jwt.into_iter().enumerate() {
            let path = format!("jwt[{at}]");
            if issuers.iter().any(|known| known.url == jwt.issuer.url) {
                return Err(wrong(
                    format!("{path}.issuer.url"),
                    format!("duplicate value: {:?}", jwt.issuer.url),
                ));
            }
            issuers.push(issuer(jwt, &path, clock, dial.clone())?);
        }
        let anonymous_paths = match file.anonymous {
            None => None,
            Some(Anonymous { enabled: false, conditions }) if conditions.is_empty() => Some(Vec::new()),
            Some(Anonymous { enabled: false, .. }) => {
                return Err(wrong(
                    "anonymous.conditions",
                    "enabled should be set to true when conditions are defined",
                ));
            }
            Some(Anonymous { conditions, .. }) if conditions.is_empty() => Some(vec!["*".to_owned()]),
            Some(Anonymous { conditions, .. }) => Some(conditions.into_iter().map(|c| c.path).collect()),
        };
        Ok(Self { issuers, anonymous_paths })
    }
}

fn issuer(
    jwt: Jwt,
    path: &str,
    clock: &SharedClock,
    dial: impl Fn(&str, Option<&str>) -> Result<Arc<dyn Transport>, String> + Send + Sync + 'static,
) -> Result<Issuer, Error> {
    let fields = jwt.issuer;
    let at = |field: &str| format!("{path}.{field}");
    for (field, url) in
        [("issuer.url", Some(&fields.url)), ("issuer.discoveryURL", fields.discovery_url.as_ref())]
    {
        let Some(url) = url else { continue };
        let https = url
            .parse::<http::Uri>()
            .is_ok_and(|url| url.scheme_str() == Some("https") && url.query().is_none());
        if !https {
            return Err(wrong(at(field), "URL scheme must be https, without a query"));
        }
    }
    if !matches!(fields.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
        return Err(wrong(
            at("issuer.egressSelectorType"),
            "egress selector must be either controlplane or cluster",
        ));
    }
    if fields.audiences.is_empty() {
        return Err(wrong(
            at("issuer.audiences"),
            format!("at least one {} is required", at("issuer.audiences")),
        ));
    }
    match fields.audience_match_policy.as_deref() {
        None | Some("") if fields.audiences.len() == 1 => {}
        Some("MatchAny") => {}
        _ => {
            return Err(wrong(
                at("issuer.audienceMatchPolicy"),
                "audienceMatchPolicy must be MatchAny for multiple audiences",
            ));
        }
    }
    let email = jwt.claim_mappings.username.expression.as_deref().is_some_and(|text| uses(text, "email"));
    if email && !verifies_email(&jwt.claim_mappings, &jwt.claim_validation_rules) {
        return Err(wrong(
            at("claimMappings.username.expression"),
            "claims.email_verified must be used in claimMappings.username.expression or \
             claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used \
             in claimMappings.username.expression",
        ));
    }
    let username = source(jwt.claim_mappings.username, &at("claimMappings.username"), true)?
        .ok_or_else(|| wrong(at("claimMappings.username"), "claim or expression is required"))?;
    let groups = jwt.claim_mappings.groups.unwrap_or_default();
    let groups = source(groups, &at("claimMappings.groups"), true)?;
    let uid = source(jwt.claim_mappings.uid.unwrap_or_default(), &at("claimMappings.uid"), false)?;
    let mut extra: Vec<(String, _)> = Vec::new();
    for (index, fields) in jwt.claim_mappings.extra.into_iter().enumerate() {
        let path = at(&format!("claimMappings.extra[{index}]"));
        let key = || format!("{path}.key");
        if let Some(problem) = is_domain_prefixed_path(&fields.key).into_iter().next() {
            return Err(wrong(key(), problem));
        }
        if fields.key != fields.key.to_lowercase() {
            return Err(wrong(key(), "must be lowercase"));
        }
        let domain = fields.key.split('/').next().unwrap_or_default();
        let reserved = ["k8s.io", "kubernetes.io"]
            .iter()
            .any(|root| domain.strip_suffix(root).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        if reserved {
            let problem = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            return Err(wrong(key(), problem));
        }
        if extra.iter().any(|(known, _)| *known == fields.key) {
            return Err(wrong(format!("{path}.key"), format!("duplicate value: {:?}", fields.key)));
        }
        let program = compile(&fields.value_expression, "claims")
            .map_err(|problem| wrong(format!("{path}.valueExpression"), problem))?;
        extra.push((fields.key, program));
    }
    let claim_rules = rules(jwt.claim_validation_rules, &at("claimValidationRules"), "claims")?;
    let user_rules = rules(jwt.user_validation_rules, &at("userValidationRules"), "user")?;
    let mapping = Mapping { username, groups, uid, extra, claim_rules, user_rules };
    let document = fields
        .discovery_url
        .unwrap_or_else(|| format!("{}/.well-known/openid-configuration", fields.url.trim_end_matches('/')));
    let authority = fields.certificate_authority;
    let dial: Dial = Arc::new(move |url| dial(url, authority.as_deref()));
    let keys = KeySet::new(fields.url.clone(), document, dial, clock.clone());
    Ok(Issuer {
        url: fields.url,
        audiences: fields.audiences,
        algorithms: Vec::new(),
        keys: Arc::new(keys),
        mapping: Arc::new(mapping),
    })
}

/// Whether an expression reads this claim by its name.
fn uses(expression: &str, claim: &str) -> bool {
    let squeezed: String = expression.split_whitespace().collect();
    let named = |char: char| char.is_ascii_alphanumeric() || char == '_';
    squeezed.match_indices(&format!("claims.{claim}")).any(|(at, found)| {
        let before = squeezed[..at].chars().next_back();
        let after = squeezed[at + found.len()..].chars().next();
        !before.is_some_and(|char| named(char) || char == '.') && !after.is_some_and(named)
    })
}

/// Whether anything that decides about the user looks at whether the e-mail address is theirs.
fn verifies_email(mappings: &Mappings, rules: &[RuleFields]) -> bool {
    let extra = mappings.extra.iter().map(|extra| extra.value_expression.as_str());
    let rules = rules.iter().filter_map(|rule| rule.expression.as_deref());
    let mut all = mappings.username.expression.as_deref().into_iter().chain(extra).chain(rules);
    all.any(|expression| uses(expression, "email_verified"))
}

fn source(fields: SourceFields, path: &str, prefixed: bool) -> Result<Option<Source>, Error> {
    match (fields.claim, fields.expression) {
        (None, None) if fields.prefix.is_none() => Ok(None),
        (None, None) => Err(wrong(path, "prefix without a claim")),
        (Some(_), Some(_)) => Err(wrong(path, "claim and expression can't both be set")),
        (None, Some(_)) if fields.prefix.is_some() => {
            Err(wrong(format!("{path}.prefix"), "prefix can't be set when expression is set"))
        }
        (None, Some(expression)) => {
            let program = compile(&expression, "claims")
                .map_err(|problem| wrong(format!("{path}.expression"), problem))?;
            Ok(Some(Source::Expression(program)))
        }
        (Some(_), None) if prefixed && fields.prefix.is_none() => Err(wrong(
            format!("{path}.prefix"),
            "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
        )),
        (Some(name), None) => Ok(Some(Source::Claim { name, prefix: fields.prefix.unwrap_or_default() })),
    }
}

fn rules(fields: Vec<RuleFields>, path: &str, variable: &str) -> Result<Vec<Rule>, Error> {
    let read = |(at, fields): (usize, RuleFields)| {
        let path = format!("{path}[{at}]");
        let check = match (fields.claim, fields.expression) {
            (Some(claim), None) if variable == "claims" => Check::Required(claim, fields.required_value),
            (None, Some(expression)) => Check::Expression(
                compile(&expression, variable)
                    .map_err(|problem| wrong(format!("{path}.expression"), problem))?,
            ),
            (Some(_), Some(_)) => return Err(wrong(path, "claim and expression can't both be set")),
            _ => return Err(wrong(path, "claim or expression is required")),
        };
        let message = match (fields.message.is_empty(), &check) {
            (true, _) => "validation expression failed".to_owned(),
            (false, _) => fields.message,
        };
        Ok(Rule { check, message })
    };
    fields.into_iter().enumerate().map(read).collect()
}
