//! Asks another server whose token it is, by a TokenReview.
//!
//! Answers are remembered: good ones for a while, bad ones for ten seconds at most.
//! Upstream: apiserver/plugin/pkg/authenticator/token/webhook, apiserver/pkg/authentication/token/cache.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use bytes::Bytes;
use client::Transport;
use foundation::SharedClock;
use parking_lot::Mutex;
use ring::digest;
use serde::Deserialize;
use serde_json::json;

use super::{Authenticated, Authenticator, Credentials, bearer};
use crate::request::User;

/// Answers that are remembered.
const REMEMBERED: usize = 4096;
/// How long a refusal is remembered at most.
const REFUSAL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: usize = 1 << 20;

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

/// The authenticator.
pub(super) struct TokenWebhook {
    options: Options,
    clock: SharedClock,
    known: Mutex<HashMap<[u8; 32], (Duration, Answer)>>,
}

impl TokenWebhook {
    pub(super) fn new(options: Options, clock: SharedClock) -> Self {
        Self { options, clock, known: Mutex::default() }
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Answer, String> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        });
        let request = http::Request::post(self.options.path.as_str())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Bytes::from(review.to_string()))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.options.transport.send(request).await.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("the token webhook answered {}", response.status()));
            }
            let body =
                crate::response::read(response.into_body(), ANSWER).await.map_err(|e| e.to_string())?;
            serde_json::from_slice::<Review>(&body).map_err(|error| error.to_string())
        };
        let review = tokio::select! {
            review = exchange => review?,
            () = self.clock.sleep(PATIENCE) => return Err("the token webhook did not answer in time".to_owned()),
        };
        let status = review.status;
        if !status.authenticated {
            return Ok(if status.error.is_empty() { Ok(None) } else { Err(status.error) });
        }
        let ReviewUser { username: name, uid, groups, extra } = status.user;
        let extra = extra.into_iter().map(|(key, values)| (key.to_ascii_lowercase(), values)).collect();
        // A server that says nothing of audiences does not know them: the token is this server's.
        let wanted = audiences;
        let audiences = match status.audiences.is_empty() {
            true => self.options.audiences.iter().filter(|a| wanted.contains(a)).cloned().collect(),
            false => status.audiences.into_iter().filter(|a| wanted.contains(a)).collect::<Vec<_>>(),
        };
        // A token for somebody else proves nothing here.
        if audiences.is_empty() && !wanted.is_empty() {
            return Ok(Ok(None));
        }
        Ok(Ok(Some(Authenticated { user: User { name, uid, groups, extra }, audiences })))
    }
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
                let asked = self.ask(&token, audiences).await;
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
