//! What an AuthenticationConfiguration may say, and what its claims then mean.
//!
//! Pure: from the fields of a file to its [`Mapping`]s, or to every error in it, in upstream's words.
//! Not here: the form of the file (`configuration`), evaluating what was compiled (`claims`).
//! Upstream: apiserver/pkg/apis/apiserver/validation/validation.go.

use std::collections::BTreeSet;

use api::field::{self, ErrorList, Path};
use api::names::is_domain_prefixed_path;
use schema::cel::Program;
use serde_json::json;

use super::{ClaimRule, Extra, File, IssuerFields, Jwt, Mappings, Plain, Prefixed, UserRule};
use crate::authn::oidc::claims::{Check, Mapping, Over, Rule, Source, compile, compile_rule};

/// The most providers.
const MOST: usize = 64;

/// The mapping of each provider, in order.
///
/// # Errors
/// All that is wrong.
pub(super) fn check(file: &File, own_issuers: &[String]) -> Result<Vec<Mapping>, ErrorList> {
    let root = Path::new("jwt");
    if file.jwt.len() > MOST {
        return Err(vec![field::too_many(&root, file.jwt.len(), MOST)]);
    }
    let mut errors = ErrorList::new();
    let (mut urls, mut documents) = (BTreeSet::new(), BTreeSet::new());
    let mut mappings = Vec::new();
    for (at, jwt) in file.jwt.iter().enumerate() {
        let path = root.index(at);
        mappings.extend(provider(jwt, own_issuers, &path, &mut errors));
        let issuer = path.child("issuer");
        if !urls.insert(&jwt.issuer.url) {
            errors.push(field::duplicate(&issuer.child("url"), jwt.issuer.url.clone()));
        }
        let document = &jwt.issuer.discovery_url;
        if !document.is_empty() && !documents.insert(document) {
            errors.push(field::duplicate(&issuer.child("discoveryURL"), document.clone()));
        }
    }
    if let Some(anonymous) = &file.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        let shown: Vec<_> =
            anonymous.conditions.iter().map(|condition| json!({"path": condition.path})).collect();
        let path = Path::new("anonymous").child("conditions");
        errors.push(field::invalid(
            &path,
            shown,
            "enabled should be set to true when conditions are defined",
        ));
    }
    if errors.is_empty() { Ok(mappings) } else { Err(errors) }
}

fn provider(jwt: &Jwt, own_issuers: &[String], path: &Path, errors: &mut ErrorList) -> Option<Mapping> {
    issuer(&jwt.issuer, own_issuers, &path.child("issuer"), errors);
    let claim_rules = claim_rules(&jwt.claim_validation_rules, &path.child("claimValidationRules"), errors);
    let mut mapping = mappings(&jwt.claim_mappings, &claim_rules, &path.child("claimMappings"), errors);
    let user_rules = user_rules(&jwt.user_validation_rules, &path.child("userValidationRules"), errors);
    if let Some(mapping) = &mut mapping {
        mapping.claim_rules = claim_rules;
        mapping.user_rules = user_rules;
    }
    mapping
}

fn issuer(issuer: &IssuerFields, own_issuers: &[String], path: &Path, errors: &mut ErrorList) {
    let at = path.child("url");
    if issuer.url.is_empty() {
        errors.push(field::required(&at, ""));
    } else {
        if own_issuers.contains(&issuer.url) {
            let mut own: Vec<&str> = own_issuers.iter().map(String::as_str).collect();
            own.sort_unstable();
            let detail = format!("URL must not overlap with disallowed issuers: [{}]", own.join(" "));
            errors.push(field::invalid(&at, issuer.url.clone(), detail));
        }
        url(&issuer.url, &at, errors);
    }
    let at = path.child("discoveryURL");
    if !issuer.discovery_url.is_empty() {
        let same = issuer.url.trim_end_matches('/') == issuer.discovery_url.trim_end_matches('/');
        if !issuer.url.is_empty() && same {
            let detail = "discoveryURL must be different from URL";
            errors.push(field::invalid(&at, issuer.discovery_url.clone(), detail));
        }
        url(&issuer.discovery_url, &at, errors);
    }
    audiences(issuer, path, errors);
    if let Some(problem) = authority_problem(&issuer.certificate_authority) {
        errors.push(field::invalid(&path.child("certificateAuthority"), "<omitted>", problem));
    }
    if !matches!(issuer.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
        let detail = "egress selector must be either controlplane or cluster";
        errors.push(field::invalid(
            &path.child("egressSelectorType"),
            issuer.egress_selector_type.clone(),
            detail,
        ));
    }
}

