//! Roles and bindings arranged so that a decision looks only at what names its user.
//!
//! A snapshot is immutable. The next one takes over the parsed form of every object whose bytes are the same
//! buffer as before, so that a change costs a walk over pointers and one parse.
//! Not here: reading the cluster (`rbac`), what a rule means (`rules`).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use api::selector::labels;
use api::types::rbac::v1::{ClusterRole, PolicyRule, RoleRef, Subject};
use bytes::Bytes;
use serde::Deserialize;

use crate::request::User;

/// The four resources that RBAC reads, in the order of the arrays below.
pub const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];
const ROLES: [usize; 2] = [0, 2];

/// An object that was parsed, with the bytes it was parsed from.
struct Parsed<T> {
    source: Bytes,
    value: Arc<T>,
}

/// A Role or ClusterRole. (A ClusterRole's fields are a superset of a Role's.)
struct RoleObject {
    namespace: String,
    name: String,
    labels: std::collections::BTreeMap<String, String>,
    role: ClusterRole,
}

struct BindingObject {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// One grant to somebody.
pub struct Grant {
    /// Name of the (Cluster)RoleBinding.
    pub binding: Arc<str>,
    /// Namespace of the binding; empty for a ClusterRoleBinding.
    pub namespace: Arc<str>,
    /// What is granted.
    pub role: Arc<RoleRef>,
    /// To whom, as messages say it: `Group "system:masters"`.
    pub subject: String,
}

#[derive(Hash, PartialEq, Eq)]
enum Who {
    User(String),
    Group(String),
}

/// Everything RBAC knows at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// Store revisions of the lists it was made from.
    pub revisions: [u64; 4],
    roles: [HashMap<usize, Parsed<RoleObject>>; 2],
    bindings: [HashMap<usize, Parsed<BindingObject>>; 2],
    rules: HashMap<(String, String), Arc<Vec<PolicyRule>>>,
    grants: HashMap<String, HashMap<Who, Vec<Grant>>>,
}

/// The address of a buffer: two `Bytes` that start at the same place with the same length, both alive, are the
/// same buffer.
fn identity(bytes: &Bytes) -> usize {
    bytes.as_ptr() as usize
}

fn reuse<T>(
    old: &HashMap<usize, Parsed<T>>,
    items: &[Bytes],
    parse: impl Fn(&Bytes) -> Option<T>,
) -> HashMap<usize, Parsed<T>> {
    let mut out = HashMap::with_capacity(items.len());
    for item in items {
        let kept = old.get(&identity(item)).filter(|kept| kept.source.len() == item.len());
        let value = match kept {
            Some(kept) => Some(kept.value.clone()),
            None => parse(item).map(Arc::new),
        };
        if let Some(value) = value {
            out.insert(identity(item), Parsed { source: item.clone(), value });
        }
    }
    out
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &Bytes) -> Option<T> {
    match api::json::read(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            // What is stored has passed validation, so this is damage; granting nothing is the safe side.
            tracing::error!(%error, "a stored RBAC object cannot be read; it grants nothing");
            None
        }
    }
}

fn parse_role(bytes: &Bytes) -> Option<RoleObject> {
    let mut role: ClusterRole = parse_as(bytes)?;
    let metadata = std::mem::take(&mut role.metadata);
    Some(RoleObject {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        role,
    })
}

/// Parses with `kind` set to ClusterRole: the generated types check the kind, and a Role has the same fields.
fn parse_as(bytes: &Bytes) -> Option<ClusterRole> {
    let mut value: serde_json::Value = parse(bytes)?;
    value["kind"] = "ClusterRole".into();
    serde_json::from_value(value).ok()
}

fn parse_binding(bytes: &Bytes) -> Option<BindingObject> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields {
        metadata: api::meta::ObjectMeta,
        role_ref: RoleRef,
        subjects: Option<Vec<Subject>>,
    }
    let fields: Fields = parse(bytes)?;
    Some(BindingObject {
        namespace: fields.metadata.namespace.unwrap_or_default(),
        name: fields.metadata.name.unwrap_or_default(),
        role: fields.role_ref,
        subjects: fields.subjects.unwrap_or_default(),
    })
}

