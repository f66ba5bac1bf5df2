//! The load: puts of one client and of many, watches of everything, a compaction. That of etcd's own benchmark.
//!
//! Not here: what a call costs its caller (`calls`).

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use etcd::wire::etcdserverpb::kv_client::KvClient;
use etcd::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd::wire::etcdserverpb::watch_client::WatchClient;
use etcd::wire::etcdserverpb::watch_request::RequestUnion;
use etcd::wire::etcdserverpb::{
    CompactionRequest, DefragmentRequest, PutRequest, PutResponse, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, request_op,
};
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::calls::{Connection, PUT, TXN};
use super::program::Program;
use crate::{StoreOptions, report};

/// Connections that many clients share.
const CONNECTIONS: usize = 8;
/// Writers at once where as much as possible is written.
const MANY: usize = 64;
/// Keys in a transaction where a store is filled: an etcd takes 128.
const TOGETHER: usize = 100;

/// How long each of some puts took that one client made, one after the other.
pub async fn write_alone(program: &Program, puts: usize, keys: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(puts);
    let mut calls = Connection::open(program.authority()).await?.method(PUT)?;
    for n in 0..puts {
        let before = Instant::now();
        calls.call::<PutResponse>(&put(n % keys, 256)).await?;
        times.push(before.elapsed());
    }
    Ok(times)
}

fn put(key: usize, size: usize) -> PutRequest {
    PutRequest {
        key: format!("/bench/{key:08}").into(),
        value: vec![b'x'; size].into(),
        ..PutRequest::default()
    }
}

async fn connections(program: &Program) -> anyhow::Result<Vec<Connection>> {
    try_join_all((0..CONNECTIONS).map(|_| Connection::open(program.authority()))).await
}

/// Writes as fast as many clients can: puts per second, and how long each took.
pub async fn write(
    program: &Program,
    puts: usize,
    size: usize,
    keys: usize,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let connections = connections(program).await?;
    let from = Instant::now();
    let writers = (0..MANY).map(|writer| {
        let calls = connections[writer % CONNECTIONS].method(PUT);
        // A task of its own: what is answered to one is no reason to look at all.
        let task = tokio::spawn(async move {
            let mut calls = calls?;
            let mut times = Vec::with_capacity(puts / MANY + 1);
            for n in (writer..puts).step_by(MANY) {
                let before = Instant::now();
                calls.call::<PutResponse>(&put(n % keys, size)).await?;
                times.push(before.elapsed());
            }
            anyhow::Ok(times)
        });
        async move { task.await.context("a writer was lost")? }
    });
    let times: Vec<Duration> = try_join_all(writers).await?.into_iter().flatten().collect();
    Ok((puts as f64 / from.elapsed().as_secs_f64(), times))
}

/// Makes many keys, some in each transaction: how long that takes is not looked at.
pub async fn fill(program: &Program, keys: usize, size: usize) -> anyhow::Result<()> {
    let connections = connections(program).await?;
    let fillers = connections.iter().enumerate().map(|(filler, connection)| async move {
        let mut calls = connection.method(TXN)?;
        for first in (filler * TOGETHER..keys).step_by(TOGETHER * CONNECTIONS) {
            let puts = (first..(first + TOGETHER).min(keys)).map(|key| put(key, size));
            let op = |put| RequestOp { request: Some(request_op::Request::RequestPut(put)) };
            let request = TxnRequest { success: puts.map(op).collect(), ..TxnRequest::default() };
            let answer: TxnResponse = calls.call(&request).await?;
            ensure!(answer.succeeded, "a transaction without a condition did not succeed");
        }
        Ok(())
    });
    try_join_all(fillers).await.map(drop)
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
pub async fn watch(program: &Program, options: &StoreOptions) -> anyhow::Result<(f64, Duration)> {
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

pub async fn compact(program: &Program) -> anyhow::Result<()> {
    let channel = program.connect().await?;
    let answer = KvClient::new(channel.clone()).put(put(0, 1)).await?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    KvClient::new(channel.clone()).compact(CompactionRequest { revision, physical: true }).await?;
    MaintenanceClient::new(channel).defragment(DefragmentRequest {}).await?;
    Ok(())
}
