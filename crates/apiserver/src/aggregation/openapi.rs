//! The OpenAPI v2 documents of other servers, of which `/openapi/v2` tells among the own.
//!
//! Each is fetched once its APIService is found available, and asked for again, by its tag, in the first round of
//! checks after a minute. Kept is what is said of the paths of its group and version. While its server cannot be asked
//! the last one stays; it goes with its APIService.
//! Not here: documents of version 3, which are passed on as they are asked for; how documents are put together
//! (`schema::openapi`).
//! Upstream: kube-aggregator/pkg/controllers/openapi.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use parking_lot::Mutex;

use super::availability::{self, Answer, Asked};
use super::{Remote, Routes};
use crate::request::User;
use crate::server::Server;

/// How long a document is taken to be as it was.
const FRESH: Duration = Duration::from_secs(60);
/// How long a server may take to send its document: it may have to make it first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest document that is read. That of a whole Kubernetes is 4 MiB.
const DOCUMENT: usize = 16 << 20;

/// The largest part of one that is told: every reader of the whole document gets it.
const PART: usize = 4 << 20;

/// What is known of the documents of other servers.
#[derive(Default)]
pub(super) struct Parts(Mutex<State>);

#[derive(Default)]
struct State {
    /// By the name of the APIService.
    parts: BTreeMap<String, Part>,
    /// How often what is told has changed.
    generation: u64,
}

/// The document of one server, or that there is none yet.
#[derive(Default)]
struct Part {
    service: (String, String, u16),
    place: Place,
    /// When to ask (again).
    due: Duration,
    asking: bool,
    known: Option<Known>,
}

/// Which comes first where two say something of the same: groups by priority, then versions by theirs.
type Place = (Reverse<i64>, String, Reverse<i64>, String);

fn place(remote: &Remote) -> Place {
    (
        Reverse(remote.group_priority),
        remote.group.clone(),
        Reverse(remote.version_priority),
        remote.name.clone(),
    )
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// What the server calls this state of its document.
    tag: Option<HeaderValue>,
    /// Of the whole document, for servers that do not tag.
    digest: [u8; 32],
    /// The part that is told: compact, parsed when the whole is made.
    part: Bytes,
}

impl Parts {
    /// What is told of other servers, in order, and a number that changes with it.
    pub(super) fn told(&self) -> (u64, Vec<Bytes>) {
        let state = self.0.lock();
        let mut known: Vec<(&Place, &Known)> =
            state.parts.values().filter_map(|part| Some((&part.place, part.known.as_ref()?))).collect();
        known.sort_by_key(|(place, _)| *place);
        (state.generation, known.into_iter().map(|(_, known)| known.part.clone()).collect())
    }

    /// Takes over who there is, and says who is to be asked at `now`, with the tag that is known.
    fn due(&self, routes: &Routes, now: Duration) -> Vec<(Arc<Remote>, Option<HeaderValue>)> {
        let mut state = self.0.lock();
        let State { parts, generation } = &mut *state;
        parts.retain(|name, part| {
            let there = routes.all().any(|remote| remote.name == *name);
            *generation += u64::from(!there && part.known.is_some());
            there
        });
        let mut due = Vec::new();
        for remote in routes.all() {
            let part = parts.entry(remote.name.clone()).or_default();
            if part.service != remote.service {
                // What another server calls its documents says nothing of this one's.
                let known = part.known.take().map(|known| Known { tag: None, ..known });
                *part = Part { service: remote.service.clone(), known, ..Part::default() };
            }
            let place = place(remote);
            if part.place != place {
                part.place = place;
                *generation += u64::from(part.known.is_some());
            }
            if remote.available && !part.asking && part.due <= now {
                part.asking = true;
                due.push((remote.clone(), part.known.as_ref().and_then(|known| known.tag.clone())));
            }
        }
        due
    }

