//! What a controller wants: actions in their order, events, questions, and when to look again.
//!
//! Plain data. Not here: carrying it out (`runner/execute.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::types::core::v1::ObjectReference;
use client::{DeleteOptions, Endpoint, EventType, ObjectReferenceOf, Patch, Resource};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What should happen next for one key.
#[derive(Debug, Default)]
pub struct Plan {
    /// In this order; a step that fails ends the run, except for the steps marked [`Step::Always`].
    pub steps: Vec<Step>,
    /// Tried at once when the steps have succeeded, before the questions are asked. What the server refuses of them does not
    /// end the run: the next plan of the run finds it in its [`Answers`].
    pub attempts: Vec<Action>,
    /// Said once the steps have succeeded.
    pub events: Vec<EventSpec>,
    /// Paths to GET before this key can be planned: they are asked, and the plan is made again at once with their
    /// [`Answers`]; steps and events of a plan with questions are carried out first.
    pub questions: Vec<String>,
    /// What is POSTed before this key can be planned, and stored nowhere (access reviews); answered like the questions, under
    /// the review's name.
    pub reviews: Vec<Review>,
    /// When to look again though nothing has changed. A later plan replaces it.
    pub requeue_at: Option<Timestamp>,
    /// Come back with the key's back-off, though nothing failed: something outside the caches is not ready.
    pub retry: bool,
}

/// One part of a plan.
#[derive(Debug)]
pub enum Step {
    /// One action; the next step waits for it.
    One(Action),
    /// Actions that go in batches of 1, 2, 4 …: when one of a batch fails, the later batches are not tried, so that a
    /// quota that refuses everything is asked once and not a hundred times.
    SlowStart(Vec<Action>),
    /// Actions that go at once; all are tried.
    Parallel(Vec<Action>),
    /// One action that goes even if an earlier step failed (a status says what is, not what was wanted).
    Always(Action),
}

