//! Authorization: may they.
//!
//! Read first: [`Authorizer`] (one source of decisions), [`Authorization`] (what the rest of the server gets),
//! [`forbidden`] (the 403 in upstream's words). The sources, in the order they are asked: members of
//! `system:masters` may do everything; `node` knows what a node needs; `rbac` reads roles and bindings.
//! `review` evaluates the SubjectAccessReview family, `escalation` keeps people from granting what they do not
//! hold, `bootstrap` is the policy that exists from the start.
//! Not here: who is asking (`authn`), when the question is asked (the filters).
//! Upstream: staging/src/k8s.io/apiserver/pkg/authorization, plugin/pkg/auth/authorizer.

pub mod abac;
pub mod bootstrap;
mod counted;
pub mod escalation;
#[cfg(test)]
pub(crate) mod fake;
pub mod node;
pub mod rbac;
pub mod review;
pub mod structured;
pub mod webhook;

use std::sync::Arc;

use api::{GroupResource, Status};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use foundation::SharedClock;

use crate::cluster::ClusterState;
use crate::request::{Attributes, User};
use crate::response::{self, Response};
use counted::Decisions;

/// What an authorizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow,
    /// No; nobody else is asked.
    Deny,
    /// Not mine to say; the next one is asked, and the end of the chain means no.
    NoOpinion,
}

/// One source of decisions.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Decides, with a reason for people (it goes into the 403's message and into SubjectAccessReviews).
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String);

    /// The same, with what went wrong on the way. Sources that can fail tell it here.
    async fn evaluate(&self, attributes: &Attributes) -> Evaluation {
        let (decision, reason) = self.authorize(attributes).await;
        Evaluation { decision, reason, error: None }
    }

    /// Why nobody can list what `user` may do here, where that is so.
    fn unresolved(&self, user: &User) -> Vec<String> {
        let _ = user;
        Vec::new()
    }
}

/// A decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// What was decided.
    pub decision: Decision,
    /// For people; may be empty.
    pub reason: String,
    /// What went wrong. A request that nobody allows then fails instead of being refused.
    pub error: Option<String>,
}

impl Evaluation {
    /// Whether it allows what `attributes` ask.
    ///
    /// # Errors
    /// 403 with the reason, and with what went wrong.
    pub fn demanded(self, attributes: &Attributes) -> Result<(), Status> {
        let Evaluation { decision, reason, error } = self;
        if decision == Decision::Allow {
            return Ok(());
        }
        let told = match error {
            Some(error) if reason.is_empty() => error,
            Some(error) => format!("{error}: {reason}"),
            None => reason,
        };
        Err(forbidden(attributes, &told))
    }
}

/// One of the sources of decisions that can be turned on.
#[derive(Clone, Debug)]
pub enum Mode {
    /// What a node may do follows from the pods that are bound to it.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everything is allowed (for tests of clients; never a default).
    AlwaysAllow,
    /// Nothing is allowed that was not allowed before (for tests of clients).
    AlwaysDeny,
    /// A file of policies.
    Abac(abac::Policies),
    /// Another server is asked.
    Webhook(webhook::Options),
}

impl Mode {
    /// Upstream's word for it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Abac(_) => "ABAC",
            Self::Webhook(_) => "Webhook",
        }
    }
}

/// What decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The sources, in the order they are asked.
    pub modes: Vec<Mode>,
    /// What a configuration calls them, in the same order; empty where flags have named them.
    pub names: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { modes: vec![Mode::Node, Mode::Rbac], names: Vec::new() }
    }
}

/// What the rest of the server needs of authorization.
#[derive(Clone)]
pub struct Authorization {
    /// The whole chain.
    pub authorizer: Arc<dyn Authorizer>,
    /// The roles and bindings by themselves: for rule reviews and escalation checks. Present also where RBAC
    /// is not among the modes.
    pub rbac: Arc<rbac::Rbac>,
    chain: Arc<Current>,
}

impl Authorization {
    /// Lets these decide from the next request on.
    pub fn configure(&self, options: &Options) {
        self.chain.configure(options);
    }
}

/// The chain that decides now, and what it is made of that outlives a change of it: what is known of roles and of nodes.
struct Current {
    chain: ArcSwap<Chain>,
    rbac: Arc<rbac::Rbac>,
    node: Arc<node::NodeAuthorizer>,
    clock: SharedClock,
}

