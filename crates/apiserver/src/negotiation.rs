//! Which form and encoding a client wants, from `Accept`, `pretty` and its name.
//!
//! Knows JSON, YAML, protobuf and CBOR; Table and partial metadata are forms of them, but for tables in protobuf. Custom
//! resources have no protobuf form. A client that accepts nothing that can be had is told so by 406.
//! Upstream: apiserver/pkg/endpoints/handlers/negotiation.

use api::Status;
use http::{HeaderMap, header};
use schema::{cbor, protobuf};

use crate::request::Query;

/// How bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in upstream's envelope.
    Protobuf,
    /// CBOR.
    Cbor,
}

impl Encoding {
    /// The media type of responses.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
            Self::Cbor => cbor::MEDIA_TYPE,
        }
    }

    /// The media type of watches. YAML has none.
    pub fn watch_media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Yaml => "application/json",
            Self::Protobuf => protobuf::WATCH_MEDIA_TYPE,
            Self::Cbor => cbor::WATCH_MEDIA_TYPE,
        }
    }

    /// The encoding of a media type without its parameters.
    pub fn of(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "*/*" | "application/*" | "application/json" => Self::Json,
            "application/yaml" => Self::Yaml,
            protobuf::MEDIA_TYPE => Self::Protobuf,
            cbor::MEDIA_TYPE | cbor::WATCH_MEDIA_TYPE => Self::Cbor,
            _ => return None,
        })
    }
}

/// What can be had at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Table and partial metadata.
    pub transforms: bool,
    /// Whole objects as protobuf.
    pub protobuf: bool,
    /// The response is a stream of events.
    pub stream: bool,
}

/// What of the object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object as it is.
    Whole,
    /// Rows of cells, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// Only metadata, in this version of `meta.k8s.io`.
    Partial {
        /// The version.
        version: &'static str,
        /// Whether it was asked for by the name of a list.
        list: bool,
    },
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

/// The encoding of errors: they are never refused for what the client accepts.
pub fn of_errors(headers: &HeaderMap) -> Accepted {
    let encoding = clauses(headers).into_iter().find_map(|clause| Encoding::of(clause.kind));
    Accepted { encoding: encoding.unwrap_or(Encoding::Json), ..Accepted::DEFAULT }
}

/// The form of a page that is for people first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Plain text.
    Text,
    /// An object of this version of `config.k8s.io`.
    Structured(Accepted, &'static str),
}

/// Agrees on the form of a page: text, unless its object (`kind` of `config.k8s.io`) is asked for by all of its names.
pub fn page(headers: &HeaderMap, query: &Query, kind: &str) -> Result<Page, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Page::Text);
    }
    for clause in clauses {
        if matches!(clause.kind, "*/*" | "text/*" | "text/plain") && clause.get("as").is_none() {
            return Ok(Page::Text);
        }
        let version = match clause.get("v") {
            Some("v1alpha1") => "v1alpha1",
            Some("v1beta1") => "v1beta1",
            _ => continue,
        };
        let named = clause.get("as") == Some(kind) && clause.get("g") == Some("config.k8s.io");
        match Encoding::of(clause.kind).filter(|encoding| named && *encoding != Encoding::Protobuf) {
            Some(encoding) => {
                let pretty = query.get("pretty").is_some_and(|text| !matches!(text, "false" | "0"));
                return Ok(Page::Structured(Accepted { encoding, form: Form::Whole, pretty }, version));
            }
            None => continue,
        }
    }
    let known = ["application/json", "application/yaml", cbor::MEDIA_TYPE, "text/plain"];
    Err(Status::not_acceptable(format!("only the following media types are accepted: {}", known.join(", "))))
}

