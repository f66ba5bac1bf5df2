//! Asks another server whose token it is, by a TokenReview.
//!
//! Answers are remembered: good ones for a while, bad ones for ten seconds at most. Who shows a token while it is asked
//! about waits for the same answer.
//! Upstream: apiserver/plugin/pkg/authenticator/token/webhook, apiserver/pkg/authentication/token/cache.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use client::Transport;
use foundation::SharedClock;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use ring::digest;
use serde::Deserialize;
use serde_json::json;

use super::{Authenticated, Authenticator, Credentials, bearer};
use crate::request::User;
use crate::reviewer::Reviewer;

/// Answers that are remembered.
const REMEMBERED: usize = 4096;
/// How long a refusal is remembered at most.
const REFUSAL: Duration = Duration::from_secs(10);
/// How long the server has to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which server is asked.
#[derive(Clone)]
pub struct Options {
    /// The way to it.
    pub transport: Arc<dyn Transport>,
    /// The path to post to.
    pub path: String,
    /// How long an answer is remembered (`--authentication-token-webhook-cache-ttl`).
    pub remember: Duration,
    /// The audiences of this server.
    pub audiences: Vec<String>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: ReviewUser,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewUser {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

type Answer = Result<Option<Authenticated>, String>;
/// What identifies a question: a digest of the token and the audiences.
type Digest = [u8; 32];
/// A question under way: its answer, or why there is none.
type Asked = Shared<BoxFuture<'static, Result<Answer, String>>>;

/// The authenticator.
pub(super) struct TokenWebhook {
    options: Options,
    reviewer: Reviewer,
    clock: SharedClock,
    known: Mutex<HashMap<Digest, (Duration, Answer)>>,
    /// Questions that somebody waits for. Each goes on for as long as anybody does.
    asked: Mutex<HashMap<Digest, WeakShared<BoxFuture<'static, Result<Answer, String>>>>>,
}

impl TokenWebhook {
    pub(super) fn new(options: Options, clock: SharedClock) -> Self {
        let reviewer = Reviewer {
            transport: options.transport.clone(),
            path: options.path.clone(),
            timeout: PATIENCE,
            clock: clock.clone(),
        };
        Self { options, reviewer, clock, known: Mutex::default(), asked: Mutex::default() }
    }

    /// The question, whether somebody asks it already or not.
    fn question(&self, digest: Digest, token: &str, audiences: &[String]) -> Asked {
        let mut asked = self.asked.lock();
        asked.retain(|_, question| question.upgrade().is_some());
        if let Some(question) = asked.get(&digest).and_then(WeakShared::upgrade) {
            return question;
        }
        let (reviewer, own) = (self.reviewer.clone(), self.options.audiences.clone());
        let (token, audiences) = (token.to_owned(), audiences.to_vec());
        let question = async move { ask(&reviewer, &own, &token, &audiences).await }.boxed().shared();
        asked.extend(question.downgrade().map(|weak| (digest, weak)));
        question
    }
}

/// Asks whose token it is; `own` are the audiences of this server.
async fn ask(
    reviewer: &Reviewer,
    own: &[String],
    token: &str,
    audiences: &[String],
) -> Result<Answer, String> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences},
    });
    let review: Review = reviewer.ask(&review).await.map_err(|why| format!("the token webhook: {why}"))?;
    let status = review.status;
    if !status.authenticated {
        return Ok(if status.error.is_empty() { Ok(None) } else { Err(status.error) });
    }
    let ReviewUser { username: name, uid, groups, extra } = status.user;
    let extra = extra.into_iter().map(|(key, values)| (key.to_ascii_lowercase(), values)).collect();
    // A server that says nothing of audiences does not know them: the token is this server's.
    let wanted = audiences;
    let audiences = match status.audiences.is_empty() {
        true => own.iter().filter(|a| wanted.contains(a)).cloned().collect(),
        false => status.audiences.into_iter().filter(|a| wanted.contains(a)).collect::<Vec<_>>(),
    };
    // A token for somebody else proves nothing here.
    if audiences.is_empty() && !wanted.is_empty() {
        return Ok(Ok(None));
    }
    let user = User { name, uid, groups, extra };
    Ok(Ok(Some(Authenticated { audiences, ..Authenticated::plain(user) })))
}

