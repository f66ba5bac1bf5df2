//! Asks another server whether somebody may do something, by a SubjectAccessReview.
//!
//! Answers are remembered, allowances for longer than refusals. When the server cannot be asked the failure policy
//! decides, and why is told; match conditions keep it from being asked about what it has no opinion of. Selectors are
//! sent as the requirements that they are made of, since they only narrow: what cannot be read is left out.
//! Upstream: apiserver/plugin/pkg/authorizer/webhook, apiserver/pkg/authorization/cel.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::selector::{fields, labels};
use async_trait::async_trait;
use client::Transport;
use foundation::SharedClock;
use parking_lot::Mutex;
use schema::cel::value::from_json;
use schema::cel::{self, Bindings, Program, Scope, Type};
use serde_json::{Value, json};

use super::{Authorizer, Decision, Evaluation};
use crate::request::{Attributes, User};
use crate::reviewer::Reviewer;

/// Answers that are remembered.
const REMEMBERED: usize = 8192;
/// Requests with longer names are not remembered: nobody is to fill the memory with them.
const LONGEST: usize = 10_000;

/// What is decided when the server cannot be asked, or a condition cannot be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The next authorizer is asked.
    NoOpinion,
    /// No.
    Deny,
}

/// Which server is asked, and about what.
#[derive(Clone)]
pub struct Options {
    /// Its name in logs.
    pub name: String,
    /// The way to it.
    pub transport: Arc<dyn Transport>,
    /// The path to post to.
    pub path: String,
    /// How long a yes is remembered.
    pub authorized: Duration,
    /// How long a no is remembered.
    pub unauthorized: Duration,
    /// How long it has to answer.
    pub timeout: Duration,
    /// What is decided when it cannot be asked.
    pub failure: FailurePolicy,
    /// It is asked only if all of them are true. Compiled by [`condition`].
    pub conditions: Vec<Program>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Compiles a match condition: an expression over `request`, the spec of the review.
///
/// # Errors
/// What is wrong with it.
pub fn condition(expression: &str) -> Result<Program, String> {
    let variables = BTreeMap::from([("request".to_owned(), Type::map(Type::String, Type::Dyn))]);
    let program = cel::compile(expression, &Scope { variables, ..Scope::default() })
        .map_err(|error| format!("compilation failed: {error}"))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        _ => Err("must evaluate to bool".to_owned()),
    }
}

type Answers = HashMap<String, (Duration, Decision, String)>;

/// The authorizer.
pub struct Webhook {
    options: Options,
    reviewer: Reviewer,
    clock: SharedClock,
    known: Mutex<Answers>,
}

impl Webhook {
    /// An authorizer that asks as `options` say.
    pub fn new(options: Options, clock: SharedClock) -> Self {
        let reviewer = Reviewer {
            transport: options.transport.clone(),
            path: options.path.clone(),
            timeout: options.timeout,
            clock: clock.clone(),
        };
        Self { options, reviewer, clock, known: Mutex::default() }
    }

    /// Whether the server is to be asked; an error where that cannot be said.
    fn concerns(&self, spec: &Value) -> Result<bool, String> {
        let mut problem = None;
        for program in &self.options.conditions {
            let bindings = Bindings(vec![("request", from_json(spec))]);
            match program.evaluate(&bindings, cel::CALL_LIMIT).value {
                // One that is false is enough, whatever is wrong with the others.
                Ok(cel::Value::Bool(false)) => return Ok(false),
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => problem = Some("a match condition gives no bool".to_owned()),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        problem.map_or(Ok(true), Err)
    }

    async fn ask(&self, spec: &Value) -> Result<(Decision, String), String> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
            "spec": spec, "status": {"allowed": false},
        });
        let mut answer: Value = self.reviewer.ask(&review).await?;
        let status = answer["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        match (status["allowed"] == true, status["denied"] == true) {
            (true, true) => {
                Err("webhook subject access review returned both allow and deny response".to_owned())
            }
            (true, false) => Ok((Decision::Allow, reason)),
            (false, true) => Ok((Decision::Deny, reason)),
            (false, false) => Ok((Decision::NoOpinion, reason)),
        }
    }

    fn failed(&self, problem: String) -> Evaluation {
        tracing::warn!(webhook = self.options.name, problem, "the authorization webhook cannot be asked");
        let decision = match self.options.failure {
            FailurePolicy::NoOpinion => Decision::NoOpinion,
            FailurePolicy::Deny => Decision::Deny,
        };
        Evaluation { decision, reason: String::new(), error: Some(problem) }
    }
}

