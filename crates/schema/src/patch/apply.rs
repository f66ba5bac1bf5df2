//! Server-side apply: several managers write one object, and each field knows whose it is.
//! Reads the live object, the applied configuration and `metadata.managedFields`; gives the merged object with its
//! `managedFields`. [`track`] keeps ownership right when an object is created or written in another way.
//! Not here: defaults, admission, storing (apiserver). Entries of other API versions of the kind are kept as they are,
//! neither in conflict nor reduced: nothing here converts between versions.
//! Upstream: apimachinery `pkg/util/managedfields`, structured-merge-diff `merge`.

mod last_applied;
mod managers;
mod presence;
mod set;
mod shape;
mod typing;

use std::borrow::Cow;
use std::sync::LazyLock;

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

/// `config` put into `live`, lists and maps by their keys, nobody's ownership considered.
pub fn combine(live: &Value, config: &Value, schema: &Schema) -> Value {
    shape::merge(live, config, Shape::of(schema))
}

/// Applies a configuration as it was sent. `live` is the stored object, or for a new one just its apiVersion, kind, name
/// and namespace. `force` takes fields over from managers who would be in conflict. When nothing changes, the outcome
/// equals `live` to the last field.
pub fn apply(
    live: &Value,
    config: &Value,
    schema: &Schema,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    let given = config.pointer("/metadata/managedFields").filter(|given| !given.is_null());
    if given.is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let canonical = typing::check(config, schema).and_then(|()| canonical(config, schema));
    let canonical = canonical.map_err(|error| untyped(config, &error))?;
    let merge = |force| merge(live, &canonical, schema, writer, force);
    let outcome = match merge(force) {
        Err(Failure::Conflicts(conflicts)) => {
            let rest = last_applied::unexpected(conflicts, live, schema, writer);
            if rest.is_empty() { merge(true) } else { Err(Failure::Conflicts(rest)) }
        }
        other => other,
    };
    match outcome {
        Ok(mut merged) => {
            last_applied::renew(&mut merged, live, config, writer);
            Ok(merged)
        }
        Err(Failure::Conflicts(conflicts)) => Err(conflict(&conflicts)),
        Err(Failure::Shape(error)) => Err(untyped(config, &error.to_string())),
    }
}

/// Why a configuration cannot be merged.
enum Failure {
    /// By manager, the sets of fields that it holds with another value.
    Conflicts(Vec<(String, Set)>),
    Shape(shape::Error),
}

/// The configuration with quantities and times in canonical form and without nulls.
fn canonical(config: &Value, schema: &Schema) -> Result<Value, String> {
    let text = serde_json::to_vec(config).map_err(|error| error.to_string())?;
    crate::decode::read(&text, schema, false).map(|(value, _)| without_managed_fields(&value))
}

/// Upstream gives this error no code of its own, so that it is a 500.
fn untyped(config: &Value, error: &str) -> Status {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/apiVersion");
    let message = format!(
        "failed to create typed patch object ({}/{}; {}{version}, Kind={}): {error}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        if version.contains('/') { "" } else { "/" },
        text("/kind"),
    );
    Status::new(500, Reason::Unknown, message)
}