fn url(text: &str, path: &Path, errors: &mut ErrorList) {
    let mut wrong = |detail: &str| errors.push(field::invalid(path, text, detail));
    // By hand, since `http::Uri` passes over fragments.
    let (plain, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (place, query) = plain.split_once('?').unwrap_or((plain, ""));
    if let Err(problem) = place.parse::<http::Uri>() {
        return wrong(&format!("parse {text:?}: {problem}"));
    }
    let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
    if !scheme.eq_ignore_ascii_case("https") {
        wrong("URL scheme must be https");
    }
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        wrong("URL must not contain a username or password");
    }
    if !query.is_empty() {
        wrong("URL must not contain a query");
    }
    if !fragment.is_empty() {
        wrong("URL must not contain a fragment");
    }
}

fn audiences(issuer: &IssuerFields, path: &Path, errors: &mut ErrorList) {
    let at = path.child("audiences");
    if issuer.audiences.is_empty() {
        errors.push(field::required(&at, format!("at least one {at} is required")));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(field::required(&at.index(index), ""));
        }
        if !seen.insert(audience) {
            errors.push(field::duplicate(&at.index(index), audience.clone()));
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let detail = match (issuer.audiences.len(), policy) {
        (_, "MatchAny") | (1, "") => return,
        (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(field::invalid(&path.child("audienceMatchPolicy"), policy, detail));
}

fn authority_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let blocks = match pki::pem::decode("CERTIFICATE", text) {
        Ok(blocks) => blocks,
        Err(problem) => return Some(problem),
    };
    if blocks.is_empty() {
        return Some("data does not contain any valid RSA or ECDSA certificates".to_owned());
    }
    let read = |block: &Vec<u8>| x509_parser::parse_x509_certificate(block).map(drop);
    blocks.iter().find_map(|block| read(block).err()).map(|problem| problem.to_string())
}

/// Keeps what was compiled; else says what is wrong with the expression.
fn kept(
    found: Result<Program, String>,
    expression: &str,
    path: &Path,
    errors: &mut ErrorList,
) -> Option<Program> {
    found.map_err(|problem| errors.push(field::invalid(path, expression, problem))).ok()
}

fn claim_rules(rules: &[ClaimRule], path: &Path, errors: &mut ErrorList) -> Vec<Rule> {
    let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    let mut kept_rules = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        match (rule.claim.as_str(), rule.expression.as_str()) {
            ("", "") => errors.push(field::required(&path, "claim or expression is required")),
            (claim, "") => {
                if !rule.message.is_empty() {
                    let detail = "may not be specified when claim is set";
                    errors.push(field::invalid(&path.child("message"), rule.message.clone(), detail));
                }
                if !claims.insert(claim) {
                    errors.push(field::duplicate(&path.child("claim"), claim));
                }
                let check = Check::Required(claim.to_owned(), rule.required_value.clone());
                kept_rules.push(Rule { check, message: String::new() });
            }
            ("", expression) => {
                if !rule.required_value.is_empty() {
                    let detail = "may not be specified when expression is set";
                    let at = path.child("requiredValue");
                    errors.push(field::invalid(&at, rule.required_value.clone(), detail));
                }
                let at = path.child("expression");
                if !expressions.insert(expression) {
                    errors.push(field::duplicate(&at, expression));
                    continue;
                }
                let compiled = compile_rule(expression, Over::Claims);
                if let Some(program) = kept(compiled, expression, &at, errors) {
                    let check = Check::Expression(expression.to_owned(), program);
                    kept_rules.push(Rule { check, message: rule.message.clone() });
                }
            }
            (claim, _) => {
                errors.push(field::invalid(&path, claim, "claim and expression can't both be set"));
            }
        }
    }
    kept_rules
}

fn user_rules(rules: &[UserRule], path: &Path, errors: &mut ErrorList) -> Vec<Rule> {
    let mut seen = BTreeSet::new();
    let mut kept_rules = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let (path, expression) = (path.index(at).child("expression"), rule.expression.as_str());
        if expression.is_empty() {
            errors.push(field::required(&path, ""));
        } else if !seen.insert(expression) {
            errors.push(field::duplicate(&path, expression));
        } else if let Some(program) = kept(compile_rule(expression, Over::User), expression, &path, errors) {
            let check = Check::Expression(expression.to_owned(), program);
            kept_rules.push(Rule { check, message: rule.message.clone() });
        }
    }
    kept_rules
}

