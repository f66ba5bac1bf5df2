//! Sends spans to the collector, many at a time.
//!
//! Takes them from the queue; writes to the network. A batch goes when it is full or when its first span has waited
//! for some seconds, and there is no timer without one. While the collector cannot be reached the batch at hand is tried
//! again for a minute and then dropped; what comes meanwhile waits in the queue as far as it fits. What is still in
//! the queue when the server stops is sent before it ends, if the collector takes it at once.
//! Upstream: go.opentelemetry.io/otel/sdk/trace (BatchSpanProcessor), otlptracegrpc (its retries).

use std::time::Duration;

use foundation::metrics::Counter;
use foundation::{CancellationToken, SharedClock};
use tokio::sync::mpsc;

use super::Ended;
use super::otlp::{Collector, Refusal, Resource};

/// Spans sent at once.
const BATCH: usize = 512;
/// Bytes sent at once, about: collectors take no more than 4 MiB unless they are told to.
const BYTES: usize = 2 << 20;
/// How long the first span of a batch waits for others.
const WAIT: Duration = Duration::from_secs(5);
/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// After how long a batch is tried again; twice as long each time.
const AGAIN: Duration = Duration::from_secs(5);
/// After how long it is given up.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// How long the last batch may take.
const LAST: Duration = Duration::from_secs(2);

/// Who sends.
pub(super) struct Exporter {
    pub collector: Collector,
    pub resource: Resource,
    pub dropped: Counter,
    pub clock: SharedClock,
}

impl Exporter {
    /// Sends until the token is cancelled.
    pub async fn run(self, mut spans: mpsc::Receiver<Ended>, end: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                first = spans.recv() => first,
                () = end.cancelled() => None,
            };
            let Some(first) = first else { break };
            batch.push(first);
            let due = self.clock.sleep(WAIT);
            tokio::pin!(due);
            while batch.len() < BATCH && !end.is_cancelled() {
                let room = BATCH - batch.len();
                tokio::select! {
                    count = spans.recv_many(&mut batch, room) => if count == 0 { break },
                    () = &mut due => break,
                    () = end.cancelled() => break,
                }
            }
            self.send(std::mem::take(&mut batch), &end).await;
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.send(batch, &end).await;
        }
    }

    /// Sends what there is, in as many pieces as its size asks for.
    async fn send(&self, mut batch: Vec<Ended>, end: &CancellationToken) {
        while !batch.is_empty() {
            let rest = batch.split_off(fitting(batch.iter().map(Ended::weight)));
            self.export(batch, end).await;
            batch = rest;
        }
    }

    /// Sends a batch, or counts it as dropped.
    async fn export(&self, batch: Vec<Ended>, end: &CancellationToken) {
        let count = batch.len() as u64;
        let message = self.resource.message(batch);
        let began = self.clock.monotonic();
        let mut pause = AGAIN;
        loop {
            let patience = if end.is_cancelled() { LAST } else { ANSWER };
            let refusal = tokio::select! {
                answer = self.collector.export(&message) => match answer {
                    Ok(rejected) => {
                        self.dropped.add(rejected);
                        return;
                    }
                    Err(refusal) => refusal,
                },
                () = self.clock.sleep(patience) => Refusal { again: true, text: "no answer in time".to_owned() },
            };
            let waited = self.clock.monotonic().saturating_sub(began) + pause;
            if !refusal.again || waited > GIVEN_UP || end.is_cancelled() {
                self.dropped.add(count);
                tracing::warn!(error = refusal.text, spans = count, "spans were not taken by the collector");
                return;
            }
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = end.cancelled() => {}
            }
            pause *= 2;
        }
    }
}

/// How many of so large spans go together: one at least, however large it is.
fn fitting(weights: impl Iterator<Item = usize>) -> usize {
    let sums = weights.scan(0_usize, |sum, weight| {
        *sum = sum.saturating_add(weight);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= BYTES).count().clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_bytes() {
        for (weights, together) in [
            (vec![100; 3], 3),
            (vec![100; 2048], BATCH),
            (vec![BYTES / 2, BYTES / 2, 1], 2),
            (vec![BYTES + 1, 1], 1),
        ] {
            assert_eq!(fitting(weights.into_iter()), together);
        }
    }
}
