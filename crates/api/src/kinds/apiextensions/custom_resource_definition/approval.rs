//! The annotation by which a definition in a group of the Kubernetes community names its approval.
//! Reads a definition; gives its state. Not here: the condition that tells it (the API server).
//! Upstream: apiextensions-apiserver `pkg/apihelpers`, `pkg/controller/apiapproval`.

use serde_json::Value;

use super::text;
use crate::field::{self, ErrorList, Path};

/// The annotation.
pub const ANNOTATION: &str = "api-approved.kubernetes.io";

const MORE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What a definition in a protected group says of its approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Missing,
    /// Something that is neither an address nor a reason.
    Invalid,
    /// Where it was approved.
    Approved,
    /// Why it is not.
    Bypassed,
}

/// The state of a definition's approval and the words for it; `None` where none is needed.
pub fn of(definition: &Value) -> Option<(State, String)> {
    let group = text(definition, "/spec/group");
    let below =
        |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !below("k8s.io") && !below("kubernetes.io") {
        return None;
    }
    let given = annotation(definition);
    let needed = format!("protected groups must have approval annotation {ANNOTATION:?}");
    Some(match given {
        "" => (State::Missing, format!("{needed}, {MORE}")),
        _ if given.starts_with("unapproved") => {
            (State::Bypassed, format!("not approved: {}", field::quote(given)))
        }
        _ if is_address(given) => (State::Approved, format!("approved in {given}")),
        _ => {
            let reason =
                format!("{needed} with either a URL or a reason starting with \"unapproved\", {MORE}");
            (State::Invalid, reason)
        }
    })
}

fn annotation(definition: &Value) -> &str {
    let annotations = definition.pointer("/metadata/annotations");
    annotations.and_then(|all| all.get(ANNOTATION)?.as_str()).unwrap_or_default()
}

/// Whether a text is an absolute URL with a host.
fn is_address(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let clean = !text.contains(|c: char| c == ' ' || c.is_control());
    clean
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(letters)
        && !host.is_empty()
}

/// Refuses what is not approved, unless it is as it was.
pub(super) fn validate(errors: &mut ErrorList, definition: &Value, old: Option<&Value>) {
    let Some((state, reason)) = of(definition) else { return };
    if old.and_then(of).is_some_and(|(before, _)| before == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(ANNOTATION);
    match state {
        State::Missing => errors.push(field::required(&path, reason)),
        State::Invalid => errors.push(field::invalid(&path, annotation(definition), reason)),
        State::Approved | State::Bypassed => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_of_the_community_need_approval() {
        for (group, given, wanted) in [
            ("example.com", "", None),
            ("myk8s.io", "", None),
            ("a.k8s.io", "", Some(State::Missing)),
            ("x.kubernetes.io", "because", Some(State::Invalid)),
            ("x.kubernetes.io", "https://", Some(State::Invalid)),
            ("x.kubernetes.io", "unapproved, a test", Some(State::Bypassed)),
            ("k8s.io", "https://github.com/kubernetes/kubernetes/pull/78458", Some(State::Approved)),
        ] {
            let definition =
                json!({"spec": {"group": group}, "metadata": {"annotations": {ANNOTATION: given}}});
            assert_eq!(of(&definition).map(|(state, _)| state), wanted, "{group} {given}");
        }
    }

    #[test]
    fn what_is_not_approved_is_refused_unless_it_was_so() {
        let definition = |given: &str| json!({"spec": {"group": "a.k8s.io"}, "metadata": {"annotations": {ANNOTATION: given}}});
        let said = |new: &str, old: Option<&str>| -> Vec<String> {
            let mut errors = ErrorList::new();
            validate(&mut errors, &definition(new), old.map(definition).as_ref());
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            said("", None),
            [
                "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval \
                 annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
            ]
        );
        assert_eq!(
            said("so", Some("")),
            [
                "metadata.annotations[api-approved.kubernetes.io]: Invalid value: \"so\": protected groups must have \
                 approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \
                 \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
            ]
        );
        assert_eq!(said("", Some("")), [""; 0]);
        assert_eq!(said("unapproved", None), [""; 0]);
    }
}
