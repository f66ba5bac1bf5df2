//! POST: a new object.
//!
//! Order: decode, metadata the server owns, defaults, ownership of the fields, mutating admission, name, `prepare_for_create`, the
//! resource's reservations, validation, validating admission, store.

use api::kinds::switched_off;
use api::{Object, Status, meta_validation};
use serde_json::Value;

use super::update::Target;
use super::write::{self, WriteOptions};
use super::{Call, body, owners, ownership};
use crate::admission::Operation;
use crate::registry::Undo;
use crate::response::Response;
use crate::storage::{Stored, Written};

/// How often a generated name may collide before the client is told (upstream's RetryGenerateName).
const NAME_ATTEMPTS: usize = 8;
/// How often what a server reserves may turn out to be taken by another server.
const RESERVATION_ATTEMPTS: usize = 16;
/// Upstream cuts the base so that base and suffix fit a DNS label.
const MAX_GENERATED_BASE: usize = 63 - 5;

pub(super) async fn post(call: &Call) -> Result<Response, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut object = body::decode(call, options.field_validation)?;
    body::place(call, &mut object)?;
    if let Some(mut answer) = call.resource.rest.answer(call, &object).await? {
        // Upstream holds it by value: it is there even when empty.
        answer.metadata_mut();
        return Ok(call.respond_value(201, &answer.0));
    }
    let stored = create(call, object, &options).await?;
    Ok(call.respond(201, &stored.bytes))
}

/// Makes a new object out of a decoded one.
pub(super) async fn create(
    call: &Call,
    mut object: Object,
    options: &WriteOptions,
) -> Result<Stored, Status> {
    let descriptor = &call.resource.descriptor;
    let versioned = !matches!(object.resource_version(), "" | "0");
    own_metadata(call, &mut object);
    owners::deduplicate(call, &mut object, owners::When::Asked);
    descriptor.hooks.default(&mut object.0);
    descriptor.hooks.set_times(&mut object.0, None, call.server.clock.now());
    ownership::track(call, Target::Main, options, None, &mut object).await;
    let name = object.name().to_owned();
    {
        let mut request = call.admission(Operation::Create, options, Some(&mut object), None);
        request.name = &name;
        call.server.admission.admit(&mut request).await?;
        call.warn(request.warnings);
    }
    owners::deduplicate(call, &mut object, owners::When::Admitted);
    let name = object.name().to_owned();
    let base = object.generate_name().to_owned();
    if name.is_empty() && !base.is_empty() {
        for _ in 0..NAME_ATTEMPTS {
            let mut candidate = object.clone();
            candidate.metadata_mut().insert("name".into(), generate(call, &base).into());
            if let Some(stored) = attempt(call, candidate, options, versioned).await? {
                return Ok(stored);
            }
        }
        return Err(Status::generate_name_conflict(&call.resource.group_resource, &base, 1));
    }
    if let Some(stored) = attempt(call, object, options, versioned).await? {
        return Ok(stored);
    }
    let mut status = Status::already_exists(&call.resource.group_resource, &name);
    if let Ok(existing) = call.server.storage.get(&call.resource, &call.info.namespace, &name).await
        && existing.object.deletion_timestamp().is_some()
    {
        status.message = format!("object is being deleted: {}", status.message);
    }
    Err(status)
}

/// One name; `None` if it is taken. What is reserved for the object by this server alone may turn out to be another's: then
/// something else is reserved.
async fn attempt(
    call: &Call,
    object: Object,
    options: &WriteOptions,
    versioned: bool,
) -> Result<Option<Stored>, Status> {
    if !call.resource.rest.reserves() {
        return Ok(write_once(call, object, options, versioned).await?.stored());
    }
    for _ in 0..RESERVATION_ATTEMPTS {
        match write_once(call, object.clone(), options, versioned).await? {
            Written::Stored(stored) => return Ok(Some(stored)),
            Written::Outdated => return Ok(None),
            Written::Claimed => {}
        }
    }
    Err(Status::internal("what was reserved for the object was taken by others, again and again"))
}

/// One try under one name. An object that came with a version (`versioned`) is refused, but
/// only by the store: whatever else is wrong is told first, and a dry run does not come so far.
async fn write_once(
    call: &Call,
    mut object: Object,
    options: &WriteOptions,
    versioned: bool,
) -> Result<Written, Status> {
    let descriptor = &call.resource.descriptor;
    switched_off::drop_fields(&descriptor.group, &descriptor.kind, &mut object.0, None);
    // Reservations need a valid object, and validation needs what was reserved: metadata is checked first.
    let reserves = call.resource.rest.reserves();
    let (mut found, mut warnings) = (Vec::new(), None);
    if reserves {
        descriptor.hooks.prepare_for_create(&mut object.0);
    } else {
        let (errors, told) = descriptor.hooks.prepare_and_validate(&mut object.0);
        (found, warnings) = (errors, Some(told));
    }
    if descriptor.generation {
        object.metadata_mut().insert("generation".into(), 1.into());
    } else {
        object.metadata_mut().remove("generation");
    }
    let mut errors = meta_validation::validate_create(descriptor, &object.0);
    let mut undo = Undo::nothing();
    if reserves {
        if errors.is_empty() {
            undo = call.resource.rest.before_create(call, &mut object).await?;
        }
        found = descriptor.hooks.validate(&object.0);
    }
    errors.extend(found);
    errors.extend(call.resource.rest.expressions(&object.0, None));
    if !errors.is_empty() {
        return Err(Status::invalid(&descriptor.group_kind(), object.name(), errors));
    }
    call.warn(warnings.unwrap_or_else(|| descriptor.hooks.warnings(&object.0, None)));
    call.resource.rest.check(call, &object, None).await?;
    let name = object.name().to_owned();
    {
        let mut request = call.admission(Operation::Create, options, Some(&mut object), None);
        request.name = &name;
        call.server.admission.validate(&mut request).await?;
        call.warn(request.warnings);
    }
    let namespace = &call.info.namespace;
    if options.dry_run {
        let taken = call.server.storage.read(&call.resource, namespace, &name).await?.is_some();
        return Ok(if taken { Written::Outdated } else { Written::Stored(unstored(object)) });
    }
    if versioned {
        return Err(Status::new(
            500,
            api::Reason::Unknown,
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let rest = &call.resource.rest;
    let decided = rest.before_store(call, &mut object).await?;
    let claims = rest.claims(call, Some(&object), None).await?;
    let write = call.server.storage.create(&call.resource, namespace, &name, object, claims);
    let written = undo.unless_written(decided.unless_written(write)).await?;
    match &written {
        Written::Stored(stored) => rest.after(call, Some(&stored.object), None).await,
        Written::Claimed => rest.lost(call).await?,
        Written::Outdated => {}
    }
    Ok(written)
}

/// A dry run's result, as if it had been stored.
pub(super) fn unstored(object: Object) -> Stored {
    Stored { bytes: crate::encoding::to_json(&object.0), object, revision: 0, value: bytes::Bytes::new() }
}

/// Sets the metadata that is the server's to set on creation.
fn own_metadata(call: &Call, object: &mut Object) {
    let server = &call.server;
    let mut random = [0; 16];
    server.randomness.fill(&mut random);
    let uid = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
    let metadata = object.metadata_mut();
    for member in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(member);
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), write::timestamp(server.clock.now()).into());
    for member in ["labels", "annotations", "finalizers", "ownerReferences"] {
        if metadata.get(member).is_some_and(is_empty) {
            metadata.remove(member);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn generate(call: &Call, base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], call.server.randomness.name_suffix())
}
