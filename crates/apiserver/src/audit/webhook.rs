//! Sends audit events to a server, in batches, as an EventList of audit.k8s.io/v1.
//!
//! A batch goes out when it is full or its first event has waited long enough. A failure (to answer in time is one)
//! is tried again a few times, with growing pauses; then the batch is lost and counted.
//! Upstream: apiserver/plugin/pkg/audit/{webhook,buffered}.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use client::Transport;
use foundation::metrics::Counter;
use foundation::{CancellationToken, SharedClock};
use tokio::sync::mpsc;

use super::sink::{Queued, Sink};
use crate::response;

/// How long a server may take to answer (upstream's limit for webhooks).
const ANSWER: Duration = Duration::from_secs(30);
/// What is read of an answer, so that its connection can be used again.
const READ: usize = 64 * 1024;
/// How often a batch is tried (upstream: 5 steps of its back-off).
const TRIES: u32 = 5;

/// Where to, and in which portions.
#[derive(Clone)]
pub struct Options {
    /// The server, with the path to post to.
    pub transport: Arc<dyn Transport>,
    /// The path to post to.
    pub path: String,
    /// The most events in one batch.
    pub batch: usize,
    /// How long a batch waits to become full.
    pub wait: Duration,
    /// The pause before the first repetition; each later one is half as long again.
    pub backoff: Duration,
}

impl Options {
    /// Upstream's batches to `path` of a server.
    pub fn new(transport: Arc<dyn Transport>, path: String) -> Self {
        let (wait, backoff) = (Duration::from_secs(30), Duration::from_secs(10));
        Self { transport, path, batch: 400, wait, backoff }
    }
}

/// What sends.
pub struct Sender {
    options: Options,
    clock: SharedClock,
    lost: Counter,
}

impl Sender {
    pub(super) fn new(options: &Options, clock: SharedClock, lost: Counter) -> Result<Self, String> {
        if options.batch == 0 {
            return Err("the audit webhook's batches must hold at least one event".to_owned());
        }
        Ok(Self { options: options.clone(), clock, lost })
    }

    async fn send(&self, events: &[Queued]) {
        let mut body = BytesMut::from(
            &br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#[..],
        );
        for (at, event) in events.iter().enumerate() {
            if at > 0 {
                body.extend_from_slice(b",");
            }
            body.extend_from_slice(&event.event);
        }
        body.extend_from_slice(b"]}");
        let body = body.freeze();
        let mut pause = self.options.backoff;
        for left in (0..TRIES).rev() {
            let posted = tokio::select! {
                posted = self.post(body.clone()) => posted,
                () = self.clock.sleep(ANSWER) => Err(format!("no answer within {ANSWER:?}")),
            };
            match posted {
                Ok(()) => return,
                Err(problem) if left == 0 => {
                    tracing::error!(problem, events = events.len(), "audit events are lost");
                    self.lost.add(events.len() as u64);
                }
                Err(problem) => {
                    tracing::warn!(problem, "audit events could not be sent, trying again");
                    self.clock.sleep(pause).await;
                    pause = pause * 3 / 2;
                }
            }
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let request = http::Request::post(self.options.path.as_str())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| error.to_string())?;
        let response = self.options.transport.send(request).await.map_err(|error| error.to_string())?;
        let code = response.status();
        // What it says does not matter.
        let _ = response::read(response.into_body(), READ).await;
        if code.is_success() { Ok(()) } else { Err(format!("the server answered {code}")) }
    }
}

/// Sends events until there will be no more. `open` keeps the queue from ending before the server begins to stop.
pub(super) async fn run(
    sender: Sender,
    mut events: mpsc::UnboundedReceiver<Queued>,
    open: Sink,
    token: CancellationToken,
) {
    let most = sender.options.batch;
    let mut open = Some(open);
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            biased;
            count = events.recv_many(&mut batch, most) => count,
            () = token.cancelled(), if open.is_some() => {
                open = None;
                continue;
            }
        };
        if count == 0 {
            return;
        }
        let full = sender.clock.sleep(sender.options.wait);
        tokio::pin!(full);
        while batch.len() < most {
            let room = most - batch.len();
            tokio::select! {
                biased;
                count = events.recv_many(&mut batch, room) => if count == 0 { break },
                () = &mut full => break,
                () = token.cancelled() => break,
            }
        }
        tokio::select! {
            () = sender.send(&batch) => {}
            // Pauses between repetitions must not hold up the end.
            () = async { token.cancelled().await; sender.clock.sleep(sender.options.backoff).await } => {}
        }
        batch.clear();
    }
}
