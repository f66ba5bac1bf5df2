//! What the server knows of a kind: its [`Descriptor`] and its [`Hooks`].
//!
//! The engine that serves kinds never names one: it reads the descriptor, and calls the hooks at the steps of a
//! request. The order of the steps:
//!
//! - create: `default` → admission that changes → name, uid and creation time are set, the namespace of a
//!   cluster-scoped object is dropped → `prepare_for_create` → `validate` (+ `warnings`) → admission that judges → store
//! - update: `default` → admission that changes → `prepare_for_update` → `validate_update` (+ `warnings`) → admission
//!   that judges → store
//! - status: as update, with `prepare_for_status_update` and `validate_status_update`
//!
//! Hooks check everything but the metadata common to all kinds, which is [`crate::meta_validation`]'s.
//! Hooks that update also run what `validate` does, as upstream's do. Built-in kinds use [`Typed`].

pub(crate) mod plain;
mod typed;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::ErrorList;
use crate::gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
use crate::names::NameRule;

pub use typed::Typed;

/// Text that is static for built-in kinds and owned for custom ones.
pub type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
}

/// A set of the verbs of resources.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbs(u8);

impl Verbs {
    /// Create one.
    pub const CREATE: Self = Self(1);
    /// Delete one.
    pub const DELETE: Self = Self(1 << 1);
    /// Delete all that are selected.
    pub const DELETE_COLLECTION: Self = Self(1 << 2);
    /// Read one.
    pub const GET: Self = Self(1 << 3);
    /// Read all that are selected.
    pub const LIST: Self = Self(1 << 4);
    /// Change a part of one.
    pub const PATCH: Self = Self(1 << 5);
    /// Replace one.
    pub const UPDATE: Self = Self(1 << 6);
    /// Follow changes.
    pub const WATCH: Self = Self(1 << 7);
    /// All verbs: what most kinds have.
    pub const ALL: Self = Self(u8::MAX);
    /// Read and replace: the verbs of `status` and `scale`.
    pub const SUBRESOURCE: Self = Self::GET.and(Self::PATCH).and(Self::UPDATE);

    /// The verbs of a stream (`pods/exec`).
    pub const CONNECT: Self = Self::CREATE.and(Self::GET);
    /// The verbs of a proxy, which passes on every method.
    pub const PROXY: Self = Self::CREATE.and(Self::DELETE).and(Self::SUBRESOURCE);

    const NAMES: [&'static str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

    /// The union of two sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without another's verbs.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names, sorted as discovery lists them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Where the `scale` subresource finds its fields, as JSON pointers into the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas, such as `/spec/replicas`.
    pub spec_replicas: Text,
    /// Observed replicas, such as `/status/replicas`.
    pub status_replicas: Text,
    /// The selector: a text, a `LabelSelector` or a map of labels (all three are told apart by shape).
    pub selector: Option<Text>,
}

/// A subresource other than `status` and `scale`. The engine has a handler for each name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name, such as `log`.
    pub name: Text,
    /// The kind of its body, which for some belongs to another group (`pods/eviction` is `policy/v1 Eviction`).
    pub kind: GroupVersionKind,
    /// What discovery lists.
    pub verbs: Verbs,
}

impl ScalePaths {
    /// Where the workloads of `apps` have them.
    pub fn replicas() -> Self {
        Self {
            spec_replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: Some("/spec/selector".into()),
        }
    }
}

impl Subresource {
    /// One whose body is of the given group, version and kind.
    pub fn new(
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: Verbs,
    ) -> Self {
        Self { name: name.into(), kind: GroupVersionKind::new(group, version, kind), verbs }
    }
}

/// The subresources of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subresources {
    /// Whether the status is written apart from the rest.
    pub status: bool,
    /// Whether the number of replicas can be read and set apart.
    pub scale: Option<ScalePaths>,
    /// The others.
    pub other: Vec<Subresource>,
}

/// A field by which lists and watches can be narrowed, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// The name in selectors, such as `spec.nodeName`.
    pub name: Text,
    /// Where it is, as a JSON pointer; numbers and booleans compare as their text, absence as the empty text.
    pub pointer: Text,
    /// What an absent field compares as (Pod `status.phase` of old objects; mostly empty).
    pub absent: &'static str,
}

impl SelectableField {
    /// A field at a JSON pointer; absent it compares as the empty text.
    pub fn new(name: &'static str, pointer: &'static str) -> Self {
        Self { name: name.into(), pointer: pointer.into(), absent: "" }
    }
}

