//! DELETE of one object: preconditions, grace, finalizers, propagation. Also of what cannot be read, and ([`collection`]) of
//! what a list finds.
//!
//! Dependents are the garbage collector's: propagation only sets or clears the finalizers `orphan` and
//! `foregroundDeletion`.
//! Upstream: apiserver/pkg/registry/rest/delete.go, registry/generic/registry/store.go.

mod collection;

use api::field::{self, Path};
use api::kind::Dependents;
use api::{GroupKind, GroupResource, Object, Status};
use schema::Schema;
use serde_json::{Value, json};

use super::write::{self, WriteOptions};
use super::{Call, body, ownership};
use crate::admission::Operation;
use crate::audit;
use crate::authz::Decision;
use crate::registry::Deletion;
use crate::request::{Attributes, RequestInfo};
use crate::response::Response;
use crate::storage::{self, Claims, Stored};

pub(super) use collection::collection;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// The option that deletes what cannot be read, and the permission that it needs beside that to delete.
const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
const UNREADABLE_VERB: &str = "unsafe-delete-ignore-read-errors";

/// DeleteOptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    dry_run: bool,
    grace: Option<i64>,
    uid: Option<String>,
    revision: Option<String>,
    orphan: Option<bool>,
    propagation: Option<String>,
    /// Delete what cannot be read, and nothing else.
    unreadable: bool,
    /// The options as the client gave them, but for their kind: what admission is shown.
    given: Value,
}

impl Options {
    fn read(call: &Call) -> Result<Self, Status> {
        if call.body.is_empty() {
            let query = &call.query;
            let grace = match query.get("gracePeriodSeconds") {
                None | Some("") => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
                })?),
            };
            let dry_run: Vec<Value> = query.all("dryRun").map(Value::from).collect();
            return Self::checked(
                &json!({
                    "dryRun": dry_run,
                    "propagationPolicy": query.get("propagationPolicy"),
                    "orphanDependents": query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
                    UNREADABLE: query.get(UNREADABLE).map(|_| query.flag(UNREADABLE)),
                }),
                grace,
            );
        }
        let schema = Schema::built_in("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
            .ok_or_else(|| Status::internal("no definition of DeleteOptions"))?;
        let body = body::read(&call.headers, &call.body, &schema)?;
        let options: Value = serde_json::from_slice(body.json()).map_err(|error| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type DeleteOptions): {error}"
            ))
        })?;
        let kind = options.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(Status::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: {kind}"
            )));
        }
        let options = schema::decode(body.json(), &schema, schema::FieldValidation::Ignore)?.value;
        let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
        Self::checked(&options, grace)
    }

    fn checked(options: &Value, grace: Option<i64>) -> Result<Self, Status> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let orphan = options.get("orphanDependents").and_then(Value::as_bool);
        let propagation = text(options.get("propagationPolicy")).filter(|policy| !policy.is_empty());
        let path = Path::new("propagationPolicy");
        let mut errors = Vec::new();
        if orphan.is_some() && propagation.is_some() {
            errors.push(field::invalid(
                &path,
                propagation.clone().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.push(field::not_supported(
                &path,
                policy.as_str(),
                &["Background", "Foreground", "Orphan"],
            ));
        }
        let dry_run: Vec<&str> = options
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        errors.extend(write::check_dry_run(&dry_run));
        let unreadable = options.get(UNREADABLE).and_then(Value::as_bool) == Some(true);
        if unreadable {
            let others = [
                ("dryRun", !dry_run.is_empty()),
                ("propagationPolicy", propagation.is_some()),
                ("orphanDependents", orphan.is_some()),
                ("gracePeriodSeconds", grace.is_some()),
                ("preconditions", options.get("preconditions").is_some_and(|given| !given.is_null())),
            ];
            for (other, _) in others.into_iter().filter(|(_, given)| *given) {
                let detail = format!("cannot be set together with .{other}");
                errors.push(field::invalid(&Path::new(UNREADABLE), true, detail));
            }
        }
        if !errors.is_empty() {
            return Err(refused(errors));
        }
        Ok(Self {
            dry_run: !dry_run.is_empty(),
            // As soon as possible, which is not at once: at once is 0.
            grace: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: text(options.pointer("/preconditions/uid")),
            revision: text(options.pointer("/preconditions/resourceVersion")),
            orphan,
            propagation,
            unreadable,
            given: given(options, grace),
        })
    }

    /// The finalizers that this propagation leaves on an object with `present` ones.
    fn finalizers(&self, present: &[&str], dependents: Dependents) -> Vec<String> {
        let has = |finalizer| present.contains(&finalizer);
        let (orphan, foreground) = match (self.orphan, self.propagation.as_deref()) {
            (Some(orphan), _) => (orphan, false),
            (_, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
            _ if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
            _ => (dependents != Dependents::Collected, false),
        };
        let kept = present.iter().filter(|f| !matches!(**f, ORPHAN | FOREGROUND)).map(|f| (*f).to_owned());
        kept.chain(orphan.then(|| ORPHAN.to_owned()))
            .chain(foreground.then(|| FOREGROUND.to_owned()))
            .collect()
    }
}

/// What of DeleteOptions says something.
fn given(options: &Value, grace: Option<i64>) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let members = ["dryRun", "orphanDependents", "propagationPolicy", "preconditions", UNREADABLE];
    let said = members.into_iter().filter_map(|member| Some((member, options.get(member)?.clone())));
    let grace = ("gracePeriodSeconds", grace.map_or(Value::Null, Value::from));
    said.chain([grace])
        .filter(|(_, value)| says(value))
        .map(|(member, value)| (member.to_owned(), value))
        .collect()
}

