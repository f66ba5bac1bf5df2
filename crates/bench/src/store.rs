//! The store behind the etcd v3 API, beside a real etcd on the same disk in the same run, under the same load.
//!
//! Starts `ironclad etcd` and the `etcd` that is named, each on a fresh directory, one after the other for each
//! measurement; prints both figures and their ratio. The load is that of etcd's own benchmark: keys written one after
//! the other by one client, by many over a few connections, watched by many. Not here: the started programs
//! (`program`).

mod program;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use etcd::wire::etcdserverpb::kv_client::KvClient;
use etcd::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd::wire::etcdserverpb::watch_client::WatchClient;
use etcd::wire::etcdserverpb::watch_request::RequestUnion;
use etcd::wire::etcdserverpb::{
    CompactionRequest, DefragmentRequest, PutRequest, WatchCreateRequest, WatchRequest,
};
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::{StoreOptions, report};
use program::{Kind, Program};

/// Connections that many clients share.
const CONNECTIONS: usize = 8;
/// Writers at once where as much as possible is written.
const MANY: usize = 64;
/// Keys that are written over and over.
const KEYS: usize = 10_000;

/// Measures everything, both stores in turn.
pub async fn run(options: &StoreOptions, program: &Path) -> anyhow::Result<()> {
    let kinds = [Kind::Own(program.to_owned()), Kind::Etcd(program::etcd(options.etcd.as_deref())?)];
    let mut all = Vec::new();
    for kind in &kinds {
        all.push(measure(options, kind).await.with_context(|| format!("measuring {kind}"))?);
    }
    for ((what, unit, target, ours), (_, _, _, theirs)) in all[0].rows().into_iter().zip(all[1].rows()) {
        let better = if unit.ends_with("/s") { ours / theirs } else { theirs / ours };
        report::line(what, &format!("{ours:.0} {unit}, etcd {theirs:.0}: {better:.1} x"), target);
    }
    Ok(())
}

/// What was found of one store.
#[derive(Debug, Default)]
struct Figures {
    alone_p50: Duration,
    alone_p99: Duration,
    alone_rate: f64,
    many_rate: f64,
    many_p99: Duration,
    events_rate: f64,
    lag_p99: Duration,
    bytes_after_updates: u64,
    bytes_after_compaction: u64,
    memory: u64,
    recovery: Duration,
}

impl Figures {
    fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        vec![
            ("durable puts, one client: p50", "us", "250 us", micros(self.alone_p50)),
            ("durable puts, one client: p99", "us", "", micros(self.alone_p99)),
            ("durable puts, one client", "puts/s", "", self.alone_rate),
            ("durable puts, 64 clients", "puts/s", "2 x etcd", self.many_rate),
            ("durable puts, 64 clients: p99", "us", "", micros(self.many_p99)),
            ("watch events delivered", "events/s", "500000/s", self.events_rate),
            ("watch lag p99 under churn", "us", "50 ms", micros(self.lag_p99)),
            ("on disk after updates of 10 k keys", "MiB", "", mib(self.bytes_after_updates)),
            ("the same after compaction", "MiB", "", mib(self.bytes_after_compaction)),
            ("memory with many keys of 1 KB", "MiB", "", mib(self.memory)),
            ("killed to serving again, with those keys", "ms", "3 s a GB", self.recovery.as_secs_f64() * 1e3),
        ]
    }
}

async fn measure(options: &StoreOptions, kind: &Kind) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();

    let started = Program::start(kind).await?;
    let mut times = Vec::with_capacity(options.puts);
    let from = Instant::now();
    let mut client = KvClient::new(started.connect().await?);
    for n in 0..options.puts {
        let before = Instant::now();
        client.put(put(n % KEYS, 256)).await?;
        times.push(before.elapsed());
    }
    figures.alone_rate = options.puts as f64 / from.elapsed().as_secs_f64();
    figures.alone_p50 = report::quantile(&times, 0.5);
    figures.alone_p99 = report::quantile(&times, 0.99);
    let (rate, times) = write(&started, options.puts * 10, 256, KEYS).await?;
    (figures.many_rate, figures.many_p99) = (rate, report::quantile(&times, 0.99));
    started.end()?;

    let started = Program::start(kind).await?;
    (figures.events_rate, figures.lag_p99) = watch(&started, options).await?;
    started.end()?;

    let started = Program::start(kind).await?;
    write(&started, options.updates, 256, KEYS).await?;
    figures.bytes_after_updates = started.bytes_on_disk()?;
    compact(&started).await?;
    figures.bytes_after_compaction = started.bytes_on_disk()?;
    started.end()?;

    let started = Program::start(kind).await?;
    write(&started, options.keys, 1000, options.keys).await?;
    figures.memory = started.resident()?;
    let (started, recovery) = started.restart().await?;
    figures.recovery = recovery;
    started.end()?;
    Ok(figures)
}

