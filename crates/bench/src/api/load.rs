//! Many requests at once over a few connections, and how long each took.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use client::{HttpsTransport, Transport, kubeconfig};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use http_body_util::BodyExt;

use crate::report;

/// Connections of the measuring client: few, as API clients multiplex their requests.
const CONNECTIONS: usize = 4;
/// Requests under way on each connection.
const CONCURRENCY: usize = 16;
/// Runs of up to so many requests have them made before the clock starts; longer ones would need too much memory.
const PREPARED: usize = 10_000;

/// Connections to one server.
pub struct Connections {
    transports: Vec<Arc<HttpsTransport>>,
}

/// What a run of requests found.
#[derive(Default)]
pub struct Outcome {
    /// From the first request until the last answer.
    pub elapsed: Duration,
    /// Of each request that was answered with success.
    pub times: Vec<Duration>,
    /// Bytes of bodies sent.
    pub sent: usize,
    /// Bytes of bodies received.
    pub received: usize,
    /// The first answer that was no success, and how many there were.
    refused: Option<(String, usize)>,
}

impl Outcome {
    /// An error if any request was not answered with success.
    pub fn complete(&self) -> anyhow::Result<()> {
        match &self.refused {
            None => Ok(()),
            Some((answer, count)) => bail!("{count} requests were refused, the first with {answer}"),
        }
    }

    /// Rate, median and 99th percentile.
    pub fn summary(&self) -> String {
        let rate = self.times.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let [median, worst] =
            [0.5, 0.99].map(|share| report::milliseconds(report::quantile(&self.times, share)));
        format!("{rate:.0}/s, p50 {median}, p99 {worst}")
    }
}

impl Connections {
    /// Connections as the kubeconfig says, or with the same keys to another port of the same host.
    pub fn open(path: &Path, port: Option<u16>) -> anyhow::Result<Connections> {
        let mut config = kubeconfig::load(path)?;
        if let Some(port) = port {
            let (host, _) = config.server.rsplit_once(':').context("the server's URL has no port")?;
            config.server = format!("{host}:{port}");
        }
        let transports = (0..CONNECTIONS)
            .map(|_| Ok(Arc::new(HttpsTransport::new(&config)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Connections { transports })
    }

    /// More connections of the same kind: streams that stay open must not crowd out the rest.
    pub fn transport(&self, index: usize) -> Arc<HttpsTransport> {
        self.transports[index % self.transports.len()].clone()
    }

    /// Sends `count` requests made by `make`, as many at once as there is room.
    pub async fn run(
        &self,
        count: usize,
        make: impl Fn(usize) -> (Method, String, Bytes),
    ) -> anyhow::Result<Outcome> {
        self.run_noting(count, make, |_, _| {}).await
    }

    /// Like [`run`](Connections::run), and calls `answered` at each answer, with the number and the body.
    pub async fn run_noting(
        &self,
        count: usize,
        make: impl Fn(usize) -> (Method, String, Bytes),
        mut answered: impl FnMut(usize, &[u8]),
    ) -> anyhow::Result<Outcome> {
        let prepared: Vec<_> = (0..count).filter(|_| count <= PREPARED).map(&make).collect();
        let from = Instant::now();
        let requests = stream::iter(0..count).map(|index| {
            let (method, path, body) = prepared.get(index).cloned().unwrap_or_else(|| make(index));
            let transport = &self.transports[index % CONNECTIONS];
            async move {
                let sent = body.len();
                let from = Instant::now();
                let (status, answer) = exchange(transport, method, &path, body).await?;
                anyhow::Ok((index, from.elapsed(), sent, status, answer))
            }
        });
        let mut outcome = Outcome::default();
        let mut answers = requests.buffer_unordered(CONNECTIONS * CONCURRENCY);
        while let Some((index, time, sent, status, answer)) = answers.try_next().await? {
            answered(index, &answer);
            outcome.sent += sent;
            outcome.received += answer.len();
            if status.is_success() {
                outcome.times.push(time);
            } else {
                let text = format!("{status}: {}", String::from_utf8_lossy(&answer));
                outcome.refused.get_or_insert((text, 0)).1 += 1;
            }
        }
        outcome.elapsed = from.elapsed();
        Ok(outcome)
    }

    /// Reads one JSON answer.
    pub async fn get_json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let (_, answer) = exchange(&self.transports[0], Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).with_context(|| format!("{path} was not answered with JSON"))
    }

    /// Reads one answer to its end and returns its size.
    pub async fn get(&self, path: &str) -> anyhow::Result<usize> {
        let request = http::Request::get(path).body(Bytes::new())?;
        let response = self.transports[0].send(request).await?;
        if !response.status().is_success() {
            bail!("{path} was answered with {}", response.status());
        }
        let mut body = response.into_body();
        let mut bytes = 0;
        // Frame by frame: collecting would measure the client's memory.
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }
}

async fn exchange(
    transport: &HttpsTransport,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    let response = transport.send(request.body(body)?).await?;
    let status = response.status();
    let answer = response.into_body().collect().await;
    Ok((status, answer.map_err(|error| anyhow::anyhow!("{path}: {error}"))?.to_bytes()))
}