/// The requirements of a field selector, as reviews have them.
fn field_requirements(selector: &str) -> Vec<Value> {
    let read = fields::Selector::parse(selector).unwrap_or_default();
    let requirements = read.requirements().iter().map(|requirement| {
        let operator = if requirement.equal { "In" } else { "NotIn" };
        json!({"key": requirement.field, "operator": operator, "values": [requirement.value]})
    });
    requirements.collect()
}

/// The requirements of a label selector, as reviews have them. They know no comparisons of numbers.
fn label_requirements(selector: &str) -> Vec<Value> {
    let Ok(read) = labels::Selector::parse(selector) else { return Vec::new() };
    let requirements = read.requirements().iter().filter_map(|requirement| {
        let (operator, valued) = match requirement.operator {
            labels::Operator::In => ("In", true),
            labels::Operator::NotIn => ("NotIn", true),
            labels::Operator::Exists => ("Exists", false),
            labels::Operator::DoesNotExist => ("DoesNotExist", false),
            labels::Operator::GreaterThan | labels::Operator::LessThan => return None,
        };
        let mut out = json!({"key": requirement.key, "operator": operator});
        if valued {
            out["values"] = json!(requirement.values);
        }
        Some(out)
    });
    requirements.collect()
}

/// The spec of the review about a request.
fn spec(attributes: &Attributes) -> Value {
    let (user, info) = (&attributes.user, &attributes.info);
    let mut spec = json!({"user": user.name});
    if !user.uid.is_empty() {
        spec["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    let fields = |fields: &[(&str, &str)]| -> Value {
        let given = fields.iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
    };
    if !info.is_resource {
        spec["nonResourceAttributes"] = fields(&[("path", &info.path), ("verb", &info.verb)]);
        return spec;
    }
    let mut resource = fields(&[
        ("namespace", &info.namespace),
        ("verb", &info.verb),
        ("group", &info.group),
        ("version", &info.version),
        ("resource", &info.resource),
        ("subresource", &info.subresource),
        ("name", &info.name),
    ]);
    for (name, requirements) in [
        ("fieldSelector", attributes.field_selector.as_deref().map(field_requirements)),
        ("labelSelector", attributes.label_selector.as_deref().map(label_requirements)),
    ] {
        if let Some(requirements) = requirements.filter(|requirements| !requirements.is_empty()) {
            resource[name] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let Evaluation { decision, reason, .. } = self.evaluate(attributes).await;
        (decision, reason)
    }

    async fn evaluate(&self, attributes: &Attributes) -> Evaluation {
        let spec = spec(attributes);
        let said = |decision, reason| Evaluation { decision, reason, error: None };
        match self.concerns(&spec) {
            Ok(true) => {}
            Ok(false) => return said(Decision::NoOpinion, String::new()),
            Err(problem) => return self.failed(problem),
        }
        let key = spec.to_string();
        let now = self.clock.monotonic();
        if let Some((_, decision, reason)) = self.known.lock().get(&key).filter(|(until, ..)| now < *until) {
            return said(*decision, reason.clone());
        }
        let (decision, reason) = match self.ask(&spec).await {
            Ok(answer) => answer,
            Err(problem) => return self.failed(problem),
        };
        let keep = match decision {
            Decision::Allow => self.options.authorized,
            _ => self.options.unauthorized,
        };
        if key.len() <= LONGEST && !keep.is_zero() {
            let mut known = self.known.lock();
            if known.len() >= REMEMBERED {
                known.retain(|_, (until, ..)| now < *until);
            }
            if known.len() < REMEMBERED {
                known.insert(key, (now + keep, decision, reason.clone()));
            }
        }
        said(decision, reason)
    }

    fn unresolved(&self, _: &User) -> Vec<String> {
        vec!["webhook authorizer does not support user rule resolution".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;

    use super::*;
    use crate::request::RequestInfo;
    use crate::reviewer::testing::Server;

    fn world(
        answers: Vec<(u16, Value)>,
        failure: FailurePolicy,
        conditions: &[&str],
    ) -> (Webhook, Arc<Server>, ManualClock) {
        let server = Server::new(answers);
        let clock = ManualClock::default();
        let options = Options {
            name: "w".into(),
            transport: server.clone(),
            path: "/authorize".into(),
            authorized: Duration::from_secs(300),
            unauthorized: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            failure,
            conditions: conditions.iter().map(|text| condition(text).unwrap()).collect(),
        };
        (Webhook::new(options, Arc::new(clock.clone())), server, clock)
    }

    fn ask(path: &str) -> Attributes {
        Attributes::new(User::new("bob", &["dev"]), RequestInfo::parse(&http::Method::GET, path, None))
    }

    #[tokio::test]
    async fn answers_are_remembered_for_their_time() {
        let answers = vec![
            (201, json!({"allowed": true, "reason": "because"})),
            (200, json!({"allowed": false})),
            (200, json!({"allowed": false, "denied": true, "reason": "no"})),
            (200, json!({"allowed": true})),
        ];
        let (webhook, server, clock) = world(answers, FailurePolicy::NoOpinion, &[]);
        let pods = ask("/api/v1/namespaces/a/pods/p");
        for _ in 0..2 {
            assert_eq!(webhook.authorize(&pods).await, (Decision::Allow, "because".into()));
        }
        assert_eq!(
            server.asked.lock()[0]["spec"],
            json!({"user": "bob", "groups": ["dev"], "resourceAttributes": {
                "namespace": "a", "verb": "get", "version": "v1", "resource": "pods", "name": "p",
            }})
        );
        let path = ask("/logs");
        assert_eq!(webhook.authorize(&path).await.0, Decision::NoOpinion);
        assert_eq!(
            server.asked.lock()[1]["spec"]["nonResourceAttributes"],
            json!({"path": "/logs", "verb": "get"})
        );
        clock.advance(Duration::from_secs(31));
        assert_eq!(webhook.authorize(&path).await, (Decision::Deny, "no".into()));
        assert_eq!(webhook.authorize(&pods).await.0, Decision::Allow, "still remembered");
        clock.advance(Duration::from_secs(300));
        assert_eq!(webhook.authorize(&pods).await.0, Decision::Allow);
        assert!(server.answers.lock().is_empty());
    }

    #[tokio::test]
    async fn the_failure_policy_decides_when_nobody_answers() {
        for (failure, want) in
            [(FailurePolicy::NoOpinion, Decision::NoOpinion), (FailurePolicy::Deny, Decision::Deny)]
        {
            let (webhook, _, _) = world(vec![(400, Value::Null)], failure, &[]);
            let said = webhook.evaluate(&ask("/x")).await;
            assert_eq!((said.decision, said.error.as_deref()), (want, Some("it answered 400 Bad Request")));
            let (webhook, server, _) =
                world(vec![], failure, &["request.resourceAttributes.namespace == 'a'"]);
            assert_eq!(webhook.authorize(&ask("/x")).await.0, want, "the condition cannot be evaluated");
            assert!(server.asked.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn selectors_are_sent_as_their_requirements() {
        let (webhook, server, _) = world(vec![(200, json!({"allowed": true}))], FailurePolicy::Deny, &[]);
        let mut pods = ask("/api/v1/pods");
        pods.field_selector = Some("spec.nodeName=n1,status.phase!=Failed".into());
        pods.label_selector = Some("a in (x,y),b,!c,d!=z,e>5".into());
        assert_eq!(webhook.authorize(&pods).await.0, Decision::Allow);
        let attributes = &server.asked.lock()[0]["spec"]["resourceAttributes"];
        let fields = json!({"requirements": [
            {"key": "spec.nodeName", "operator": "In", "values": ["n1"]},
            {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]},
        ]});
        assert_eq!(attributes["fieldSelector"], fields);
        let labels = json!({"requirements": [
            {"key": "a", "operator": "In", "values": ["x", "y"]},
            {"key": "b", "operator": "Exists"},
            {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "NotIn", "values": ["z"]},
        ]});
        assert_eq!(attributes["labelSelector"], labels);
        let mut odd = ask("/api/v1/pods");
        odd.field_selector = Some("nonsense".into());
        assert!(
            spec(&odd)["resourceAttributes"]["fieldSelector"].is_null(),
            "what cannot be read is left out"
        );
    }

    #[tokio::test]
    async fn conditions_keep_requests_away() {
        let conditions = ["has(request.resourceAttributes)", "!('system:nodes' in request.groups)"];
        let (webhook, server, _) =
            world(vec![(200, json!({"allowed": true}))], FailurePolicy::Deny, &conditions);
        assert_eq!(webhook.authorize(&ask("/x")).await.0, Decision::NoOpinion);
        assert_eq!(webhook.authorize(&ask("/api/v1/pods")).await.0, Decision::Allow);
        assert_eq!(server.asked.lock().len(), 1);
        assert!(condition("request.").is_err());
        assert!(condition("'text'").is_err());
    }
}