fn refused(errors: field::ErrorList) -> Status {
    Status::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", errors)
}

/// How a deletion ended.
enum Outcome {
    Gone(Object),
    Waiting(Stored),
}

pub(super) async fn delete(call: &Call) -> Result<Response, Status> {
    let options = Options::read(call)?;
    if options.unreadable {
        return unread(call, &options).await;
    }
    warn_of_dependents(call, &options);
    match one(call, &call.info.namespace, &call.info.name, &options).await? {
        Outcome::Waiting(stored) => {
            // Only for the option of old: more would break the clients of old, as upstream says.
            let code = if options.orphan == Some(false) { 202 } else { 200 };
            Ok(call.respond(code, &stored.bytes))
        }
        Outcome::Gone(object) => {
            let descriptor = &call.resource.descriptor;
            if descriptor.returns_deleted {
                return Ok(call.respond(200, &crate::encoding::to_json(&object.0)));
            }
            let mut details = json!({"name": object.name(), "kind": descriptor.plural, "uid": object.uid()});
            if !descriptor.group.is_empty() {
                details["group"] = descriptor.group.to_string().into();
            }
            Ok(call.respond_value(
                200,
                &json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                }),
            ))
        }
    }
}

/// Deletes an object that cannot be read: whatever finalizers it has, and without what usually follows a deletion.
async fn unread(call: &Call, options: &Options) -> Result<Response, Status> {
    audit::annotate("apiserver.k8s.io/unsafe-delete-ignore-read-error", "");
    may_delete_unread(call).await?;
    let (storage, resource) = (&call.server.storage, &call.resource);
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    loop {
        // Its revision first: what is read afterwards is that, or newer and then left alone.
        let range = store::Range { keys_only: true, ..store::Range::key(resource.key(namespace, name)) };
        let found = storage.store.range(range).await.map_err(storage::status)?;
        let Some(kv) = found.kvs.first() else { return Err(not_unreadable(call)) };
        match storage.get(resource, namespace, name).await {
            Ok(_) => return Err(not_unreadable(call)),
            Err(status) if status.is_not_found() => return Err(not_unreadable(call)),
            // The store itself does not answer.
            Err(status) if status.code == 503 => return Err(status),
            Err(_) => {}
        }
        // Nothing is known of it, and that is what admission is shown.
        let descriptor = &resource.descriptor;
        let unknown = Object(json!({
            "kind": descriptor.kind, "apiVersion": descriptor.group_version().to_string(), "metadata": {},
        }));
        admit(call, namespace, name, options, &unknown).await?;
        let deleted =
            storage.delete_with(resource, namespace, name, kv.mod_revision, Claims::default()).await?;
        // None: someone wrote meanwhile; look again.
        if deleted.is_some() {
            tracing::warn!(resource = %resource.group_resource, namespace, name, user = %call.user.name, "an object that cannot be read was deleted");
            return Ok(call.respond_value(
                200,
                &json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {"name": name, "kind": descriptor.kind}, "code": 200,
                }),
            ));
        }
    }
}