fn merge(
    live: &Value,
    config: &Value,
    schema: &Schema,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Failure> {
    let shape = Shape::of(schema);
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let old = without_managed_fields(live);
    let mut managers = Managers::of(live);
    if managers.is_empty() && live.pointer("/metadata/uid").is_some() {
        let owned = Difference::between(&nothing(&old, schema), &old, shape);
        managers.set(Entry {
            manager: BEFORE_FIRST_APPLY.into(),
            operation: Operation::Update,
            api_version: live.get("apiVersion").and_then(Value::as_str).unwrap_or_default().into(),
            time: Some(writer.now.into()),
            subresource: String::new(),
            fields: unstripped(owned.into_parts().0, writer.ignored),
        });
    }
    let before = managers.clone();
    let fields = unstripped(shape::fields(config, shape).map_err(Failure::Shape)?, writer.ignored);
    let last = managers.find(writer, Operation::Apply, version).cloned();
    managers.set(Entry {
        manager: writer.manager.into(),
        operation: Operation::Apply,
        api_version: version.into(),
        time: last.as_ref().map_or_else(|| Some(writer.now.into()), |last| last.time.clone()),
        subresource: writer.subresource.into(),
        fields,
    });
    let mut merged = shape::merge(&old, config, shape);
    if let Some(last) = last.filter(|last| last.api_version == version) {
        prune(&mut merged, &last.fields, &managers, version, shape);
    }
    let mut difference = Difference::between(&old, &merged, shape);
    difference.forget(writer.ignored);
    let conflicts = managers.conflicts(writer, Operation::Apply, version, &difference);
    if !force && !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    managers.give_up(writer, Operation::Apply, version, &difference);
    if merged == old && managers == before {
        return Ok(live.clone());
    }
    managers.touch(writer, Operation::Apply, version);
    managers.write(&mut merged);
    Ok(merged)
}

/// Keeps `managedFields` right when an object is written other than by apply; `old` is `None` when it is created. A
/// writer of the object itself may also reset or replace the entries by giving others.
pub fn track(old: Option<&Value>, new: &mut Value, schema: &Schema, writer: &Writer<'_>) {
    let main = writer.subresource.is_empty();
    let sent = take_managed_fields(new);
    let reset = main
        && sent
            .as_ref()
            .and_then(Value::as_array)
            .is_some_and(|entries| entries.len() == 1 && entries[0].as_object().is_some_and(Map::is_empty));
    let given = if main { Managers::read(sent.as_ref()) } else { Managers::default() };
    let mut managers = match old {
        Some(old) if given.is_empty() && !reset => Managers::of(old),
        _ => given,
    };
    // Nobody knows who wrote the fields of an object without entries: only apply begins to ask.
    if managers.is_empty() && old.is_some() {
        return;
    }
    let version = new.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let before = old.map_or_else(|| Cow::Owned(nothing(new, schema)), Cow::Borrowed);
    let mut difference = Difference::between(&before, new, Shape::of(schema));
    difference.forget(writer.ignored);
    managers.give_up(writer, Operation::Update, &version, &difference);
    let (taken, removed) = difference.into_parts();
    let taken = unstripped(taken, writer.ignored);
    let own = managers.find(writer, Operation::Update, &version);
    let fields = own.map(|own| own.fields.clone().difference(&removed)).unwrap_or_default();
    let time = match own {
        Some(own) if taken.is_empty() => own.time.clone(),
        _ => Some(writer.now.into()),
    };
    if !taken.is_empty() || own.is_some_and(|own| own.fields != fields) {
        managers.set(Entry {
            manager: writer.manager.into(),
            operation: Operation::Update,
            api_version: version,
            time,
            subresource: writer.subresource.into(),
            fields: fields.union(taken),
        });
    }
    managers.write(new);
}

/// An object of the same kind with nothing in it.
fn nothing(object: &Value, schema: &Schema) -> Value {
    let members = ["apiVersion", "kind"].into_iter().filter_map(|name| Some((name, object.get(name)?)));
    let mut nothing: Value = members.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    if matches!(schema, Schema::Structural(_)) {
        nothing["metadata"] = Value::Object(Map::new());
    }
    nothing
}

/// Takes out what this manager applied last time and does not apply now, unless another applier holds it.
fn prune(merged: &mut Value, last: &Set, managers: &Managers, version: &str, shape: Shape<'_>) {
    let all_fields = |value: &Value| shape::fields(value, shape).unwrap_or_default();
    let named = |set: &Set| set.with_named(shape, &|shape: Shape<'_>, element| shape.step(element));
    let mut pruned = merged.clone();
    shape::hollow(&mut pruned, last, shape);
    let present = named(&all_fields(merged));
    let held = named(&managers.applied(version));
    // Back comes what appliers hold, the one who applies now among them …
    let mut restored = merged.clone();
    let kept = named(&all_fields(&pruned)).union(held);
    shape::hollow(&mut restored, &present.clone().difference(&kept), shape);
    // … and what this manager had not applied.
    let dangling = present.difference(&named(&all_fields(&restored))).intersection(&named(last));
    shape::remove(merged, &dangling, shape);
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    take_managed_fields(&mut object);
    object
}

fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Without what nobody owns and what this request cannot change.
fn unstripped(set: Set, ignored: &[&str]) -> Set {
    static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
        let member = || set::Entry { member: true, ..set::Entry::default() };
        let mut metadata = member();
        for name in UNOWNED_METADATA {
            metadata.below.put(set::Element::field(name), member());
        }
        let mut unowned = Set::default();
        unowned.put(set::Element::field("metadata"), metadata);
        unowned
    });
    set.without(&["apiVersion", "kind"]).without(ignored).difference(&UNOWNED)
}

/// 409 with one cause for each field.
fn conflict(conflicts: &[(String, Set)]) -> Status {
    let conflicts: Vec<(&String, Vec<String>)> =
        conflicts.iter().map(|(manager, set)| (manager, set.paths())).collect();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts.as_slice() {
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
        .flat_map(|(manager, paths)| paths.iter().map(move |path| (*manager, path)))
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
