//! Which objects a list, watch or deletecollection means, and as of when: selectors and resourceVersions.
//!
//! Upstream: apimachinery/pkg/apis/meta/internalversion/validation, apiserver/pkg/storage/selection_predicate.go.

use api::field::{self, Path};
use api::selector::{fields, labels};
use api::{GroupKind, Status};
use bytes::Bytes;
use store::Range;

use super::Call;
use crate::cache::{Cached, Interest, Wanted};
use crate::request::Query;

/// A selection of objects of one resource.
pub(super) struct Selection {
    /// Where to look.
    pub interest: Interest,
    labels: labels::Selector,
    fields: Vec<(Field, bool, String)>,
    namespace: String,
}

enum Field {
    Name,
    Namespace,
    Other(usize),
    /// One that no object has.
    Nothing,
}

impl Selection {
    /// Reads the selectors of the call's query and its place in the path.
    pub fn of(call: &Call) -> Result<Self, Status> {
        let labels = labels::Selector::parse(call.query.get("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let selector = fields::Selector::parse(call.query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let resource = &call.resource;
        let mut fields = Vec::new();
        // A watch by path may name an object, and the caller is then authorized for no other.
        if !call.info.name.is_empty() {
            fields.push((Field::Name, true, call.info.name.clone()));
        }
        for requirement in selector.requirements() {
            let field = match requirement.field.as_str() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other if !other.is_empty() && resource.descriptor.field_meant(other).is_empty() => {
                    Field::Nothing
                }
                other => Field::Other(resource.field(other).ok_or_else(|| unknown_field(call, other))?),
            };
            fields.push((field, requirement.equal, requirement.value.clone()));
        }
        let namespace =
            if resource.descriptor.is_namespaced() { call.info.namespace.clone() } else { String::new() };
        let interest = interest(call, &selector, &namespace);
        Ok(Self { interest, labels, fields, namespace })
    }

    /// The keys below a resource's `prefix` that can be meant.
    pub fn range(&self, prefix: &Bytes) -> Range {
        let below = |place: &str, end: &str| [prefix.as_ref(), place.as_bytes(), end.as_bytes()].concat();
        match &self.interest {
            Interest::Key(key) => Range::key(below(key, "")),
            Interest::Namespace(namespace) => Range::prefix(below(namespace, "/")),
            _ if !self.namespace.is_empty() => Range::prefix(below(&self.namespace, "/")),
            _ => Range::prefix(prefix.clone()),
        }
    }

    /// Whether the object of a key below the resource's prefix can be meant, as far as its key tells.
    pub fn may_mean(&self, key: &[u8]) -> bool {
        match &self.interest {
            Interest::Key(wanted) => key == wanted.as_bytes(),
            _ if self.namespace.is_empty() => true,
            _ => key.strip_prefix(self.namespace.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")),
        }
    }

    /// What it asks of labels.
    pub fn wanted(&self) -> Wanted {
        Wanted::of(&self.labels)
    }

    /// Whether every object of the place in the path is meant.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Whether `object` is meant.
    pub fn matches(&self, object: &Cached) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        let fields = self.fields.iter().all(|(field, equal, wanted)| {
            let value = match field {
                Field::Name => object.name(),
                Field::Namespace => object.namespace(),
                Field::Nothing => "",
                Field::Other(at) => object.facts.fields.get(*at).map_or("", |value| value),
            };
            (value == wanted) == *equal
        });
        fields && self.labels.matches_with(|key| object.facts.label(key))
    }
}

fn interest(call: &Call, selector: &fields::Selector, namespace: &str) -> Interest {
    let namespaced = call.resource.descriptor.is_namespaced();
    let namespace = if namespace.is_empty() && namespaced {
        selector.exact("metadata.namespace").unwrap_or_default()
    } else {
        namespace
    };
    if let Some(name) = selector.exact("metadata.name")
        && (!namespaced || !namespace.is_empty())
    {
        return Interest::Key(call.resource.short_key(namespace, name));
    }
    let by_field = selector
        .requirements()
        .iter()
        // Those that have no value may be most of them: a namespace is the better place to look then.
        .filter(|requirement| requirement.equal && (namespace.is_empty() || !requirement.value.is_empty()))
        .find_map(|r| Some((call.resource.field(&r.field)?, r.value.clone())));
    match by_field {
        Some((field, value)) => Interest::Field { field, value },
        None if namespace.is_empty() => Interest::All,
        None => Interest::Namespace(namespace.to_owned()),
    }
}

fn unknown_field(call: &Call, field: &str) -> Status {
    if call.resource.descriptor.selectable_fields.is_empty() {
        return Status::bad_request(format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ));
    }
    Status::bad_request(format!("field label not supported: {field}"))
}

/// As of when a list or watch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// As new as the store at the time of the request.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// Whether the options go together: not all of those of a list go with those of a watch.
///
/// # Errors
/// 422 with all that is wrong.
pub(super) fn legal(query: &Query, watch: bool) -> Result<(), Status> {
    let text = |key: &str| query.get(key).unwrap_or_default();
    let (version, matching) = (text("resourceVersion"), text("resourceVersionMatch"));
    let initial = query.get("sendInitialEvents").is_some();
    let path = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    let mut forbid = |wrong: bool, detail: &str| {
        errors.extend(wrong.then(|| field::forbidden(&path, detail)));
    };
    let matched = !matching.is_empty();
    if watch {
        forbid(
            initial && matching != "NotOlderThan",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
        forbid(
            matched && !initial,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    } else {
        forbid(
            matched && version.is_empty(),
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    }
    forbid(
        matched && !text("continue").is_empty(),
        "resourceVersionMatch is forbidden when continue is provided",
    );
    forbid(
        !watch && matching == "Exact" && version == "0",
        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
    );
    let known: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
    if matched && !known.contains(&matching) {
        errors.push(field::not_supported(&path, matching, known));
    }
    if initial && !watch {
        let path = Path::new("sendInitialEvents");
        errors.push(field::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", errors)),
    }
}

/// Reads `resourceVersion` and `resourceVersionMatch` of a list, which may be in pieces (`limited`).
pub(super) fn list_when(call: &Call, limited: bool) -> Result<When, Status> {
    let query = &call.query;
    let text = query.get("resourceVersion").unwrap_or_default();
    let matching = query.get("resourceVersionMatch").unwrap_or_default();
    let continued = query.get("continue").is_some_and(|token| !token.is_empty());
    legal(query, false)?;
    if continued && !matches!(text, "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(match (parse_revision(text)?, matching) {
        (None, _) => When::Newest,
        (Some(0), _) => When::Any,
        (Some(revision), "Exact") => When::Exact(revision),
        (Some(revision), "") if limited => When::Exact(revision),
        (Some(revision), _) => When::NotOlderThan(revision),
    })
}

/// Reads `limit`; 0: none.
pub(super) fn limit(call: &Call) -> Result<usize, Status> {
    match call.query.get("limit") {
        None | Some("") => Ok(0),
        Some(text) => text.parse::<i64>().map(|limit| usize::try_from(limit).unwrap_or(0)).map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
        }),
    }
}

/// Reads a resourceVersion; `None` where it is not given.
pub(super) fn parse_revision(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}
