//! Which form and encoding a client wants, from `Accept`, `pretty` and its name.
//!
//! Knows JSON and YAML; Table and partial metadata are forms of either. Protobuf (which is read) and CBOR are
//! not sent: a client that accepts nothing else is told so by 406.
//! Upstream: apiserver/pkg/endpoints/handlers/negotiation.

use api::Status;
use http::{HeaderMap, header};

use crate::request::Query;

/// How bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Encoding {
    /// The media type of responses.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// What of the object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object as it is.
    Whole,
    /// Rows of cells, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// Only metadata, in this version of `meta.k8s.io`.
    Partial(&'static str),
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The encoding.
    pub encoding: Encoding,
    /// The form.
    pub form: Form,
    /// Whether JSON is indented.
    pub pretty: bool,
}

impl Accepted {
    /// Compact JSON of the whole.
    pub const DEFAULT: Self = Self { encoding: Encoding::Json, form: Form::Whole, pretty: false };
}

/// One element of an `Accept` header.
struct Clause<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Clause<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

/// The clauses, most wanted first (by `q`, then by order).
fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let mut list: Vec<(f32, Clause<'_>)> = headers
        .get_all(header::ACCEPT)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|clause| !clause.trim().is_empty())
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
            let clause = Clause { kind, parameters };
            (clause.get("q").and_then(|q| q.parse().ok()).unwrap_or(1.0), clause)
        })
        .collect();
    list.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    list.into_iter().map(|(_, clause)| clause).collect()
}

/// Agrees on what to send. `transforms`: whether Table and partial metadata can be had.
pub fn negotiate(headers: &HeaderMap, query: &Query, transforms: bool) -> Result<Accepted, Status> {
    let pretty = match query.get("pretty") {
        Some(text) => !matches!(text, "false" | "0"),
        None => headers
            .get(header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .is_some_and(|agent| ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name))),
    };
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Accepted { pretty, ..Accepted::DEFAULT });
    }
    for clause in clauses {
        let encoding = match clause.kind {
            "*/*" | "application/*" | "application/json" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let version = match clause.get("v") {
            Some("v1") | None => "v1",
            Some("v1beta1") => "v1beta1",
            Some(_) => continue,
        };
        let form = match (clause.get("as"), clause.get("g")) {
            (None, _) => Form::Whole,
            _ if !transforms => continue,
            (Some("Table"), Some("meta.k8s.io")) => Form::Table(version),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io")) => {
                Form::Partial(version)
            }
            _ => continue,
        };
        return Ok(Accepted { encoding, form, pretty });
    }
    Err(Status::not_acceptable(
        "only the following media types are accepted: application/json, application/yaml",
    ))
}

/// The group-version-kind form of aggregated discovery that the client wants: `v2` or `v2beta1`.
pub fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    for clause in clauses(headers) {
        if !matches!(clause.kind, "application/json" | "*/*" | "application/*") {
            continue;
        }
        match (clause.get("as"), clause.get("g"), clause.get("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => return Some("v2"),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Some("v2beta1");
            }
            (None, ..) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        headers
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        #[rustfmt::skip]
        let table = [
            (kubectl, true, Some((Encoding::Json, Form::Table("v1")))),
            (kubectl, false, Some((Encoding::Json, Form::Whole))),
            ("*/*", true, Some((Encoding::Json, Form::Whole))),
            ("application/yaml", true, Some((Encoding::Yaml, Form::Whole))),
            ("application/vnd.kubernetes.protobuf,application/json", true, Some((Encoding::Json, Form::Whole))),
            ("application/json;q=0.5,application/yaml", true, Some((Encoding::Yaml, Form::Whole))),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true, Some((Encoding::Json, Form::Partial("v1")))),
            ("application/vnd.kubernetes.protobuf", true, None),
            ("text/html", true, None),
        ];
        for (header, transforms, want) in table {
            let got = negotiate(&accept(header), &Query::default(), transforms);
            assert_eq!(got.ok().map(|a| (a.encoding, a.form)), want, "{header}");
        }
    }

    #[test]
    fn aggregated_discovery_is_chosen_only_where_it_is_wanted_most() {
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(&accept(both)), Some("v2"));
        assert_eq!(aggregated_discovery(&accept("application/json")), None);
        assert_eq!(aggregated_discovery(&accept("*/*")), None);
    }
}
