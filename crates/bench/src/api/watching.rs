//! Many watchers of one namespace while it changes.
//!
//! Twice: by writes as fast as they are taken, which tells how many events can be delivered, and by writes at a steady
//! pace below that, which tells how long after a write its watchers see it. (Of writes that outrun the delivery the lag
//! tells nothing but how long one has measured.) The watching client shares the machine's processors with the server.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use client::Transport;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};

use super::load::Connections;
use crate::{
    idle,
    instance::{Instance, PATIENCE},
    report,
};

/// Writes as fast as they are taken.
const BURST: usize = 1_000;
/// Writes at a pace.
const PACED: usize = 300;
/// The pace: a hundred writes a second, which a thousand watchers make a hundred thousand events.
const PACE: Duration = Duration::from_millis(10);
/// Watches on one connection: below the number of streams that a server allows.
const PER_CONNECTION: usize = 50;
const PATH: &str = "/api/v1/namespaces/bench-0/configmaps";

/// What all watchers have seen together.
#[derive(Default)]
struct Delivered {
    opened: AtomicUsize,
    events: AtomicUsize,
    /// Told at each batch of events.
    changed: Notify,
}

/// Opens the watches, writes, waits until everyone has seen everything; `size` names the run.
pub async fn run(
    size: usize,
    watchers: usize,
    server: &Connections,
    instance: &Instance,
) -> anyhow::Result<()> {
    let start = server.get_json(PATH).await?;
    let version =
        start.pointer("/metadata/resourceVersion").and_then(|v| v.as_str()).context("no revision")?;
    let before = idle::proportional(instance.pid())?;
    let delivered = Arc::<Delivered>::default();
    let mut tasks = watch(watchers, version, instance, &delivered)?;
    let patience = Instant::now() + PATIENCE;
    while delivered.opened.load(Ordering::Relaxed) < watchers {
        if let Some(ended) = tasks.try_join_next() {
            ended.context("a watcher panicked")??;
            bail!("a watch ended before anything was written");
        }
        if Instant::now() > patience {
            bail!("not all watches were opened in time");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let grown = idle::proportional(instance.pid())?.saturating_sub(before) as f64 / watchers.max(1) as f64;
    report::line(&format!("{size} pods: memory per watcher"), &format!("{grown:.1} KiB"), "-");

    let make = |kind: &str, index: usize| {
        let name = format!("seen-{size}-{kind}-{index}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"text": "x".repeat(512)}});
        (Method::POST, PATH.to_owned(), Bytes::from(body.to_string()))
    };
    let (from, spent) = (Instant::now(), idle::processor_time(instance.pid())?);
    server.run(BURST, |index| make("burst", index)).await?.complete()?;
    let events = watchers * BURST;
    delivered.wait(events).await?;
    let rate = events as f64 / from.elapsed().as_secs_f64();
    let spent = idle::processor_time(instance.pid())?.saturating_sub(spent);
    let each = spent.as_secs_f64() * 1e6 / events.max(1) as f64;
    let what = format!("{size} pods: {BURST} writes seen by {watchers} watchers");
    report::line(&what, &format!("{rate:.0} events/s, server {each:.2} µs each"), "500,000/s");

    let acknowledged: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut pace = tokio::time::interval(PACE);
    for index in 0..PACED {
        pace.tick().await;
        let log = acknowledged.clone();
        let written = server
            .run_noting(
                1,
                |_| make("paced", index),
                move |_, _| log.lock().unwrap_or_else(|e| e.into_inner()).push(Instant::now()),
            )
            .await?;
        written.complete()?;
    }
    delivered.wait(events + watchers * PACED).await?;
    let mut lags: Vec<Duration> = Vec::with_capacity(watchers * PACED);
    while let Some(seen) = tasks.join_next().await {
        let seen = seen.context("a watcher panicked")??;
        let written = acknowledged.lock().unwrap_or_else(|e| e.into_inner());
        // The k-th event of each watch belongs to the k-th write.
        let paced = seen.iter().skip(BURST).zip(written.iter());
        lags.extend(paced.map(|(seen, at)| seen.saturating_duration_since(*at)));
    }
    let [median, worst] = [0.5, 0.99].map(|share| report::milliseconds(report::quantile(&lags, share)));
    let what = format!("{size} pods: {} writes/s for {watchers} watchers", 1_000 / PACE.as_millis());
    report::line(&what, &format!("lag p50 {median}, p99 {worst}"), "p99 50 ms");
    Ok(())
}

/// Opens the watches. Each ends with the times at which it saw its events.
fn watch(
    watchers: usize,
    version: &str,
    instance: &Instance,
    delivered: &Arc<Delivered>,
) -> anyhow::Result<JoinSet<anyhow::Result<Vec<Instant>>>> {
    let mut tasks = JoinSet::new();
    let mut connections = Vec::new();
    for index in 0..watchers {
        if index % PER_CONNECTION == 0 {
            connections.push(Connections::open(&instance.kubeconfig(), None)?.transport(0));
        }
        let transport = connections[index / PER_CONNECTION].clone();
        let request = http::Request::get(format!("{PATH}?watch=true&resourceVersion={version}"));
        let (request, delivered) = (request.body(Bytes::new())?, delivered.clone());
        tasks.spawn(async move {
            let response = transport.send(request).await?;
            if !response.status().is_success() {
                bail!("a watch was answered with {}", response.status());
            }
            delivered.opened.fetch_add(1, Ordering::Relaxed);
            let mut body = response.into_body();
            let mut seen: Vec<Instant> = Vec::with_capacity(BURST + PACED);
            while seen.len() < BURST + PACED {
                let frame = body.frame().await.context("a watch ended")?;
                let frame = frame.map_err(|error| anyhow::anyhow!("a watch broke off: {error}"))?;
                let lines = frame.data_ref().map_or(0, |data| lines(data));
                seen.extend(std::iter::repeat_n(Instant::now(), lines));
                delivered.events.fetch_add(lines, Ordering::Relaxed);
                delivered.changed.notify_one();
            }
            anyhow::Ok(seen)
        });
    }
    Ok(tasks)
}

impl Delivered {
    /// Waits for so many events.
    async fn wait(&self, events: usize) -> anyhow::Result<()> {
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        while self.events.load(Ordering::Relaxed) < events {
            tokio::select! {
                () = self.changed.notified() => {}
                () = &mut patience => {
                    let seen = self.events.load(Ordering::Relaxed);
                    bail!("only {seen} of {events} events came in time");
                }
            }
        }
        Ok(())
    }
}

/// How many lines end in these bytes; eight bytes at a time, for the counting must not cost more than the delivery.
fn lines(data: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LOW: u64 = ONES * 0x7f;
    let (chunks, rest) = data.as_chunks::<8>();
    let in_chunks = chunks.iter().map(|chunk| {
        // A byte that is zero here has its high bit left at the end, and no other has.
        let differs = u64::from_ne_bytes(*chunk) ^ (ONES * u64::from(b'\n'));
        (!(((differs & LOW) + LOW) | differs | LOW)).count_ones() as usize
    });
    in_chunks.sum::<usize>() + rest.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let text: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        assert_eq!(lines(&text), 4);
        assert_eq!(lines(b"\n\n\n\n\n\n\n\n\n"), 9);
        assert_eq!(lines(b"no end"), 0);
    }
}
