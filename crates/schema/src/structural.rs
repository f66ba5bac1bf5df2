//! Structural schemas of CustomResourceDefinitions: what the fields of a custom resource are.
//! Reads an `openAPIV3Schema`; gives pruning (in decoding), defaults and validation.
//! Whether a schema may be accepted as structural at all is told by [`check`].
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema` (its packages `pruning`, `defaulting`, `listtype`).

mod check;
mod embedded;
mod format;
mod rules;
mod typing;
mod validation;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api::GroupVersionKind;
use api::field::{self, ErrorList};
use regex::Regex;
use serde_json::{Map, Value};

pub use check::{Tolerated, check, has_default, violations};
pub(crate) use format::matches as format_matches;
pub(crate) use typing::Shape;

use crate::decode::Findings;
use crate::json::Observer as _;
use crate::table::{Definition, Type as FieldType, table};

/// The definition of `metadata`.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Fields that every resource has and no structural schema needs to name.
const RESOURCE_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Why a schema cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A part of the schema that must be an object is none.
    #[error("{0}: must be a schema")]
    NoSchema(String),
    /// A regular expression that is none.
    #[error("{path}.pattern: {message}")]
    Pattern {
        /// Where in the schema.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

/// The shape of a custom resource.
#[derive(Clone, Debug)]
pub struct Structural {
    /// The kind it describes.
    pub kind: GroupVersionKind,
    root: Node,
    document: Value,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
enum Additional {
    Any,
    Schema(Box<Node>),
}

/// `x-kubernetes-list-type`, as far as it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum List {
    Set,
    Map(Vec<String>),
}

/// One schema inside a schema.
#[derive(Clone, Debug, Default)]
pub struct Node {
    r#type: Option<Type>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown_fields: bool,
    embedded_resource: bool,
    /// Whether there is an embedded resource here or below.
    embeds: bool,
    atomic: bool,
    properties: BTreeMap<String, Node>,
    additional: Option<Additional>,
    items: Option<Box<Node>>,
    default: Option<Value>,
    list: Option<List>,
    limits: Limits,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
    rules: Vec<rules::Rule>,
    compiled: OnceLock<Vec<rules::Compiled>>,
    /// Whether there is a rule here or below.
    has_rules: bool,
}

/// The keywords that bound values.
#[derive(Clone, Debug, Default)]
struct Limits {
    required: Vec<String>,
    r#enum: Option<Vec<Value>>,
    format: Option<String>,
    pattern: Option<Regex>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    unique_items: bool,
}

impl Structural {
    /// Reads the `openAPIV3Schema` of a version of a CustomResourceDefinition.
    pub fn parse(kind: GroupVersionKind, schema: &Value) -> Result<Self, Error> {
        let mut root = Node::parse(schema, "openAPIV3Schema")?;
        root.embedded_resource = true;
        root.note_below();
        Ok(Self { kind, root, document: schema.clone() })
    }

    /// Whether a value may be missing that the schema fills in.
    pub fn has_defaults(&self) -> bool {
        self.root.has_defaults()
    }

    /// The schema as it was written.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The schema of the resource as a whole.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// Removes fields that the schema does not know and reports them.
    pub(crate) fn prune(&self, value: &mut Value, findings: &mut Findings) {
        self.root.prune(value, findings);
    }

    /// Fills in defaults. Nulls where null is not allowed give way to the default, or go.
    pub fn default(&self, value: &mut Value) {
        self.root.drop_nulls(value);
        self.root.fill(value);
    }

    /// Everything that is wrong with a new custom resource.
    pub fn validate(&self, value: &Value) -> ErrorList {
        self.with_rules(self.plainly(value, None), value, None)
    }

    /// Everything that is wrong with a changed custom resource, apart from what was wrong before and has not changed.
    pub fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.with_rules(self.plainly(new, Some(old)), new, Some(old))
    }

    /// What is wrong that needs no rules to be told.
    fn plainly(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = validation::validate(&self.root, new, old);
        errors.extend(embedded::validate(&self.root, new));
        errors
    }

    /// Rules see only what the schema lets them rely on.
    fn with_rules(&self, mut errors: ErrorList, new: &Value, old: Option<&Value>) -> ErrorList {
        use field::ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        if !self.root.has_rules() {
            return errors;
        }
        let blocks = |kind| matches!(kind, NotSupported | Required | TooLong | TooMany | TypeInvalid);
        if errors.iter().any(|error| blocks(error.kind)) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing \
                          errors to complete validation";
            errors.push(field::invalid(&field::Path::new("<nil>"), Value::Null, detail));
            return errors;
        }
        errors.extend(self.evaluate_rules(new, old));
        errors
    }
}

/// A part of a schema by key.
fn part<'a>(schema: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    schema.get(key).filter(|value| !value.is_null())
}

impl Node {
    /// Recursion is bounded by the nesting of the CustomResourceDefinition, which decoding bounds.
    fn parse(schema: &Value, path: &str) -> Result<Self, Error> {
        let schema = schema.as_object().ok_or_else(|| Error::NoSchema(path.to_owned()))?;
        let flag = |key: &str| part(schema, key).and_then(Value::as_bool).unwrap_or_default();
        let text = |key: &str| part(schema, key).and_then(Value::as_str);
        let below = |key: &str| format!("{path}.{key}");
        let list = |key: &str| -> Result<Vec<Self>, Error> {
            let schemas = part(schema, key).and_then(Value::as_array).into_iter().flatten().enumerate();
            schemas.map(|(index, one)| Self::parse(one, &format!("{path}.{key}[{index}]"))).collect()
        };
        let mut properties = BTreeMap::new();
        for (name, property) in part(schema, "properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), Self::parse(property, &format!("{path}.properties[{name}]"))?);
        }
        let additional = match part(schema, "additionalProperties") {
            None | Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(inner) => {
                Some(Additional::Schema(Box::new(Self::parse(inner, &below("additionalProperties"))?)))
            }
        };
        let boxed = |key: &str| -> Result<Option<Box<Self>>, Error> {
            part(schema, key).map(|inner| Self::parse(inner, &below(key)).map(Box::new)).transpose()
        };
        let keys = || {
            let keys =
                part(schema, "x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
            keys.filter_map(Value::as_str).map(String::from).collect()
        };
        Ok(Self {
            r#type: match text("type") {
                Some("object") => Some(Type::Object),
                Some("array") => Some(Type::Array),
                Some("string") => Some(Type::String),
                Some("integer") => Some(Type::Integer),
                Some("number") => Some(Type::Number),
                Some("boolean") => Some(Type::Boolean),
                _ => None,
            },
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown_fields: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            embeds: false,
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            properties,
            additional,
            items: boxed("items")?,
            default: part(schema, "default").cloned(),
            list: match text("x-kubernetes-list-type") {
                Some("set") => Some(List::Set),
                Some("map") => Some(List::Map(keys())),
                _ => None,
            },
            limits: Limits::parse(schema, path)?,
            all_of: list("allOf")?,
            any_of: list("anyOf")?,
            one_of: list("oneOf")?,
            not: boxed("not")?,
            rules: rules::Rule::parse(schema),
            compiled: OnceLock::new(),
            has_rules: false,
        })
    }

    /// The schema of a member.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }

    /// Whether the member is a named field, rather than an entry of a map.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// Whether an undeclared member is kept.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        self.preserve_unknown_fields
            || matches!(self.additional, Some(Additional::Any))
            || (self.properties.is_empty() && self.additional.is_none())
            || (self.embedded_resource && RESOURCE_FIELDS.contains(&name))
    }

    /// The schema of the elements of a list.
    pub(crate) fn items(&self) -> Option<&Self> {
        self.items.as_deref()
    }

    /// Whether this, or something below it, is a whole resource that a resource holds.
    pub(super) fn embeds(&self) -> bool {
        self.embeds
    }

    /// Whether this is a whole resource, with metadata.
    pub(crate) fn is_resource(&self) -> bool {
        self.embedded_resource
    }

    /// Whether an object here merges by member.
    pub(crate) fn is_granular_map(&self) -> bool {
        !self.atomic && matches!(self.r#type, None | Some(Type::Object))
    }

    /// Whether a list here merges by element.
    pub(crate) fn is_associative_list(&self) -> bool {
        self.list.is_some()
    }

    /// The keys of a list of type map, with their defaults.
    pub(crate) fn list_keys(&self) -> Option<Vec<(&str, Option<&Value>)>> {
        let Some(List::Map(keys)) = &self.list else { return None };
        let default = |key: &str| self.items.as_ref()?.properties.get(key)?.default.as_ref();
        Some(keys.iter().map(|key| (key.as_str(), default(key))).collect())
    }

    fn prune(&self, value: &mut Value, findings: &mut Findings) {
        match value {
            Value::Object(object) => {
                let names: Vec<String> = object.keys().cloned().collect();
                for name in names {
                    if self.embedded_resource && RESOURCE_FIELDS.contains(&name.as_str()) {
                        // The metadata of the object itself was typed when it was read.
                        if let Some(metadata) = object.get_mut(&name).filter(|_| name == "metadata") {
                            findings.enter_key(&name);
                            table()
                                .definition(OBJECT_META)
                                .inspect(|meta| prune_typed(metadata, meta, findings));
                            findings.leave();
                        }
                        continue;
                    }
                    match (self.member(&name), object.get_mut(&name)) {
                        (Some(schema), Some(member)) => {
                            findings.enter_key(&name);
                            schema.prune(member, findings);
                            findings.leave();
                        }
                        _ if self.preserve_unknown_fields || self.additional.is_some() => {}
                        _ => {
                            findings.unknown(&name);
                            object.remove(&name);
                        }
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for (index, element) in list.iter_mut().enumerate() {
                    findings.enter_index(index);
                    items.prune(element, findings);
                    findings.leave();
                }
            }
            _ => {}
        }
    }

    /// Whether null in this place is as good as nothing.
    fn refuses_null(&self) -> bool {
        !self.nullable && (self.r#type.is_some() || self.int_or_string)
    }

    fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|name, member| {
                    !(member.is_null()
                        && self
                            .member(name)
                            .is_some_and(|schema| schema.refuses_null() && schema.default.is_none()))
                });
                for (name, member) in object.iter_mut() {
                    if let Some(schema) = self.member(name) {
                        schema.drop_nulls(member);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|element| items.drop_nulls(element));
                }
            }
            _ => {}
        }
    }

    fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (name, schema) in &self.properties {
                    let Some(default) = &schema.default else { continue };
                    let unset = match object.get(name) {
                        None => true,
                        Some(member) => member.is_null() && !schema.nullable,
                    };
                    if unset {
                        object.insert(name.clone(), default.clone());
                    }
                }
                for (name, member) in object.iter_mut() {
                    if let Some(schema) = self.member(name) {
                        schema.fill_null(member);
                        schema.fill(member);
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for element in list {
                    items.fill_null(element);
                    items.fill(element);
                }
            }
            _ => {}
        }
    }

    fn fill_null(&self, value: &mut Value) {
        if let (Value::Null, false, Some(default)) = (&*value, self.nullable, &self.default) {
            *value = default.clone();
        }
    }
}

impl Limits {
    fn parse(schema: &Map<String, Value>, path: &str) -> Result<Self, Error> {
        let flag = |key: &str| part(schema, key).and_then(Value::as_bool).unwrap_or_default();
        let number = |key: &str| part(schema, key).and_then(Value::as_f64);
        let count = |key: &str| part(schema, key).and_then(Value::as_u64);
        let pattern = part(schema, "pattern").and_then(Value::as_str).map(|pattern| {
            Regex::new(pattern)
                .map_err(|error| Error::Pattern { path: path.to_owned(), message: error.to_string() })
        });
        Ok(Self {
            required: part(schema, "required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(String::from)
                .collect(),
            r#enum: part(schema, "enum").and_then(Value::as_array).cloned(),
            format: part(schema, "format").and_then(Value::as_str).map(String::from),
            pattern: pattern.transpose()?,
            minimum: number("minimum").map(|bound| (bound, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|bound| (bound, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: flag("uniqueItems"),
        })
    }
}

/// A path as validation spells it: the text so far is one step, which prints the same.
fn at(path: &str) -> field::Path {
    if path.is_empty() { field::Path::root() } else { field::Path::new(path.to_owned()) }
}

/// Drops the fields that a built-in definition does not have.
fn prune_typed(value: &mut Value, definition: &Definition, findings: &mut Findings) {
    let Some(object) = value.as_object_mut() else { return };
    let names: Vec<String> = object.keys().cloned().collect();
    for name in names {
        let Some(field) = definition.field(&name) else {
            findings.unknown(&name);
            object.remove(&name);
            continue;
        };
        let (FieldType::Array(item), Some(Value::Array(list))) = (&field.r#type, object.get_mut(&name))
        else {
            continue;
        };
        let FieldType::Definition(reference) = &**item else { continue };
        findings.enter_key(&name);
        for (index, element) in list.iter_mut().enumerate() {
            findings.enter_index(index);
            prune_typed(element, table().get(*reference), findings);
            findings.leave();
        }
        findings.leave();
    }
}

#[cfg(test)]
mod tests;
