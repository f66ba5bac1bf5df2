//! Many watchers of one namespace while it changes: events delivered, and how long after the write.

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

use super::load::Connections;
use crate::{instance::PATIENCE, report};

/// Writes that everyone sees.
const WRITES: usize = 1_000;
/// Watches on one connection: below the number of streams that a server allows.
const PER_CONNECTION: usize = 50;
const PATH: &str = "/api/v1/namespaces/bench-0/configmaps";

/// Opens the watches, writes, waits until everyone has seen everything.
pub async fn run(watchers: usize, server: &Connections, kubeconfig: &std::path::Path) -> anyhow::Result<()> {
    let start = server.get_json(PATH).await?;
    let version =
        start.pointer("/metadata/resourceVersion").and_then(|v| v.as_str()).context("no revision")?;
    let opened = Arc::new(AtomicUsize::new(0));
    // When the k-th write was acknowledged; the k-th event of each watch belongs to it.
    let acknowledged: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    let mut connections = Vec::new();
    for index in 0..watchers {
        if index % PER_CONNECTION == 0 {
            connections.push(Connections::open(kubeconfig, None)?.transport(0));
        }
        let transport = connections[index / PER_CONNECTION].clone();
        let request = http::Request::get(format!("{PATH}?watch=true&resourceVersion={version}"));
        let (request, opened) = (request.body(Bytes::new())?, opened.clone());
        tasks.spawn(async move {
            let response = transport.send(request).await?;
            if !response.status().is_success() {
                bail!("a watch was answered with {}", response.status());
            }
            opened.fetch_add(1, Ordering::Relaxed);
            let mut body = response.into_body();
            let mut seen: Vec<Instant> = Vec::with_capacity(WRITES);
            while seen.len() < WRITES {
                let frame = body.frame().await.context("a watch ended")?;
                let frame = frame.map_err(|error| anyhow::anyhow!("a watch broke off: {error}"))?;
                let lines =
                    frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                let now = Instant::now();
                seen.extend(std::iter::repeat_n(now, lines));
            }
            anyhow::Ok(seen)
        });
    }
    let patience = Instant::now() + PATIENCE;
    while opened.load(Ordering::Relaxed) < watchers {
        if Instant::now() > patience {
            bail!("not all watches were opened in time");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let from = Instant::now();
    let make = |index: usize| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("seen-{index}")},
            "data": {"text": "x".repeat(512)}});
        (Method::POST, PATH.to_owned(), Bytes::from(body.to_string()))
    };
    let log = acknowledged.clone();
    server
        .run_noting(WRITES, make, move |_, _| {
            log.lock().unwrap_or_else(|e| e.into_inner()).push(Instant::now())
        })
        .await?
        .complete()?;
    let mut lags: Vec<Duration> = Vec::with_capacity(watchers * WRITES);
    let mut last = from;
    while let Some(seen) = tasks.join_next().await {
        let seen = seen.context("a watcher panicked")??;
        let written = acknowledged.lock().unwrap_or_else(|e| e.into_inner());
        lags.extend(seen.iter().zip(written.iter()).map(|(seen, at)| seen.saturating_duration_since(*at)));
        last = seen.last().copied().unwrap_or(from).max(last);
    }
    let rate = (watchers * WRITES) as f64 / last.duration_since(from).as_secs_f64();
    let lag = report::milliseconds(report::quantile(&lags, 0.99));
    let what = format!("{WRITES} writes seen by {watchers} watchers");
    report::line(&what, &format!("{rate:.0} events/s, lag p99 {lag}"), "500,000/s, 50 ms");
    Ok(())
}