impl Current {
    fn configure(&self, options: &Options) {
        let mut chain = vec![Link { authorizer: Arc::new(Masters), decisions: None }];
        chain.extend(options.modes.iter().enumerate().map(|(at, mode)| {
            let authorizer: Arc<dyn Authorizer> = match mode {
                Mode::Node => self.node.clone(),
                Mode::Rbac => self.rbac.clone(),
                Mode::AlwaysAllow => Arc::new(AlwaysAllow),
                Mode::AlwaysDeny => Arc::new(AlwaysDeny),
                Mode::Abac(policies) => Arc::new(policies.clone()),
                Mode::Webhook(options) => {
                    Arc::new(webhook::Webhook::new(options.clone(), self.clock.clone()))
                }
            };
            let kind = mode.kind();
            let name = options.names.get(at).cloned().unwrap_or_else(|| match mode {
                Mode::Webhook(options) => options.name.clone(),
                _ => kind.to_lowercase(),
            });
            Link { authorizer, decisions: Some(Decisions::of(kind, &name)) }
        }));
        self.chain.store(Arc::new(Chain(chain)));
    }
}

#[async_trait]
impl Authorizer for Current {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        self.chain.load_full().authorize(attributes).await
    }

    async fn evaluate(&self, attributes: &Attributes) -> Evaluation {
        self.chain.load_full().evaluate(attributes).await
    }

    fn unresolved(&self, user: &User) -> Vec<String> {
        self.chain.load().unresolved(user)
    }
}

/// Builds the chain that `options` asks for.
pub fn build(
    options: &Options,
    cluster: &Arc<dyn ClusterState>,
    clock: &SharedClock,
) -> Result<Authorization, Status> {
    let rbac = Arc::new(rbac::Rbac::new(cluster.clone()));
    let chain = Arc::new(Current {
        chain: ArcSwap::from_pointee(Chain(Vec::new())),
        rbac: rbac.clone(),
        node: Arc::new(node::NodeAuthorizer::new(cluster.clone())),
        clock: clock.clone(),
    });
    chain.configure(options);
    Ok(Authorization { authorizer: chain.clone(), rbac, chain })
}

/// Asks one authorizer after the other until one decides.
struct Chain(Vec<Link>);

/// One of a chain.
struct Link {
    authorizer: Arc<dyn Authorizer>,
    /// `None`: nobody has configured it, and it is not counted.
    decisions: Option<Decisions>,
}

#[async_trait]
impl Authorizer for Chain {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let Evaluation { decision, reason, .. } = self.evaluate(attributes).await;
        (decision, reason)
    }

    async fn evaluate(&self, attributes: &Attributes) -> Evaluation {
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for Link { authorizer, decisions } in &self.0 {
            let said = authorizer.evaluate(attributes).await;
            if let Some(decisions) = decisions {
                decisions.count(said.decision);
            }
            if said.decision != Decision::NoOpinion {
                return said;
            }
            reasons.extend(Some(said.reason).filter(|reason| !reason.is_empty()));
            errors.extend(said.error);
        }
        let error = (!errors.is_empty()).then(|| rbac::join_errors(&errors));
        Evaluation { decision: Decision::NoOpinion, reason: reasons.join("\n"), error }
    }

    fn unresolved(&self, user: &User) -> Vec<String> {
        self.0.iter().flat_map(|link| link.authorizer.unresolved(user)).collect()
    }
}

/// Allows whatever a member of `system:masters` asks, so that no broken policy can lock the administrator out.
struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        if attributes.user.is_in(User::MASTERS) {
            (Decision::Allow, String::new())
        } else {
            (Decision::NoOpinion, String::new())
        }
    }
}

struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::Allow, String::new())
    }
}

struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::NoOpinion, "Everything is forbidden.".to_owned())
    }
}

/// The 403 for a request that nobody allowed.
pub fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let info = &attributes.info;
    let user = &attributes.user.name;
    let mut message = if !info.is_resource {
        format!("User {user:?} cannot {} path {:?}", info.verb, info.path)
    } else {
        let resource = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let place = if info.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", info.namespace)
        };
        format!(
            "User {user:?} cannot {} resource {resource:?} in API group {:?} {place}",
            info.verb, info.group
        )
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    Status::forbidden(&GroupResource::new(info.group.as_str(), info.resource.as_str()), &info.name, message)
}

