//! The fake's objects: a map of JSON values, a counter of revisions and the list of everything that happened.

use std::collections::BTreeMap;

use api::selector::{fields, labels};
use api::{GroupResource, Status};
use serde_json::{Value, json};

/// What a path names.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `/api/v1` or `/apis/<group>/<version>`.
    root: String,
    plural: String,
    namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Place {
    pub(super) fn parse(path: &str) -> Option<Place> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let (root, mut rest) = match parts.first()?.as_str() {
            "api" if parts.len() >= 2 => (parts[..2].join("/"), &parts[2..]),
            "apis" if parts.len() >= 3 => (parts[..3].join("/"), &parts[3..]),
            _ => return None,
        };
        let mut namespace = None;
        // /namespaces/<name>/<plural>... is inside a namespace; /namespaces[/<name>[/status|/finalize]] is about one.
        if rest.first().is_some_and(|part| part == "namespaces")
            && rest.len() >= 3
            && !(rest.len() == 3 && matches!(rest[2].as_str(), "status" | "finalize"))
        {
            namespace = Some(rest[1].clone());
            rest = &rest[2..];
        }
        Some(Place {
            root,
            plural: rest.first()?.clone(),
            namespace,
            name: rest.get(1).cloned(),
            subresource: rest.get(2).cloned(),
        })
    }

    /// The place of one object of this collection.
    pub(super) fn of(&self, object: &Value) -> Place {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Place { namespace: text("/metadata/namespace"), name: text("/metadata/name"), ..self.clone() }
    }

    fn resource(&self) -> GroupResource {
        let group =
            self.root.strip_prefix("apis/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        GroupResource::new(group, self.plural.as_str())
    }

    fn key(&self) -> String {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        format!("{}/{}/{namespace}/{}", self.root, self.plural, self.name.as_deref().unwrap_or_default())
    }

    /// The start of the keys of the collection.
    fn prefix(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{}/{namespace}/", self.root, self.plural),
            None => format!("{}/{}/", self.root, self.plural),
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).collect()
}

pub(super) enum Outcome {
    Object(Value),
    Created(Value),
}

/// A watch that is running.
pub(super) struct Watcher {
    prefix: String,
    next: usize,
    epoch: u64,
    select: Select,
    bookmarked: bool,
}

struct Select {
    labels: labels::Selector,
    fields: fields::Selector,
}

impl Select {
    fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Select, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        Ok(Select {
            labels: labels::Selector::parse(labels.unwrap_or_default()).map_err(|error| bad(&error))?,
            fields: fields::Selector::parse(fields.unwrap_or_default()).map_err(|error| bad(&error))?,
        })
    }

    fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
        // Any field that holds a string can be selected; an absent one is empty.
        let field = |path: &str| -> Option<&str> {
            let value = path.split('.').try_fold(object, |value, key| value.get(key));
            Some(value.and_then(Value::as_str).unwrap_or_default())
        };
        self.labels.matches_with(label) && self.fields.matches(field)
    }
}

struct Happened {
    key: String,
    kind: &'static str,
    object: Value,
    /// The object before, for watches whose selector it no longer matches.
    before: Option<Value>,
    revision: u64,
}

