//! Which FlowSchema a request belongs to, and which flow of it.
//!
//! [`Plan`] is a whole configuration, compiled: the schemas whose level exists, in the order they are tried.
//! Upstream: apiserver/pkg/util/flowcontrol/rule.go.

use std::sync::Arc;

use api::types::flowcontrol::v1::{FlowSchema, NonResourcePolicyRule, ResourcePolicyRule, Subject};
use http::HeaderValue;

use super::metrics::SchemaMetrics;
use super::seats::LevelId;
use crate::request::{RequestInfo, User};

/// A configuration in force.
#[derive(Default)]
pub struct Plan {
    schemas: Vec<Arc<Schema>>,
}

/// A FlowSchema, and where its requests go.
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its UID, as a header's value.
    pub uid: HeaderValue,
    /// The UID of its level.
    pub level_uid: HeaderValue,
    /// Its level.
    pub level: LevelId,
    /// The most seats that one request can have of the level; `None`: it may have any number, as it holds nobody up.
    pub widest: Option<u32>,
    precedence: i32,
    distinguisher: Distinguisher,
    rules: Vec<Rules>,
    pub(super) metrics: SchemaMetrics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

struct Rules {
    subjects: Vec<Who>,
    resources: Vec<ResourcePolicyRule>,
    paths: Vec<NonResourcePolicyRule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Anyone,
    User(String),
    Group(String),
    /// Every ServiceAccount whose user name begins so.
    AccountsOf(String),
    Nobody,
}

impl Plan {
    /// Puts the schemas in order.
    pub fn new(mut schemas: Vec<Schema>) -> Self {
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas: schemas.into_iter().map(Arc::new).collect() }
    }

    /// The first schema that matches.
    pub fn find(&self, user: &User, info: &RequestInfo) -> Option<&Arc<Schema>> {
        self.schemas.iter().find(|schema| schema.rules.iter().any(|rules| rules.match_request(user, info)))
    }
}

impl Schema {
    /// Compiles a stored schema whose level exists.
    pub(super) fn new(
        object: FlowSchema,
        level: (LevelId, HeaderValue),
        widest: Option<u32>,
        metrics: SchemaMetrics,
    ) -> Self {
        let spec = object.spec;
        let rules = spec.rules.unwrap_or_default().into_iter().map(|rules| Rules {
            subjects: rules.subjects.iter().map(Who::of).collect(),
            resources: rules.resource_rules.unwrap_or_default(),
            paths: rules.non_resource_rules.unwrap_or_default(),
        });
        let distinguisher = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
            Some("ByUser") => Distinguisher::User,
            Some("ByNamespace") => Distinguisher::Namespace,
            _ => Distinguisher::None,
        };
        Self {
            name: object.metadata.name.unwrap_or_default(),
            uid: super::header(&object.metadata.uid.unwrap_or_default()),
            level: level.0,
            level_uid: level.1,
            widest,
            precedence: spec.matching_precedence.unwrap_or(1000),
            distinguisher,
            rules: rules.collect(),
            metrics,
        }
    }

    /// What tells the request's flow from others of this schema.
    pub(super) fn distinguisher<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }

    /// A number for the flow that the request belongs to, the same for all of its requests and, in all
    /// likelihood, another for every other flow.
    pub(super) fn flow(&self, user: &User, info: &RequestInfo) -> u64 {
        let apart = self.distinguisher(user, info);
        // A digest, so that nobody can choose a name that shares another flow's queues.
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(self.name.as_bytes());
        context.update(&[0]);
        context.update(apart.as_bytes());
        let digest = context.finish();
        digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Rules {
    fn match_request(&self, user: &User, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|who| who.is(user))
            && if info.is_resource {
                self.resources.iter().any(|rule| allows(rule, info))
            } else {
                self.paths.iter().any(|rule| {
                    any_or(&rule.verbs, &info.verb)
                        && rule.non_resource_urls.iter().any(|url| covers(url, &info.path))
                })
            }
    }
}

fn any_or(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

fn covers(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn allows(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    let resource = |item: &String| match (item.split_once('/'), info.subresource.as_str()) {
        _ if item == "*" => true,
        (None, "") => *item == info.resource,
        (Some((resource, sub)), asked) => resource == info.resource && sub == asked,
        (None, _) => false,
    };
    any_or(&rule.verbs, &info.verb)
        && any_or(&rule.api_groups, &info.group)
        && rule.resources.iter().any(resource)
        && match info.namespace.as_str() {
            "" => rule.cluster_scope == Some(true),
            namespace => any_or(rule.namespaces.as_deref().unwrap_or_default(), namespace),
        }
}

impl Who {
    fn of(subject: &Subject) -> Self {
        let account = |namespace: &str| format!("system:serviceaccount:{namespace}:");
        match (subject.kind.as_str(), &subject.user, &subject.group, &subject.service_account) {
            ("User", Some(user), ..) if user.name == "*" => Self::Anyone,
            ("User", Some(user), ..) => Self::User(user.name.clone()),
            ("Group", _, Some(group), _) if group.name == "*" => Self::Anyone,
            ("Group", _, Some(group), _) => Self::Group(group.name.clone()),
            ("ServiceAccount", .., Some(who)) if who.name == "*" => Self::AccountsOf(account(&who.namespace)),
            ("ServiceAccount", .., Some(who)) => Self::User(account(&who.namespace) + &who.name),
            _ => Self::Nobody,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(name) => user.name == *name,
            Self::Group(group) => user.is_in(group),
            Self::AccountsOf(prefix) => user.name.starts_with(prefix.as_str()),
            Self::Nobody => false,
        }
    }
}
