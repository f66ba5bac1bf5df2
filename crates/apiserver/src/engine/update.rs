//! PUT, and the one path by which any stored object is changed: PATCH, status, scale and the other
//! subresources end here.
//!
//! Order: read, change, defaults, metadata the server owns, ownership of the fields, mutating admission, `prepare_for_…`, the
//! resource's reservations, validation, validating admission, compare-and-swap. When someone else wrote
//! meanwhile the whole is done again on the newer object, unless the client insists on a resourceVersion.

use api::kinds::switched_off;
use api::{Object, Status, meta_validation};
use serde_json::Value;

use super::create::unstored;
use super::versions::Versions;
use super::write::{self, WriteOptions};
use super::{Call, body, create, owners, ownership, scale};
use crate::admission::Operation;
use crate::registry::Undo;
use crate::response::Response;
use crate::storage::{self, Stored, Written};

/// Which part of an object is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// What this subresource covers.
    Other(&'static str),
}

/// What upstream says to a stale resourceVersion.
pub(super) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

pub(super) async fn put(call: &Call, target: Target) -> Result<Response, Status> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let mut object = body::decode(call, options.field_validation)?;
    body::place(call, &mut object)?;
    let (name, wanted) = (object.name(), call.info.name.as_str());
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let descriptor = &call.resource.descriptor;
    if target == Target::Main && descriptor.create_on_update && object.resource_version().is_empty() {
        let exists = call.server.storage.read(&call.resource, &call.info.namespace, wanted).await?.is_some();
        if !exists {
            check_missing(call, &object)?;
            call.authorize("create").await?;
            let stored = create::create(call, object, &options).await?;
            return Ok(call.respond(201, &stored.bytes));
        }
    }
    match change(call, target, &options, |_, _| Ok(object.clone())).await {
        Ok(stored) => Ok(call.respond(200, &stored.bytes)),
        // What is demanded of the object comes before that there is none.
        Err(status) if status == Status::not_found(&call.resource.group_resource, wanted) => {
            check_missing(call, &object)?;
            Err(status)
        }
        Err(status) => Err(status),
    }
}

/// Changes the object in the path by `mutate`, which gets the newest state, and a way to that of other versions. It may
/// be called again.
pub async fn change(
    call: &Call,
    target: Target,
    options: &WriteOptions,
    mutate: impl Fn(&Object, &Versions<'_>) -> Result<Object, Status> + Send + Sync,
) -> Result<Stored, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let storage = &call.server.storage;
    loop {
        let Some(kv) = storage.read(&call.resource, namespace, name).await? else {
            return Err(Status::not_found(&call.resource.group_resource, name));
        };
        let old = storage::stored(&call.resource, &kv).await?;
        let versions = Versions::of(call);
        let new = versions.settle(|| mutate(&old.object, &versions)).await?;
        if let Some(stored) = attempt(call, target, options, &old, new).await? {
            return Ok(stored);
        }
    }
}

