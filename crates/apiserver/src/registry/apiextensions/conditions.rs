//! The conditions of a definition, and the names that it gets.
//!
//! A name that another definition of the group (or a built-in kind) has is not given; the others are, and the
//! definition is served once it has had all of them. Pure but for [`accept`], which asks who has which names, and the
//! present. The same request says whether the schemas are structural ([`structural`]) and the group approved ([`approved`]).
//! Upstream: apiextensions-apiserver/pkg/controller/{status,nonstructuralschema,apiapproval}, pkg/apihelpers.

use std::collections::BTreeSet;

use api::Object;
use api::field::{self, ErrorList, Path};
use api::kinds::apiextensions::custom_resource_definition::approval;
use serde_json::{Value, json};

use crate::engine::timestamp;
use crate::server::Server;

/// The condition of a definition whose schemas cannot be served.
pub(super) const NON_STRUCTURAL: &str = "NonStructuralSchema";

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition<'a> {
    pub(super) kind: &'static str,
    /// `None`: it cannot be told.
    pub(super) holds: Option<bool>,
    pub(super) reason: &'static str,
    pub(super) message: &'a str,
}

/// Set by the request that deletes.
pub(super) const PENDING: Condition<'static> = Condition {
    kind: "Terminating",
    holds: Some(true),
    reason: "InstanceDeletionPending",
    message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
};

impl Condition<'_> {
    /// Puts the condition in, keeping the time of its last transition if its status stays. Whether that changes
    /// anything.
    pub(super) fn set(&self, definition: &mut Object, now: &str) -> bool {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let all = &mut definition.0["status"]["conditions"];
        if !all.is_array() {
            *all = json!([]);
        }
        let Some(all) = all.as_array_mut() else { return false };
        let new = |since: &Value| {
            json!({
                "type": self.kind, "status": status, "reason": self.reason, "message": self.message,
                "lastTransitionTime": since,
            })
        };
        match all.iter_mut().find(|condition| condition["type"] == self.kind) {
            Some(old) => {
                let since =
                    if old["status"] == status { old["lastTransitionTime"].clone() } else { now.into() };
                let new = new(&since);
                let changes = *old != new;
                *old = new;
                changes
            }
            None => {
                all.push(new(&now.into()));
                true
            }
        }
    }
}

/// Takes a condition away. Whether it was there.
pub(super) fn remove(definition: &mut Object, kind: &str) -> bool {
    let Some(all) = definition.0["status"]["conditions"].as_array_mut() else { return false };
    let before = all.len();
    all.retain(|condition| condition["type"] != kind);
    all.len() != before
}

/// Whether a condition holds.
pub(super) fn holds(definition: &Object, kind: &str) -> bool {
    let all = definition.0["status"]["conditions"].as_array();
    all.into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// The names that are not free for a definition.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Plurals, singulars and short names.
    pub(super) resources: BTreeSet<String>,
    /// Kinds and kinds of lists.
    pub(super) kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds what `names` (`status.acceptedNames`) holds.
    pub(super) fn add(&mut self, names: &Value) {
        let texts = |value: &Value| -> Vec<String> {
            let one = value.as_str().map(str::to_owned).into_iter();
            let many = value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
            one.chain(many).filter(|text| !text.is_empty()).collect()
        };
        for name in ["plural", "singular", "shortNames"] {
            self.resources.extend(texts(&names[name]));
        }
        for name in ["kind", "listKind"] {
            self.kinds.extend(texts(&names[name]));
        }
    }
}

/// Decides about the names of a definition that is to be stored, as of what is known now.
pub(super) fn accept(server: &Server, definition: &mut Object) -> bool {
    let taken = server.definitions.taken(server, definition);
    decide(definition, &taken, &timestamp(server.clock.now()))
}

/// Sets the conditions that the definition alone says all about. Whether that changes anything.
pub(super) fn of_itself(server: &Server, definition: &mut Object) -> bool {
    let now = timestamp(server.clock.now());
    structural(definition, &now) | approved(definition, &now)
}

