//! Which kinds the server serves, each in one version: from its discovery documents to a list.
//!
//! Reads the answers so far; returns what else to ask, or the kinds. Pure. A group may serve a kind in another version than
//! the one it prefers, and only there; so every version of a group is read, and each kind taken from the first that has it:
//! the preferred one, then in the group's order. A group may fail to answer (an aggregated server that is down): the kinds of
//! all others are found nevertheless, and the failure is said.
//! Not here: which of the kinds matter (the collector wants those that can be watched, the namespace controller those that
//! can be emptied).
//! Upstream: `ServerPreferredResources` of client-go's discovery.

use std::fmt;

use client::Endpoint;
use reconcile::Answers;
use serde_json::Value;

const CORE: &str = "/api/v1";
const GROUPS: &str = "/apis";

/// A kind that is served.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) endpoint: Endpoint,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    /// Whether all of these verbs are offered.
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|wanted| self.verbs.iter().any(|verb| verb == wanted))
    }
}

/// What discovery says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Discovery {
    /// The kinds, without subresources.
    pub(crate) kinds: Vec<Served>,
    /// Documents that could not be read. Kinds that only they tell of are not among `kinds`.
    pub(crate) failed: Vec<Failure>,
}

/// A document of discovery that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    path: String,
    reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl Failure {
    /// Whether the document would have told of this endpoint: it is the one of its version, or the list of all groups.
    fn hides(&self, endpoint: &Endpoint) -> bool {
        match self.path.strip_prefix(GROUPS) {
            Some("") => !endpoint.group.is_empty(),
            Some(version) => version.split('/').skip(1).eq([&*endpoint.group, &*endpoint.version]),
            None => endpoint.group.is_empty(),
        }
    }
}

impl Discovery {
    /// Whether a kind that is not among those found may be served nevertheless.
    pub(crate) fn may_hide(&self, endpoint: &Endpoint) -> bool {
        self.failed.iter().any(|failure| failure.hides(endpoint))
    }
}

/// Every kind of the server; `Err` says what to ask first.
pub(crate) fn preferred(answers: &Answers) -> Result<Discovery, Vec<String>> {
    let (Some(core), Some(groups)) = (answers.get(CORE), answers.get(GROUPS)) else {
        return Err(vec![CORE.to_owned(), GROUPS.to_owned()]);
    };
    let mut found = Discovery::default();
    found.take(CORE, core);
    let mut unasked = Vec::new();
    match groups {
        Ok(groups) => {
            for group in groups["groups"].as_array().into_iter().flatten() {
                found.take_group(group, answers, &mut unasked);
            }
        }
        Err(status) => found.fail(GROUPS, status),
    }
    if unasked.is_empty() { Ok(found) } else { Err(unasked) }
}

/// The kinds of one group, `""` for the core; `Err` says what to ask first.
pub(crate) fn of_group(group: &str, answers: &Answers) -> Result<Discovery, Vec<String>> {
    let path = if group.is_empty() { CORE.to_owned() } else { format!("{GROUPS}/{group}") };
    let Some(answer) = answers.get(&path) else { return Err(vec![path]) };
    let mut found = Discovery::default();
    let mut unasked = Vec::new();
    match answer {
        Ok(_) if group.is_empty() => found.take(&path, answer),
        Ok(document) => found.take_group(document, answers, &mut unasked),
        Err(_) => found.take(&path, answer),
    }
    if unasked.is_empty() { Ok(found) } else { Err(unasked) }
}

impl Discovery {
    /// Takes in a group, whose versions are asked for if they were not.
    fn take_group(&mut self, group: &Value, answers: &Answers, unasked: &mut Vec<String>) {
        let preferred = group["preferredVersion"]["groupVersion"].as_str();
        let listed = group["versions"].as_array().into_iter().flatten();
        let listed = listed.filter_map(|version| version["groupVersion"].as_str());
        for version in preferred.into_iter().chain(listed.filter(|version| Some(*version) != preferred)) {
            let path = format!("{GROUPS}/{version}");
            match answers.get(&path) {
                Some(answer) => self.take(&path, answer),
                None => unasked.push(path),
            }
        }
    }

    fn fail(&mut self, path: &str, why: &api::Status) {
        self.failed.push(Failure { path: path.to_owned(), reason: why.message.clone() });
    }

    /// Takes in a document with the kinds of one version.
    fn take(&mut self, path: &str, answer: &Result<Value, api::Status>) {
        let document = match answer {
            Ok(document) => document,
            // A version that went away between two questions has no kinds.
            Err(status) if status.is_not_found() => return,
            Err(status) => {
                self.fail(path, status);
                return;
            }
        };
        let version = document["groupVersion"].as_str().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        for resource in document["resources"].as_array().into_iter().flatten() {
            let name = resource["name"].as_str().unwrap_or_default();
            let known = |served: &Served| served.endpoint.group == group && served.endpoint.plural == name;
            if name.is_empty() || name.contains('/') || self.kinds.iter().any(known) {
                continue;
            }
            let verbs = resource["verbs"].as_array().into_iter().flatten();
            self.kinds.push(Served {
                endpoint: Endpoint::new(group.to_owned(), version.to_owned(), name.to_owned()),
                kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
                namespaced: resource["namespaced"] == true,
                verbs: verbs.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinds(version: &str, names: &[&str]) -> Value {
        let resources: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "kind": name.to_uppercase(), "namespaced": true, "verbs": ["list", "delete"]}))
            .collect();
        json!({"groupVersion": version, "resources": resources})
    }

    fn group(name: &str, versions: &[&str]) -> Value {
        let versions: Vec<_> =
            versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}")})).collect();
        json!({"name": name, "preferredVersion": versions[0], "versions": versions})
    }