async fn may_delete_unread(call: &Call) -> Result<(), Status> {
    let info = RequestInfo { verb: UNREADABLE_VERB.to_owned(), ..call.info.clone() };
    let attributes = Attributes::new(call.user.clone(), info);
    let (decision, reason) = call.server.authorization.authorizer.authorize(&attributes).await;
    if decision == Decision::Allow {
        return Ok(());
    }
    let detail = format!("not permitted to do {UNREADABLE_VERB:?}, reason: {reason}");
    Err(Status::forbidden(&call.resource.group_resource, &call.info.name, detail))
}

fn not_unreadable(call: &Call) -> Status {
    let resource = &call.resource.group_resource;
    let detail = "is exclusively used to delete corrupt object(s), try again by removing this option";
    Status::invalid(
        &GroupKind::new(resource.group.as_str(), resource.resource.as_str()),
        &call.info.name,
        vec![field::invalid(&Path::new(UNREADABLE), true, detail)],
    )
}

/// Asks admission whether `old` may be deleted.
async fn admit(
    call: &Call,
    namespace: &str,
    name: &str,
    options: &Options,
    old: &Object,
) -> Result<(), Status> {
    let write_options =
        WriteOptions { dry_run: options.dry_run, deletion: options.given.clone(), ..WriteOptions::default() };
    let mut request = call.admission(Operation::Delete, &write_options, None, Some(old));
    (request.name, request.namespace, request.subresource) = (name, namespace, "");
    call.server.admission.admit(&mut request).await?;
    call.server.admission.validate(&mut request).await?;
    call.warn(request.warnings);
    Ok(())
}

/// Warns a client that leaves dependents behind without having asked for it.
fn warn_of_dependents(call: &Call, options: &Options) {
    if let Dependents::Kept(warning) = call.resource.descriptor.dependents
        && options.orphan.is_none()
        && options.propagation.is_none()
        && !warning.is_empty()
    {
        call.warn([warning.to_owned()]);
    }
}

/// Deletes another object of the call's resource with `options` (DeleteOptions), on behalf of the call.
pub(crate) async fn remove(call: &Call, namespace: &str, name: &str, options: &Value) -> Result<(), Status> {
    let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
    let options = Options::checked(options, grace)?;
    one(call, namespace, name, &options).await.map(|_| ())
}

/// Whether `object` is as the preconditions of `options` (DeleteOptions) want it.
///
/// # Errors
/// 409 where it is not.
pub(crate) fn check_deletion(call: &Call, options: &Value, object: &Object) -> Result<(), Status> {
    check_preconditions(call, object.name(), &Options::checked(options, None)?, object)
}