/// Sets the condition of a definition whose schemas are not structural, or takes it away. Whether that changes anything.
pub(super) fn structural(definition: &mut Object, now: &str) -> bool {
    let spec = &definition.0["spec"];
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if spec["preserveUnknownFields"] == true {
        errors.push(field::invalid(&path.child("preserveUnknownFields"), true, "must be false"));
    }
    let mut unreadable = None;
    for (index, version) in spec["versions"].as_array().into_iter().flatten().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            continue;
        }
        let at = path.child("versions").index(index).child("schema").child("openAPIV3Schema");
        match schema::structural::violations(schema, &at) {
            Ok(found) => errors.extend(found),
            Err(reason) => {
                let name = version["name"].as_str().unwrap_or_default();
                unreadable = Some(format!("failed to check validation schema for version {name}: {reason}"));
                break;
            }
        }
    }
    if let Some(message) = &unreadable {
        return Condition { kind: NON_STRUCTURAL, holds: None, reason: "StructuralError", message }
            .set(definition, now);
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let message = match texts.as_slice() {
        [] => return remove(definition, NON_STRUCTURAL),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Condition { kind: NON_STRUCTURAL, holds: Some(true), reason: "Violations", message: &message }
        .set(definition, now)
}

/// Says of a definition in a group of the community whether it is approved. Whether that changes anything.
fn approved(definition: &mut Object, now: &str) -> bool {
    let Some((state, message)) = approval::of(&definition.0) else { return false };
    let (holds, reason) = match state {
        approval::State::Missing => (false, "MissingAnnotation"),
        approval::State::Invalid => (false, "InvalidAnnotation"),
        approval::State::Approved => (true, "ApprovedAnnotation"),
        approval::State::Bypassed => (false, "UnapprovedAnnotation"),
    };
    let kind = "KubernetesAPIApprovalPolicyConformant";
    Condition { kind, holds: Some(holds), reason, message: &message }.set(definition, now)
}

/// Gives a definition the names that are free, and sets `NamesAccepted` and `Established`. Whether that changes
/// anything.
pub(super) fn decide(definition: &mut Object, taken: &Taken, now: &str) -> bool {
    let before = definition.0["status"].clone();
    let wanted = definition.0["spec"]["names"].clone();
    let mut accepted = before["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict: Option<(&'static str, String)> = None;
    for (name, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let errors = refused(&wanted[name], &accepted, name, used);
        match errors.as_slice() {
            [] => copy(&mut accepted, &wanted, name),
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    copy(&mut accepted, &wanted, "categories");
    definition.0["status"]["acceptedNames"] = accepted;
    let names_accepted = match &conflict {
        None => Condition {
            kind: "NamesAccepted",
            holds: Some(true),
            reason: "NoConflicts",
            message: "no conflicts found",
        },
        Some((reason, message)) => Condition { kind: "NamesAccepted", holds: Some(false), reason, message },
    };
    names_accepted.set(definition, now);
    if !holds(definition, "Established") {
        let message = "not all names are accepted";
        let mut established =
            Condition { kind: "Established", holds: Some(false), reason: "NotAccepted", message };
        if conflict.is_none() {
            let message = "the initial names have been accepted";
            established =
                Condition { holds: Some(true), reason: "InitialNamesAccepted", message, ..established };
        }
        established.set(definition, now);
    }
    definition.0["status"] != before
}

/// What speaks against the names `wanted` in the place `name`.
fn refused(wanted: &Value, accepted: &Value, name: &str, used: &BTreeSet<String>) -> Vec<String> {
    let in_use = |name: &str| format!("{name:?} is already in use");
    match wanted {
        Value::String(text) if accepted[name] != *wanted && used.contains(text) => vec![in_use(text)],
        Value::Array(list) => {
            let own = |text: &str| {
                let known = accepted[name].as_array();
                accepted["plural"] == text
                    || accepted["singular"] == text
                    || known.is_some_and(|known| known.iter().any(|value| value == text))
            };
            let texts = list.iter().filter_map(Value::as_str);
            texts.filter(|text| !own(text) && used.contains(*text)).map(in_use).collect()
        }
        _ => Vec::new(),
    }
}

fn copy(accepted: &mut Value, wanted: &Value, name: &str) {
    match &wanted[name] {
        Value::Null => {
            if let Some(members) = accepted.as_object_mut() {
                members.remove(name);
            }
        }
        value => accepted[name] = value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn definition(names: Value) -> Object {
        Object(json!({"metadata": {"name": "x"}, "spec": {"names": names}, "status": {}}))
    }

    fn condition(definition: &Object, kind: &str) -> (String, String, String) {
        let all = definition.0["status"]["conditions"].as_array().unwrap();
        let found = all.iter().find(|condition| condition["type"] == kind).unwrap();
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn said(status: &str, reason: &str, message: &str) -> (String, String, String) {
        (status.to_owned(), reason.to_owned(), message.to_owned())
    }

    #[test]
    fn free_names_are_given_and_taken_ones_are_not() {
        let mut taken = Taken::default();
        taken.add(&json!({"plural": "things", "singular": "thing", "shortNames": ["th"], "kind": "Thing",
            "listKind": "ThingList"}));
        let names = |plural: &str, short: Value, kind: &str| {
            json!({"plural": plural, "singular": plural.trim_end_matches('s'), "shortNames": short, "kind": kind,
                "listKind": format!("{kind}List")})
        };
        for (names, reason, message) in [
            (names("others", json!(["ot"]), "Other"), "NoConflicts", "no conflicts found"),
            (names("others", json!(["th"]), "Other"), "ShortNamesConflict", "\"th\" is already in use"),
            (
                names("others", json!(["th", "thing"]), "Other"),
                "ShortNamesConflict",
                "[\"th\" is already in use, \"thing\" is already in use]",
            ),
            (names("others", json!([]), "Thing"), "ListKindConflict", "\"ThingList\" is already in use"),
            (names("things", json!([]), "Other"), "SingularConflict", "\"thing\" is already in use"),
        ] {
            let mut definition = definition(names);
            assert!(decide(&mut definition, &taken, NOW));
            let good = reason == "NoConflicts";
            let status = if good { "True" } else { "False" };
            assert_eq!(condition(&definition, "NamesAccepted"), said(status, reason, message));
            assert_eq!(holds(&definition, "Established"), good);
            assert!(!decide(&mut definition, &taken, "later"), "the same again is no change");
        }
    }

    #[test]
    fn an_established_definition_stays_so_and_keeps_its_names() {
        let mut definition =
            definition(json!({"plural": "a", "singular": "a", "kind": "A", "listKind": "AList"}));
        decide(&mut definition, &Taken::default(), NOW);
        definition.0["spec"]["names"]["shortNames"] = json!(["po"]);
        let mut taken = Taken::default();
        taken.add(&json!({"shortNames": ["po"]}));
        assert!(decide(&mut definition, &taken, "later"));
        assert!(holds(&definition, "Established") && !holds(&definition, "NamesAccepted"));
        assert_eq!(definition.0["status"]["acceptedNames"].get("shortNames"), None, "not null either");
        let conditions = definition.0["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions[0]["lastTransitionTime"], "later");
        assert_eq!(conditions[1]["lastTransitionTime"], NOW);
    }

    #[test]
    fn schemas_that_are_not_structural_are_told() {
        let mut definition = Object(json!({"spec": {"preserveUnknownFields": true, "versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}}]}, "status": {}}));
        assert!(structural(&mut definition, NOW));
        let message = "[spec.preserveUnknownFields: Invalid value: true: must be false, \
                       spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for \
                       specified object fields]";
        assert_eq!(condition(&definition, NON_STRUCTURAL), said("True", "Violations", message));
        definition.0["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["$ref"] = json!("x");
        assert!(structural(&mut definition, NOW));
        let message =
            "failed to check validation schema for version v1: OpenAPIV3Schema '$ref' is not supported";
        assert_eq!(condition(&definition, NON_STRUCTURAL), said("Unknown", "StructuralError", message));
        definition.0["spec"] = json!({"versions": [{"schema": {"openAPIV3Schema": {"type": "object"}}}]});
        assert!(structural(&mut definition, NOW));
        assert_eq!(definition.0["status"]["conditions"], json!([]));
    }

    #[test]
    fn approval_is_told_in_the_groups_that_need_it() {
        let mut definition = Object(json!({"spec": {"group": "a.k8s.io"}, "status": {}, "metadata": {
            "annotations": {approval::ANNOTATION: "https://github.com/a/b"}}}));
        assert!(approved(&mut definition, NOW));
        let kind = "KubernetesAPIApprovalPolicyConformant";
        let told = said("True", "ApprovedAnnotation", "approved in https://github.com/a/b");
        assert_eq!(condition(&definition, kind), told);
        definition.0["metadata"]["annotations"][approval::ANNOTATION] = json!("unapproved");
        assert!(approved(&mut definition, NOW));
        let told = said("False", "UnapprovedAnnotation", "not approved: \"unapproved\"");
        assert_eq!(condition(&definition, kind), told);
        definition.0["spec"]["group"] = json!("example.com");
        assert!(!approved(&mut definition, NOW));
    }
}