    /// Takes over what a server has answered; `None`: nothing that says anything of its document.
    fn answered(&self, remote: &Remote, answer: Option<Answer>, now: Duration) {
        let known = {
            let state = self.0.lock();
            state.parts.get(&remote.name).and_then(|part| part.known.clone())
        };
        // Read outside of the lock: documents are large.
        let next = match answer {
            Some(answer) => take(remote, answer, known.as_ref()),
            None => known,
        };
        let mut state = self.0.lock();
        let State { parts, generation } = &mut *state;
        let Some(part) = parts.get_mut(&remote.name).filter(|part| part.service == remote.service) else {
            return;
        };
        (part.asking, part.due) = (false, now + FRESH);
        *generation +=
            u64::from(part.known.as_ref().map(|known| &known.part) != next.as_ref().map(|next| &next.part));
        part.known = next;
    }
}

/// Asks for the documents that it is time for.
pub(super) fn refresh(server: &Arc<Server>) {
    let routes = server.aggregator.routes.load();
    for (remote, tag) in server.aggregator.parts.due(&routes, server.clock.monotonic()) {
        let server = server.clone();
        server.tasks.clone().spawn_until_cancelled("openapi", async move {
            let answer = fetch(&server, &remote, tag).await;
            // Large documents take their time to be read: not that of requests.
            let reading = tokio::task::spawn_blocking(move || {
                server.aggregator.parts.answered(&remote, answer, server.clock.monotonic());
            });
            if let Err(error) = reading.await {
                tracing::error!(%error, "the OpenAPI document of an APIService could not be taken over");
            }
        });
    }
}

async fn fetch(server: &Arc<Server>, remote: &Remote, tag: Option<HeaderValue>) -> Option<Answer> {
    let tls = remote.tls.clone().ok()?;
    let aggregator = User::new("system:aggregator", &[]);
    let asked = Asked { path: "/openapi/v2", user: &aggregator, tag, limit: DOCUMENT, patience: PATIENCE };
    match availability::exchange(server, remote, tls, asked).await {
        Ok(answer) => Some(answer),
        Err(problem) => {
            tracing::debug!(
                name = remote.name,
                problem,
                "the OpenAPI document of an APIService could not be read"
            );
            None
        }
    }
}