/// The 500 for a request that nobody allowed since somebody could not be asked. `uri` is path and query.
pub fn failed(uri: &str, error: &str) -> Response {
    let escape = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    response::text(500, escape(format!("Internal Server Error: {uri:?}: {error}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestInfo;

    /// Decides and fails as it is told to.
    struct Told(Decision, &'static str, Option<&'static str>);

    #[async_trait]
    impl Authorizer for Told {
        async fn authorize(&self, _: &Attributes) -> (Decision, String) {
            (self.0, self.1.to_owned())
        }

        async fn evaluate(&self, _: &Attributes) -> Evaluation {
            Evaluation { decision: self.0, reason: self.1.to_owned(), error: self.2.map(str::to_owned) }
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_unless_somebody_else_decides() {
        use Decision::{Allow, Deny, NoOpinion};
        #[rustfmt::skip]
        let table = [
            (vec![Told(NoOpinion, "a", None), Told(NoOpinion, "b", None)], (NoOpinion, "a\nb", None)),
            (vec![Told(NoOpinion, "", Some("down")), Told(Allow, "yes", None)], (Allow, "yes", None)),
            (vec![Told(NoOpinion, "", Some("down")), Told(NoOpinion, "b", None)], (NoOpinion, "b", Some("down"))),
            (vec![Told(NoOpinion, "", Some("x")), Told(NoOpinion, "", Some("y"))], (NoOpinion, "", Some("[x, y]"))),
            (vec![Told(Deny, "", Some("down")), Told(Allow, "yes", None)], (Deny, "", Some("down"))),
        ];
        for (index, (chain, (decision, reason, error))) in table.into_iter().enumerate() {
            let link = |told| Link { authorizer: Arc::new(told), decisions: None };
            let chain = Chain(chain.into_iter().map(link).collect());
            let want = Evaluation { decision, reason: reason.to_owned(), error: error.map(str::to_owned) };
            assert_eq!(chain.evaluate(&ask("bob", "GET", "/api")).await, want, "row {index}");
        }
    }

    fn ask(user: &str, method: &str, path: &str) -> Attributes {
        Attributes::new(User::new(user, &[]), RequestInfo::parse(&method.parse().unwrap(), path, None))
    }

    #[test]
    fn refusals_read_as_upstreams() {
        #[rustfmt::skip]
        let table = [
            ("GET", "/api/v1/namespaces/default/pods", "",
             r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "",
             r#"deployments.apps "d" is forbidden: User "bob" cannot delete resource "deployments" in API group "apps" in the namespace "a""#),
            ("GET", "/api/v1/nodes", "because",
             r#"nodes is forbidden: User "bob" cannot list resource "nodes" in API group "" at the cluster scope: because"#),
            ("GET", "/api/v1/namespaces/a/pods/p/log", "",
             r#"pods "p" is forbidden: User "bob" cannot get resource "pods/log" in API group "" in the namespace "a""#),
            ("GET", "/metrics", "", r#"forbidden: User "bob" cannot get path "/metrics""#),
        ];
        for (method, path, reason, want) in table {
            let status = forbidden(&ask("bob", method, path), reason);
            assert_eq!(status.message, want);
            assert_eq!(status.code, 403);
        }
    }

    #[tokio::test]
    async fn what_the_server_asks_tells_of_failures_and_of_what_it_cannot_list() {
        let server = crate::reviewer::testing::Server::new(vec![(400, serde_json::Value::Null)]);
        let webhook = webhook::Options {
            name: "w".into(),
            transport: server,
            path: "/authorize".into(),
            authorized: std::time::Duration::ZERO,
            unauthorized: std::time::Duration::ZERO,
            timeout: std::time::Duration::from_secs(1),
            failure: webhook::FailurePolicy::NoOpinion,
            conditions: Vec::new(),
        };
        let modes = vec![Mode::Node, Mode::Webhook(webhook), Mode::Rbac];
        let options = Options { modes, names: Vec::new() };
        let cluster: Arc<dyn ClusterState> = fake::FakeCluster::new();
        let clock: SharedClock = Arc::new(foundation::ManualClock::default());
        let authorizer = build(&options, &cluster, &clock).unwrap().authorizer;
        let said = authorizer.evaluate(&ask("bob", "GET", "/api")).await;
        assert_eq!(said.error.as_deref(), Some("it answered 400 Bad Request"));
        let webhook = "webhook authorizer does not support user rule resolution";
        assert_eq!(authorizer.unresolved(&User::new("bob", &[])), [webhook]);
        let node = "node authorizer does not support user rule resolution";
        assert_eq!(authorizer.unresolved(&User::new("system:node:n1", &["system:nodes"])), [node, webhook]);
    }

    #[tokio::test]
    async fn failures_read_as_upstreams() {
        let answer = failed("/api?a=<b>", "x & y");
        assert_eq!(answer.status(), 500);
        let body = response::read(answer.into_body(), 1 << 10).await.unwrap();
        assert_eq!(body, "Internal Server Error: \"/api?a=&lt;b&gt;\": x &amp; y\n");
    }

    #[tokio::test]
    async fn masters_may_do_everything() {
        let mut attributes = ask("root", "DELETE", "/api/v1/nodes/n");
        assert_eq!(Masters.authorize(&attributes).await.0, Decision::NoOpinion);
        attributes.user.groups.push(User::MASTERS.to_owned());
        assert_eq!(Masters.authorize(&attributes).await.0, Decision::Allow);
    }
}
