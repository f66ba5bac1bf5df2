//! CustomResourceDefinitions: served from the moment they are stored, until they are deleted.
//!
//! Names are accepted, and the conditions set, in the request that creates or changes the definition; the
//! same request puts its resources into the registry. When it is deleted its objects go with it.
//! Not here: CEL rules, conversion webhooks; a definition that asks for a webhook is refused.
//! Upstream: apiextensions-apiserver/pkg/controller/{status,establish,finalizer}.

use std::sync::Arc;

use api::field::{self, ErrorList, Path};
use api::{GroupVersionResource, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::{Op, Range, Txn, prefix_end};

use super::{Rest, Undo, custom};
use crate::engine::{Call, timestamp};
use crate::server::Server;
use crate::storage;

/// `customresourcedefinitions`.
pub(super) struct Definitions;

#[async_trait]
impl Rest for Definitions {
    async fn before_create(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        accept(&call.server, object, None);
        Ok(Undo::nothing())
    }

    async fn before_update(&self, call: &Call, new: &mut Object, old: &Object) -> Result<Undo, Status> {
        accept(&call.server, new, Some(old));
        Ok(Undo::nothing())
    }

    async fn check(&self, call: &Call, new: &Object, _: Option<&Object>) -> Result<(), Status> {
        let errors = validate(new);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&call.resource.descriptor.group_kind(), new.name(), errors))
    }

    async fn after(&self, call: &Call, new: Option<&Object>, old: Option<&Object>) {
        let server = &call.server;
        if let (Some(new), Some(old)) = (new, old)
            && new.0["spec"] == old.0["spec"]
            && established(new) == established(old)
        {
            return;
        }
        if let Some(old) = old {
            withdraw(server, old);
        }
        match new {
            Some(new) => serve(server, new),
            None => {
                if let Some(old) = old
                    && let Err(error) = empty(server, old).await
                {
                    tracing::error!(definition = old.name(), %error, "objects of a deleted kind remain in the store");
                }
            }
        }
    }
}

