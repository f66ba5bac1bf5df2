//! Who owns which fields: keeps `metadata.managedFields` through every write, and knows what an apply is.
//!
//! Reads the manager out of the request. Not here: the merging and the records themselves (`schema::patch::apply`).
//! Upstream: apiserver/pkg/endpoints/handlers/{create,fieldmanager/equality}.go, apimachinery/pkg/util/managedfields.

use api::Object;
use http::header;
use schema::patch::apply::{self, Writer};
use serde_json::Value;

use super::Call;
use super::update::Target;
use super::versions::Versions;
use super::write::{self, WriteOptions};

/// Names of managers are cut to this many bytes.
const MAX_MANAGER: usize = 128;

/// The manager of whoever does not say who they are.
const UNKNOWN: &str = "unknown";

/// The manager of a request: the one it names, or the first part of its user agent.
pub(super) fn manager(call: &Call, options: &WriteOptions) -> String {
    if !options.field_manager.is_empty() {
        return options.field_manager.clone();
    }
    let agent =
        call.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let mut manager: String =
        agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let mut end = manager.len().min(MAX_MANAGER);
    while !manager.is_char_boundary(end) {
        end -= 1;
    }
    manager.truncate(end);
    if manager.is_empty() { UNKNOWN.to_owned() } else { manager }
}

/// A field, named by the fields on the way to it.
pub(super) type Field = Vec<String>;

/// Calls `work` with the writer that this request is; `ignored` are the fields it cannot change.
pub(super) fn with_writer<R>(
    call: &Call,
    options: &WriteOptions,
    ignored: &[Field],
    versions: &Versions<'_>,
    work: impl FnOnce(&Writer<'_>) -> R,
) -> R {
    let manager = manager(call, options);
    let now = write::timestamp(call.server.clock.now());
    let ignored: Vec<Vec<&str>> =
        ignored.iter().map(|field| field.iter().map(String::as_str).collect()).collect();
    let ignored: Vec<&[&str]> = ignored.iter().map(Vec::as_slice).collect();
    let subresource = &call.info.subresource;
    work(&Writer { manager: &manager, subresource, ignored: &ignored, now: &now, versions })
}

/// The fields of these objects that who makes a request to this target does not come to own.
pub(super) fn ignored(call: &Call, target: Target, objects: &[&Value]) -> Vec<Field> {
    let descriptor = &call.resource.descriptor;
    let subresource = &call.info.subresource;
    let named = descriptor.resets(subresource).iter().chain(descriptor.unowned(subresource));
    let mut ignored: Vec<Field> = named.map(|field| field.split('.').map(str::to_owned).collect()).collect();
    match target {
        Target::Main if descriptor.subresources.status => ignored.push(vec!["status".to_owned()]),
        Target::Main | Target::Other(_) => {}
        Target::Status => {
            let members = objects.iter().filter_map(|object| object.as_object()).flat_map(|o| o.keys());
            let others = members.filter(|key| !write::UNCOUNTED.contains(&key.as_str()));
            ignored.extend(others.map(|key| vec![key.clone()]));
        }
    }
    ignored
}

/// Records who owns the fields of `new`, unless it is the outcome of an apply, which has done so.
pub(super) async fn track(
    call: &Call,
    target: Target,
    options: &WriteOptions,
    old: Option<&Object>,
    new: &mut Object,
) {
    if options.applied {
        return;
    }
    let old = old.map(|old| &old.0);
    let objects: Vec<&Value> = old.into_iter().chain([&new.0]).collect();
    let ignored = ignored(call, target, &objects);
    let versions = Versions::of(call);
    let record = |new: &mut Value| {
        with_writer(call, options, &ignored, &versions, |writer| {
            apply::track(old, new, &call.resource.schema, writer)
        })
    };
    let outcome = if call.resource.is_converted_by_webhook() {
        let recorded = versions.settle(|| {
            let mut new = new.0.clone();
            record(&mut new).map(|()| new)
        });
        recorded.await.map(|recorded| new.0 = recorded)
    } else {
        record(&mut new.0)
    };
    // As upstream: a write does not fail for what is only recorded of it. Nobody owns anything then.
    if let Err(status) = outcome {
        tracing::warn!(object = new.name(), error = status.message, "who owns its fields cannot be told");
        new.metadata_mut().remove("managedFields");
    }
}

/// Whether two objects say the same, their resourceVersions and the times in `managedFields` aside.
pub(super) fn same(a: &Object, b: &Object) -> bool {
    members(&a.0, &b.0, |key, a, b| match key {
        "metadata" => members(a, b, |key, a, b| match key {
            "resourceVersion" => true,
            "managedFields" => timeless(a, b),
            _ => a == b,
        }),
        _ => a == b,
    })
}

/// Whether two objects have the same members, as `equal` sees them; an absent one is null.
fn members(a: &Value, b: &Value, equal: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    let (Some(left), Some(right)) = (a.as_object(), b.as_object()) else { return a == b };
    let mut keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
    keys.all(|key| equal(key, &a[key], &b[key]))
}

fn timeless(a: &Value, b: &Value) -> bool {
    let (Some(left), Some(right)) = (a.as_array(), b.as_array()) else { return a == b };
    left.len() == right.len()
        && left.iter().zip(right).all(|(a, b)| members(a, b, |key, a, b| key == "time" || a == b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn revisions_and_times_of_ownership_do_not_count() {
        let object = |revision: &str, time: &str, fields: Value| {
            Object(json!({"kind": "A", "metadata": {"name": "n", "resourceVersion": revision,
                "managedFields": [{"manager": "m", "time": time, "fieldsV1": fields}]}}))
        };
        let old = object("1", "2024-01-01T00:00:00Z", json!({}));
        assert!(same(&old, &object("2", "2025-01-01T00:00:00Z", json!({}))));
        assert!(!same(&old, &object("1", "2024-01-01T00:00:00Z", json!({"f:a": {}}))));
        let mut other = old.clone();
        other.0["spec"] = json!({});
        assert!(!same(&old, &other) && !same(&other, &old));
    }
}
