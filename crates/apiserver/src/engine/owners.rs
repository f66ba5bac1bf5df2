//! Owner references that a request (or admission) repeats: the first of each stays, and the client is warned.
//! References that share a UID but differ elsewhere are left alone.
//! Upstream: apiserver/pkg/endpoints/handlers/rest.go (dedupOwnerReferences).

use std::collections::HashSet;

use api::Object;

use super::Call;

/// When the repetition was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// In the request.
    Asked,
    /// After admission changed the object.
    Admitted,
}

/// Removes repeated owner references from an object that is to be stored.
pub(super) fn deduplicate(call: &Call, object: &mut Object, when: When) {
    call.warn(remove_repeated(object, when));
}

fn remove_repeated(object: &mut Object, when: When) -> Option<String> {
    let references = object.0.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    if references.len() < 2 {
        return None;
    }
    // By their text: clients send lists of any length, and this is before anything is validated.
    let mut seen = HashSet::with_capacity(references.len());
    let mut repeated = Vec::new();
    references.retain(|reference| {
        let first = seen.insert(reference.to_string());
        if !first {
            repeated.push(reference["uid"].as_str().unwrap_or_default().to_owned());
        }
        first
    });
    let after = if when == When::Admitted { " after mutating admission happens" } else { "" };
    (!repeated.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{after}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_same_reference_counts_once() {
        let reference =
            |uid: &str, name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let object = |references: &[Value]| Object(json!({"metadata": {"ownerReferences": references}}));
        let mut twice =
            object(&[reference("1", "a"), reference("2", "b"), reference("1", "a"), reference("1", "c")]);
        assert_eq!(
            remove_repeated(&mut twice, When::Asked).unwrap(),
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: 1"
        );
        let once = object(&[reference("1", "a"), reference("2", "b"), reference("1", "c")]);
        assert_eq!(twice, once);
        assert_eq!(remove_repeated(&mut twice, When::Admitted), None);
        let warning =
            remove_repeated(&mut object(&[reference("1", "a"), reference("1", "a")]), When::Admitted);
        assert!(
            warning.unwrap().contains("contains duplicate entries after mutating admission happens; API")
        );
        assert_eq!(remove_repeated(&mut Object(json!({"metadata": {}})), When::Asked), None);
    }
}
