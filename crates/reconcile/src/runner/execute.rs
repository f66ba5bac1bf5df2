//! Carries out the steps of a plan: each action is one request, and its result one expectation.
//!
//! What counts as success although the server said no: deleting or changing what is already gone, and creating in a
//! namespace that is going (upstream's controllers skip both in the same way).

use std::sync::Arc;

use client::{Accept, Client, Error, EventRecorder, Patch};
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::expectations::Expectation;
use crate::plan::{Action, EventSpec, Failure, Step, Verb};

/// At most so many requests of one plan are under way.
const AT_ONCE: usize = 64;

pub(super) struct Executor {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
}

/// What carrying out has led to.
#[derive(Default)]
pub(super) struct Report {
    pub(super) expected: Vec<Expectation>,
    pub(super) failure: Option<Failure>,
}

/// As much of an answer as is needed.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Written {
    kind: String,
    metadata: WrittenMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMeta {
    name: String,
    resource_version: String,
}

impl Executor {
    pub(super) async fn carry_out(&self, steps: Vec<Step>) -> Report {
        let mut report = Report::default();
        for step in steps {
            if report.failure.is_some() && !matches!(step, Step::Always(_)) {
                continue;
            }
            match step {
                Step::One(action) | Step::Always(action) => self.batch(vec![action], &mut report).await,
                Step::SlowStart(actions) => {
                    let mut rest = actions.into_iter();
                    let mut size = 1;
                    loop {
                        let batch: Vec<_> = rest.by_ref().take(size.min(AT_ONCE)).collect();
                        if batch.is_empty() || report.failure.is_some() {
                            break;
                        }
                        self.batch(batch, &mut report).await;
                        size *= 2;
                    }
                }
                Step::Parallel(actions) => {
                    let mut rest = actions.into_iter().peekable();
                    while rest.peek().is_some() {
                        self.batch(rest.by_ref().take(AT_ONCE).collect(), &mut report).await;
                    }
                }
            }
        }
        report
    }

    /// Actions at once; the first failure is kept.
    async fn batch(&self, actions: Vec<Action>, report: &mut Report) {
        let results = futures::future::join_all(actions.iter().map(|action| self.act(action))).await;
        for (mut action, result) in actions.into_iter().zip(results) {
            match result {
                Ok(written) => {
                    if let (Some(mut event), Some(written)) = (action.on_success.take(), &written) {
                        event.message = event.message.replace("{name}", &written.metadata.name);
                        self.say(event);
                    }
                    report.expected.extend(written.and_then(|written| expected(&action, written)));
                }
                Err(error) => {
                    let message = error.to_string();
                    if let Some(mut event) = action.on_failure.take() {
                        event.message = event.message.replace("{error}", &message);
                        self.say(event);
                    }
                    let status = error.status().cloned();
                    report.failure.get_or_insert(Failure { action: Arc::new(action), status, message });
                }
            }
        }
    }

    /// One request: what was written, or `None` if there was nothing to do it to.
    async fn act(&self, action: &Action) -> Result<Option<Written>, Error> {
        let namespace = action.namespace.as_deref();
        let (method, name, subresource) = match &action.verb {
            Verb::Create => (Method::POST, None, None),
            Verb::CreateSubresource(subresource) => (Method::POST, Some(&action.name), Some(*subresource)),
            Verb::Update => (Method::PUT, Some(&action.name), None),
            Verb::UpdateSubresource(subresource) => (Method::PUT, Some(&action.name), Some(*subresource)),
            Verb::Patch(_) => (Method::PATCH, Some(&action.name), None),
            Verb::PatchSubresource(subresource, _) => (Method::PATCH, Some(&action.name), Some(*subresource)),
            Verb::Delete(_) => (Method::DELETE, Some(&action.name), None),
            Verb::DeleteCollection(_) => (Method::DELETE, None, None),
        };
        let result = match &action.verb {
            Verb::Patch(patch) | Verb::PatchSubresource(_, patch) => {
                self.patch(action, subresource, patch).await
            }
            Verb::Delete(options) | Verb::DeleteCollection(options) => {
                let path = action.endpoint.path(namespace, name.map(String::as_str), None);
                let body = serde_json::to_vec(options).map_err(|error| Error::Request(error.to_string()))?;
                let body = Some(("application/json", body.into()));
                self.client.call(method, path, body, Accept::Object).await
            }
            _ => {
                let path = action.endpoint.path(namespace, name.map(String::as_str), subresource);
                let body =
                    serde_json::to_vec(&action.body).map_err(|error| Error::Request(error.to_string()))?;
                let body = Some(("application/json", body.into()));
                self.client.call(method, path, body, Accept::Object).await
            }
        };
        match result {
            Ok(bytes) => {
                let mut written: Written = serde_json::from_slice(&bytes).unwrap_or_default();
                if written.metadata.name.is_empty() {
                    written.metadata.name.clone_from(&action.name);
                }
                Ok(Some(written))
            }
            Err(error) if error.is_not_found() && !matches!(action.verb, Verb::Create) => Ok(None),
            // The precondition is the UID: another object has taken the name, and ours is gone.
            Err(error) if error.is_conflict() && only_uid(&action.verb) => Ok(None),
            Err(error) if error.is_namespace_terminating() && matches!(action.verb, Verb::Create) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn patch(
        &self,
        action: &Action,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<bytes::Bytes, Error> {
        let namespace = action.namespace.as_deref();
        self.client.patch_dynamic(&action.endpoint, namespace, &action.name, subresource, patch).await
    }

    /// A question: whatever the server says is an answer, also that it (or the server behind it) cannot say now; only
    /// silence is none. So a plan that gets an error must decide whether it is one to try again on.
    /// With a body it is a POST.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: Option<Value>,
    ) -> Result<Result<Value, api::Status>, Error> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        match self.client.request(method, path, body.as_ref()).await {
            Ok(value) => Ok(Ok(value)),
            Err(Error::Status(status)) => Ok(Err(*status)),
            Err(error) => Err(error),
        }
    }

    /// Actions whose failure does not end the run: what the server refused, by the path of what it was to be done to.
    pub(super) async fn attempt(&self, actions: &[Action]) -> Result<Vec<(String, api::Status)>, Error> {
        let mut refused = Vec::new();
        for batch in actions.chunks(AT_ONCE) {
            let results = futures::future::join_all(batch.iter().map(|action| self.act(action))).await;
            for (action, result) in batch.iter().zip(results) {
                match result {
                    Ok(_) => {}
                    Err(Error::Status(status)) => refused.push((action.path(), *status)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(refused)
    }

    pub(super) fn say(&self, event: EventSpec) {
        self.recorder.event_about(event.object, event.kind, &event.reason, event.message);
    }
}

fn only_uid(verb: &Verb) -> bool {
    let Verb::Delete(options) = verb else { return false };
    options.preconditions.as_ref().is_some_and(|all| all.uid.is_some() && all.resource_version.is_none())
}

fn expected(action: &Action, written: Written) -> Option<Expectation> {
    match &action.verb {
        Verb::DeleteCollection(_) | Verb::CreateSubresource(_) => None,
        Verb::Delete(_) => {
            let uid = action.uid.clone()?;
            let key = client::cache_key(action.namespace.as_deref(), &action.name);
            Some(Expectation::Gone(action.endpoint.clone(), key, uid))
        }
        _ if written.kind == "Status" => None,
        _ => {
            let revision = written.metadata.resource_version.parse().ok()?;
            Some(Expectation::Revision(action.endpoint.clone(), revision))
        }
    }
}
