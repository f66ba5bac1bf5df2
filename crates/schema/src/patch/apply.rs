//! Server-side apply: several managers write one object, and each field knows whose it is.
//! Reads the live object, the applied configuration and `metadata.managedFields`; gives the merged object with its
//! `managedFields`. [`track`] keeps ownership right when an object is created or written in another way.
//! Entries of other API versions of the kind are compared in their own version, which whoever calls converts to
//! ([`Versions`]). Not here: that conversion, defaults, admission, storing (apiserver).
//! Upstream: apimachinery `pkg/util/managedfields`, structured-merge-diff `merge`.

mod creation;
mod last_applied;
mod managers;
mod presence;
mod set;
mod shape;
mod typing;
mod versions;

use std::borrow::Cow;
use std::sync::LazyLock;

use api::{Reason, Status};
use serde_json::{Map, Value};

use self::managers::{Entry, Managers, Operation};
use self::set::Set;
use self::shape::{Difference, Shape};
use self::versions::Kind;
pub use self::versions::{Single, Version, Versions};
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
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The subresource written to; empty for the object itself.
    pub subresource: &'a str,
    /// Fields this request cannot change, which it hence cannot own (`status` when the object itself is written and the
    /// status is a subresource), each named by the fields on the way to it.
    pub ignored: &'a [&'a [&'a str]],
    /// The time to record, RFC 3339 in whole seconds.
    pub now: &'a str,
    /// The other versions of the kind.
    pub versions: &'a dyn Versions,
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
        Err(Failure::Version(status)) => Err(status),
    }
}

/// Why a configuration cannot be merged.
enum Failure {
    /// By manager, the sets of fields that it holds with another value.
    Conflicts(Vec<(String, Set)>),
    Shape(shape::Error),
    /// An object cannot be had in another version.
    Version(Status),
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
    let kind = Kind { version, schema, others: writer.versions };
    let old = without_managed_fields(live);
    let mut managers = Managers::of(live);
    kind.forget_gone(&mut managers);
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
    if let Some(last) = last {
        merged = prune(merged, &last, &managers, kind).map_err(Failure::Version)?;
    }
    let differences = kind.differences(Some(&old), &merged, managers.versions_and(version), writer.ignored);
    let differences = differences.map_err(Failure::Version)?;
    let conflicts = managers.conflicts(writer, Operation::Apply, version, &differences);
    if !force && !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    managers.give_up(writer, Operation::Apply, version, &differences);
    if merged == old && managers == before {
        return Ok(live.clone());
    }
    managers.touch(writer, Operation::Apply, version);
    managers.write(&mut merged);
    Ok(merged)
}

/// Keeps `managedFields` right when an object is written other than by apply; `old` is `None` when it is created. A
/// writer of the object itself may also reset or replace the entries by giving others.
///
/// # Errors
/// An object cannot be had in another version; then `new` has no entries.
pub fn track(
    old: Option<&Value>,
    new: &mut Value,
    schema: &Schema,
    writer: &Writer<'_>,
) -> Result<(), Status> {
    let main = writer.subresource.is_empty();
    let sent = take_managed_fields(new);
    if old.is_none()
        && sent.is_none()
        && let Some(fields) = creation::fields(new, schema, writer.ignored)
    {
        Managers::write_first(new, writer, fields);
        return Ok(());
    }
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
        return Ok(());
    }
    let version = new.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = Kind { version: &version, schema, others: writer.versions };
    kind.forget_gone(&mut managers);
    // Conversions are of the object, not of what is recorded about it.
    let old = old.map(|old| match managers.are_all_of(&version) {
        true => Cow::Borrowed(old),
        false => Cow::Owned(without_managed_fields(old)),
    });
    let mut differences =
        kind.differences(old.as_deref(), new, managers.versions_and(&version), writer.ignored)?;
    managers.give_up(writer, Operation::Update, &version, &differences);
    let (taken, removed) = differences.take(&version).into_parts();
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
            api_version: version.clone(),
            time,
            subresource: writer.subresource.into(),
            fields: fields.union(taken),
        });
    }
    managers.write(new);
    Ok(())
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
fn prune(merged: Value, last: &Entry, managers: &Managers, kind: Kind<'_>) -> Result<Value, Status> {
    fn named(set: &Set, schema: &Schema) -> Set {
        set.with_named(Shape::of(schema), &|shape: Shape<'_>, element| shape.step(element))
    }
    let all_fields =
        |value: &Value, schema: &Schema| shape::fields(value, Shape::of(schema)).unwrap_or_default();
    // It is taken out where it was put in: in the version of that time.
    let version = last.api_version.as_str();
    let Some(schema) = kind.schema_in(version) else { return Ok(merged) };
    let mut there = kind.convert(&merged, version)?.into_owned();
    let mut pruned = there.clone();
    shape::hollow(&mut pruned, &last.fields, Shape::of(&schema));
    // Back comes what appliers hold, the one who applies now among them …
    let mut versions = managers.applied_versions();
    versions.remove(version);
    let mut restored = there.clone();
    // … first in this version: a conversion may need what was taken out.
    for version in std::iter::once(version).chain(versions.iter().map(String::as_str)) {
        let Some(schema) = kind.schema_in(version) else { continue };
        let whole = kind.convert(&there, version)?.into_owned();
        let kept = named(&all_fields(&*kind.convert(&pruned, version)?, &schema), &schema);
        let kept = kept.union(named(&managers.applied(version), &schema));
        let present = named(&all_fields(&whole, &schema), &schema);
        restored = whole;
        shape::hollow(&mut restored, &present.difference(&kept), Shape::of(&schema));
        pruned = restored.clone();
    }
    let restored = kind.convert(&restored, version)?;
    // … and what this manager had not applied.
    let present = named(&all_fields(&there, &schema), &schema);
    let dangling = present
        .difference(&named(&all_fields(&restored, &schema), &schema))
        .intersection(&named(&last.fields, &schema));
    shape::remove(&mut there, &dangling, Shape::of(&schema));
    Ok(kind.convert(&there, kind.version)?.into_owned())
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
fn unstripped(set: Set, ignored: &[&[&str]]) -> Set {
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
    set.without(&[&["apiVersion"], &["kind"]]).without(ignored).difference(&UNOWNED)
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
