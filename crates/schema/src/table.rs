//! The generated table of built-in definitions: names, types and merge rules, no descriptions.
//! Reads `generated/definitions.txt` and `table/options.txt` (embedded); what becomes of zero is [`Zero`]. A definition is parsed when it is first asked for and then kept.
//! Not here: how the text is made (`xtask::codegen`), what is done with a definition.
//!
//! Grammar of the text, one line each, names sorted:
//! - `= NAME [atomic]` opens a definition;
//! - `@ GROUP VERSION KIND` (group `-` for core) is one of its kinds;
//! - `FIELD[!] TYPE [list=atomic|set|map:KEY,…] [map=atomic] [patch=STRATEGY,…] [key=MERGE-KEY]` is a field, `!` if
//!   required. Types: `string bytes int32 int64 number boolean object any`, `[TYPE]`, `{TYPE}` (a map of texts), or
//!   another definition's name, where a leading `.` stands for `io.k8s.api.`.

pub(crate) mod wire;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use wire::Zero;

static TEXT: &str = include_str!("generated/definitions.txt");
/// What is no part of the published definitions.
static OPTIONS: &str = include_str!("table/options.txt");
static TABLE: OnceLock<Table> = OnceLock::new();

/// The facts about every definition of one Kubernetes version.
#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    kinds: OnceLock<HashMap<&'static str, Reference>>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    /// The definition's lines, from its name on.
    text: &'static str,
    parsed: OnceLock<Box<Definition>>,
}

/// Where a definition stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(u16);

/// One definition.
#[derive(Debug)]
pub struct Definition {
    /// Full name, such as `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// The kinds it is the body of; several for options that every group has.
    pub kinds: Vec<Kind>,
    /// Its fields, sorted by name.
    pub fields: Vec<Field>,
    /// Whether apply treats it as one value.
    pub atomic: bool,
    /// Indices of the fields of which Go holds something when they are absent, once that was asked for.
    pub(crate) held: OnceLock<Box<[usize]>>,
}

/// A group, version and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
}

/// A field of a definition.
#[derive(Debug)]
pub struct Field {
    /// Name on the wire.
    pub name: &'static str,
    /// What it holds.
    pub r#type: Type,
    /// Whether it must be given.
    pub required: bool,
    /// What becomes of zero.
    pub zero: Zero,
    /// How it merges.
    pub merge: Merge,
    /// What Go's type holds when the field is absent, once it was asked for ([`Field::when_absent`]).
    pub(crate) absent: OnceLock<Option<Box<serde_json::Value>>>,
}

/// How a field merges.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// `x-kubernetes-list-type`, and the keys of a list of type map.
    pub list: Option<ListType>,
    /// Whether apply treats the map as one value.
    pub atomic_map: bool,
    /// Strategic merge: elements of the list merge, rather than the list being replaced.
    pub patch_merge: bool,
    /// Strategic merge: a patch names the keys to retain.
    pub patch_retain_keys: bool,
    /// Strategic merge: the map is replaced.
    pub patch_replace: bool,
    /// Strategic merge: the field that tells elements apart.
    pub patch_merge_key: Option<&'static str>,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// One value, replaced whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<&'static str>),
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// Whole number of 32 bits.
    Int32,
    /// Whole number of 64 bits.
    Int64,
    /// Floating-point number.
    Number,
    /// True or false.
    Boolean,
    /// An amount of a resource.
    Quantity,
    /// A number or text, such as a port.
    IntOrString,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Any object, kept as it is; the definition is `RawExtension`, `FieldsV1` or none.
    Object(Option<Reference>),
    /// Any value, kept as it is.
    Any,
    /// A JSON schema, or what stands in its place there.
    SchemaOr(SchemaOr),
    /// A list.
    Array(Box<Type>),
    /// A map of texts to values.
    Map(Box<Type>),
    /// Another definition.
    Definition(Reference),
}

/// What may stand in place of a JSON schema in a CustomResourceDefinition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOr {
    /// True or false (`additionalProperties`, `additionalItems`).
    Bool,
    /// A list of schemas (`items`).
    Array,
    /// A list of texts (`dependencies`).
    StringArray,
}

/// The definition of JSON schemas themselves.
pub const JSON_SCHEMA_PROPS: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The table of the Kubernetes version this build serves.
pub fn table() -> &'static Table {
    TABLE.get_or_init(|| Table::index(&[TEXT, OPTIONS]))
}