/// What is done to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Create it.
    Create,
    /// Replace it.
    Update,
    /// Replace a subresource of it.
    UpdateSubresource(&'static str),
    /// Change a part of it.
    Patch(Patch),
    /// Change a part of a subresource of it.
    PatchSubresource(&'static str, Patch),
    /// Delete it.
    Delete(DeleteOptions),
    /// Delete all objects of its collection.
    DeleteCollection(DeleteOptions),
    /// Create a subresource of it.
    CreateSubresource(&'static str),
}

/// One write.
#[derive(Clone, Debug)]
pub struct Action {
    /// What to do.
    pub verb: Verb,
    /// Which kind.
    pub endpoint: Endpoint,
    /// Where; `None` for a cluster-scoped kind.
    pub namespace: Option<String>,
    /// Which one; empty when the server is to generate the name.
    pub name: String,
    /// The UID the object has, where known.
    pub uid: Option<String>,
    /// The object to send, null for a patch or a deletion.
    pub body: Value,
    /// Said when it has succeeded; `{name}` stands for the object's name.
    pub on_success: Option<EventSpec>,
    /// Said when it has failed; `{error}` stands for what the server said.
    pub on_failure: Option<EventSpec>,
}

/// A question with a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// What [`Answers`] know the answer by.
    pub name: String,
    /// Where it is sent.
    pub path: String,
    /// What is sent.
    pub body: Value,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSpec {
    /// What it is about.
    pub object: ObjectReference,
    /// Whether to worry.
    pub kind: EventType,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// Why the last run of a key failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was tried.
    pub action: Arc<Action>,
    /// What the server said, if it was the server that refused.
    pub status: Option<api::Status>,
    /// The error in words.
    pub message: String,
}

impl EventSpec {
    /// An event about `object`.
    pub fn new<O: ObjectReferenceOf>(
        object: &O,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) -> EventSpec {
        EventSpec {
            object: object.object_reference(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

fn body<K: Resource>(object: &K) -> Value {
    serde_json::to_value(object).expect("typed objects have string keys only, which always serialize")
}

impl Action {
    fn on<K: Resource>(object: &K, verb: Verb, body: Value) -> Action {
        let meta = object.metadata();
        Action {
            verb,
            endpoint: Endpoint::of::<K>(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
            body,
            on_success: None,
            on_failure: None,
        }
    }

    /// Creates `object`.
    pub fn create<K: Resource>(object: &K) -> Action {
        Action::on(object, Verb::Create, body(object))
    }

    /// Replaces an object; the resourceVersion in it must still be the stored one.
    pub fn update<K: Resource>(object: &K) -> Action {
        Action::on(object, Verb::Update, body(object))
    }

    /// Replaces the status of an object.
    pub fn update_status<K: Resource>(object: &K) -> Action {
        Action::on(object, Verb::UpdateSubresource("status"), body(object))
    }

    /// Replaces another subresource (`finalize`).
    pub fn update_subresource<K: Resource>(object: &K, subresource: &'static str) -> Action {
        Action::on(object, Verb::UpdateSubresource(subresource), body(object))
    }

    /// Changes a part of `object`.
    pub fn patch<K: Resource>(object: &K, patch: Patch) -> Action {
        Action::on(object, Verb::Patch(patch), Value::Null)
    }

    /// Changes a part of the status of `object`.
    pub fn patch_status<K: Resource>(object: &K, patch: Patch) -> Action {
        Action::on(object, Verb::PatchSubresource("status", patch), Value::Null)
    }

    /// Deletes this very object (its UID is a precondition).
    pub fn delete<K: Resource>(object: &K) -> Action {
        let options = object.metadata().uid.clone().map(DeleteOptions::uid).unwrap_or_default();
        Action::delete_with(object, options)
    }

    /// Deletes an object in a certain way.
    pub fn delete_with<K: Resource>(object: &K, options: DeleteOptions) -> Action {
        Action::on(object, Verb::Delete(options), Value::Null)
    }

    /// An action on an object of a kind known only at run time.
    pub fn dynamic(endpoint: Endpoint, namespace: Option<&str>, name: &str, verb: Verb) -> Action {
        Action {
            verb,
            endpoint,
            namespace: namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned),
            name: name.to_owned(),
            uid: None,
            body: Value::Null,
            on_success: None,
            on_failure: None,
        }
    }

    /// Says `event` when the action has succeeded.
    pub fn with_success(mut self, event: EventSpec) -> Action {
        self.on_success = Some(event);
        self
    }

    /// Says `event` when the action has failed.
    pub fn with_failure(mut self, event: EventSpec) -> Action {
        self.on_failure = Some(event);
        self
    }

    /// The object an action sends, for tests and for plans that look at what failed.
    pub fn object<K: DeserializeOwned>(&self) -> Option<K> {
        K::deserialize(&self.body).ok()
    }

    /// The path of what it is done to, without a subresource.
    pub fn path(&self) -> String {
        let name = Some(self.name.as_str()).filter(|name| !name.is_empty());
        self.endpoint.path(self.namespace.as_deref(), name, None)
    }

    /// The patch an action sends.
    pub fn patch_body(&self) -> Option<&Value> {
        match &self.verb {
            Verb::Patch(patch) | Verb::PatchSubresource(_, patch) => match patch {
                Patch::Json(value) | Patch::Merge(value) | Patch::Strategic(value) => Some(value),
                Patch::Apply { value, .. } => Some(value),
            },
            _ => None,
        }
    }
}

/// One line: `create pods default/web-`, `update deployments/status default/web`, `delete pods default/web-x`.
impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, subresource) = match &self.verb {
            Verb::Create => ("create", ""),
            Verb::Update => ("update", ""),
            Verb::UpdateSubresource(subresource) => ("update", *subresource),
            Verb::Patch(_) => ("patch", ""),
            Verb::PatchSubresource(subresource, _) => ("patch", *subresource),
            Verb::Delete(_) => ("delete", ""),
            Verb::DeleteCollection(_) => ("deletecollection", ""),
            Verb::CreateSubresource(subresource) => ("create", *subresource),
        };
        let slash = if subresource.is_empty() { "" } else { "/" };
        let generated =
            self.body.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
        let name = if self.name.is_empty() { generated } else { &self.name };
        let key = client::cache_key(self.namespace.as_deref(), name);
        write!(formatter, "{verb} {}{slash}{subresource} {key}", self.endpoint.plural)
    }
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Plan {
        Plan::default()
    }

    /// Adds one action.
    pub fn act(&mut self, action: Action) -> &mut Plan {
        self.steps.push(Step::One(action));
        self
    }

    /// Adds one action that goes even if an earlier one failed.
    pub fn always(&mut self, action: Action) -> &mut Plan {
        self.steps.push(Step::Always(action));
        self
    }

    /// Adds actions in batches of 1, 2, 4 ….
    pub fn slow_start(&mut self, actions: Vec<Action>) -> &mut Plan {
        if !actions.is_empty() {
            self.steps.push(Step::SlowStart(actions));
        }
        self
    }

    /// Adds actions that go at once.
    pub fn parallel(&mut self, actions: Vec<Action>) -> &mut Plan {
        if !actions.is_empty() {
            self.steps.push(Step::Parallel(actions));
        }
        self
    }

    /// Adds an event.
    pub fn event<O: ObjectReferenceOf>(
        &mut self,
        object: &O,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) -> &mut Plan {
        self.events.push(EventSpec::new(object, kind, reason, message));
        self
    }

    /// Asks for a path.
    pub fn ask(&mut self, path: impl Into<String>) -> &mut Plan {
        self.questions.push(path.into());
        self
    }

    /// Sends a review, whose answer goes by `name`.
    pub fn review(&mut self, name: &str, path: &str, body: Value) -> &mut Plan {
        self.reviews.push(Review { name: name.to_owned(), path: path.to_owned(), body });
        self
    }

    /// Looks again at `at`, or earlier if asked before.
    pub fn requeue_at(&mut self, at: Timestamp) -> &mut Plan {
        self.requeue_at = Some(self.requeue_at.map_or(at, |earlier| earlier.min(at)));
        self
    }

    /// Every action, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        let steps = self.steps.iter().flat_map(|step| match step {
            Step::One(action) | Step::Always(action) => std::slice::from_ref(action),
            Step::SlowStart(actions) | Step::Parallel(actions) => actions.as_slice(),
        });
        steps.chain(&self.attempts)
    }
}

/// What the server answered to the questions of the plan before.
#[derive(Debug, Default)]
pub struct Answers {
    pub(crate) said: BTreeMap<String, Result<Value, api::Status>>,
    pub(crate) refused: BTreeMap<String, api::Status>,
}

impl Answers {
    /// The answer to a path, or to the review of that name: `None` if it was not asked.
    pub fn get(&self, path: &str) -> Option<&Result<Value, api::Status>> {
        self.said.get(path)
    }

    /// Why an attempt at what has this path (see [`Action::path`]) was refused.
    pub fn refusal(&self, path: &str) -> Option<&api::Status> {
        self.refused.get(path)
    }

    /// Adds the refusal of an attempt by hand, for tests.
    pub fn refuse(&mut self, path: &str, why: api::Status) {
        self.refused.insert(path.to_owned(), why);
    }

    /// Whether nothing was asked yet.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty() && self.refused.is_empty()
    }

    /// Adds an answer by hand, for tests.
    pub fn insert(&mut self, path: &str, answer: Result<Value, api::Status>) {
        self.said.insert(path.to_owned(), answer);
    }
}