/// Deletes one object, or starts to.
async fn one(call: &Call, namespace: &str, name: &str, options: &Options) -> Result<Outcome, Status> {
    let (server, resource) = (&call.server, &call.resource);
    loop {
        let Some(kv) = server.storage.read(resource, namespace, name).await? else {
            return Err(Status::not_found(&resource.group_resource, name));
        };
        let old = storage::stored(resource, &kv).await?;
        check_preconditions(call, name, options, &old.object)?;
        admit(call, namespace, name, options, &old.object).await?;
        let outcome = match step(call, options, &old) {
            Step::Pending => Some(Outcome::Waiting(old)),
            Step::Update(object) if options.dry_run => {
                Some(Outcome::Waiting(super::create::unstored(object)))
            }
            Step::Update(object) => {
                let stored = server.storage.replace(resource, namespace, name, old.revision, object).await?;
                if let Some(stored) = &stored {
                    resource.rest.after(call, Some(&stored.object), Some(&old.object)).await;
                }
                stored.map(Outcome::Waiting)
            }
            Step::Remove(object) if options.dry_run => Some(Outcome::Gone(object)),
            Step::Remove(object) => {
                let freed = resource.rest.claims(call, None, Some(&old.object)).await?;
                match server.storage.delete_with(resource, namespace, name, old.revision, freed).await? {
                    Some(_) => {
                        resource.rest.after(call, None, Some(&old.object)).await;
                        Some(Outcome::Gone(object))
                    }
                    None => None,
                }
            }
        };
        // None: someone wrote meanwhile; look again.
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
}

enum Step {
    Remove(Object),
    Update(Object),
    Pending,
}

/// What the request does to the object as it is now.
fn step(call: &Call, options: &Options, old: &Stored) -> Step {
    let now = call.server.clock.now();
    let stamp = write::timestamp(now);
    match call.resource.rest.deletion(&old.object, &stamp) {
        Deletion::Usual => {}
        Deletion::Update(object) => return Step::Update(object),
        Deletion::Pending => return Step::Pending,
    }
    let mut object = old.object.clone();
    let deleting = old.object.deletion_timestamp();
    let mut marked = false;
    let mut grace = None;
    if call.resource.descriptor.graceful_deletion {
        match (deleting, old.object.deletion_grace_period_seconds()) {
            (Some(at), Some(present)) if present > 0 => match options.grace {
                // Only a shorter period may be asked for once the deletion has begun.
                Some(asked) if asked < present => {
                    let asked = asked.max(0);
                    let from = jiff::Timestamp::from_second(at.as_second() - present).unwrap_or(now);
                    mark(&mut object, &write::timestamp(later(from, asked)), asked);
                    marked = true;
                    grace = Some(asked);
                }
                _ => return Step::Pending,
            },
            (Some(_), _) => {}
            (None, _) => {
                grace = call.resource.descriptor.hooks.deletion_grace_period(&object.0, options.grace);
                if let Some(seconds) = grace {
                    mark(&mut object, &write::timestamp(later(now, seconds)), seconds);
                    write::next_generation(&mut object);
                    marked = true;
                }
            }
        }
    }
    let present = old.object.finalizers();
    let finalizers = options.finalizers(&present, call.resource.descriptor.dependents);
    let pending = !finalizers.is_empty();
    if finalizers != present {
        if pending {
            object.metadata_mut().insert("finalizers".into(), finalizers.into());
        } else {
            object.metadata_mut().remove("finalizers");
        }
    }
    if pending {
        if deleting.is_none() && !marked {
            mark(&mut object, &stamp, 0);
            write::next_generation(&mut object);
        }
        return if ownership::same(&object, &old.object) { Step::Pending } else { Step::Update(object) };
    }
    match grace {
        Some(seconds) if seconds > 0 => Step::Update(object),
        _ => Step::Remove(object),
    }
}

/// So many seconds after `from`, or the end of time.
fn later(from: jiff::Timestamp, seconds: i64) -> jiff::Timestamp {
    from.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX)
}