impl Table {
    fn index(texts: &[&'static str]) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(1024);
        // What stands before the first definition says where the text is from.
        for block in texts.iter().flat_map(|text| text.split("\n= ").skip(1)) {
            let name = block.split(['\n', ' ']).next().unwrap_or_default();
            entries.push(Entry { name, text: block, parsed: OnceLock::new() });
        }
        entries.sort_by_key(|entry| entry.name);
        Self { entries, kinds: OnceLock::new() }
    }

    /// The definition of this full name.
    pub fn definition(&'static self, name: &str) -> Option<&'static Definition> {
        self.reference(name).map(|reference| self.get(reference))
    }

    /// The definition of a kind; group empty for core.
    pub fn of_kind(&'static self, group: &str, version: &str, kind: &str) -> Option<&'static Definition> {
        let group = if group.is_empty() { "-" } else { group };
        let index = self.kinds.get_or_init(|| self.index_kinds());
        index.get(format!("@ {group} {version} {kind}").as_str()).map(|reference| self.get(*reference))
    }

    /// The lines that name kinds, without parsing the definitions.
    fn index_kinds(&self) -> HashMap<&'static str, Reference> {
        let mut index = HashMap::with_capacity(self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            let short = entry.name.rsplit('.').next().unwrap_or(entry.name);
            let Ok(at) = u16::try_from(at) else { break };
            for line in entry.text.lines().filter(|line| line.starts_with("@ ")) {
                // Options are registered in every group under one name.
                if line.rsplit(' ').next() == Some(short) {
                    index.insert(line, Reference(at));
                }
            }
        }
        index
    }

    /// Where the definition of this full name stands.
    pub fn reference(&self, name: &str) -> Option<Reference> {
        let index = self.entries.binary_search_by_key(&name, |entry| entry.name).ok()?;
        u16::try_from(index).ok().map(Reference)
    }

    /// The definition at this place.
    pub fn get(&'static self, reference: Reference) -> &'static Definition {
        let entry = &self.entries[usize::from(reference.0)];
        entry.parsed.get_or_init(|| Box::new(self.parse(entry)))
    }

    /// The full name of the definition at this place, without parsing it.
    pub fn name(&self, reference: Reference) -> &'static str {
        self.entries[usize::from(reference.0)].name
    }

    /// All full names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.entries.iter().map(|entry| entry.name)
    }

    fn parse(&self, entry: &Entry) -> Definition {
        let mut lines = entry.text.lines();
        let atomic = lines.next().is_some_and(|first| first.ends_with(" atomic"));
        let (kinds, fields, held) = (Vec::new(), Vec::new(), OnceLock::new());
        let mut definition = Definition { name: entry.name, kinds, fields, atomic, held };
        for line in lines {
            let mut words = line.split(' ');
            let first = words.next().unwrap_or_default();
            if first == "@" {
                let mut word = || words.next().unwrap_or_default();
                let (group, version, kind) = (word(), word(), word());
                let group = if group == "-" { "" } else { group };
                definition.kinds.push(Kind { group, version, kind });
                continue;
            }
            let name = first.trim_end_matches('!');
            let r#type = self.parse_type(words.next().unwrap_or_default());
            let mut merge = Merge::default();
            for rule in words {
                parse_rule(&mut merge, rule);
            }
            let required = name.len() < first.len();
            let zero = wire::zero(entry.name, name, required);
            let absent = OnceLock::new();
            definition.fields.push(Field { name, r#type, required, zero, merge, absent });
        }
        definition
    }

    fn parse_type(&self, text: &'static str) -> Type {
        let inner = |text: &'static str| Box::new(self.parse_type(&text[1..text.len() - 1]));
        match text {
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "object" => Type::Object(None),
            _ if text.starts_with('[') => Type::Array(inner(text)),
            _ if text.starts_with('{') => Type::Map(inner(text)),
            _ => self.parse_reference(text),
        }
    }

    /// Definitions with a wire form of their own become types of their own.
    fn parse_reference(&self, text: &str) -> Type {
        if let Some(special) = text.strip_prefix("io.k8s.apimachinery.pkg.") {
            match special {
                "api.resource.Quantity" => return Type::Quantity,
                "util.intstr.IntOrString" => return Type::IntOrString,
                "apis.meta.v1.Time" => return Type::Time,
                "apis.meta.v1.MicroTime" => return Type::MicroTime,
                "apis.meta.v1.FieldsV1" | "runtime.RawExtension" | "apis.meta.v1.Patch" => {
                    return Type::Object(self.reference(text));
                }
                _ => {}
            }
        }
        if let Some(special) = text.strip_prefix("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.")
        {
            match special {
                "JSON" => return Type::Any,
                "JSONSchemaPropsOrBool" => return Type::SchemaOr(SchemaOr::Bool),
                "JSONSchemaPropsOrArray" => return Type::SchemaOr(SchemaOr::Array),
                "JSONSchemaPropsOrStringArray" => return Type::SchemaOr(SchemaOr::StringArray),
                _ => {}
            }
        }
        let reference = match text.strip_prefix('.') {
            Some(short) => self.reference(&format!("io.k8s.api.{short}")),
            None => self.reference(text),
        };
        reference.map_or(Type::Any, Type::Definition)
    }
}

fn parse_rule(merge: &mut Merge, rule: &'static str) {
    let (key, value) = rule.split_once('=').unwrap_or((rule, ""));
    match (key, value) {
        ("list", "atomic") => merge.list = Some(ListType::Atomic),
        ("list", "set") => merge.list = Some(ListType::Set),
        ("list", keys) => {
            let keys = keys.strip_prefix("map:").unwrap_or(keys);
            merge.list = Some(ListType::Map(keys.split(',').collect()));
        }
        ("map", _) => merge.atomic_map = true,
        ("patch", strategies) => {
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => merge.patch_merge = true,
                    "retainKeys" => merge.patch_retain_keys = true,
                    _ => merge.patch_replace = true,
                }
            }
        }
        ("key", name) => merge.patch_merge_key = Some(name),
        _ => {}
    }
}

impl Definition {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        Some(&self.fields[index])
    }

