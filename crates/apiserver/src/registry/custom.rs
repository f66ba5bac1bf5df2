//! A CustomResourceDefinition as what the engine serves: descriptors, schemas and hooks.
//!
//! Pure: from the object to the resources. Not here: when they are served (`apiextensions`), pruning,
//! defaults and validation by schema (`schema::structural`).
//! Upstream: apiextensions-apiserver/pkg/apiserver/customresource_handler.go.

mod json_path;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::field::{self, ErrorList, Path, quote};
use api::kind::{Column, Descriptor, Hooks, ScalePaths, Scope, SelectableField, Subresources, Text};
use api::names::is_qualified_name;
use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use async_trait::async_trait;
use jiff::Timestamp;
use schema::{Schema, Structural};
use serde_json::Value;

use super::conversion::{Asking, Webhook, go_type};
use super::{Resource, Rest, Undo, version_order};
use crate::engine::Call;
use json_path::JsonPath;

/// The finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 2] = ["orphan", "foregroundDeletion"];

/// What requests for the objects of one definition share.
#[derive(Default)]
pub(super) struct Instances {
    terminating: AtomicBool,
}

impl Instances {
    /// Those of a definition that is there to stay.
    pub(super) fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Whether the definition is being deleted, so that nothing new may be created.
    pub(super) fn set_terminating(&self, terminating: bool) {
        self.terminating.store(terminating, Ordering::Relaxed);
    }
}

#[async_trait]
impl Rest for Instances {
    fn reserves(&self) -> bool {
        true
    }

    async fn before_create(&self, call: &Call, _: &mut Object) -> Result<Undo, Status> {
        if self.terminating.load(Ordering::Relaxed) {
            let mut status = Status::method_not_supported(&call.resource.group_resource, "create");
            status.message = "create not allowed while custom resource definition is terminating".to_owned();
            return Err(status);
        }
        Ok(Undo::nothing())
    }

    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        call.warn(finalizer_warnings(new, old));
        Ok(())
    }
}

/// What is said of finalizers that this write adds.
fn finalizer_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let before: BTreeSet<&str> = old.map(Object::finalizers).into_iter().flatten().collect();
    let added: BTreeSet<&str> = new.finalizers().into_iter().filter(|name| !before.contains(name)).collect();
    let mut warnings = Vec::new();
    for name in added {
        let mut warn = |text: &str| warnings.push(format!("metadata.finalizers: {}: {text}", quote(name)));
        is_qualified_name(name).iter().for_each(|text| warn(text));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            warn(
                "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other \
                 finalizer writers",
            );
        }
    }
    warnings
}

/// The resources of a definition: one for each version that is served, under the names that it was given.
pub(super) fn resources(
    definition: &Object,
    instances: &Arc<Instances>,
    asking: Option<&Asking>,
) -> Result<Vec<Arc<Resource>>, schema::structural::Error> {
    let spec = &definition.0["spec"];
    let accepted = &definition.0["status"]["acceptedNames"];
    let has_names = accepted["plural"].as_str().is_some_and(|plural| !plural.is_empty());
    let names = if has_names { accepted } else { &spec["names"] };
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stored = versions.iter().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let mut schemas = HashMap::new();
    for version in versions {
        let kind = GroupVersionKind::new(text(&spec["group"]), text(&version["name"]), text(&names["kind"]));
        let structural = Structural::parse(kind.clone(), &version["schema"]["openAPIV3Schema"])?;
        schemas.insert(kind.api_version(), Arc::new(Schema::from(structural)));
    }
    let name = definition.name().to_owned();
    let webhook = asking.and_then(|asking| Webhook::new(name, &spec["conversion"], schemas.clone(), asking));
    let shared = Shared { spec, names, stored: &stored, schemas: &schemas, webhook, instances };
    let served = versions.iter().filter(|version| version["served"] == true);
    Ok(served.filter_map(|version| resource(&shared, version)).collect())
}

/// What the resources of one definition have in common.
struct Shared<'a> {
    spec: &'a Value,
    names: &'a Value,
    /// The version in which objects are stored.
    stored: &'a str,
    schemas: &'a HashMap<String, Arc<Schema>>,
    webhook: Option<Arc<Webhook>>,
    instances: &'a Arc<Instances>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<Text> {
    value.as_array().into_iter().flatten().map(|text_| text(text_).into()).collect()
}