/// Serves every definition that is stored already.
pub(crate) async fn load(server: &Server) -> Result<(), Status> {
    let resource = server
        .registry
        .table()
        .get("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        .cloned()
        .ok_or_else(|| Status::internal("CustomResourceDefinitions are not served"))?;
    let found =
        server.storage.0.range(Range::prefix(resource.view.prefix.clone())).await.map_err(storage::status)?;
    for kv in found.kvs {
        serve(server, &resource.decode(&kv.value)?);
    }
    Ok(())
}

fn established(definition: &Object) -> bool {
    let conditions = definition.0["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// Puts the definition's resources into the registry.
fn serve(server: &Server, definition: &Object) {
    if !established(definition) {
        return;
    }
    match custom::resources(definition) {
        Ok(resources) => resources.into_iter().for_each(|resource| server.registry.add(resource)),
        // Validation has read the schema before; only a definition stored by someone else comes here.
        Err(error) => {
            tracing::error!(definition = definition.name(), %error, "a definition cannot be served")
        }
    }
}

/// Takes the definition's resources out of the registry, and ends their watches.
fn withdraw(server: &Server, definition: &Object) {
    if !established(definition) {
        return;
    }
    let spec = &definition.0["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for version in spec["versions"].as_array().into_iter().flatten() {
        let resource = GroupVersionResource::new(
            text(&spec["group"]),
            text(&version["name"]),
            text(&spec["names"]["plural"]),
        );
        server.registry.remove(&resource);
    }
    server.hub.forget(&prefix(definition));
}

fn prefix(definition: &Object) -> bytes::Bytes {
    let spec = &definition.0["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("/registry/{}/{}/", text(&spec["group"]), text(&spec["names"]["plural"])).into()
}

/// Deletes the objects of a definition that is gone.
async fn empty(server: &Server, definition: &Object) -> Result<(), store::Error> {
    let start = prefix(definition);
    let end = prefix_end(&start);
    server.storage.0.txn(Txn::of(vec![Op::Delete { start, end }])).await.map(|_| ())
}

/// Fills in the names that may be left out, and the status.
fn accept(server: &Arc<Server>, object: &mut Object, old: Option<&Object>) {
    let now = timestamp(server.clock.now());
    let spec = &mut object.0["spec"];
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let absent = |value: &Value| value.as_str().unwrap_or_default().is_empty();
    if absent(&spec["names"]["singular"]) {
        spec["names"]["singular"] = kind.to_lowercase().into();
    }
    if absent(&spec["names"]["listKind"]) {
        spec["names"]["listKind"] = format!("{kind}List").into();
    }
    if spec["conversion"].is_null() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    let taken = conflict(server, spec, old);
    let storage = spec["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
    let storage = storage.map(|version| version["name"].clone()).unwrap_or_default();
    let names = spec["names"].clone();
    let before = old.map(|old| old.0["status"].clone()).unwrap_or_default();
    let mut versions = before["storedVersions"].as_array().cloned().unwrap_or_default();
    if !versions.contains(&storage) {
        versions.push(storage);
    }
    let accepted = match &taken {
        None => condition(&before, &now, "NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some(why) => condition(&before, &now, "NamesAccepted", false, "NamesConflict", why),
    };
    let was_established = old.is_some_and(established);
    let established = if taken.is_none() || was_established {
        let message = "the initial names have been accepted";
        condition(&before, &now, "Established", true, "InitialNamesAccepted", message)
    } else {
        condition(&before, &now, "Established", false, "NotAccepted", "not all names are accepted")
    };
    object.0["status"] = json!({
        "acceptedNames": if taken.is_none() { names } else { before["acceptedNames"].clone() },
        "storedVersions": versions,
        "conditions": [accepted, established],
    });
}

/// Why the names cannot be had: another resource of the group has one of them.
fn conflict(server: &Server, spec: &Value, old: Option<&Object>) -> Option<String> {
    let table = server.registry.table();
    let own = old
        .map(|old| old.0["spec"]["names"]["plural"].clone())
        .unwrap_or_else(|| spec["names"]["plural"].clone());
    let others = table.all().map(|r| &r.descriptor).filter(|d| *d.group == spec["group"]);
    // A definition of the same name is this one: two cannot be stored.
    let mut others = others.filter(|d| {
        *d.plural != own || !matches!(table.get(&d.group, &d.version, &d.plural), Some(r) if r.is_custom())
    });
    others.find_map(|d| {
        [("plural", &d.plural), ("kind", &d.kind), ("singular", &d.singular), ("listKind", &d.list_kind)]
            .into_iter()
            .find(|(field, name)| spec["names"][*field] == ***name)
            .map(|(_, name)| format!("\"{name}\" is already in use"))
    })
}

fn condition(before: &Value, now: &str, kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    let conditions = before["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions;
    let same = conditions.find(|c| c["type"] == kind && c["status"] == status);
    let since = same.map_or_else(|| now.into(), |c| c["lastTransitionTime"].clone());
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

fn validate(definition: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &definition.0["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    if definition.name() != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(field::invalid(&Path::new("metadata").child("name"), definition.name(), detail));
    }
    if !group.contains('.') {
        errors.push(field::invalid(&path.child("group"), group, "should be a domain with at least one dot"));
    }
    if !matches!(text(&spec["scope"]).as_str(), "Namespaced" | "Cluster") {
        errors.push(field::not_supported(
            &path.child("scope"),
            spec["scope"].clone(),
            &["Cluster", "Namespaced"],
        ));
    }
    for (name, rule) in [("plural", true), ("singular", true), ("kind", false), ("listKind", false)] {
        let value = text(&spec["names"][name]);
        let checked = if rule { value.clone() } else { value.to_lowercase() };
        let path = path.child("names").child(name);
        for message in api::names::is_dns1035_label(&checked) {
            errors.push(field::invalid(&path, value.as_str(), message));
        }
    }
    let conversion = text(&spec["conversion"]["strategy"]);
    if conversion != "None" {
        let path = path.child("conversion").child("strategy");
        errors.push(field::not_supported(&path, conversion, &["None"]));
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let path = path.child("versions");
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(field::invalid(&path, spec["versions"].clone(), detail));
    }
    for (at, version) in versions.iter().enumerate() {
        let path = path.index(at).child("schema").child("openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            errors.push(field::required(&path, "schemas are required"));
            continue;
        }
        if schema["type"] != "object" {
            errors.push(field::invalid(
                &path.child("type"),
                schema["type"].clone(),
                "must be object at the root",
            ));
        }
    }
    if errors.is_empty()
        && let Err(error) = custom::resources(definition)
    {
        errors.push(field::invalid(&path, "", error.to_string()));
    }
    errors
}