fn put(key: usize, size: usize) -> PutRequest {
    PutRequest {
        key: format!("/bench/{key:08}").into(),
        value: vec![b'x'; size].into(),
        ..PutRequest::default()
    }
}

/// Writes as fast as many clients can: puts per second, and how long each took.
async fn write(
    program: &Program,
    puts: usize,
    size: usize,
    keys: usize,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(program.connect().await?);
    }
    let from = Instant::now();
    let writers = (0..MANY).map(|writer| {
        let mut client = KvClient::new(channels[writer % CONNECTIONS].clone());
        async move {
            let mut times = Vec::with_capacity(puts / MANY + 1);
            for n in (writer..puts).step_by(MANY) {
                let before = Instant::now();
                client.put(put(n % keys, size)).await?;
                times.push(before.elapsed());
            }
            anyhow::Ok(times)
        }
    });
    let times: Vec<Duration> = try_join_all(writers).await?.into_iter().flatten().collect();
    Ok((puts as f64 / from.elapsed().as_secs_f64(), times))
}

/// Opens a watch of everything; says the revision of every event, by a channel.
async fn watcher(
    channel: Channel,
) -> anyhow::Result<(mpsc::Sender<WatchRequest>, tonic::Streaming<etcd::wire::etcdserverpb::WatchResponse>)> {
    let (sender, receiver) = mpsc::channel(1);
    let create =
        WatchCreateRequest { key: "/bench/".into(), range_end: "/bench0".into(), ..Default::default() };
    sender.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = WatchClient::new(channel).watch(requests).await?.into_inner();
    responses.message().await?.context("the watch ended")?;
    Ok((sender, responses))
}

/// Events per second that reach all watchers together while one client writes in bursts; and how long after its
/// acknowledgement a write has reached all of them.
async fn watch(program: &Program, options: &StoreOptions) -> anyhow::Result<(f64, Duration)> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(program.connect().await?);
    }
    let (seen, mut all_seen) = mpsc::unbounded_channel::<usize>();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..options.watchers {
        let (requests, mut responses) = watcher(channels[n % CONNECTIONS].clone()).await?;
        let seen = seen.clone();
        tasks.spawn(async move {
            while let Ok(Some(response)) = responses.message().await {
                if seen.send(response.events.len()).is_err() {
                    return;
                }
            }
            drop(requests);
        });
    }
    let bursts = (options.events / options.watchers.max(1)).max(1);
    let from = Instant::now();
    let mut lags = Vec::with_capacity(bursts);
    let mut client = KvClient::new(channels[0].clone());
    // As many at once as one acknowledgement carries: what is measured is the fan-out.
    let burst = 20;
    for round in 0..bursts.div_ceil(burst) {
        let puts = (0..burst).map(|n| {
            let mut client = client.clone();
            async move { client.put(put(round * burst + n, 256)).await }
        });
        try_join_all(puts).await?;
        let acknowledged = Instant::now();
        let mut left = burst * options.watchers;
        while left > 0 {
            left -= all_seen.recv().await.context("the watches ended")?;
        }
        lags.push(acknowledged.elapsed());
    }
    let events = bursts.div_ceil(burst) * burst * options.watchers;
    let rate = events as f64 / from.elapsed().as_secs_f64();
    // The store must still answer.
    client.put(put(0, 1)).await?;
    Ok((rate, report::quantile(&lags, 0.99)))
}

async fn compact(program: &Program) -> anyhow::Result<()> {
    let channel = program.connect().await?;
    let answer = KvClient::new(channel.clone()).put(put(0, 1)).await?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    KvClient::new(channel.clone()).compact(CompactionRequest { revision, physical: true }).await?;
    MaintenanceClient::new(channel).defragment(DefragmentRequest {}).await?;
    Ok(())
}
