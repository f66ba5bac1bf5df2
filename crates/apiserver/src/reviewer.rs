//! Asks another server for its judgement: posts a review (a TokenReview, a SubjectAccessReview) and reads its status.
//!
//! What may pass by itself (an overloaded server, one that failed or broke the connection off) is asked again a few
//! times, with growing pauses. A server that cannot be reached at all is not: whoever waits learns of it at once.
//! Not here: what is asked, and how long an answer is remembered (`authn::webhook`, `authz::webhook`).
//! Upstream: apiserver/pkg/util/webhook/webhook.go (`WithExponentialBackoff`, `DefaultShouldRetry`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Transport, TransportError};
use foundation::SharedClock;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest answer, in bytes.
const ANSWER: usize = 1 << 20;
/// How often one question is asked at most.
const ATTEMPTS: u32 = 5;
/// The first pause; each later one is half as long again.
const PAUSE: Duration = Duration::from_millis(500);

/// One server that is asked.
#[derive(Clone)]
pub(crate) struct Reviewer {
    /// The way to it.
    pub transport: Arc<dyn Transport>,
    /// The path to post to.
    pub path: String,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Measures attempts and pauses.
    pub clock: SharedClock,
}

/// Why there is no answer.
struct Failure {
    problem: String,
    /// Whether another attempt may go better.
    passing: bool,
}

impl Failure {
    fn lasting(problem: impl ToString) -> Self {
        Self { problem: problem.to_string(), passing: false }
    }
}

impl Reviewer {
    /// Posts `review` and gives the answer.
    ///
    /// # Errors
    /// What is wrong with the last attempt, in words.
    pub async fn ask<T: DeserializeOwned>(&self, review: &Value) -> Result<T, String> {
        let body = Bytes::from(review.to_string());
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.attempt(&body).await {
                Err(failure) if failure.passing => {
                    tracing::debug!(path = self.path, failure.problem, "a review is asked for again");
                }
                done => return done.map_err(|failure| failure.problem),
            }
            self.clock.sleep(pause).await;
            pause = pause * 3 / 2;
        }
        self.attempt(&body).await.map_err(|failure| failure.problem)
    }

    async fn attempt<T: DeserializeOwned>(&self, body: &Bytes) -> Result<T, Failure> {
        let request = http::Request::post(self.path.as_str())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(body.clone())
            .map_err(Failure::lasting)?;
        tokio::select! {
            answer = self.exchange(request) => answer,
            () = self.clock.sleep(self.timeout) => Err(Failure::lasting("no answer in time")),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: http::Request<Bytes>) -> Result<T, Failure> {
        let response = self.transport.send(request).await.map_err(|error| Failure {
            passing: matches!(error, TransportError::Exchange(_)),
            problem: error.to_string(),
        })?;
        let (status, headers) = (response.status(), response.headers());
        if !status.is_success() {
            let passing =
                matches!(status.as_u16(), 429 | 500 | 504) || headers.contains_key(http::header::RETRY_AFTER);
            return Err(Failure { problem: format!("it answered {status}"), passing });
        }
        let read = crate::response::read(response.into_body(), ANSWER).await;
        let read = read.map_err(|error| Failure { problem: error.to_string(), passing: true })?;
        serde_json::from_slice(&read).map_err(Failure::lasting)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A server that answers what it is told to.

    use std::collections::VecDeque;

    use async_trait::async_trait;
    use foundation::ManualClock;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::response;

    /// Answers with the given codes and statuses, one after the other, and remembers what it was asked. Code 0 breaks
    /// the connection off.
    pub(crate) struct Server {
        pub(crate) answers: Mutex<VecDeque<(u16, Value)>>,
        pub(crate) asked: Mutex<Vec<Value>>,
    }

    impl Server {
        pub(crate) fn new(answers: Vec<(u16, Value)>) -> Arc<Self> {
            Arc::new(Self { answers: Mutex::new(answers.into()), asked: Mutex::default() })
        }
    }

    #[async_trait]
    impl Transport for Server {
        async fn send(
            &self,
            request: http::Request<Bytes>,
        ) -> Result<http::Response<client::Body>, TransportError> {
            self.asked.lock().push(serde_json::from_slice(request.body()).unwrap());
            match self.answers.lock().pop_front().expect("not asked more often than expected") {
                (0, _) => Err(TransportError::Exchange("connection reset by peer".into())),
                (code, status) => Ok(response::json(code, &json!({"status": status}))),
            }
        }
    }

    /// Runs `future` while time passes as fast as somebody sleeps.
    pub(crate) async fn while_time_passes<F: Future>(clock: &ManualClock, future: F) -> F::Output {
        let passing = async {
            loop {
                clock.wait_for_sleepers(1).await;
                clock.advance(clock.next_deadline().unwrap_or_default());
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            output = future => output,
            () = passing => unreachable!("time passes without end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use foundation::{Clock, ManualClock};
    use serde_json::json;

    use super::testing::{Server, while_time_passes};
    use super::*;

    #[tokio::test]
    async fn what_may_pass_is_asked_again_with_growing_pauses() {
        let good = || (200, json!({"allowed": true}));
        let many = |code: u16| vec![(code, Value::Null); ATTEMPTS as usize];
        #[rustfmt::skip]
        let table = [
            (vec![good()], 1, 0, true),
            (vec![(500, Value::Null), (429, Value::Null), (0, Value::Null), good()], 4, 500 + 750 + 1125, true),
            (many(504), 5, 500 + 750 + 1125 + 1687, false),
            (vec![(400, Value::Null)], 1, 0, false),
            (vec![(403, Value::Null)], 1, 0, false),
            (vec![(503, Value::Null)], 1, 0, false),
        ];
        for (index, (answers, asked, millis, fine)) in table.into_iter().enumerate() {
            let (server, clock) = (Server::new(answers), ManualClock::default());
            let reviewer = Reviewer {
                transport: server.clone(),
                path: "/review".into(),
                timeout: Duration::from_secs(60),
                clock: Arc::new(clock.clone()),
            };
            let began = clock.monotonic();
            let review = json!({"spec": {}});
            let answer: Result<Value, String> = while_time_passes(&clock, reviewer.ask(&review)).await;
            assert_eq!(answer.is_ok(), fine, "row {index}: {answer:?}");
            assert_eq!(server.asked.lock().len(), asked, "row {index}");
            assert_eq!((clock.monotonic() - began).as_millis(), millis, "row {index}");
        }
    }
}
