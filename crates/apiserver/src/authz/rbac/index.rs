//! Roles and bindings arranged so that a decision looks only at what names its user.
//!
//! A snapshot is immutable. The next one takes over the parsed form of every object whose bytes are the same
//! buffer as before, and the grants of every namespace whose bindings are the same, so that a change costs a walk over
//! pointers, one parse, and the grants of one namespace. Aggregated roles are put together anew when ClusterRoles change.
//! Not here: reading the cluster (`rbac`), what a rule means (`rules`).

use std::collections::{HashMap, HashSet};
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
    /// Its own.
    rules: Arc<Vec<PolicyRule>>,
    /// Of a ClusterRole that takes its rules from others: which.
    aggregates: Option<Vec<labels::Selector>>,
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
    /// By namespace.
    grants: HashMap<String, Grants>,
}

/// What the bindings of one namespace grant.
struct Grants {
    of: Vec<Arc<BindingObject>>,
    by_subject: Arc<HashMap<Who, Vec<Grant>>>,
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
    let aggregates = role.aggregation_rule.map(|rule| {
        let selectors = rule.cluster_role_selectors.unwrap_or_default();
        let read = |selector| labels::Selector::from_label_selector(Some(selector)).ok();
        selectors.iter().filter_map(read).collect()
    });
    Some(RoleObject {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        rules: Arc::new(role.rules.unwrap_or_default()),
        aggregates,
    })
}

/// Parses with `kind` set to ClusterRole: the generated types check the kind, and a Role has the same fields.
fn parse_as(bytes: &Bytes) -> Option<ClusterRole> {
    let mut value: serde_json::Value = parse(bytes)?;
    value["kind"] = "ClusterRole".into();
    api::json::typed(&value).ok()
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
        next.collect_rules(self);
        next.collect_grants(self, lists);
        next
    }

    fn collect_rules(&mut self, before: &Self) {
        let [cluster, namespaced] = &self.roles;
        let mut rules = HashMap::with_capacity(cluster.len() + namespaced.len());
        for object in namespaced.values().map(|p| &p.value) {
            rules.insert((object.namespace.clone(), object.name.clone()), object.rules.clone());
        }
        // What an aggregated role has depends on the other ClusterRoles only.
        let same = cluster.len() == before.roles[0].len()
            && cluster.iter().all(|(at, role)| {
                before.roles[0].get(at).is_some_and(|known| Arc::ptr_eq(&known.value, &role.value))
            });
        for object in cluster.values().map(|p| &p.value) {
            let key = (String::new(), object.name.clone());
            let found = match (&object.aggregates, before.rules.get(&key)) {
                (None, _) => object.rules.clone(),
                (Some(_), Some(known)) if same => known.clone(),
                (Some(_), _) => Arc::new(self.aggregate(object)),
            };
            rules.insert(key, found);
        }
        self.rules = rules;
    }

    /// The rules of the roles that an aggregated one selects, and of those that these select, each looked at once.
    fn aggregate(&self, root: &RoleObject) -> Vec<PolicyRule> {
        let mut out: Vec<PolicyRule> = Vec::new();
        let mut seen = HashSet::from([root.name.as_str()]);
        let mut open = vec![root];
        while let Some(object) = open.pop() {
            let Some(selectors) = &object.aggregates else {
                for rule in object.rules.iter() {
                    if !out.contains(rule) {
                        out.push(rule.clone());
                    }
                }
                continue;
            };
            let others = self.roles[0].values().map(|p| &*p.value);
            let mut selected: Vec<&RoleObject> = others
                .filter(|other| selectors.iter().any(|selector| selector.matches(&other.labels)))
                .filter(|other| seen.insert(other.name.as_str()))
                .collect();
            // The last is taken up first.
            selected.sort_by(|a, b| b.name.cmp(&a.name));
            open.extend(selected);
        }
        out
    }

    fn collect_grants(&mut self, before: &Self, lists: [&[Bytes]; 4]) {
        let mut of: HashMap<&str, Vec<Arc<BindingObject>>> = HashMap::new();
        for (bindings, list) in self.bindings.iter().zip([lists[1], lists[3]]) {
            // In the order of the lists, so that the same bindings are found to be the same.
            for object in list.iter().filter_map(|item| bindings.get(&identity(item))).map(|p| &p.value) {
                of.entry(&object.namespace).or_default().push(object.clone());
            }
        }
        let grants = of.into_iter().map(|(namespace, of)| {
            let known = before.grants.get(namespace).filter(|known| {
                known.of.len() == of.len() && known.of.iter().zip(&of).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            let by_subject = match known {
                Some(known) => known.by_subject.clone(),
                None => Arc::new(grants_of(&of)),
            };
            (namespace.to_owned(), Grants { of, by_subject })
        });
        self.grants = grants.collect();
    }

    /// What is granted to the user in the whole cluster (`namespace` empty), or by bindings of one namespace.
    pub fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let here = self.grants.get(namespace).map(|grants| &grants.by_subject);
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

/// What bindings of one namespace (or of the cluster) grant, by whom they name.
fn grants_of(bindings: &[Arc<BindingObject>]) -> HashMap<Who, Vec<Grant>> {
    let mut grants: HashMap<Who, Vec<Grant>> = HashMap::new();
    for object in bindings {
        let (binding, namespace, role): (Arc<str>, Arc<str>, _) =
            (object.name.as_str().into(), object.namespace.as_str().into(), Arc::new(object.role.clone()));
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
            grants.entry(who).or_default().push(grant);
        }
    }
    grants
}