fn mark(object: &mut Object, at: &str, grace: i64) {
    let metadata = object.metadata_mut();
    metadata.insert("deletionTimestamp".into(), at.into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn check_preconditions(call: &Call, name: &str, options: &Options, object: &Object) -> Result<(), Status> {
    // Upstream has the kind in the place of the resource here.
    let kind = call.resource.descriptor.group_kind();
    let resource = &GroupResource::new(kind.group, kind.kind);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object.uid()) {
        return Err(Status::conflict(
            resource,
            name,
            format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have \
                 been deleted and then recreated",
                object.uid()
            ),
        ));
    }
    if let Some(revision) = options.revision.as_deref().filter(|r| *r != object.resource_version()) {
        return Err(Status::conflict(
            resource,
            name,
            format!(
                "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in \
                 record ({}). The object might have been modified",
                object.resource_version()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_decides_on_the_finalizers() {
        let options =
            |policy: Option<&str>| Options { propagation: policy.map(str::to_owned), ..Options::default() };
        for (policy, present, left) in [
            (None, &["x"][..], &["x"][..]),
            (None, &["orphan"], &["orphan"]),
            (Some("Background"), &["x", "orphan"], &["x"]),
            (Some("Orphan"), &["x", "foregroundDeletion"], &["x", "orphan"]),
            (Some("Foreground"), &[], &["foregroundDeletion"]),
        ] {
            assert_eq!(options(policy).finalizers(present, Dependents::Collected), left, "{policy:?}");
        }
    }

    #[test]
    fn kinds_older_than_garbage_collection_leave_their_dependents() {
        let kept = Dependents::Kept("");
        for (policy, present, left) in [
            (None, &["x"][..], &["x", "orphan"][..]),
            (None, &["foregroundDeletion"], &["foregroundDeletion"]),
            (Some("Background"), &["x"], &["x"]),
        ] {
            let options = Options { propagation: policy.map(str::to_owned), ..Options::default() };
            assert_eq!(options.finalizers(present, kept), left, "{policy:?}");
        }
    }

    #[test]
    fn admission_is_shown_what_was_asked_for() {
        let given = |options: Value| {
            let grace = options["gracePeriodSeconds"].as_i64();
            Options::checked(&options, grace).unwrap().given
        };
        assert_eq!(given(json!({"dryRun": [], "propagationPolicy": null})), json!({}));
        let all = json!({"dryRun": ["All"], "gracePeriodSeconds": 0, "propagationPolicy": "Orphan",
            "preconditions": {"uid": "u"}});
        assert_eq!(given(all.clone()), all);
    }

    #[test]
    fn no_grace_period_is_too_long_to_add() {
        let now: jiff::Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(write::timestamp(later(now, 30)), "2026-11-21T10:00:30Z");
        assert_eq!(later(now, i64::MAX), jiff::Timestamp::MAX);
    }

    #[test]
    fn what_is_unreadable_is_deleted_without_other_options() {
        let given = json!({UNREADABLE: true});
        let options = Options::checked(&given, None).unwrap();
        assert!(options.unreadable);
        assert_eq!(options.given, given, "admission is shown it");
        for (other, grace) in [
            (json!({"dryRun": ["All"]}), None),
            (json!({"propagationPolicy": "Background"}), None),
            (json!({"orphanDependents": false}), None),
            (json!({}), Some(0)),
            (json!({"preconditions": {}}), None),
        ] {
            let mut all = other.clone();
            all[UNREADABLE] = true.into();
            let refused = Options::checked(&all, grace).unwrap_err();
            assert_eq!(refused.code, 422, "{other}");
            assert!(refused.message.contains("cannot be set together with ."), "{}", refused.message);
            all[UNREADABLE] = false.into();
            Options::checked(&all, grace).unwrap();
        }
        let all = json!({UNREADABLE: true, "dryRun": ["All"], "orphanDependents": true, "preconditions": {}});
        assert_eq!(Options::checked(&all, Some(1)).unwrap_err().details.unwrap().causes.len(), 4);
    }

    #[test]
    fn contradicting_options_are_refused() {
        let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
        assert_eq!(Options::checked(&both, None).unwrap_err().code, 422);
        assert_eq!(Options::checked(&json!({"propagationPolicy": "Up"}), None).unwrap_err().code, 422);
    }
}
