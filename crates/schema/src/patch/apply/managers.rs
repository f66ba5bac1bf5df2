//! `metadata.managedFields`: who owns which fields, by manager, operation, version and subresource.
//! Upstream: apimachinery `pkg/util/managedfields/internal`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Writer;
use super::set::Set;
use super::versions::Differences;

/// Updating managers that are told apart; what the oldest beyond them own is merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager into which they merge.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// How a manager came to own its fields. The order is that of the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) subresource: String,
    pub(super) fields: Set,
}

impl Entry {
    /// Whether both are of one manager. Who applies is one manager in all versions.
    fn is_same(&self, manager: &str, operation: Operation, version: &str, subresource: &str) -> bool {
        self.manager == manager
            && self.operation == operation
            && self.subresource == subresource
            && (operation == Operation::Apply || self.api_version == version)
    }

    /// As conflicts name the manager.
    fn describe(&self) -> String {
        let mut text = api::field::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", api::field::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        Some(Self {
            manager: text("manager").unwrap_or_default().into(),
            operation: match text("operation")? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion")?.into(),
            time: text("time").map(String::from),
            subresource: text("subresource").unwrap_or_default().into(),
            fields: Set::from_json(entry.get("fieldsV1").unwrap_or(&Value::Object(Map::new())))?,
        })
    }

    fn write(mut self) -> Value {
        let fields = std::mem::take(&mut self.fields).into_json();
        self.write_with(fields)
    }

    /// With these as its fields.
    fn write_with(self, fields: Value) -> Value {
        let mut entry = Map::new();
        entry.insert("apiVersion".into(), self.api_version.into());
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), fields);
        if !self.manager.is_empty() {
            entry.insert("manager".into(), self.manager.into());
        }
        entry.insert("operation".into(), self.operation.as_str().into());
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.into());
        }
        if let Some(time) = self.time {
            entry.insert("time".into(), time.into());
        }
        Value::Object(entry)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// The entries of an object. One that cannot be read makes all of them void, as upstream does.
    pub(super) fn of(object: &Value) -> Self {
        Self::read(object.pointer("/metadata/managedFields"))
    }

    /// The entries that a `managedFields` has.
    pub(super) fn read(managed_fields: Option<&Value>) -> Self {
        let entries = managed_fields.and_then(Value::as_array);
        Self(entries.and_then(|entries| entries.iter().map(Entry::read).collect()).unwrap_or_default())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, writer: &Writer<'_>, operation: Operation, version: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.is_same(writer.manager, operation, version, writer.subresource))
    }

    /// Puts an entry in place of the manager's former one.
    pub(super) fn set(&mut self, entry: Entry) {
        self.0.retain(|old| {
            !old.is_same(&entry.manager, entry.operation, &entry.api_version, &entry.subresource)
        });
        self.0.push(entry);
        self.sort();
    }

    fn sort(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.0.sort_by_cached_key(|entry| {
            let Entry { operation, time, manager, api_version, subresource, .. } = entry;
            (*operation, time.clone(), manager.clone(), api_version.clone(), subresource.clone())
        });
    }

    /// What all who apply own together, in one version.
    pub(super) fn applied(&self, version: &str) -> Set {
        self.0
            .iter()
            .filter(|entry| entry.operation == Operation::Apply && entry.api_version == version)
            .fold(Set::default(), |mut all, entry| {
                all.absorb(entry.fields.clone());
                all
            })
    }

    /// The versions in which somebody applied.
    pub(super) fn applied_versions(&self) -> BTreeSet<String> {
        let applied = self.0.iter().filter(|entry| entry.operation == Operation::Apply);
        applied.map(|entry| entry.api_version.clone()).collect()
    }

    /// The versions of all entries, and this one.
    pub(super) fn versions_and(&self, version: &str) -> BTreeSet<String> {
        let all = self.0.iter().map(|entry| entry.api_version.as_str()).chain([version]);
        all.map(str::to_owned).collect()
    }

    /// Whether nobody wrote in another version than this.
    pub(super) fn are_all_of(&self, version: &str) -> bool {
        self.0.iter().all(|entry| entry.api_version == version)
    }

    /// Keeps the entries of these versions.
    pub(super) fn retain_versions(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|entry| keep(&entry.api_version));
    }

    fn others<'a>(
        &'a mut self,
        writer: &'a Writer<'_>,
        operation: Operation,
        version: &'a str,
    ) -> impl Iterator<Item = &'a mut Entry> {
        let own = move |entry: &Entry| entry.is_same(writer.manager, operation, version, writer.subresource);
        self.0.iter_mut().filter(move |entry| !own(entry))
    }

    /// The fields of other managers that a change touches, by manager; `version` is that of the writer.
    pub(super) fn conflicts(
        &self,
        writer: &Writer<'_>,
        operation: Operation,
        version: &str,
        differences: &Differences,
    ) -> Vec<(String, Set)> {
        let mut all = self.clone();
        let mut conflicts: Vec<(String, Set)> = all
            .others(writer, operation, version)
            .filter_map(|entry| {
                let changed = differences.get(&entry.api_version)?.added_or_modified();
                Some((entry.describe(), std::mem::take(&mut entry.fields).intersection(&changed)))
            })
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        conflicts.sort_by(|(a, _), (b, _)| a.cmp(b));
        conflicts
    }

    /// Other managers lose what a change touches or removes.
    pub(super) fn give_up(
        &mut self,
        writer: &Writer<'_>,
        operation: Operation,
        version: &str,
        differences: &Differences,
    ) {
        for entry in self.others(writer, operation, version) {
            let Some(difference) = differences.get(&entry.api_version) else { continue };
            for lost in [&difference.added, &difference.modified, &difference.removed] {
                entry.fields = std::mem::take(&mut entry.fields).difference(lost);
            }
        }
        self.sort();
    }

    /// Records that a manager wrote just now.
    pub(super) fn touch(&mut self, writer: &Writer<'_>, operation: Operation, version: &str) {
        for entry in &mut self.0 {
            if entry.is_same(writer.manager, operation, version, writer.subresource) {
                entry.time = Some(writer.now.to_owned());
            }
        }
        self.sort();
    }

    /// Sets the entries of an object.
    pub(super) fn write(mut self, object: &mut Value) {
        self.cap();
        let entries: Vec<Value> = self.0.into_iter().map(Entry::write).collect();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && !entries.is_empty()
        {
            meta.insert("managedFields".into(), Value::Array(entries));
        }
    }

    /// Makes the writer the one who owns `fields` of a new object.
    pub(super) fn write_first(object: &mut Value, writer: &Writer<'_>, fields: Map<String, Value>) {
        let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && !fields.is_empty()
        {
            let entry = Entry {
                manager: writer.manager.into(),
                operation: Operation::Update,
                api_version: version,
                time: Some(writer.now.into()),
                subresource: writer.subresource.into(),
                fields: Set::default(),
            };
            let entry = entry.write_with(Value::Object(fields));
            meta.insert("managedFields".into(), Value::Array(vec![entry]));
        }
    }

    /// Merges the oldest updating managers until there are few enough. In one pass: a client may send any number.
    fn cap(&mut self) {
        let is_update = |entry: &Entry| entry.operation == Operation::Update;
        let mut updates = self.0.iter().filter(|entry| is_update(entry)).count();
        if updates <= MAX_UPDATE_MANAGERS {
            return;
        }
        let mut ancient: BTreeMap<String, Entry> = BTreeMap::new();
        let mut kept = Vec::new();
        for entry in std::mem::take(&mut self.0) {
            if entry.manager == ANCIENT_CHANGES && !ancient.contains_key(&entry.api_version) {
                ancient.insert(entry.api_version.clone(), entry);
            } else {
                kept.push(entry);
            }
        }
        // Sorted by time: the oldest come first.
        for entry in kept {
            if updates <= MAX_UPDATE_MANAGERS || !is_update(&entry) || entry.manager == ANCIENT_CHANGES {
                self.0.push(entry);
                continue;
            }
            match ancient.get_mut(&entry.api_version) {
                Some(merged) => {
                    merged.fields.absorb(entry.fields);
                    merged.time = entry.time;
                    updates -= 1;
                }
                None => {
                    let merged =
                        Entry { manager: ANCIENT_CHANGES.into(), subresource: String::new(), ..entry };
                    ancient.insert(merged.api_version.clone(), merged);
                }
            }
        }
        self.0.extend(ancient.into_values());
        self.sort();
    }
}