/// What those are warned of who use a version that its definition calls deprecated. Upstream:
/// apiextensions/apiserver/customresource_handler.go.
fn deprecation(spec: &Value, version: &Value, kind: &GroupVersionKind) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(warning) = version["deprecationWarning"].as_str() {
        return Some(warning.to_owned());
    }
    let mut warning = format!("{} {} is deprecated", kind.api_version(), kind.kind);
    let others = spec["versions"].as_array().into_iter().flatten();
    let newer = others
        .filter(|other| other["served"] == true && other["deprecated"] != true)
        .filter_map(|other| other["name"].as_str())
        .filter(|other| version_order(other) > version_order(&kind.version))
        .max_by_key(|other| version_order(other));
    if let Some(newer) = newer {
        warning.push_str(&format!("; use {}/{newer} {}", kind.group, kind.kind));
    }
    Some(warning)
}

fn resource(shared: &Shared<'_>, version: &Value) -> Option<Arc<Resource>> {
    let Shared { spec, names, stored, instances, .. } = *shared;
    let (group, name) = (text(&spec["group"]), text(&version["name"]));
    let kind = GroupVersionKind::new(group.as_str(), name.as_str(), text(&names["kind"]));
    let schema = shared.schemas.get(&kind.api_version())?.clone();
    let Schema::Structural(structural) = &*schema else { return None };
    let subresources = &version["subresources"];
    let status = subresources["status"].is_object();
    let scale = subresources["scale"].is_object().then(|| {
        let pointer = |field: &str| subresources["scale"][field].as_str().map(json_path::pointer);
        ScalePaths {
            spec_replicas: pointer("specReplicasPath").unwrap_or_default().into(),
            status_replicas: pointer("statusReplicasPath").unwrap_or_default().into(),
            selector: pointer("labelSelectorPath").map(Into::into),
        }
    });
    let printed = printed(version);
    let plural = text(&names["plural"]);
    let selectable = version["selectableFields"].as_array().into_iter().flatten().map(|field| {
        let path = text(&field["jsonPath"]);
        SelectableField {
            name: path.trim_start_matches('.').to_owned().into(),
            pointer: json_path::pointer(&path).into(),
            absent: "",
        }
    });
    let descriptor = Descriptor {
        deprecated: deprecation(spec, version, &kind).map(Into::into),
        group: group.clone().into(),
        version: name.clone().into(),
        kind: kind.kind.clone().into(),
        list_kind: text(&names["listKind"]).into(),
        plural: plural.clone().into(),
        singular: text(&names["singular"]).into(),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        subresources: Subresources { status, scale: scale.clone(), other: Vec::new() },
        selectable_fields: selectable.collect(),
        schema: format!("{}.{name}.{}", reversed(&group), kind.kind).into(),
        columns: std::iter::once(Column::object_name())
            .chain(printed.iter().map(|p| p.column.clone()))
            .collect(),
        generation: true,
        unconditional_update: false,
        resets: &[("status", &["metadata"])],
        stored_as: (name != stored)
            .then(|| GroupVersionResource::new(group.as_str(), stored, plural.as_str())),
        hooks: Arc::new(Custom { structural: structural.clone(), status, scale, printed }),
        ..Descriptor::new("", "", "", "", Scope::Cluster)
    };
    let webhook = shared.webhook.clone();
    Some(Resource::converted(Arc::new(descriptor), schema, instances.clone(), webhook))
}

/// The group as OpenAPI definitions name it: `com.example`.
fn reversed(group: &str) -> String {
    group.rsplit('.').collect::<Vec<_>>().join(".")
}

struct Printed {
    column: Column,
    path: JsonPath,
}

