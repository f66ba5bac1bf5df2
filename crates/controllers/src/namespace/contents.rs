//! What a namespace still holds: which kinds there are to look for, and what the answers say.
//!
//! Pure: from the answers so far to the next questions, or to the verdict. Discovery may fail in part (an aggregated
//! server that is down); what it cannot tell of is not known to be gone, so the namespace stays.

use std::collections::BTreeMap;

use api::meta::Time;
use api::types::core::v1::{Namespace, NamespaceCondition};
use jiff::Timestamp;
use reconcile::Answers;
use serde_json::Value;

use crate::discovery::{self, Discovery, Served};
use crate::object;

/// Objects of one kind looked at in one go.
const PIECE: usize = 500;

/// What to ask to know what is left of a kind. A part of a large namespace says enough: its rest is counted.
pub(super) fn list_path(kind: &Served, namespace: &str) -> String {
    format!("{}?limit={PIECE}", kind.endpoint.path(Some(namespace), None, None))
}

fn is_pods(kind: &Served) -> bool {
    kind.endpoint.group.is_empty() && kind.endpoint.plural == "pods"
}

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// Objects that are still there, by `<plural>.<group>`.
    remaining: BTreeMap<String, usize>,
    /// Objects that wait for each finalizer, among those looked at.
    finalizers: BTreeMap<String, usize>,
    /// Discovery that failed.
    undiscovered: Vec<String>,
    /// Kinds that could not be deleted or listed.
    unlisted: Vec<String>,
}

impl Contents {
    /// Only pods in their grace period remain.
    pub(super) fn pods_wait(&self) -> bool {
        self.remaining.keys().all(|kind| kind == "pods.")
            && self.finalizers.is_empty()
            && self.undiscovered.is_empty()
            && self.unlisted.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.undiscovered.is_empty() && self.unlisted.is_empty()
    }
}

/// What follows from the answers so far.
pub(super) enum Next {
    /// Ask this.
    Ask(Vec<String>),
    /// Delete these and ask what is left of them.
    Empty(Vec<Served>),
    /// Something is left.
    Remains(Contents),
    /// Nothing is left.
    Gone(Contents),
}

/// The next step towards an empty namespace.
pub(super) fn next(answers: &Answers, namespace: &str) -> Next {
    let Discovery { kinds, failed } = match discovery::preferred(answers) {
        Ok(found) => found,
        Err(paths) => return Next::Ask(paths),
    };
    let mut contents =
        Contents { undiscovered: failed.iter().map(ToString::to_string).collect(), ..Contents::default() };
    let deletable = |kind: &Served| kind.namespaced && kind.can(&["deletecollection", "list"]);
    let (pods, others): (Vec<_>, Vec<_>) = kinds.into_iter().filter(deletable).partition(is_pods);
    for stage in [pods, others] {
        let unasked: Vec<_> =
            stage.iter().filter(|kind| answers.get(&list_path(kind, namespace)).is_none()).cloned().collect();
        if !unasked.is_empty() {
            return Next::Empty(unasked);
        }
        for kind in &stage {
            let refused = answers.refusal(&kind.endpoint.path(Some(namespace), None, None));
            if let Some(answer) = answers.get(&list_path(kind, namespace)) {
                count(&mut contents, kind, refused, answer);
            }
        }
        // Pods go first: what they use (their ServiceAccount, their secrets) must outlive them.
        if !contents.remaining.is_empty() && stage.iter().any(is_pods) {
            return Next::Remains(contents);
        }
    }
    if contents.is_empty() { Next::Gone(contents) } else { Next::Remains(contents) }
}

