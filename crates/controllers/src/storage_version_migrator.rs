//! Writes every object of a resource again, so that the store has it in the version and under the key of now.
//!
//! Reads StorageVersionMigrations, discovery, and the objects page by page; applies to each object nothing at all, which is a
//! write only where what is stored has an old form. How far it is stands in an annotation of the migration, so that a run
//! holds one page and a restart goes on where it was. Writes the migration's conditions, which say how many objects are
//! done (upstream's do since v1.37; the words are ours).
//! Not here: whether a write is needed (the API server knows).
//! Upstream: `pkg/controller/storageversionmigrator`.

use std::fmt;

use api::Status;
use api::meta::{Condition, Time};
use api::types::storagemigration::v1::StorageVersionMigration;
use client::{Endpoint, Patch};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, Verb, View, Watches};
use serde_json::{Value, json};

use crate::discovery::{self, Served};
use crate::object;

/// The place from which the next page goes on.
const CONTINUE: &str = "storagemigration.ironclad/continue";
/// How many objects are done with it.
const MIGRATED: &str = "storagemigration.ironclad/migrated";
/// Objects in one page.
const PAGE: usize = 100;
const MANAGER: &str = "storage-version-migrator-controller";

/// The controller.
pub struct StorageVersionMigrator;

impl Controller for StorageVersionMigrator {
    const NAME: &'static str = "storage-version-migrator-controller";
    /// One after the other: each is as much work as the server is given.
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<StorageVersionMigration>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(migration) = view.get_key::<StorageVersionMigration>(key) else { return plan };
        if object::deleting(&*migration) || holds(&migration, "Succeeded") || holds(&migration, "Failed") {
            return plan;
        }
        if !holds(&migration, "Running") {
            let running = ("Running", "StorageVersionMigrationInProgress", "");
            plan.act(Action::update_status(&with_condition(&migration, running, now)));
            return plan;
        }
        match next(view, &migration) {
            Next::Ask(paths) => {
                for path in paths {
                    plan.ask(path);
                }
            }
            Next::Write { attempts, then } => {
                plan.attempts = attempts;
                plan.ask(then);
            }
            Next::GoOn { token, progress } => {
                plan.act(Action::update_status(&with_progress(&migration, &progress)));
                plan.act(place(&migration, json!(token), json!(progress.migrated.to_string())));
            }
            Next::Again => {
                plan.act(place(&migration, Value::Null, Value::Null));
            }
            Next::Later => plan.retry = true,
            Next::Done(progress) => {
                let (migration, message) = (with_progress(&migration, &progress), progress.to_string());
                let done = ("Succeeded", "StorageVersionMigrationSucceeded", message.as_str());
                plan.act(Action::update_status(&with_condition(&migration, done, now)));
            }
            Next::Stop { why, progress } => {
                let (migration, message) =
                    (with_progress(&migration, &progress), format!("{why} ({progress})"));
                let failed = ("Failed", "StorageVersionMigrationFailed", message.as_str());
                plan.act(Action::update_status(&with_condition(&migration, failed, now)));
            }
            Next::Fail(why) => {
                let failed = ("Failed", "StorageVersionMigrationFailed", why.as_str());
                plan.act(Action::update_status(&with_condition(&migration, failed, now)));
            }
        }
        plan
    }
}

/// What is to be done next for a migration that runs.
enum Next {
    /// These are to be asked first.
    Ask(Vec<String>),
    /// A page is to be written; then it is to be asked whether the migration is still wanted.
    Write {
        attempts: Vec<Action>,
        then: String,
    },
    /// The page is written; the next one begins here.
    GoOn {
        token: String,
        progress: Progress,
    },
    /// From the first page again.
    Again,
    /// The server cannot now.
    Later,
    Done(Progress),
    /// There is nothing to migrate.
    Fail(String),
    /// An object cannot be written.
    Stop {
        why: String,
        progress: Progress,
    },
}

/// How many objects are done, of how many.
struct Progress {
    migrated: u64,
    total: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} objects migrated", self.migrated, self.total)
    }
}