/// What is known after an answer.
fn take(remote: &Remote, answer: Answer, known: Option<&Known>) -> Option<Known> {
    match answer.code {
        // A server without a document has none to tell of.
        404 => return None,
        200 => {}
        _ => return known.cloned(),
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &answer.body).as_ref());
    let tag = answer.headers.get(header::ETAG).cloned();
    if let Some(known) = known.filter(|known| known.digest == digest) {
        return Some(Known { tag, ..known.clone() });
    }
    match serde_json::from_slice(&answer.body) {
        Ok(document) => {
            let prefix = format!("/apis/{}/{}/", remote.group, remote.version);
            let part = crate::encoding::to_json(&schema::openapi::select(document, &prefix));
            if part.len() > PART {
                tracing::warn!(
                    name = remote.name,
                    bytes = part.len(),
                    "an APIService says too much of itself"
                );
                return known.cloned();
            }
            Some(Known { tag, digest, part })
        }
        Err(error) => {
            tracing::warn!(name = remote.name, %error, "the OpenAPI document of an APIService is no JSON");
            known.cloned()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;

    fn remote(name: &str, priority: i64, service: &str) -> Remote {
        Remote {
            name: format!("v1.{name}"),
            group: name.to_owned(),
            version: "v1".into(),
            service: ("ns".into(), service.to_owned(), 443),
            group_priority: priority,
            version_priority: 1,
            tls: Err("not asked".into()),
            available: true,
            resources: None,
            openapi: None,
        }
    }

    fn routes(remotes: &[&Remote]) -> Routes {
        let key = |remote: &Remote| (remote.group.clone(), remote.version.clone());
        Routes(remotes.iter().map(|remote| (key(remote), Arc::new((*remote).clone()))).collect())
    }

    fn answer(code: u16, tag: Option<&'static str>, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.extend(tag.map(|tag| (header::ETAG, HeaderValue::from_static(tag))));
        Answer { code, headers, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    fn document(group: &str) -> String {
        let (below, other) = (format!("/apis/{group}/v1/things"), "/apis/other/v1/things");
        json!({"swagger": "2.0", "paths": {below: {}, other: {}}}).to_string()
    }

    fn names(due: &[(Arc<Remote>, Option<HeaderValue>)]) -> Vec<(&str, Option<&str>)> {
        let mut names: Vec<_> = due
            .iter()
            .map(|(remote, tag)| (remote.group.as_str(), tag.as_ref().map(|t| t.to_str().unwrap())))
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn documents_are_asked_for_once_a_minute_and_go_with_their_server() {
        let parts = Parts::default();
        let (a, b) = (remote("a", 10, "s"), remote("b", 20, "s"));
        let at = Duration::from_secs;
        let unavailable = Remote { available: false, ..b.clone() };
        assert_eq!(names(&parts.due(&routes(&[&a, &unavailable]), at(1))), [("a", None)]);
        assert_eq!(
            names(&parts.due(&routes(&[&a, &b]), at(2))),
            [("b", None)],
            "the other one is being asked"
        );
        parts.answered(&a, Some(answer(200, Some("\"1\""), &document("a"))), at(3));
        parts.answered(&b, Some(answer(200, None, &document("b"))), at(3));
        let (generation, told) = parts.told();
        let told: Vec<serde_json::Value> =
            told.iter().map(|part| serde_json::from_slice(part).unwrap()).collect();
        assert_eq!(
            told[0]["paths"],
            json!({"/apis/b/v1/things": {}}),
            "the group of higher priority comes first"
        );
        assert_eq!(told[1]["paths"], json!({"/apis/a/v1/things": {}}), "what it says of others is not told");

        assert!(parts.due(&routes(&[&a, &b]), at(62)).is_empty());
        assert_eq!(names(&parts.due(&routes(&[&a, &b]), at(63))), [("a", Some("\"1\"")), ("b", None)]);
        parts.answered(&a, Some(answer(304, Some("\"1\""), "")), at(63));
        parts.answered(&b, Some(answer(200, None, &document("b"))), at(63));
        assert_eq!(parts.told().0, generation, "nothing has changed");
        assert_eq!(names(&parts.due(&routes(&[&a, &b]), at(200))).len(), 2);
        parts.answered(&a, Some(answer(500, None, "")), at(200));
        parts.answered(&b, None, at(200));
        assert_eq!(parts.told().0, generation, "what is known stays while its server cannot be asked");

        // It moves: the tag was another server's.
        let moved = remote("a", 10, "elsewhere");
        assert_eq!(names(&parts.due(&routes(&[&moved, &b]), at(201))), [("a", None)]);
        parts.answered(&a, None, at(202));
        parts.answered(&moved, Some(answer(404, None, "")), at(203));
        assert_eq!(parts.told().1.len(), 1, "it has none any more");
        let (before, _) = parts.told();
        parts.due(&routes(&[&moved]), at(204));
        assert!(parts.told().0 > before && parts.told().1.is_empty(), "gone with its APIService");
    }

    #[test]
    fn what_is_no_document_changes_nothing() {
        let remote = remote("a", 1, "s");
        let known = take(&remote, answer(200, Some("\"1\""), &document("a")), None);
        assert!(known.is_some());
        for (code, body) in [(200, "no JSON"), (401, "{}"), (503, "")] {
            assert_eq!(take(&remote, answer(code, None, body), known.as_ref()), known, "{code} {body}");
        }
        let tagged = take(&remote, answer(200, Some("\"2\""), &document("a")), known.as_ref()).unwrap();
        assert_eq!((tagged.tag.unwrap().to_str().unwrap(), tagged.part), ("\"2\"", known.unwrap().part));
    }
}
