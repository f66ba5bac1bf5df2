//! Server-side apply: several managers write one object, and each field knows whose it is.
//! Reads the live object, the applied configuration and `metadata.managedFields`; gives the merged object with its
//! `managedFields`. [`track`] keeps ownership right when an object that was ever applied is written in another way.
//! As upstream with tracking on creation switched off, objects that nobody applies carry no `managedFields`.
//! Not here: defaults, admission, storing (apiserver). Entries of other API versions of the kind are kept as they are,
//! neither in conflict nor reduced: nothing here converts between versions.
//! Upstream: apimachinery `pkg/util/managedfields`, structured-merge-diff `merge`.

mod managers;
mod set;
mod shape;

use api::{Reason, Status};
use serde_json::{Map, Value};

use self::managers::{Entry, Managers, Operation};
use self::set::Set;
use self::shape::{Difference, Shape};
use crate::Schema;

/// Who owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Metadata that nobody owns.
const UNOWNED_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The subresource written to; empty for the object itself.
    pub subresource: &'a str,
    /// Top-level fields this request cannot change, which it hence cannot own (`status` when the object itself is
    /// written and the status is a subresource).
    pub ignored: &'a [&'a str],
    /// The time to record, RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// Applies a configuration. `live` is the stored object, or for a new one just its apiVersion, kind and name. Both must
/// have been decoded by the schema. `force` takes fields over from managers who would be in conflict. When nothing
/// changes, the outcome equals `live` to the last field.
pub fn apply(
    live: &Value,
    config: &Value,
    schema: &Schema,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    let given = config.pointer("/metadata/managedFields").and_then(Value::as_array);
    if given.is_some_and(|entries| !entries.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::of(schema);
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let old = without_managed_fields(live);
    let config = without_managed_fields(config);
    let mut managers = Managers::of(live);
    if managers.is_empty() && live.pointer("/metadata/uid").is_some() {
        let owned = unstripped(&Difference::between(&empty_like(&old), &old, shape).added, writer.ignored);
        managers.set(Entry {
            manager: BEFORE_FIRST_APPLY.into(),
            operation: Operation::Update,
            api_version: live.get("apiVersion").and_then(Value::as_str).unwrap_or_default().into(),
            time: Some(writer.now.into()),
            subresource: String::new(),
            fields: owned,
        });
    }
    let before = managers.clone();
    let fields = shape::fields(&config, shape)
        .map_err(|error| Status::internal(format!("failed to create typed patch object: {error}")))?;
    let fields = unstripped(&fields, writer.ignored);
    let last = managers.find(writer, Operation::Apply, version).cloned();
    let time = match &last {
        Some(last) if last.fields == fields && last.api_version == version => last.time.clone(),
        _ => Some(writer.now.into()),
    };
    managers.set(Entry {
        manager: writer.manager.into(),
        operation: Operation::Apply,
        api_version: version.into(),
        time,
        subresource: writer.subresource.into(),
        fields,
    });
    let mut merged = shape::merge(&old, &config, shape);
    if let Some(last) = last.filter(|last| last.api_version == version) {
        prune(&mut merged, &last.fields, &managers, version, shape);
    }
    let difference = Difference::between(&old, &merged, shape);
    let conflicts = managers.conflicts(writer, Operation::Apply, version, &difference);
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    managers.give_up(writer, Operation::Apply, version, &difference, writer.now);
    if merged == old && managers == before {
        return Ok(live.clone());
    }
    managers.write(&mut merged);
    Ok(merged)
}

/// Keeps `managedFields` right when an object is written other than by apply. A writer may also reset or replace the
/// entries by giving others.
pub fn track(old: &Value, new: &mut Value, schema: &Schema, writer: &Writer<'_>) {
    let reset = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|entries| entries.len() == 1 && entries[0].as_object().is_some_and(Map::is_empty));
    let given = Managers::of(new);
    let mut managers = if given.is_empty() && !reset { Managers::of(old) } else { given };
    let plain = without_managed_fields(new);
    if managers.is_empty() {
        *new = plain;
        return;
    }
    let shape = Shape::of(schema);
    let version = plain.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let difference = Difference::between(&without_managed_fields(old), &plain, shape);
    managers.give_up(writer, Operation::Update, &version, &difference, writer.now);
    let own = managers.find(writer, Operation::Update, &version);
    let fields = own.map(|own| own.fields.clone()).unwrap_or_default();
    let grown = fields
        .difference(&difference.removed)
        .union(&unstripped(&difference.modified, writer.ignored))
        .union(&unstripped(&difference.added, writer.ignored));
    if grown != fields {
        managers.set(Entry {
            manager: writer.manager.into(),
            operation: Operation::Update,
            api_version: version,
            time: Some(writer.now.into()),
            subresource: writer.subresource.into(),
            fields: grown,
        });
    }
    *new = plain;
    managers.write(new);
}

/// Takes out what this manager applied last time and does not apply now, unless another applier holds it.
fn prune(merged: &mut Value, last: &Set, managers: &Managers, version: &str, shape: Shape<'_>) {
    let all_fields = |value: &Value| shape::fields(value, shape).unwrap_or_default();
    let named = |set: &Set| set.with_named(shape, &|shape: Shape<'_>, element| shape.step(element));
    let mut pruned = merged.clone();
    shape::remove(&mut pruned, last, shape);
    let present = named(&all_fields(merged));
    let held = named(&managers.applied(version));
    // Back comes what appliers hold, the one who applies now among them …
    let mut restored = merged.clone();
    shape::remove(&mut restored, &present.difference(&named(&all_fields(&pruned)).union(&held)), shape);
    // … and what this manager had not applied.
    let dangling = present.difference(&named(&all_fields(&restored))).intersection(&named(last));
    shape::remove(merged, &dangling, shape);
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// An object of the same kind with nothing in it: its top-level fields are there, so that nobody adds them.
fn empty_like(object: &Value) -> Value {
    let members = object.as_object().into_iter().flatten().map(|(name, value)| {
        let value = if value.is_object() { Value::Object(Map::new()) } else { Value::Null };
        (name.clone(), value)
    });
    Value::Object(members.filter(|(_, value)| !value.is_null()).collect())
}

/// Without what nobody owns and what this request cannot change.
fn unstripped(set: &Set, ignored: &[&str]) -> Set {
    let mut unowned = Set::default();
    let metadata = set::Element::field("metadata");
    unowned.insert(std::slice::from_ref(&metadata));
    for name in UNOWNED_METADATA {
        unowned.insert(&[metadata.clone(), set::Element::field(name)]);
    }
    set.difference(&unowned).without(&["apiVersion", "kind"]).without(ignored)
}

/// 409 with one cause for each field.
fn conflict(conflicts: &[(String, Vec<String>)]) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts {
        [(manager, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        _ => {
            let lines: Vec<String> = conflicts
                .iter()
                .flat_map(|(manager, paths)| {
                    let first = format!("conflicts with {manager}:");
                    std::iter::once(first).chain(paths.iter().map(|path| format!("- {path}")))
                })
                .collect();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let causes = conflicts
        .iter()
        .flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)))
        .map(|(manager, path)| api::status::Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {manager}"),
            field: path.clone(),
        })
        .collect();
    let mut status = Status::new(409, Reason::Conflict, message);
    status.details = Some(Box::new(api::status::Details { causes, ..Default::default() }));
    status
}

#[cfg(test)]
mod tests;