fn next(view: &View<'_>, migration: &StorageVersionMigration) -> Next {
    let Some(spec) = &migration.spec else { return Next::Fail("no resource is named".to_owned()) };
    let found = match discovery::of_group(&spec.resource.group, view.answers()) {
        Ok(found) => found,
        Err(paths) => return Next::Ask(paths),
    };
    let Some(served) = found.kinds.iter().find(|served| *served.endpoint.plural == *spec.resource.resource)
    else {
        // A server that is down may serve it.
        return match found.failed.is_empty() {
            true => Next::Fail(format!(
                "resource {} is not served",
                named(&spec.resource.group, &spec.resource.resource)
            )),
            false => Next::Later,
        };
    };
    if !served.can(&["list", "patch"]) {
        return Next::Fail("its objects cannot be listed and patched".to_owned());
    }
    let from = object::annotation(migration, CONTINUE).unwrap_or_default();
    let page = page_path(&served.endpoint, from);
    let listed = match view.answers().get(&page) {
        None => return Next::Ask(vec![page]),
        Some(Err(status)) if status.is_expired() => return Next::Again,
        Some(Err(status)) => return refused(status),
        Some(Ok(listed)) => listed,
    };
    let attempts: Vec<Action> =
        listed["items"].as_array().into_iter().flatten().map(|item| rewrite(served, item)).collect();
    let name = object::name(migration);
    let wanted = format!(
        "{}?fieldSelector=metadata.name%3D{name}",
        Endpoint::of::<StorageVersionMigration>().path(None, None, None)
    );
    if !attempts.is_empty() && view.answers().get(&wanted).is_none() {
        return Next::Write { attempts, then: wanted };
    }
    let before: u64 =
        object::annotation(migration, MIGRATED).and_then(|count| count.parse().ok()).unwrap_or_default();
    let remaining = listed["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
    let total = before.saturating_add(attempts.len() as u64).saturating_add(remaining);
    // Somebody else has written it meanwhile, or it is gone.
    let is_settled = |status: &Status| status.is_conflict() || status.is_not_found();
    let refusals = attempts.iter().filter_map(|attempt| view.answers().refusal(&attempt.path()));
    let refusals: Vec<&Status> = refusals.filter(|status| !is_settled(status)).collect();
    let progress = Progress { migrated: total - remaining - refusals.len() as u64, total };
    if let Some(status) = refusals.first() {
        return match refused(status) {
            Next::Fail(why) => Next::Stop { why, progress },
            other => other,
        };
    }
    match listed["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
        Some(token) => Next::GoOn { token: token.to_owned(), progress },
        None => Next::Done(progress),
    }
}

/// Notes where the next page begins, and what is done before it.
fn place(migration: &StorageVersionMigration, token: Value, migrated: Value) -> Action {
    let annotations = json!({CONTINUE: token, MIGRATED: migrated});
    Action::patch(migration, Patch::Merge(json!({"metadata": {"annotations": annotations}})))
}

fn refused(status: &Status) -> Next {
    match status.code {
        429 | 500..=599 => Next::Later,
        _ => Next::Fail(status.message.clone()),
    }
}

fn named(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn page_path(endpoint: &Endpoint, from: &str) -> String {
    let path = endpoint.path(None, None, None);
    match from {
        "" => format!("{path}?limit={PAGE}"),
        token => {
            // What Base64 has beside letters and digits.
            let token = token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            format!("{path}?limit={PAGE}&continue={token}")
        }
    }
}

/// Applies nothing to an object, if it is still the one that was listed.
fn rewrite(served: &Served, item: &Value) -> Action {
    let endpoint = &served.endpoint;
    let text = |member: &str| item["metadata"][member].as_str().unwrap_or_default();
    let mut metadata =
        json!({"name": text("name"), "uid": text("uid"), "resourceVersion": text("resourceVersion")});
    if served.namespaced {
        metadata["namespace"] = text("namespace").into();
    }
    let value = json!({"apiVersion": endpoint.api_version(), "kind": served.kind, "metadata": metadata});
    let patch = Patch::Apply { value, field_manager: MANAGER.to_owned(), force: false };
    Action::dynamic(endpoint.clone(), Some(text("namespace")), text("name"), Verb::Patch(patch))
}

fn holds(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// With what `Running` says of how far it is.
fn with_progress(migration: &StorageVersionMigration, progress: &Progress) -> StorageVersionMigration {
    let mut next = migration.clone();
    let conditions = next.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
    for running in conditions.filter(|condition| condition.type_ == "Running") {
        running.message = progress.to_string();
    }
    next
}

/// With a condition that is true; `Running` is not, beside another one.
fn with_condition(
    migration: &StorageVersionMigration,
    (kind, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> StorageVersionMigration {
    let mut next = migration.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    for running in conditions.iter_mut().filter(|other| other.type_ == "Running" && other.status == "True") {
        running.status = "False".to_owned();
        running.last_transition_time = Time(object::seconds(now));
    }
    conditions.push(Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(object::seconds(now)),
        observed_generation: None,
    });
    next
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;

    use super::*;

    fn migration(conditions: &[&str], token: Option<&str>) -> StorageVersionMigration {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|kind| {
                json!({"type": kind, "status": "True", "reason": "R", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "m", "uid": "um", "annotations": token.map(|token| json!({CONTINUE: token, MIGRATED: "7"}))},
            "spec": {"resource": {"group": "", "resource": "configmaps"}}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    const FIRST: &str = "/api/v1/configmaps?limit=100";
    const WANTED: &str =
        "/apis/storagemigration.k8s.io/v1/storageversionmigrations?fieldSelector=metadata.name%3Dm";

    fn running(token: Option<&str>, answers: &[(&str, Result<Value, Status>)]) -> Plan {
        fixture(token, answers).plan("", "m", Timestamp::UNIX_EPOCH)
    }

    fn fixture(
        token: Option<&str>,
        answers: &[(&str, Result<Value, Status>)],
    ) -> Fixture<StorageVersionMigrator> {
        let kinds = json!({"groupVersion": "v1", "resources": [{"name": "configmaps", "kind": "ConfigMap",
            "namespaced": true, "verbs": ["list", "patch", "watch"]}]});
        let mut fixture = Fixture::new(StorageVersionMigrator).with(vec![migration(&["Running"], token)]);
        for (path, answer) in [("/api/v1", Ok(kinds))].iter().chain(answers) {
            fixture = fixture.with_answer(path, answer.clone());
        }
        fixture
    }

    fn page(names: &[&str], token: &str) -> Result<Value, Status> {
        let remaining = if token.is_empty() { Value::Null } else { json!(5) };
        let item = |name: &&str| json!({"metadata": {"name": name, "namespace": "a", "uid": "u", "resourceVersion": "7"}});
        let items: Vec<Value> = names.iter().map(item).collect();
        Ok(json!({"metadata": {"continue": token, "remainingItemCount": remaining}, "items": items}))
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.actions().map(ToString::to_string).collect()
    }

    /// The condition that a plan writes.
    fn condition(plan: &Plan) -> (String, String) {
        let written: StorageVersionMigration = plan.actions().next().unwrap().object().unwrap();
        let conditions = written.status.unwrap().conditions.unwrap();
        let (last, before) = conditions.split_last().unwrap();
        let ended = |other: &Condition| other.type_ == "Running" && other.status == "False";
        assert!(before.iter().all(ended), "{before:?}");
        assert_eq!((before.len() == 1, &*last.status), (last.type_ != "Running", "True"));
        (last.type_.clone(), last.message.clone())
    }

    #[test]
    fn it_begins_and_ends() {
        for (conditions, want) in [(&[][..], 1), (&["Succeeded"], 0), (&["Failed"], 0)] {
            let fixture = Fixture::new(StorageVersionMigrator).with(vec![migration(conditions, None)]);
            assert_eq!(
                fixture.plan("", "m", Timestamp::UNIX_EPOCH).actions().count(),
                want,
                "{conditions:?}"
            );
        }
        let fixture = Fixture::new(StorageVersionMigrator).with(vec![migration(&[], None)]);
        assert_eq!(condition(&fixture.plan("", "m", Timestamp::UNIX_EPOCH)).0, "Running");
    }

    #[test]
    fn objects_are_written_page_by_page() {
        assert_eq!(running(None, &[]).questions, [FIRST]);
        let read = running(None, &[(FIRST, page(&["x", "y"], "t"))]);
        assert_eq!(lines(&read), ["patch configmaps a/x", "patch configmaps a/y"]);
        assert_eq!(read.questions, [WANTED]);
        let sent = read.attempts[0].patch_body().unwrap();
        assert_eq!(
            sent["metadata"],
            json!({"name": "x", "namespace": "a", "uid": "u", "resourceVersion": "7"})
        );
        assert_eq!((&sent["apiVersion"], &sent["kind"]), (&json!("v1"), &json!("ConfigMap")));

        let written = running(None, &[(FIRST, page(&["x"], "t")), (WANTED, Ok(json!({})))]);
        let (status, patch) = (written.actions().next().unwrap(), written.actions().nth(1).unwrap());
        let told: StorageVersionMigration = status.object().unwrap();
        assert_eq!(told.status.unwrap().conditions.unwrap()[0].message, "1 of 6 objects migrated");
        let annotations = json!({CONTINUE: "t", MIGRATED: "1"});
        assert_eq!(patch.patch_body().unwrap()["metadata"]["annotations"], annotations);
        assert_eq!(running(Some("t"), &[]).questions, ["/api/v1/configmaps?limit=100&continue=t"]);
        let last = running(None, &[(FIRST, page(&["x"], "")), (WANTED, Ok(json!({})))]);
        let ended = |message: &str| ("Succeeded".to_owned(), message.to_owned());
        assert_eq!(condition(&last), ended("1 of 1 objects migrated"));
        assert_eq!(condition(&running(None, &[(FIRST, page(&[], ""))])), ended("0 of 0 objects migrated"));
        // Two more than the seven of the pages before.
        const LAST: &str = "/api/v1/configmaps?limit=100&continue=t";
        let all = running(Some("t"), &[(LAST, page(&["x", "y"], "")), (WANTED, Ok(json!({})))]);
        assert_eq!(condition(&all), ended("9 of 9 objects migrated"));
        let running: StorageVersionMigration = all.actions().next().unwrap().object().unwrap();
        let conditions = running.status.unwrap().conditions.unwrap();
        assert_eq!(conditions[0].message, "9 of 9 objects migrated", "that it ran says so too");
    }

    #[test]
    fn failures() {
        let again =
            running(Some("t"), &[("/api/v1/configmaps?limit=100&continue=t", Err(Status::expired("old")))]);
        let patch = again.actions().next().unwrap().patch_body().unwrap().clone();
        assert_eq!(patch["metadata"]["annotations"][CONTINUE], Value::Null, "from the first page again");
        assert!(running(None, &[(FIRST, Err(Status::service_unavailable("no")))]).retry);
        let forbidden = running(None, &[(FIRST, Err(Status::bad_request("never")))]);
        assert_eq!(condition(&forbidden), ("Failed".to_owned(), "never".to_owned()));
        let written = [(FIRST, page(&["x", "y"], "")), (WANTED, Ok(json!({})))];
        let refused = |why| fixture(None, &written).with_refusal("/api/v1/namespaces/a/configmaps/y", why);
        let never = refused(Status::bad_request("never")).plan("", "m", Timestamp::UNIX_EPOCH);
        let stopped = "never (1 of 2 objects migrated)".to_owned();
        assert_eq!(condition(&never), ("Failed".to_owned(), stopped));
        let gone = Status::not_found(&api::GroupResource::new("", "configmaps"), "y");
        let settled = refused(gone).plan("", "m", Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&settled).1, "2 of 2 objects migrated");
        let none = json!({"groupVersion": "v1", "resources": []});
        let fixture = Fixture::new(StorageVersionMigrator)
            .with(vec![migration(&["Running"], None)])
            .with_answer("/api/v1", Ok(none));
        let plan = fixture.plan("", "m", Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&plan).1, "resource configmaps is not served");
    }
}