#[async_trait]
impl Authenticator for TokenWebhook {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(token) = bearer::token(credentials.headers) else { return Ok(None) };
        let audiences =
            if credentials.audiences.is_empty() { &self.options.audiences } else { credentials.audiences };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(token.as_bytes());
        for audience in audiences {
            context.update(&[0]);
            context.update(audience.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        let now = self.clock.monotonic();
        let known =
            self.known.lock().get(&key).filter(|(until, _)| now < *until).map(|(_, answer)| answer.clone());
        let answer = match known {
            Some(answer) => answer,
            None => {
                let asked = self.question(key, &token, audiences).await;
                let answer = asked.map_err(|error| {
                    tracing::warn!(error, "the token webhook cannot be asked");
                    Status::unauthorized(error)
                })?;
                let good = matches!(&answer, Ok(Some(_)));
                let keep = if good { self.options.remember } else { self.options.remember.min(REFUSAL) };
                let mut known = self.known.lock();
                if known.len() >= REMEMBERED {
                    known.retain(|_, (until, _)| now < *until);
                }
                if known.len() < REMEMBERED {
                    known.insert(key, (now + keep, answer.clone()));
                }
                answer
            }
        };
        answer.map_err(Status::unauthorized)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foundation::ManualClock;
    use http::{HeaderMap, header};
    use serde_json::{Value, json};

    use super::*;
    use crate::reviewer::testing::{Server, while_time_passes};

    fn world(answers: Vec<(u16, Value)>) -> (TokenWebhook, Arc<Server>, ManualClock) {
        let (server, clock) = (Server::new(answers), ManualClock::default());
        let options = Options {
            transport: server.clone(),
            path: "/authenticate".into(),
            remember: Duration::from_secs(120),
            audiences: vec!["api".into()],
        };
        (TokenWebhook::new(options, Arc::new(clock.clone())), server, clock)
    }

    async fn show(webhook: &TokenWebhook, audiences: &[String]) -> Result<Option<Authenticated>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
        let credentials =
            Credentials { headers: &headers, certificates: &[], remote: None, audiences, path: "/api" };
        webhook.authenticate(credentials).await.map_err(|status| status.message)
    }

    fn bob() -> Value {
        json!({"authenticated": true, "user": {"username": "bob", "uid": "7", "groups": ["dev"],
            "extra": {"Example.com/Team": ["a"]}}})
    }

    #[tokio::test]
    async fn a_token_is_who_the_server_says() {
        let (webhook, server, _) = world(vec![(201, bob())]);
        let found = show(&webhook, &[]).await.unwrap().unwrap();
        let extra = BTreeMap::from([("example.com/team".to_owned(), vec!["a".to_owned()])]);
        let user = User { name: "bob".into(), uid: "7".into(), groups: vec!["dev".into()], extra };
        assert_eq!(found, Authenticated { audiences: vec!["api".into()], ..Authenticated::plain(user) });
        let asked = &server.asked.lock()[0];
        assert_eq!(
            (&asked["apiVersion"], &asked["kind"]),
            (&json!("authentication.k8s.io/v1"), &json!("TokenReview"))
        );
        assert_eq!(asked["spec"], json!({"token": "secret", "audiences": ["api"]}));
    }

    #[tokio::test]
    async fn answers_are_remembered_refusals_shortly() {
        let no = || (200, json!({"authenticated": false}));
        let (webhook, server, clock) = world(vec![(200, bob()), no(), no(), (200, bob())]);
        for _ in 0..2 {
            assert!(show(&webhook, &[]).await.unwrap().is_some());
        }
        assert_eq!(server.asked.lock().len(), 1);
        clock.advance(Duration::from_secs(121));
        for _ in 0..2 {
            assert_eq!(show(&webhook, &[]).await, Ok(None), "unknown tokens are somebody else's to judge");
        }
        assert_eq!(server.asked.lock().len(), 2);
        clock.advance(REFUSAL + Duration::from_secs(1));
        assert_eq!(show(&webhook, &[]).await, Ok(None));
        clock.advance(REFUSAL + Duration::from_secs(1));
        assert!(show(&webhook, &[]).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn who_shows_the_same_token_waits_for_the_same_answer() {
        // It fails once, so that there is a while to wait.
        let failed = || (500, Value::Null);
        let both = async |webhook: &TokenWebhook, clock: &ManualClock| {
            let both = async { tokio::join!(show(webhook, &[]), show(webhook, &[])) };
            while_time_passes(clock, both).await
        };
        let (webhook, server, clock) = world(vec![failed(), (200, bob())]);
        let (first, second) = both(&webhook, &clock).await;
        assert!(first.unwrap().is_some() && second.unwrap().is_some());
        assert_eq!(server.asked.lock().len(), 2);
        // A failure is that of all who waited, and whoever comes next asks anew.
        let (webhook, server, clock) = world(vec![failed(), (400, Value::Null), (200, bob())]);
        let (first, second) = both(&webhook, &clock).await;
        assert!(first.is_err() && second.is_err());
        assert!(show(&webhook, &[]).await.unwrap().is_some());
        assert_eq!(server.asked.lock().len(), 3);
        // One who leaves takes nobody's question along.
        let (webhook, server, clock) = world(vec![failed(), (200, bob())]);
        let mut leaving = Box::pin(show(&webhook, &[]));
        let mut staying = Box::pin(show(&webhook, &[]));
        assert!(futures::poll!(&mut leaving).is_pending() && futures::poll!(&mut staying).is_pending());
        drop(leaving);
        assert!(while_time_passes(&clock, staying).await.unwrap().is_some());
        assert_eq!(server.asked.lock().len(), 2);
        assert!(webhook.asked.lock().values().all(|question| question.upgrade().is_none()));
    }

    #[tokio::test]
    async fn audiences_are_held_apart() {
        let told = |audiences: &[&str]| {
            let mut status = bob();
            status["audiences"] = json!(audiences);
            (200, status)
        };
        #[rustfmt::skip]
        let table = [
            (vec![], told(&["api", "other"]), Some(vec!["api"])),
            (vec![], told(&["other"]), None),
            (vec!["vault"], told(&["vault"]), Some(vec!["vault"])),
            // A server that knows no audiences means ours.
            (vec!["vault"], (200, bob()), None),
            (vec!["vault", "api"], (200, bob()), Some(vec!["api"])),
        ];
        for (index, (asked, answer, want)) in table.into_iter().enumerate() {
            let (webhook, server, _) = world(vec![answer]);
            let asked: Vec<String> = asked.into_iter().map(str::to_owned).collect();
            let found = show(&webhook, &asked).await.unwrap().map(|found| found.audiences);
            let want = want.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, want, "row {index}");
            let sent = if asked.is_empty() { json!(["api"]) } else { json!(asked) };
            assert_eq!(server.asked.lock()[0]["spec"]["audiences"], sent, "row {index}");
        }
    }

    #[tokio::test]
    async fn failures_refuse_and_are_not_remembered() {
        let wrong = json!({"authenticated": false, "error": "expired"});
        let (webhook, _, _) = world(vec![(200, wrong)]);
        assert_eq!(show(&webhook, &[]).await, Err("expired".into()));

        let (webhook, server, clock) = world(vec![(400, Value::Null), (500, Value::Null), (200, bob())]);
        assert_eq!(show(&webhook, &[]).await, Err("the token webhook: it answered 400 Bad Request".into()));
        let found = while_time_passes(&clock, show(&webhook, &[])).await;
        assert!(found.unwrap().is_some(), "a server that failed once is asked again");
        assert_eq!(server.asked.lock().len(), 3);
    }
}