/// Agrees on what to send.
pub fn negotiate(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Accepted, Status> {
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
        let Some(encoding) = Encoding::of(clause.kind) else { continue };
        if offer.stream && encoding == Encoding::Yaml {
            continue;
        }
        let version = match clause.get("v") {
            Some("v1") | None => "v1",
            Some("v1beta1") => "v1beta1",
            Some(_) => continue,
        };
        let form = match (clause.get("as"), clause.get("g")) {
            (None, _) => Form::Whole,
            _ if !offer.transforms => continue,
            (Some("Table"), Some("meta.k8s.io")) => Form::Table(version),
            (Some("PartialObjectMetadata"), Some("meta.k8s.io")) => Form::Partial { version, list: false },
            (Some("PartialObjectMetadataList"), Some("meta.k8s.io")) => Form::Partial { version, list: true },
            _ => continue,
        };
        let possible = match form {
            Form::Whole => offer.protobuf,
            Form::Table(_) => false,
            Form::Partial { .. } => true,
        };
        if encoding == Encoding::Protobuf && !possible {
            continue;
        }
        return Ok(Accepted { encoding, form, pretty });
    }
    let mut known = vec!["application/json"];
    if !offer.stream {
        known.push("application/yaml");
    }
    if offer.protobuf {
        known.push(protobuf::MEDIA_TYPE);
    }
    let known: Vec<String> = known
        .into_iter()
        .map(|kind| if offer.stream { format!("{kind};stream=watch") } else { kind.to_owned() })
        .chain([if offer.stream { cbor::WATCH_MEDIA_TYPE } else { cbor::MEDIA_TYPE }.to_owned()])
        .collect();
    let known = known.join(", ");
    Err(Status::not_acceptable(format!("only the following media types are accepted: {known}")))
}

/// The version of aggregated discovery that the client wants, `v2` or `v2beta1`, and how it is encoded: as JSON or CBOR.
pub fn aggregated_discovery(headers: &HeaderMap) -> Option<(&'static str, Encoding)> {
    for clause in clauses(headers) {
        let encoding = match clause.kind {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            cbor::MEDIA_TYPE => Encoding::Cbor,
            _ => continue,
        };
        match (clause.get("as"), clause.get("g"), clause.get("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Some(("v2", encoding));
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Some(("v2beta1", encoding));
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
            ("application/vnd.kubernetes.protobuf,application/json", true, Some((Encoding::Protobuf, Form::Whole))),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json", true, Some((Encoding::Json, Form::Whole))),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", true, Some((Encoding::Protobuf, Form::Partial { version: "v1", list: false }))),
            ("application/cbor", true, Some((Encoding::Cbor, Form::Whole))),
            ("application/json;q=0.5,application/yaml", true, Some((Encoding::Yaml, Form::Whole))),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true, Some((Encoding::Json, Form::Partial { version: "v1", list: true }))),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", true, None),
            ("text/html", true, None),
        ];
        for (header, transforms, want) in table {
            let offer = Offer { transforms, protobuf: true, stream: false };
            let got = negotiate(&accept(header), &Query::default(), offer);
            assert_eq!(got.ok().map(|a| (a.encoding, a.form)), want, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let refused = |header: &str, protobuf, stream| {
            let offer = Offer { transforms: true, protobuf, stream };
            negotiate(&accept(header), &Query::default(), offer).unwrap_err().message
        };
        assert_eq!(
            refused("text/html", true, false),
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf, application/cbor"
        );
        assert_eq!(
            refused("application/yaml", true, true),
            "only the following media types are accepted: application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch, application/cbor-seq"
        );
        assert!(!refused("application/vnd.kubernetes.protobuf", false, false).contains("protobuf,"));
    }

    #[test]
    fn aggregated_discovery_is_chosen_only_where_it_is_wanted_most() {
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(&accept(both)), Some(("v2", Encoding::Json)));
        let binary =
            "application/cbor;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(&accept(binary)), Some(("v2beta1", Encoding::Cbor)));
        assert_eq!(aggregated_discovery(&accept("application/cbor")), None);
        assert_eq!(aggregated_discovery(&accept("application/json")), None);
        assert_eq!(aggregated_discovery(&accept("*/*")), None);
    }
}