/// One try to store `new` in place of `old`; `None` if someone else wrote meanwhile.
async fn attempt(
    call: &Call,
    target: Target,
    options: &WriteOptions,
    old: &Stored,
    mut new: Object,
) -> Result<Option<Stored>, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let (server, resource, descriptor) = (&call.server, &call.resource, &call.resource.descriptor);
    check_preconditions(call, &mut new, &old.object)?;
    owners::deduplicate(call, &mut new, owners::When::Asked);
    // A status has no defaults; what other subresources take of the object has: an ephemeral container's, for one.
    if target != Target::Status {
        descriptor.hooks.default(&mut new.0);
        descriptor.hooks.set_times(&mut new.0, Some(&old.object.0), server.clock.now());
    }
    keep_metadata(&mut new, &old.object);
    ownership::track(call, target, options, Some(&old.object), &mut new).await;
    admission(call, options, Phase::Mutate, &mut new, &old.object).await?;
    owners::deduplicate(call, &mut new, owners::When::Admitted);
    prepare(call, target, &mut new, &old.object);
    let undo = match target {
        Target::Main => resource.rest.before_update(call, &mut new, &old.object).await?,
        Target::Status => {
            resource.rest.before_status(&mut new, &old.object, &write::timestamp(server.clock.now()));
            Undo::nothing()
        }
        Target::Other(_) => Undo::nothing(),
    };
    let mut errors = meta_validation::validate_update(&new.0, &old.object.0);
    errors.extend(match target {
        Target::Main => descriptor.hooks.validate_update(&new.0, &old.object.0),
        Target::Status => descriptor.hooks.validate_status_update(&new.0, &old.object.0),
        Target::Other(name) => descriptor.hooks.validate_subresource_update(name, &new.0, &old.object.0),
    });
    if target == Target::Main {
        errors.extend(resource.rest.expressions(&new.0, Some(&old.object.0)));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&descriptor.group_kind(), name, errors));
    }
    if target == Target::Main {
        call.warn(descriptor.hooks.warnings(&new.0, Some(&old.object.0)));
    }
    resource.rest.check(call, &new, Some(&old.object)).await?;
    admission(call, options, Phase::Validate, &mut new, &old.object).await?;
    if options.dry_run {
        return Ok(Some(unstored(new)));
    }
    if resource.rest.finishes_deletion(&new, &old.object) {
        let freed = resource.rest.claims(call, None, Some(&old.object)).await?;
        return match server.storage.delete_with(resource, namespace, name, old.revision, freed).await? {
            Some(revision) => {
                resource.rest.after(call, None, Some(&new)).await;
                new.metadata_mut().insert("resourceVersion".into(), revision.to_string().into());
                Ok(Some(unstored(new)))
            }
            None => Ok(None),
        };
    }
    let decided = match target {
        Target::Main => resource.rest.before_store(call, &mut new).await?,
        Target::Status | Target::Other(_) => Undo::nothing(),
    };
    // An update that changes nothing is no write, and wakes nobody: unless what is stored has an old form.
    if ownership::same(&new, &old.object) && server.storage.is_current(resource, namespace, name, old).await?
    {
        return Ok(Some(old.clone()));
    }
    let claims = resource.rest.claims(call, Some(&new), Some(&old.object)).await?;
    let write = server.storage.replace_with(resource, namespace, name, old.revision, new, claims);
    let written = undo.unless_written(decided.unless_written(write)).await?;
    match &written {
        Written::Stored(stored) => resource.rest.after(call, Some(&stored.object), Some(&old.object)).await,
        Written::Claimed => resource.rest.lost(call).await?,
        Written::Outdated => {}
    }
    Ok(written.stored())
}

/// One of the two rounds of admission.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Mutate,
    Validate,
}

/// Shows admission the change: of a scale, the scale.
async fn admission(
    call: &Call,
    options: &WriteOptions,
    phase: Phase,
    new: &mut Object,
    old: &Object,
) -> Result<(), Status> {
    let scales = scale::projected(call, new, old);
    let (mut shown, before) = match scales {
        Some((shown, before)) => (Some(shown), Some(before)),
        None => (None, None),
    };
    let mut request = call.admission(
        Operation::Update,
        options,
        Some(shown.as_mut().unwrap_or(new)),
        Some(before.as_ref().unwrap_or(old)),
    );
    if before.is_some() {
        request.kind = scale::kind();
    }
    match phase {
        Phase::Mutate => call.server.admission.admit(&mut request).await?,
        Phase::Validate => call.server.admission.validate(&mut request).await?,
    }
    call.warn(request.warnings);
    match shown {
        Some(shown) if phase == Phase::Mutate => scale::adopt(call, new, &shown),
        _ => Ok(()),
    }
}

/// Holds the client to the UID that it named, where there is no object.
fn check_missing(call: &Call, new: &Object) -> Result<(), Status> {
    if new.uid().is_empty() { Ok(()) } else { Err(another(call, new.uid(), "")) }
}

/// What is said where the object is not the one that was meant.
fn another(call: &Call, meant: &str, found: &str) -> Status {
    let resource = &call.resource.group_resource;
    // Upstream's key: the groups of built-in kinds are no part of it.
    let kind = if call.resource.is_custom() {
        format!("{}/{}", resource.group, resource.resource)
    } else {
        resource.resource.clone()
    };
    let key = call.resource.short_key(&call.info.namespace, &call.info.name);
    Status::conflict(
        resource,
        &call.info.name,
        format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{kind}/{key}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {meant}, UID in object meta: {found}"
        ),
    )
}

/// Holds the client to the UID and resourceVersion that it named, and fills in what it left out.
fn check_preconditions(call: &Call, new: &mut Object, old: &Object) -> Result<(), Status> {
    let resource = &call.resource;
    let uid = new.uid();
    if !uid.is_empty() && uid != old.uid() {
        return Err(another(call, uid, old.uid()));
    }
    let revision = new.resource_version();
    if revision.is_empty() || revision == "0" {
        if resource.descriptor.unconditional_update {
            write::carry(new, old, "resourceVersion");
        }
    } else if revision != old.resource_version() {
        return Err(Status::conflict(&resource.group_resource, &call.info.name, MODIFIED));
    }
    Ok(())
}