fn printed(version: &Value) -> Vec<Printed> {
    let columns = version["additionalPrinterColumns"].as_array().map(Vec::as_slice).unwrap_or_default();
    if columns.is_empty() {
        let path = JsonPath::parse(".metadata.creationTimestamp").unwrap_or_default();
        let column = Column { r#type: "date".into(), ..Column::age() };
        return vec![Printed { column, path }];
    }
    columns
        .iter()
        .map(|column| Printed {
            column: Column {
                name: text(&column["name"]).into(),
                r#type: text(&column["type"]).into(),
                format: text(&column["format"]).into(),
                description: column["description"]
                    .as_str()
                    .map_or_else(
                        || {
                            format!(
                                "Custom resource definition column (in JSONPath format): {}",
                                text(&column["jsonPath"])
                            )
                        },
                        str::to_owned,
                    )
                    .into(),
                priority: i32::try_from(column["priority"].as_i64().unwrap_or(0)).unwrap_or(0),
            },
            // A path that cannot be read prints nothing, as with upstream.
            path: column["jsonPath"].as_str().and_then(JsonPath::parse).unwrap_or_default(),
        })
        .collect()
}

struct Custom {
    structural: Arc<Structural>,
    status: bool,
    scale: Option<ScalePaths>,
    printed: Vec<Printed>,
}

impl Custom {
    /// What is wrong with the fields that are the scale's. Upstream: customresource/validator.go.
    fn scale_errors(&self, object: &Value, spec: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(scale) = &self.scale else { return errors };
        let path = |pointer: &str| Path::new(pointer.replace('/', "."));
        let accessor = |pointer: &str, value: &Value, kind: &str| {
            let accessor = pointer.replace('/', ".");
            format!("{accessor} accessor error: {value} is of the type {}, expected {kind}", go_type(value))
        };
        for pointer in
            [spec.then_some(&scale.spec_replicas), Some(&scale.status_replicas)].into_iter().flatten()
        {
            let Some(value) = object.pointer(pointer) else { continue };
            match value.as_i64() {
                None => errors.push(field::invalid(&path(pointer), 0, accessor(pointer, value, "int64"))),
                Some(number @ ..0) => {
                    errors.push(field::invalid(&path(pointer), number, "should be a non-negative integer"));
                }
                Some(number) if number > i64::from(i32::MAX) => {
                    let message = format!("should be less than or equal to {}", i32::MAX);
                    errors.push(field::invalid(&path(pointer), number, message));
                }
                Some(_) => {}
            }
        }
        if let Some(pointer) = &scale.selector
            && let Some(value) = object.pointer(pointer).filter(|value| !value.is_string())
        {
            errors.push(field::invalid(&path(pointer), "", accessor(pointer, value, "string")));
        }
        errors
    }
}

impl Hooks for Custom {
    fn default(&self, object: &mut Value) {
        self.structural.default(object);
    }

    fn from_storage(&self, object: &mut Value) {
        self.structural.default(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let (true, Some(members)) = (self.status, object.as_object_mut()) {
            members.remove("status");
        }
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        // What the server itself keeps of this write stays.
        let mut metadata = old["metadata"].clone();
        for member in ["resourceVersion", "managedFields"] {
            metadata[member] = new["metadata"][member].take();
        }
        if let Some(members) = metadata.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        new["metadata"] = metadata;
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = self.structural.validate(object);
        errors.extend(self.scale_errors(object, true));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.structural.validate_update(new, old);
        errors.extend(self.scale_errors(new, true));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.structural.validate_update(new, old);
        errors.extend(self.scale_errors(new, false));
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        let printed = self.printed.iter().map(|printed| cell(printed, object, now));
        std::iter::once(name).chain(printed).collect()
    }
}

fn cell(printed: &Printed, object: &Value, now: Timestamp) -> Value {
    let found = printed.path.find(object);
    let Some(value) = found.first() else { return Value::Null };
    let several = || Value::from(found.iter().copied().cloned().collect::<Vec<_>>());
    match &*printed.column.r#type {
        "string" => match value {
            Value::String(_) => (*value).clone(),
            _ if found.len() > 1 => several().to_string().into(),
            value => value.to_string().into(),
        },
        // A value of another type than the column's is not shown.
        "date" => match value.as_str() {
            None => Value::Null,
            Some(text) => match text.parse::<Timestamp>() {
                Err(_) => "<invalid>".into(),
                Ok(then) => api::duration::age(Some(then), now).into(),
            },
        },
        "integer" => match value.as_i64().or_else(|| value.as_f64().map(|float| float as i64)) {
            None => Value::Null,
            Some(number) => number.into(),
        },
        "number" if value.is_number() => (*value).clone(),
        "boolean" if value.is_boolean() => (*value).clone(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn new_finalizers_without_a_domain_are_warned_of() {
        let with = |finalizers: &[&str]| Object(json!({"metadata": {"finalizers": finalizers}}));
        let warning = "metadata.finalizers: \"x.example.com\": prefer a domain-qualified finalizer name including a path \
                       (/) to avoid accidental conflicts with other finalizer writers";
        let new = with(&["x.example.com", "example.com/y", "orphan"]);
        assert_eq!(finalizer_warnings(&new, None), [warning]);
        assert_eq!(finalizer_warnings(&new, Some(&with(&[]))), [warning]);
        assert_eq!(finalizer_warnings(&new, Some(&new)), [""; 0]);
    }

    #[test]
    fn cells_are_of_their_columns_type() {
        let cell = |kind: &str, value: Value| {
            let column = Column { r#type: kind.to_owned().into(), ..Column::age() };
            let path = JsonPath::parse(".v").unwrap();
            super::cell(&Printed { column, path }, &json!({"v": value}), Timestamp::UNIX_EPOCH)
        };
        for (kind, value, shown) in [
            ("integer", json!(3), json!(3)),
            ("integer", json!(3.9), json!(3)),
            ("integer", json!("3"), Value::Null),
            ("number", json!(3.5), json!(3.5)),
            ("number", json!("3.5"), Value::Null),
            ("boolean", json!(true), json!(true)),
            ("boolean", json!("true"), Value::Null),
            ("string", json!("a"), json!("a")),
            ("string", json!({"a": 1}), json!("{\"a\":1}")),
            ("date", json!("1969-12-31T23:59:00Z"), json!("60s")),
            ("date", json!("soon"), json!("<invalid>")),
            ("date", json!(5), Value::Null),
        ] {
            assert_eq!(cell(kind, value.clone()), shown, "{kind} {value}");
        }
    }

    #[test]
    fn what_the_scale_reads_is_a_number_of_replicas() {
        let structural = Structural::parse(
            GroupVersionKind::new("g", "v1", "K"),
            &json!({"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}),
        );
        let custom = Custom {
            structural: Arc::new(structural.unwrap()),
            status: true,
            printed: Vec::new(),
            scale: Some(ScalePaths {
                spec_replicas: "/spec/n".into(),
                status_replicas: "/status/n".into(),
                selector: Some("/status/selector".into()),
            }),
        };
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wrong = json!({"spec": {"n": -1}, "status": {"n": 3_000_000_000_i64, "selector": {}}});
        assert_eq!(
            texts(custom.validate_update(&wrong, &wrong)),
            [
                ".spec.n: Invalid value: -1: should be a non-negative integer",
                ".status.n: Invalid value: 3000000000: should be less than or equal to 2147483647",
                r#".status.selector: Invalid value: "": .status.selector accessor error: {} is of the type map[string]interface {}, expected string"#,
            ]
        );
        assert_eq!(
            texts(custom.validate_status_update(&wrong, &wrong)).len(),
            2,
            "the spec is not the status's"
        );
        assert!(custom.validate(&json!({"spec": {}, "status": {"n": 0, "selector": "a=b"}})).is_empty());
    }

    #[test]
    fn a_deprecated_version_names_the_newest_that_is_not() {
        let version = |name: &str, deprecated: bool, served: bool| json!({"name": name, "deprecated": deprecated, "served": served});
        let spec = json!({"versions": [
            version("v1alpha1", true, true), version("v1beta1", false, true), version("v1", false, true),
            version("v2", false, false), version("v3", true, true),
        ]});
        let said = |version: &Value| {
            let kind = GroupVersionKind::new("example.com", text(&version["name"]), "Thing");
            deprecation(&spec, version, &kind)
        };
        let versions = spec["versions"].as_array().unwrap();
        let alpha = "example.com/v1alpha1 Thing is deprecated; use example.com/v1 Thing";
        assert_eq!(said(&versions[0]).as_deref(), Some(alpha));
        assert_eq!(said(&versions[1]), None);
        assert_eq!(said(&versions[4]).as_deref(), Some("example.com/v3 Thing is deprecated"));
        let own = json!({"name": "v1alpha1", "deprecated": true, "deprecationWarning": "leave"});
        assert_eq!(said(&own).as_deref(), Some("leave"));
    }

    #[test]
    fn a_definition_becomes_a_resource_for_each_served_version() {
        let version = |name: &str, served: bool, storage: bool| {
            json!({
                "name": name, "served": served, "storage": storage,
                "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                }},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            })
        };
        let definition = Object(json!({"spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [version("v1", true, true), version("v2", true, false), version("v3", false, false)],
        }}));
        let resources = resources(&definition, &Instances::shared(), None).unwrap();
        let versions: Vec<_> = resources.iter().map(|r| &*r.descriptor.version).collect();
        assert_eq!(versions, ["v1", "v2"]);
        let second = &resources[1].descriptor;
        assert_eq!(second.storage().version, "v1");
        assert_eq!(second.subresources.scale.as_ref().unwrap().spec_replicas, "/spec/replicas");
        let cells = second
            .hooks
            .cells(&json!({"metadata": {"name": "a"}, "spec": {"size": 3}}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells, [json!("a"), json!(3)]);
        assert_eq!(cells.len(), second.columns.len());
    }
}