/// A column of the Table form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: Text,
    /// OpenAPI type.
    pub r#type: Text,
    /// OpenAPI format, may be empty; `name` marks the column that identifies the row.
    pub format: Text,
    /// What it shows.
    pub description: Text,
    /// 0 is always shown, more only by `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column that is always shown.
    pub fn new(name: &'static str, r#type: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            r#type: Cow::Borrowed(r#type),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// A column shown by `-o wide`.
    pub fn wide(name: &'static str, r#type: &'static str, description: &'static str) -> Self {
        Self { priority: 1, ..Self::new(name, r#type, description) }
    }

    /// The first column of almost every kind.
    pub fn object_name() -> Self {
        Self {
            format: Cow::Borrowed("name"),
            ..Self::new(
                "Name",
                "string",
                "Name must be unique within a namespace. Is required when creating resources, although some \
                 resources may allow a client to request the generation of an appropriate name automatically. \
                 Name is primarily intended for creation idempotence and configuration definition. Cannot be \
                 updated. More info: \
                 https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
            )
        }
    }

    /// The age of the object.
    pub fn age() -> Self {
        Self::new("Age", "string", CREATION_TIMESTAMP)
    }
}

/// What upstream's tables say of `metadata.creationTimestamp`; clients show it in `kubectl get -o json` of tables only.
pub(crate) const CREATION_TIMESTAMP: &str = "CreationTimestamp is a timestamp representing the server time when this \
     object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients \
     may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. \
     Null for lists. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// What becomes of an object's dependents when it is deleted and the request does not say. Upstream:
/// `DefaultGarbageCollectionPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// The garbage collector deletes them.
    Collected,
    /// They stay, and the client is warned of it unless the text is empty: kinds that are older than garbage collection.
    Kept(&'static str),
}

/// All that the engine knows of a kind. A custom resource has the same descriptor, made at run time.
#[derive(Clone)]
pub struct Descriptor {
    /// API group; empty for core.
    pub group: Text,
    /// Version.
    pub version: Text,
    /// Kind.
    pub kind: Text,
    /// Kind of lists.
    pub list_kind: Text,
    /// Resource name in paths.
    pub plural: Text,
    /// Singular, lower case.
    pub singular: Text,
    /// Short names for the command line.
    pub short_names: Vec<Text>,
    /// Groups of resources for the command line, such as `all`.
    pub categories: Vec<Text>,
    /// Whether it is namespaced.
    pub scope: Scope,
    /// What can be done with it.
    pub verbs: Verbs,
    /// Its subresources.
    pub subresources: Subresources,
    /// Fields for field selectors.
    pub selectable_fields: Vec<SelectableField>,
    /// Other names that field selectors may use: each with the selectable field that it means, or the empty text where no
    /// object has a value for it.
    pub field_aliases: &'static [(&'static str, &'static str)],
    /// Name of its OpenAPI definition, such as `io.k8s.api.core.v1.Pod`.
    pub schema: Text,
    /// Columns of the Table form; [`Hooks::cells`] gives one cell for each.
    pub columns: Vec<Column>,
    /// What is special about it.
    pub hooks: Arc<dyn Hooks>,
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// How names of its objects are checked.
    pub name_rule: NameRule,
    /// The resource and version under which it is stored, when that is not its own: two kinds that are views of the
    /// same objects (core and `events.k8s.io` Events; `autoscaling` v1 and v2) name the same here, and
    /// [`Hooks::to_storage`] and [`Hooks::from_storage`] convert.
    pub stored_as: Option<GroupVersionResource>,
    /// Whether PUT to a name that does not exist creates it (upstream's `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// Whether an update may leave `resourceVersion` out, which makes it unconditional.
    pub unconditional_update: bool,
    /// What writes of a subresource cannot change beside what the engine keeps of every kind (of the object itself, the
    /// status; of the status, all but status and metadata): its name, empty for the object itself, and fields such as
    /// `metadata.labels`. Upstream: `GetResetFields`.
    pub resets: &'static [(&'static str, &'static [&'static str])],
    /// What writes of a subresource may change and its writers never own, in the same form: upstream's `GetResetFields` where
    /// it names what its strategies do not reset.
    pub unowned: &'static [(&'static str, &'static [&'static str])],
    /// What every request for the kind is warned of, when it is deprecated: `v1 Endpoints is deprecated in v1.33+`.
    pub deprecated: Option<Text>,
    /// What becomes of an object's dependents where the request to delete it does not say.
    pub dependents: Dependents,
    /// Whether objects go away by themselves once the time that the server keeps them for is over (`--event-ttl`).
    pub expires: bool,
    /// Seconds between the request to delete and deletion, when the client names none and the kind has such a
    /// period (pods: their own, see [`Hooks::deletion_grace_period`]).
    pub graceful_deletion: bool,
    /// Whether DELETE answers with the object, rather than with a Status (upstream's `ReturnDeletedObject`).
    pub returns_deleted: bool,
    /// Whether objects come to an end, which `status.phase` tells (`Succeeded`, `Failed`) and rows of tables show.
    pub ends: bool,
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({})", self.group_version_kind())
    }
}

