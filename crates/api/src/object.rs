//! The untyped form of an object, with accessors for the metadata the engine needs.
//! Not here: what a kind's fields mean (see [`crate::kinds`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::meta::OwnerReference;

/// A whole object as JSON. Accessors never fail: a missing or ill-typed field reads as absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Value);

impl Object {
    fn meta(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata")?.as_object()
    }

    fn meta_str(&self, field: &str) -> Option<&str> {
        self.meta()?.get(field)?.as_str()
    }

    /// `metadata.name`, empty when unset.
    pub fn name(&self) -> &str {
        self.meta_str("name").unwrap_or_default()
    }

    /// `metadata.generateName`, empty when unset.
    pub fn generate_name(&self) -> &str {
        self.meta_str("generateName").unwrap_or_default()
    }

    /// `metadata.namespace`; `None` when unset or empty, as for cluster-scoped objects.
    pub fn namespace(&self) -> Option<&str> {
        self.meta_str("namespace").filter(|namespace| !namespace.is_empty())
    }

    /// `metadata.uid`, empty when unset.
    pub fn uid(&self) -> &str {
        self.meta_str("uid").unwrap_or_default()
    }

    /// `metadata.resourceVersion`, empty when unset.
    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion").unwrap_or_default()
    }

    /// `metadata.generation`, 0 when unset.
    pub fn generation(&self) -> i64 {
        self.meta().and_then(|meta| meta.get("generation")?.as_i64()).unwrap_or(0)
    }

    /// `metadata.creationTimestamp`.
    pub fn creation_timestamp(&self) -> Option<Timestamp> {
        self.meta_str("creationTimestamp")?.parse().ok()
    }

    /// `metadata.deletionTimestamp`.
    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        self.meta_str("deletionTimestamp")?.parse().ok()
    }

    /// `metadata.deletionGracePeriodSeconds`.
    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.meta()?.get("deletionGracePeriodSeconds")?.as_i64()
    }

    /// `apiVersion`, empty when unset.
    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// `kind`, empty when unset.
    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// Group, version and kind; `None` when `apiVersion` is not well formed.
    pub fn group_version_kind(&self) -> Option<GroupVersionKind> {
        Some(GroupVersion::parse(self.api_version())?.with_kind(self.kind()))
    }

    fn string_map(&self, field: &str) -> BTreeMap<String, String> {
        self.pairs(field).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn pairs<'a>(&'a self, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.meta()
            .and_then(|meta| meta.get(field)?.as_object())
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// `metadata.labels`, copied; for one label use [`Object::label`].
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.string_map("labels")
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.meta()?.get("labels")?.get(key)?.as_str()
    }

    /// `metadata.annotations`, copied; for one annotation use [`Object::annotation`].
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.string_map("annotations")
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.meta()?.get("annotations")?.get(key)?.as_str()
    }

    /// `metadata.ownerReferences`.
    pub fn owner_references(&self) -> Vec<OwnerReference> {
        self.meta()
            .and_then(|meta| meta.get("ownerReferences")?.as_array())
            .into_iter()
            .flatten()
            .filter_map(|reference| OwnerReference::deserialize(reference).ok())
            .collect()
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> Vec<&str> {
        self.meta()
            .and_then(|meta| meta.get("finalizers")?.as_array())
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// `metadata` for writing; made when absent. A body that is not an object is replaced by one.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        metadata_mut(&mut self.0)
    }

    /// The JSON inside.
    pub fn into_value(self) -> Value {
        self.0
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

/// `metadata` of a whole object given as a bare value, made when absent.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_object(child_object_of(object), "metadata")
}

fn child_object_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

fn child_object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    child_object_of(map.entry(key).or_insert_with(|| Value::Object(Map::new())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accessors_read_metadata() {
        let object = Object(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "7",
                "generation": 3, "labels": {"app": "web"}, "finalizers": ["x/y"],
                "deletionTimestamp": "2024-01-02T03:04:05Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1"}]}
        }));
        assert_eq!(object.name(), "web");
        assert_eq!(object.namespace(), Some("default"));
        assert_eq!(object.generation(), 3);
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(object.finalizers(), ["x/y"]);
        assert_eq!(object.owner_references()[0].name, "p");
        assert_eq!(object.deletion_timestamp().unwrap().as_second(), 1_704_164_645);
        assert_eq!(object.group_version_kind().unwrap().to_string(), "apps/v1, Kind=Deployment");
    }

    #[test]
    fn an_empty_object_reads_as_absent_and_can_be_written() {
        let mut object = Object::default();
        assert_eq!((object.name(), object.namespace(), object.generation()), ("", None, 0));
        object.metadata_mut().insert("name".into(), "x".into());
        assert_eq!(object.name(), "x");
    }
}