fn mappings(fields: &Mappings, claim_rules: &[Rule], path: &Path, errors: &mut ErrorList) -> Option<Mapping> {
    let username = prefixed(&fields.username, &path.child("username"), true, errors);
    let groups = prefixed(&fields.groups, &path.child("groups"), false, errors);
    let uid = plain(&fields.uid, &path.child("uid"), errors);
    let extra = extra(&fields.extra, &path.child("extra"), errors);
    // An address that nobody has verified is anybody's.
    let by_expression = match &username {
        Some(Source::Expression(program)) => Some(program),
        _ => None,
    };
    if by_expression.is_some_and(|program| program.selects("claims", "email")) {
        let rules = claim_rules.iter().filter_map(|rule| match &rule.check {
            Check::Expression(_, program) => Some(program),
            Check::Required(..) => None,
        });
        let mut all = by_expression.into_iter().chain(extra.iter().map(|(_, program)| program)).chain(rules);
        if !all.any(|program| program.selects("claims", "email_verified")) {
            errors.push(field::invalid(
                &path.child("username").child("expression"),
                fields.username.expression.clone(),
                "claims.email_verified must be used in claimMappings.username.expression or \
                 claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                 used in claimMappings.username.expression",
            ));
        }
    }
    let (claim_rules, user_rules) = (Vec::new(), Vec::new());
    Some(Mapping { username: username?, groups, uid, extra, claim_rules, user_rules })
}

fn prefixed(fields: &Prefixed, path: &Path, needed: bool, errors: &mut ErrorList) -> Option<Source> {
    match (fields.claim.as_str(), fields.expression.as_str()) {
        ("", "") => {
            if needed {
                errors.push(field::required(path, "claim or expression is required"));
            }
            None
        }
        ("", expression) => {
            let at = path.child("prefix");
            if let Some(prefix) = &fields.prefix {
                errors.push(field::invalid(
                    &at,
                    prefix.clone(),
                    "may not be specified when expression is set",
                ));
            }
            let compiled = compile(expression, Over::Claims);
            kept(compiled, expression, &path.child("expression"), errors).map(Source::Expression)
        }
        (claim, "") => {
            if fields.prefix.is_none() {
                errors.push(field::required(
                    &path.child("prefix"),
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
                ));
            }
            let prefix = fields.prefix.clone().unwrap_or_default();
            Some(Source::Claim { name: claim.to_owned(), prefix })
        }
        _ => {
            errors.push(field::invalid(path, "", "claim and expression can't both be set"));
            None
        }
    }
}

fn plain(fields: &Plain, path: &Path, errors: &mut ErrorList) -> Option<Source> {
    match (fields.claim.as_str(), fields.expression.as_str()) {
        ("", "") => None,
        (claim, "") => Some(Source::Claim { name: claim.to_owned(), prefix: String::new() }),
        ("", expression) => {
            let compiled = compile(expression, Over::Claims);
            kept(compiled, expression, &path.child("expression"), errors).map(Source::Expression)
        }
        _ => {
            errors.push(field::invalid(path, "", "claim and expression can't both be set"));
            None
        }
    }
}

fn extra(fields: &[Extra], path: &Path, errors: &mut ErrorList) -> Vec<(String, Program)> {
    let mut seen = BTreeSet::new();
    let mut mapped = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        let path = path.index(at);
        let (at, key) = (path.child("key"), field.key.as_str());
        let mut wrong = |detail: &str| errors.push(field::invalid(&at, key, detail));
        if !key.is_empty() {
            is_domain_prefixed_path(key).iter().for_each(|problem| wrong(problem));
        }
        if key != key.to_lowercase() {
            wrong("must be lowercase");
        }
        // Others go by what Kubernetes says of a user under its own keys, such as the node of a pod.
        if is_reserved(key) {
            wrong("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
        }
        if key.is_empty() {
            errors.push(field::required(&at, ""));
        }
        if !seen.insert(key) {
            errors.push(field::duplicate(&at, key));
            continue;
        }
        let (at, expression) = (path.child("valueExpression"), field.value_expression.as_str());
        if expression.is_empty() {
            errors.push(field::required(&at, ""));
            continue;
        }
        let compiled = kept(compile(expression, Over::Claims), expression, &at, errors);
        mapped.extend(compiled.map(|program| (key.to_owned(), program)));
    }
    mapped
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|root| domain.strip_suffix(root).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}