impl Descriptor {
    /// Whether the kind has a subresource of this name.
    pub fn has_subresource(&self, name: &str) -> bool {
        let Subresources { status, scale, other } = &self.subresources;
        match name {
            "status" if *status => true,
            "scale" if scale.is_some() => true,
            _ => other.iter().any(|subresource| subresource.name == name),
        }
    }

    /// What writes of a subresource, or of the object itself, cannot change beside what holds for every kind.
    pub fn resets(&self, subresource: &str) -> &'static [&'static str] {
        self.resets.iter().find(|(name, _)| *name == subresource).map_or(&[], |(_, fields)| *fields)
    }

    /// What writers of a subresource, or of the object itself, do not own though they may change it.
    pub fn unowned(&self, subresource: &str) -> &'static [&'static str] {
        self.unowned.iter().find(|(name, _)| *name == subresource).map_or(&[], |(_, fields)| *fields)
    }

    /// A descriptor with the defaults of a built-in kind: all verbs, names are DNS subdomains, columns name and age,
    /// no hooks. Change the fields that differ.
    pub fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        scope: Scope,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            verbs: Verbs::ALL,
            subresources: Subresources::default(),
            selectable_fields: Vec::new(),
            field_aliases: &[],
            schema: format!("{}.{version}.{kind}", definition_package(group)).into(),
            columns: default_columns(),
            hooks: Arc::new(NoHooks),
            generation: false,
            name_rule: NameRule::default(),
            stored_as: None,
            create_on_update: false,
            unconditional_update: true,
            resets: &[],
            unowned: &[],
            deprecated: None,
            dependents: Dependents::Collected,
            expires: false,
            graceful_deletion: false,
            returns_deleted: false,
            ends: false,
        }
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&*self.group, &*self.version)
    }
    /// Group, version and kind.
    pub fn group_version_kind(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }
    /// Group, version and resource.
    pub fn group_version_resource(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.group, &*self.version, &*self.plural)
    }
    /// Group and resource: what errors quote.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }
    /// Group and kind: what 422 quotes.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&*self.group, &*self.kind)
    }
    /// The resource and version under which its objects are stored.
    pub fn storage(&self) -> GroupVersionResource {
        self.stored_as.clone().unwrap_or_else(|| self.group_version_resource())
    }
    /// Whether its objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The selectable field that `name` means in field selectors; empty where no object has a value for it.
    pub fn field_meant<'a>(&self, name: &'a str) -> &'a str {
        self.field_aliases.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, meant)| *meant)
    }

    /// The value of a selectable field of an object, `metadata.name` and `metadata.namespace` included.
    /// `None` when the kind does not offer the field.
    pub fn selectable_value<'a>(&self, object: &'a Value, field: &str) -> Option<Cow<'a, str>> {
        let (pointer, absent) = match field {
            "metadata.name" => ("/metadata/name", ""),
            "metadata.namespace" if self.is_namespaced() => ("/metadata/namespace", ""),
            _ => {
                let selectable = self.selectable_fields.iter().find(|selectable| selectable.name == field)?;
                (&*selectable.pointer, selectable.absent)
            }
        };
        Some(match object.pointer(pointer) {
            None | Some(Value::Null) => Cow::Borrowed(absent),
            Some(Value::String(text)) => Cow::Borrowed(text),
            Some(other) => Cow::Owned(other.to_string()),
        })
    }
}

fn default_columns() -> Vec<Column> {
    // Kinds without columns of their own print what the generic convertor prints: the creation time, not an age.
    vec![Column::object_name(), Column::new("Created At", "date", CREATION_TIMESTAMP)]
}

/// The OpenAPI package of a built-in group: its first label, but for the groups served by other servers upstream.
fn definition_package(group: &str) -> String {
    match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        _ => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    }
}

/// Compares two objects by the places of their rows.
pub type RowOrder = fn(&Value, &Value) -> Ordering;