fn count(
    contents: &mut Contents,
    kind: &Served,
    refused: Option<&api::Status>,
    answer: &Result<Value, api::Status>,
) {
    let name = format!("{}.{}", kind.endpoint.plural, kind.endpoint.group);
    // 405: a kind that has no such verb after all.
    if let Some(status) = refused.filter(|status| status.code != 405) {
        contents.unlisted.push(format!("{name}: {}", status.message));
    }
    let (items, rest) = match answer {
        Ok(list) => {
            let rest = list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
            (list["items"].as_array().map(Vec::as_slice).unwrap_or_default(), rest as usize)
        }
        Err(status) if status.is_not_found() || status.code == 405 => return,
        Err(_) if refused.is_some() => return, // said already
        Err(status) => {
            contents.unlisted.push(format!("{name}: {}", status.message));
            return;
        }
    };
    if items.is_empty() {
        return;
    }
    contents.remaining.insert(name, items.len() + rest);
    for item in items {
        for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten() {
            if let Some(finalizer) = finalizer.as_str() {
                *contents.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }
}

/// The namespace with the conditions that these contents call for; `None` if it has them.
pub(super) fn with_conditions(
    namespace: &Namespace,
    contents: &Contents,
    now: Timestamp,
) -> Option<Namespace> {
    let list = |map: &BTreeMap<String, usize>, what: &str| {
        map.iter()
            .map(|(key, count)| format!("{key} {what} {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut updated = namespace.clone();
    let status = updated.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut set = |kind: &str, bad: Option<(&str, String)>, good: (&str, &str)| {
        let (value, reason, message) = match bad {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good.0, good.1.to_owned()),
        };
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(object::seconds(now))),
        };
        match conditions.iter_mut().find(|old| old.type_ == kind) {
            Some(old)
                if (&old.status, &old.reason, &old.message)
                    == (&condition.status, &condition.reason, &condition.message) => {}
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
    };
    set(
        "NamespaceDeletionDiscoveryFailure",
        (!contents.undiscovered.is_empty()).then(|| {
            let errors = contents.undiscovered.join(", ");
            (
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: {errors}",
                    contents.undiscovered.len()
                ),
            )
        }),
        ("ResourcesDiscovered", "All resources successfully discovered"),
    );
    set(
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    );
    set(
        "NamespaceDeletionContentFailure",
        (!contents.unlisted.is_empty()).then(|| {
            let errors = contents.unlisted.join(", ");
            (
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {errors}",
                    contents.unlisted.len()
                ),
            )
        }),
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    set(
        "NamespaceContentRemaining",
        (!contents.remaining.is_empty()).then(|| {
            (
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", list(&contents.remaining, "has")),
            )
        }),
        ("ContentRemoved", "All content successfully removed"),
    );
    set(
        "NamespaceFinalizersRemaining",
        (!contents.finalizers.is_empty()).then(|| {
            (
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    list(&contents.finalizers, "in")
                ),
            )
        }),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    );
    (updated != *namespace).then_some(updated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answers(entries: &[(&str, Value)]) -> Answers {
        let mut answers = Answers::default();
        for (path, value) in entries {
            answers.insert(path, Ok(value.clone()));
        }
        answers
    }

    fn discovery() -> Vec<(&'static str, Value)> {
        let all = json!(["create", "delete", "deletecollection", "list"]);
        vec![
            (
                "/api/v1",
                json!({"groupVersion": "v1", "resources": [
                    {"name": "pods", "namespaced": true, "verbs": all},
                    {"name": "pods/status", "namespaced": true, "verbs": all},
                    {"name": "nodes", "namespaced": false, "verbs": all},
                    {"name": "bindings", "namespaced": true, "verbs": ["create"]},
                ]}),
            ),
            ("/apis", json!({"groups": [{"preferredVersion": {"groupVersion": "apps/v1"}}]})),
            (
                "/apis/apps/v1",
                json!({"groupVersion": "apps/v1", "resources": [
                    {"name": "deployments", "namespaced": true, "verbs": all},
                ]}),
            ),
        ]
    }

    const PODS: &str = "/api/v1/namespaces/x/pods?limit=500";
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/x/deployments?limit=500";

    fn plurals(next: Next) -> Vec<String> {
        match next {
            Next::Empty(kinds) => kinds.iter().map(|kind| kind.endpoint.plural.to_string()).collect(),
            _ => panic!("something is to be deleted"),
        }
    }

    #[test]
    fn discovery_comes_first_then_pods_then_the_rest() {
        assert!(matches!(next(&Answers::default(), "x"), Next::Ask(paths) if paths == ["/api/v1", "/apis"]));
        let mut known = discovery();
        let last = known.pop().unwrap();
        assert!(matches!(next(&answers(&known), "x"), Next::Ask(paths) if paths == ["/apis/apps/v1"]));
        known.push(last);
        assert_eq!(plurals(next(&answers(&known), "x")), ["pods"]);
        let mut waiting = known.clone();
        waiting.push((PODS, json!({"items": [{"metadata": {}}]})));
        match next(&answers(&waiting), "x") {
            Next::Remains(contents) => assert!(contents.pods_wait()),
            _ => panic!("a pod remains"),
        }
        known.push((PODS, json!({"items": []})));
        assert_eq!(plurals(next(&answers(&known), "x")), ["deployments"]);
        known.push((DEPLOYMENTS, json!({"items": []})));
        assert!(matches!(next(&answers(&known), "x"), Next::Gone(_)));
    }

    #[test]
    fn what_remains_is_said() {
        let mut known = discovery();
        known.push((PODS, json!({"items": []})));
        let piece = json!({"items": [{"metadata": {"finalizers": ["example.com/x"]}}],
            "metadata": {"remainingItemCount": 6}});
        known.push((DEPLOYMENTS, piece));
        let Next::Remains(contents) = next(&answers(&known), "x") else { panic!("a Deployment remains") };
        assert!(!contents.pods_wait());
        let updated = with_conditions(&Namespace::default(), &contents, Timestamp::UNIX_EPOCH).unwrap();
        let conditions = updated.status.clone().unwrap().conditions.unwrap();
        let message =
            |kind: &str| conditions.iter().find(|c| c.type_ == kind).unwrap().message.clone().unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: deployments.apps has 7 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
        );
        assert_eq!(with_conditions(&updated, &contents, Timestamp::MAX), None, "the same again is no change");
    }

    #[test]
    fn a_group_that_cannot_be_discovered_keeps_the_namespace() {
        let mut known = answers(&discovery()[..2]);
        known.insert("/apis/apps/v1", Err(api::Status::service_unavailable("down")));
        assert_eq!(plurals(next(&known, "x")), ["pods"], "what is known is deleted nevertheless");
        known.insert(PODS, Ok(json!({"items": []})));
        assert!(matches!(next(&known, "x"), Next::Remains(contents) if contents.undiscovered.len() == 1));
    }

    #[test]
    fn a_kind_that_cannot_be_deleted_is_said_and_keeps_no_other() {
        let mut known = answers(&discovery());
        let path = "/api/v1/namespaces/x/pods";
        known.refuse(path, api::Status::service_unavailable("down"));
        known.insert(PODS, Err(api::Status::service_unavailable("down")));
        assert_eq!(plurals(next(&known, "x")), ["deployments"]);
        known.insert(DEPLOYMENTS, Ok(json!({"items": []})));
        let Next::Remains(contents) = next(&known, "x") else { panic!("who knows what is left?") };
        assert_eq!(contents.unlisted, ["pods.: down"]);
        let namespace = with_conditions(&Namespace::default(), &contents, Timestamp::UNIX_EPOCH).unwrap();
        let conditions = namespace.status.unwrap().conditions.unwrap();
        let failure =
            conditions.iter().find(|condition| condition.type_ == "NamespaceDeletionContentFailure");
        assert_eq!(
            failure.map(|condition| (condition.status.as_str(), condition.message.as_deref().unwrap())),
            Some(("True", "Failed to delete all resource types, 1 remaining: pods.: down"))
        );
    }
}