impl Snapshot {
    /// The next snapshot from newer lists (in the order of [`RESOURCES`]).
    pub fn next(&self, revisions: [u64; 4], lists: [&[Bytes]; 4]) -> Self {
        let roles = [0, 1].map(|i| reuse(&self.roles[i], lists[ROLES[i]], parse_role));
        let bindings = [0, 1].map(|i| reuse(&self.bindings[i], lists[ROLES[i] + 1], parse_binding));
        let mut next = Self { revisions, roles, bindings, rules: HashMap::new(), grants: HashMap::new() };
        next.collect_rules();
        next.collect_grants();
        next
    }

    fn collect_rules(&mut self) {
        let [cluster, namespaced] = &self.roles;
        for object in namespaced.values().map(|p| &p.value) {
            let rules = Arc::new(object.role.rules.clone().unwrap_or_default());
            self.rules.insert((object.namespace.clone(), object.name.clone()), rules);
        }
        for object in cluster.values().map(|p| &p.value) {
            let mut rules = Vec::new();
            self.aggregate(object, &mut Vec::new(), &mut rules);
            self.rules.insert((String::new(), object.name.clone()), Arc::new(rules));
        }
    }

    /// The rules of a ClusterRole: its own, or those of the roles that its aggregation rule selects, and theirs.
    fn aggregate<'a>(&'a self, object: &'a RoleObject, path: &mut Vec<&'a str>, out: &mut Vec<PolicyRule>) {
        let Some(aggregation) = &object.role.aggregation_rule else {
            for rule in object.role.rules.iter().flatten() {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
            return;
        };
        if path.contains(&object.name.as_str()) {
            return;
        }
        path.push(&object.name);
        let selectors: Vec<labels::Selector> = aggregation
            .cluster_role_selectors
            .iter()
            .flatten()
            .filter_map(|selector| labels::Selector::from_label_selector(Some(selector)).ok())
            .collect();
        let mut selected: Vec<&RoleObject> = self.roles[0]
            .values()
            .map(|p| &*p.value)
            .filter(|other| other.name != object.name && selectors.iter().any(|s| s.matches(&other.labels)))
            .collect();
        selected.sort_by(|a, b| a.name.cmp(&b.name));
        for other in selected {
            self.aggregate(other, path, out);
        }
        path.pop();
    }

    fn collect_grants(&mut self) {
        for object in self.bindings.iter().flat_map(HashMap::values).map(|p| &p.value) {
            let (binding, namespace, role): (Arc<str>, Arc<str>, _) = (
                object.name.as_str().into(),
                object.namespace.as_str().into(),
                Arc::new(object.role.clone()),
            );
            for subject in &object.subjects {
                let (who, text) = match subject.kind.as_str() {
                    "User" => (Who::User(subject.name.clone()), format!("User {:?}", subject.name)),
                    "Group" => (Who::Group(subject.name.clone()), format!("Group {:?}", subject.name)),
                    "ServiceAccount" => {
                        let home = match subject.namespace.as_deref() {
                            Some(namespace) if !namespace.is_empty() => namespace,
                            _ if object.namespace.is_empty() => continue,
                            _ => &object.namespace,
                        };
                        let user = format!("system:serviceaccount:{home}:{}", subject.name);
                        (Who::User(user), format!("ServiceAccount \"{}/{home}\"", subject.name))
                    }
                    _ => continue,
                };
                let grant = Grant {
                    binding: binding.clone(),
                    namespace: namespace.clone(),
                    role: role.clone(),
                    subject: text,
                };
                self.grants.entry(object.namespace.clone()).or_default().entry(who).or_default().push(grant);
            }
        }
    }

    /// What is granted to the user in the whole cluster (`namespace` empty), or by bindings of one namespace.
    pub fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let here = self.grants.get(namespace);
        let names = std::iter::once(Who::User(user.name.clone()))
            .chain(user.groups.iter().map(|group| Who::Group(group.clone())));
        names.filter_map(move |who| here?.get(&who)).flatten()
    }

    /// The rules that a binding in `namespace` (empty: a ClusterRoleBinding) refers to; `None` where the role
    /// does not exist.
    pub fn rules(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<Vec<PolicyRule>>> {
        let home = if role.kind == "Role" { namespace } else { "" };
        self.rules.get(&(home.to_owned(), role.name.clone()))
    }
}
