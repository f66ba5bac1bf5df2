//! Which kinds can be deleted, from the server's discovery documents. Pure.

use client::Endpoint;
use reconcile::Answers;
use serde_json::Value;

const CORE: &str = "/api/v1";
const GROUPS: &str = "/apis";

/// A kind that is watched.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) endpoint: Endpoint,
    pub(super) kind: String,
    pub(super) namespaced: bool,
}

pub(super) enum Next {
    Ask(Vec<String>),
    Kinds {
        kinds: Vec<Kind>,
        /// Every group has answered.
        complete: bool,
    },
}

pub(super) fn next(answers: &Answers) -> Next {
    let (Some(core), Some(groups)) = (answers.get(CORE), answers.get(GROUPS)) else {
        return Next::Ask(vec![CORE.to_owned(), GROUPS.to_owned()]);
    };
    let mut complete = core.is_ok() && groups.is_ok();
    let mut lists = vec![core];
    let mut unasked = Vec::new();
    let groups = groups.as_ref().ok().and_then(|groups| groups["groups"].as_array());
    for group in groups.into_iter().flatten() {
        let Some(version) = group["preferredVersion"]["groupVersion"].as_str() else { continue };
        let path = format!("{GROUPS}/{version}");
        match answers.get(&path) {
            Some(answer) => lists.push(answer),
            None => unasked.push(path),
        }
    }
    if !unasked.is_empty() {
        return Next::Ask(unasked);
    }
    let mut kinds = Vec::new();
    for list in lists {
        match list {
            Ok(list) => kinds.extend(collectable(list)),
            Err(status) => complete &= status.is_not_found(),
        }
    }
    Next::Kinds { kinds, complete }
}

/// Kinds that can be listed, watched and deleted. Events are left out as upstream leaves them out: there are many, and they
/// go by themselves.
fn collectable(list: &Value) -> Vec<Kind> {
    let version = list["groupVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resources = list["resources"].as_array().into_iter().flatten();
    resources
        .filter_map(|resource| {
            let name = resource["name"].as_str()?;
            let can =
                |verb: &str| resource["verbs"].as_array().is_some_and(|all| all.iter().any(|v| v == verb));
            let wanted =
                !name.contains('/') && name != "events" && can("delete") && can("list") && can("watch");
            wanted.then(|| Kind {
                endpoint: Endpoint::new(group.to_owned(), version.to_owned(), name.to_owned()),
                kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
                namespaced: resource["namespaced"] == true,
            })
        })
        .collect()
}