/// Keeps the metadata that no update changes, where the client left it out.
fn keep_metadata(new: &mut Object, old: &Object) {
    for member in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let absent = new.0.get("metadata").and_then(|m| m.get(member)).is_none_or(|v| v.is_null() || v == "");
        if absent {
            write::carry(new, old, member);
        }
    }
    for member in ["generation", "selfLink"] {
        write::carry(new, old, member);
    }
    for member in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let metadata = new.metadata_mut();
        let empty = match metadata.get(member) {
            Some(serde_json::Value::Object(map)) => map.is_empty(),
            Some(serde_json::Value::Array(items)) => items.is_empty(),
            Some(serde_json::Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(member);
        }
    }
}

/// Resets what this target does not cover.
fn prepare(call: &Call, target: Target, new: &mut Object, old: &Object) {
    let descriptor = &call.resource.descriptor;
    for field in descriptor.resets(&call.info.subresource) {
        restore(new, old, field);
    }
    let reset = |new: &mut Object, member: &str| match old.0.get(member) {
        Some(value) => new.0[member] = value.clone(),
        None => {
            if let Some(members) = new.0.as_object_mut() {
                members.remove(member);
            }
        }
    };
    match target {
        Target::Main => {
            if descriptor.subresources.status {
                reset(new, "status");
            }
            switched_off::drop_fields(&descriptor.group, &descriptor.kind, &mut new.0, Some(&old.0));
            descriptor.hooks.prepare_for_update(&mut new.0, &old.0);
            if descriptor.generation && write::spec_differs(new, old, descriptor.subresources.status) {
                write::next_generation(new);
            }
        }
        Target::Status => {
            let members: Vec<String> = [&new.0, &old.0]
                .into_iter()
                .filter_map(|object| object.as_object())
                .flat_map(|members| members.keys().cloned())
                .filter(|key| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
                .collect();
            for member in members {
                reset(new, &member);
            }
            descriptor.hooks.prepare_for_status_update(&mut new.0, &old.0);
        }
        Target::Other(name) => {
            switched_off::drop_fields(&descriptor.group, &descriptor.kind, &mut new.0, Some(&old.0));
            descriptor.hooks.prepare_for_subresource_update(name, &mut new.0, &old.0);
            if descriptor.generation && write::spec_differs(new, old, descriptor.subresources.status) {
                write::next_generation(new);
            }
        }
    }
}

/// Gives a field, named by the fields on the way to it, its old value. What the server keeps of a write in the metadata
/// stays.
fn restore(new: &mut Object, old: &Object, field: &str) {
    let (parent, member) = field.rsplit_once('.').unwrap_or(("", field));
    let pointer = |parent: &str| match parent {
        "" => String::new(),
        parent => format!("/{}", parent.replace('.', "/")),
    };
    let parent = pointer(parent);
    let mut value = old.0.pointer(&parent).and_then(|parent| parent.get(member)).cloned();
    if let (Some(Value::Object(metadata)), "metadata") = (&mut value, field) {
        for kept in ["resourceVersion", "managedFields"] {
            metadata.remove(kept);
            metadata.extend(new.metadata_mut().remove(kept).map(|value| (kept.to_owned(), value)));
        }
    }
    let Some(members) = new.0.pointer_mut(&parent).and_then(Value::as_object_mut) else { return };
    match value {
        Some(value) => members.insert(member.to_owned(), value),
        None => members.remove(member),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_write_cannot_change_stays() {
        let old = Object(json!({"metadata": {"name": "n", "resourceVersion": "1", "labels": {"a": "b"}},
            "status": {"conditions": [1]}}));
        let written = json!({"metadata": {"name": "n", "resourceVersion": "2", "managedFields": [2],
            "annotations": {"c": "d"}}, "status": {"conditions": [2], "certificate": "x"}});
        for (field, pointer, want) in [
            ("metadata.labels", "/metadata/labels", json!({"a": "b"})),
            ("status.conditions", "/status/conditions", json!([1])),
            ("status.certificate", "/status/certificate", Value::Null),
            (
                "metadata",
                "/metadata",
                json!({"name": "n", "resourceVersion": "2", "managedFields": [2], "labels": {"a": "b"}}),
            ),
        ] {
            let mut new = Object(written.clone());
            restore(&mut new, &old, field);
            assert_eq!(new.0.pointer(pointer).cloned().unwrap_or_default(), want, "{field}");
        }
    }
}