#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<String, Value>,
    history: Vec<Happened>,
    /// What `history` lost at its front.
    forgotten: usize,
    compacted: u64,
    /// Running watches of an earlier epoch end.
    epoch: u64,
    revision: u64,
    names: u64,
    pub(super) paused: bool,
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    fn happened(
        &mut self,
        key: String,
        kind: &'static str,
        mut object: Value,
        before: Option<Value>,
    ) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        self.history.push(Happened { key, kind, object: object.clone(), before, revision: self.revision });
        object
    }

    pub(super) fn get(&self, place: &Place) -> Result<Value, Status> {
        let name = place.name.as_deref().unwrap_or_default();
        self.objects.get(&place.key()).cloned().ok_or_else(|| Status::not_found(&place.resource(), name))
    }

    pub(super) fn list(&self, place: &Place) -> Vec<Value> {
        let prefix = place.prefix();
        let from = self.objects.range(prefix.clone()..);
        from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn select(
        &self,
        place: &Place,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        let select = Select::parse(labels, fields)?;
        Ok(self.list(place).into_iter().filter(|object| select.matches(object)).collect())
    }

    pub(super) fn create(&mut self, place: &Place, mut object: Value) -> Result<Value, Status> {
        let meta = object
            .as_object_mut()
            .ok_or_else(|| Status::bad_request("the body is no object"))?
            .entry("metadata")
            .or_insert_with(|| json!({}));
        if meta["name"].as_str().unwrap_or_default().is_empty() {
            self.names += 1;
            let prefix = meta["generateName"].as_str().unwrap_or_default();
            meta["name"] = json!(format!("{prefix}{:05}", self.names));
        }
        if let Some(namespace) = &place.namespace {
            meta["namespace"] = json!(namespace);
        }
        if meta["uid"].as_str().unwrap_or_default().is_empty() {
            self.names += 1;
            meta["uid"] = json!(format!("uid-{}", self.names));
        }
        if meta.get("creationTimestamp").is_none_or(Value::is_null) {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        meta["generation"] = json!(meta["generation"].as_i64().unwrap_or(1));
        let place = place.of(&object);
        let key = place.key();
        if self.objects.contains_key(&key) {
            return Err(Status::already_exists(&place.resource(), place.name.as_deref().unwrap_or_default()));
        }
        Ok(self.happened(key, "ADDED", object, None))
    }

    pub(super) fn update(&mut self, place: &Place, mut new: Value) -> Result<Value, Status> {
        let old = self.get(place)?;
        let wanted = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !wanted.is_empty() && old["metadata"]["resourceVersion"] != wanted {
            return Err(Status::conflict(
                &place.resource(),
                place.name.as_deref().unwrap_or_default(),
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        match place.subresource.as_deref() {
            Some("status") => {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            Some("finalize") => {
                let finalizers = new["spec"]["finalizers"].take();
                new = old.clone();
                new["spec"]["finalizers"] = finalizers;
            }
            _ => {
                if let Some(status) = old.get("status") {
                    new["status"] = status.clone();
                }
            }
        }
        self.store(place, old, new)
    }

    /// Stores `new` over `old`: counts the generation, keeps what nobody may change, and removes the object if it was
    /// only waiting for its finalizers.
    fn store(&mut self, place: &Place, old: Value, mut new: Value) -> Result<Value, Status> {
        for kept in ["uid", "creationTimestamp", "generation", "deletionTimestamp"] {
            match old["metadata"].get(kept) {
                Some(value) => new["metadata"][kept] = value.clone(),
                None => drop(new["metadata"].as_object_mut().and_then(|meta| meta.remove(kept))),
            }
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == old {
            return Ok(old);
        }
        if new.get("spec") != old.get("spec") {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
        let done = !new["metadata"]["deletionTimestamp"].is_null()
            && empty(&new["metadata"]["finalizers"])
            && empty(&new["spec"]["finalizers"]);
        let kind = if done { "DELETED" } else { "MODIFIED" };
        Ok(self.happened(place.key(), kind, new, Some(old)))
    }

    pub(super) fn patch(
        &mut self,
        place: &Place,
        patch: &Value,
        content_type: &str,
    ) -> Result<Value, Status> {
        let old = self.get(place)?;
        let mut new = old.clone();
        match content_type {
            // Good enough for what tests do: lists are replaced whole.
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                merge(&mut new, patch)
            }
            "application/json-patch+json" => operate(&mut new, patch)?,
            other => return Err(Status::unsupported_media_type(format!("the fake knows no {other}"))),
        }
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
            || new["metadata"]["uid"] != old["metadata"]["uid"]
        {
            return Err(Status::conflict(
                &place.resource(),
                place.name.as_deref().unwrap_or_default(),
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        if place.subresource.as_deref() != Some("status") && old.get("status").is_some() {
            new["status"] = old["status"].clone();
        }
        self.store(place, old, new)
    }

    pub(super) fn delete(&mut self, place: &Place, options: &Value) -> Result<Value, Status> {
        let old = self.get(place)?;
        let name = place.name.as_deref().unwrap_or_default();
        for field in ["uid", "resourceVersion"] {
            let want = options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str);
            if let Some(want) = want
                && old["metadata"][field] != want
            {
                let have = old["metadata"][field].as_str().unwrap_or_default();
                let message = format!(
                    "the {} in the precondition ({want}) does not match the {} in record ({have}). The object might \
                     have been deleted and then recreated",
                    if field == "uid" { "UID" } else { "ResourceVersion" },
                    if field == "uid" { "UID" } else { "ResourceVersion" },
                );
                return Err(Status::conflict(&place.resource(), name, message));
            }
        }
        let mut new = old.clone();
        let extra = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let listed = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut finalizers = listed(&new["metadata"]["finalizers"]);
        if let Some(extra) = extra
            && !finalizers.iter().any(|finalizer| finalizer == extra)
        {
            finalizers.push(json!(extra));
        }
        let waits = !finalizers.is_empty() || !listed(&new["spec"]["finalizers"]).is_empty();
        if !waits {
            return Ok(self.happened(place.key(), "DELETED", old.clone(), Some(old)));
        }
        new["metadata"]["finalizers"] = json!(finalizers);
        if new["metadata"]["deletionTimestamp"].is_null() {
            new["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            new["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if place.plural == "namespaces" {
                new["status"]["phase"] = json!("Terminating");
            }
        }
        if new == old {
            return Ok(old);
        }
        Ok(self.happened(place.key(), "MODIFIED", new, Some(old)))
    }

    pub(super) fn subresource(&mut self, place: &Place, body: &Value) -> Result<Outcome, Status> {
        match place.subresource.as_deref() {
            Some("binding") => {
                let object = Place { subresource: None, ..place.clone() };
                let old = self.get(&object)?;
                let mut new = old.clone();
                new["spec"]["nodeName"] = body["target"]["name"].clone();
                self.store(&object, old, new)?;
            }
            Some("eviction") => {
                let object = Place { subresource: None, ..place.clone() };
                self.delete(&object, &body["deleteOptions"])?;
            }
            other => return Err(Status::bad_request(format!("the fake knows no subresource {other:?}"))),
        }
        Ok(Outcome::Created(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201})))
    }

    pub(super) fn watcher(
        &self,
        place: Place,
        from: u64,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Watcher, Status> {
        if from < self.compacted {
            return Err(Status::expired(format!("too old resource version: {from} ({})", self.compacted)));
        }
        let skip = self.history.iter().take_while(|event| event.revision <= from).count();
        let select = Select::parse(labels, fields)?;
        let (prefix, next) = (place.prefix(), self.forgotten + skip);
        Ok(Watcher { prefix, next, epoch: self.epoch, select, bookmarked: false })
    }

    /// The next event for a watch: `None` ends the watch, `Some(None)` is nothing yet.
    pub(super) fn next_event(&self, watcher: &mut Watcher) -> Option<Option<Value>> {
        if watcher.epoch != self.epoch {
            return None;
        }
        if self.paused {
            return Some(None);
        }
        if watcher.next < self.forgotten && !watcher.bookmarked {
            watcher.bookmarked = true;
            let status = Status::expired("too old resource version").to_json();
            return Some(Some(json!({"type": "ERROR", "object": status})));
        }
        while let Some(event) = self.history.get(watcher.next - self.forgotten.min(watcher.next)) {
            watcher.next += 1;
            if !event.key.starts_with(&watcher.prefix) {
                continue;
            }
            let before = event.before.as_ref().is_some_and(|object| watcher.select.matches(object));
            let now = event.kind != "DELETED" && watcher.select.matches(&event.object);
            let kind = match (before, now) {
                (false, false) => continue,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            };
            return Some(Some(json!({"type": kind, "object": event.object})));
        }
        Some(None)
    }

    pub(super) fn compact(&mut self, cut: bool) {
        self.forgotten += self.history.len();
        self.history.clear();
        self.compacted = self.revision;
        if cut {
            self.epoch += 1;
        }
    }
}

/// The operations of RFC 6902 that our controllers use: `test` and `remove`.
fn operate(target: &mut Value, operations: &Value) -> Result<(), Status> {
    for operation in operations.as_array().into_iter().flatten() {
        let path = operation["path"].as_str().unwrap_or_default();
        match operation["op"].as_str() {
            Some("test") if target.pointer(path) == Some(&operation["value"]) => {}
            Some("remove") => {
                let (parent, last) = path.rsplit_once('/').unwrap_or_default();
                match target.pointer_mut(parent) {
                    Some(Value::Array(list)) => drop(list.remove(last.parse().unwrap_or(0))),
                    Some(Value::Object(map)) => drop(map.remove(last)),
                    _ => return Err(Status::bad_request(format!("no {path}"))),
                }
            }
            _ => return Err(Status::bad_request(format!("{operation} does not apply"))),
        }
    }
    Ok(())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}