    fn lines(found: &Discovery) -> Vec<String> {
        let line = |served: &Served| {
            format!("{}/{} {}", served.endpoint.group, served.endpoint.version, served.endpoint.plural)
        };
        found.kinds.iter().map(line).collect()
    }

    fn said(found: &Discovery) -> Vec<String> {
        found.failed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_document_hides_the_kinds_of_its_own_version_only() {
        let v1 = Endpoint::new("g.io", "v1", "gateways");
        let v2 = Endpoint::new("g.io", "v2", "gateways");
        let pods = Endpoint::new("", "v1", "pods");
        for (path, hidden) in [
            ("/api/v1", [false, false, true]),
            ("/apis", [true, true, false]),
            ("/apis/g.io", [false, false, false]),
            ("/apis/g.io/v1", [true, false, false]),
            ("/apis/other.io/v1", [false, false, false]),
        ] {
            let mut found = Discovery::default();
            found.fail(path, &api::Status::service_unavailable("down"));
            assert_eq!([&v1, &v2, &pods].map(|endpoint| found.may_hide(endpoint)), hidden, "{path}");
        }
    }

    #[test]
    fn each_kind_is_taken_from_the_first_version_that_has_it() {
        let down = || Err(api::Status::service_unavailable("down"));
        let gone = || Err(api::Status::not_found(&api::GroupResource::new("", ""), ""));
        let (v1, alpha) = ("/apis/g.io/v1", "/apis/g.io/v1alpha2");
        let cases = [
            (
                "both",
                Ok(kinds("g.io/v1", &["gateways", "gateways/status"])),
                Ok(kinds("g.io/v1alpha2", &["gateways", "tcproutes"])),
                vec!["/v1 pods", "g.io/v1 gateways", "g.io/v1alpha2 tcproutes"],
                vec![],
            ),
            (
                "the preferred one is down",
                down(),
                Ok(kinds("g.io/v1alpha2", &["gateways"])),
                vec!["/v1 pods", "g.io/v1alpha2 gateways"],
                vec!["/apis/g.io/v1: down"],
            ),
            (
                "both are down",
                down(),
                down(),
                vec!["/v1 pods"],
                vec!["/apis/g.io/v1: down", "/apis/g.io/v1alpha2: down"],
            ),
            ("both have gone", gone(), gone(), vec!["/v1 pods"], vec![]),
        ];
        for (name, first, second, expected, failed) in cases {
            let mut answers = Answers::default();
            assert_eq!(preferred(&answers), Err(vec!["/api/v1".to_owned(), "/apis".to_owned()]), "{name}");
            answers.insert("/api/v1", Ok(kinds("v1", &["pods"])));
            answers.insert("/apis", Ok(json!({"groups": [group("g.io", &["v1", "v1alpha2"])]})));
            assert_eq!(preferred(&answers), Err(vec![v1.to_owned(), alpha.to_owned()]), "{name}");
            answers.insert(v1, first);
            answers.insert(alpha, second);
            let found = preferred(&answers).unwrap();
            assert_eq!(
                (lines(&found), said(&found)),
                (
                    expected.iter().map(ToString::to_string).collect(),
                    failed.iter().map(ToString::to_string).collect()
                ),
                "{name}"
            );
            // By itself the group says the same.
            assert_eq!(of_group("g.io", &answers), Err(vec!["/apis/g.io".to_owned()]), "{name}");
            answers.insert("/apis/g.io", Ok(group("g.io", &["v1", "v1alpha2"])));
            let alone = of_group("g.io", &answers).unwrap();
            assert_eq!(
                (lines(&alone), said(&alone)),
                (expected[1..].iter().map(ToString::to_string).collect(), said(&found)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_failure_of_the_list_of_groups_leaves_the_core() {
        let mut answers = Answers::default();
        answers.insert("/api/v1", Ok(kinds("v1", &["pods"])));
        answers.insert("/apis", Err(api::Status::service_unavailable("down")));
        let found = preferred(&answers).unwrap();
        assert_eq!(
            (lines(&found), said(&found)),
            (vec!["/v1 pods".to_owned()], vec!["/apis: down".to_owned()])
        );
        assert!(found.kinds[0].can(&["list", "delete"]) && !found.kinds[0].can(&["list", "watch"]));
        assert_eq!(lines(&of_group("", &answers).unwrap()), ["/v1 pods"]);
    }
}