    /// The last part of the name: the kind, for definitions of kinds.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition: &str, name: &str) -> &'static Field {
        table().definition(definition).unwrap().field(name).unwrap()
    }

    #[test]
    fn every_definition_parses_and_every_reference_resolves() {
        let mut count = 0;
        for name in table().names() {
            let definition = table().definition(name).unwrap();
            assert!(definition.fields.is_sorted_by_key(|field| field.name), "{name}");
            for field in &definition.fields {
                fn unresolved(r#type: &Type) -> bool {
                    match r#type {
                        Type::Array(inner) | Type::Map(inner) => unresolved(inner),
                        Type::Any => true,
                        _ => false,
                    }
                }
                // Only `apiextensions.k8s.io` has values of any type.
                assert!(
                    !unresolved(&field.r#type) || name.contains("apiextensions"),
                    "{name}.{}: type not resolved",
                    field.name
                );
            }
            count += 1;
        }
        assert!(count > 800, "{count} definitions");
    }

    #[test]
    fn facts_read_back() {
        let pod = table().definition("io.k8s.api.core.v1.Pod").unwrap();
        assert_eq!(pod.kinds, [Kind { group: "", version: "v1", kind: "Pod" }]);
        assert_eq!(pod.short_name(), "Pod");

        let ports = field("io.k8s.api.core.v1.ServiceSpec", "ports");
        assert_eq!(ports.merge.list, Some(ListType::Map(vec!["port", "protocol"])));
        assert!(ports.merge.patch_merge);
        assert_eq!(ports.merge.patch_merge_key, Some("port"));

        let strategy = field("io.k8s.api.apps.v1.DeploymentSpec", "strategy");
        assert!(strategy.merge.patch_retain_keys);
        assert!(field("io.k8s.api.apps.v1.DeploymentSpec", "template").required);

        let limits = field("io.k8s.api.core.v1.ResourceRequirements", "limits");
        assert_eq!(limits.r#type, Type::Map(Box::new(Type::Quantity)));
        let finalizers = field("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers");
        assert_eq!(finalizers.merge.list, Some(ListType::Set));
        assert!(table().definition("io.k8s.api.core.v1.LocalObjectReference").unwrap().atomic);
        assert!(table().definition("io.k8s.api.core.v1.Nothing").is_none());
    }
}