/// What is special about a kind, at each step of a request. Objects are whole; every method has a default that does
/// nothing. Pure: no clock, no state of the cluster.
pub trait Hooks: Send + Sync {
    /// Fills in what the request leaves out.
    fn default(&self, object: &mut Value) {
        let _ = object;
    }
    /// Fills in, after [`Hooks::default`], the times that a request leaves out and that count from the present. `old` is
    /// the object before an update.
    fn set_times(&self, new: &mut Value, old: Option<&Value>, now: Timestamp) {
        let _ = (new, old, now);
    }
    /// Resets what a client may not set on creation, such as the status.
    fn prepare_for_create(&self, object: &mut Value) {
        let _ = object;
    }
    /// Resets what a client may not change by an update.
    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        let _ = (new, old);
    }
    /// Resets what a client may not change by an update of the status.
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        let _ = (new, old);
    }
    /// All that is wrong with a new object.
    fn validate(&self, object: &Value) -> ErrorList {
        let _ = object;
        ErrorList::new()
    }
    /// [`Hooks::prepare_for_create`], then [`Hooks::validate`], then [`Hooks::warnings`] unless something is wrong: for
    /// an object that nobody changes in between, which so need not be converted at each step.
    fn prepare_and_validate(&self, object: &mut Value) -> (ErrorList, Vec<String>) {
        self.prepare_for_create(object);
        let errors = self.validate(object);
        let warnings = if errors.is_empty() { self.warnings(object, None) } else { Vec::new() };
        (errors, warnings)
    }
    /// All that is wrong with an update.
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }
    /// All that is wrong with an update of the status.
    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }
    /// Resets what a client may not change by an update through another subresource.
    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Value, old: &Value) {
        let _ = (subresource, new, old);
    }
    /// All that is wrong with an update through another subresource.
    fn validate_subresource_update(&self, subresource: &str, new: &Value, old: &Value) -> ErrorList {
        let _ = (subresource, new, old);
        ErrorList::new()
    }
    /// What the client should be told although the request is served. `old` is the object before an update, and
    /// nothing for a new one.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let _ = (object, old);
        Vec::new()
    }
    /// One cell for each column; without it, the name and creation time.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let _ = now;
        let field = |name| object.pointer(name).cloned().unwrap_or(Value::Null);
        vec![field("/metadata/name"), field("/metadata/creationTimestamp")]
    }
    /// The order of the rows of a list, where it is not that of the objects.
    fn row_order(&self) -> Option<RowOrder> {
        None
    }
    /// From the form of this version to the stored form (see [`Descriptor::stored_as`]).
    fn to_storage(&self, object: &mut Value) {
        let _ = object;
    }
    /// From the stored form to the form of this version.
    #[expect(clippy::wrong_self_convention, reason = "`self` is the kind; the object is the argument")]
    fn from_storage(&self, object: &mut Value) {
        let _ = object;
    }
    /// Seconds an object gets to end when the client asks for `requested`; `None` deletes at once.
    fn deletion_grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let _ = (object, requested);
        None
    }
}

/// The hooks of a kind that has nothing special.
pub struct NoHooks;

impl Hooks for NoHooks {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verbs_list_in_order() {
        let verbs = Verbs::GET.and(Verbs::CREATE);
        assert_eq!(verbs.names().collect::<Vec<_>>(), ["create", "get"]);
        assert!(verbs.contains(Verbs::GET) && !verbs.contains(Verbs::LIST));
        assert_eq!(Verbs::ALL.names().count(), 8);
    }

    #[test]
    fn selectable_values_are_text() {
        let mut descriptor = Descriptor::new("", "v1", "Node", "nodes", Scope::Cluster);
        descriptor.selectable_fields.push(SelectableField {
            name: "spec.unschedulable".into(),
            pointer: "/spec/unschedulable".into(),
            absent: "false",
        });
        let node = json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}});
        let empty = json!({});
        let value = |object, field| descriptor.selectable_value(object, field);
        assert_eq!(value(&node, "metadata.name").as_deref(), Some("a"));
        assert_eq!(value(&node, "spec.unschedulable").as_deref(), Some("true"));
        assert_eq!(value(&empty, "spec.unschedulable").as_deref(), Some("false"));
        assert_eq!(value(&node, "metadata.namespace"), None);
        assert_eq!(value(&node, "spec.x"), None);
    }

    #[test]
    fn definitions_are_named_as_upstream() {
        for (group, kind, schema) in [
            ("", "Pod", "io.k8s.api.core.v1.Pod"),
            ("rbac.authorization.k8s.io", "Role", "io.k8s.api.rbac.v1.Role"),
            ("apps", "Deployment", "io.k8s.api.apps.v1.Deployment"),
        ] {
            assert_eq!(Descriptor::new(group, "v1", kind, "x", Scope::Cluster).schema, schema);
        }
    }
}
