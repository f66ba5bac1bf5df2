//! One leader at a time, and the next takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::types::coordination::v1::Lease;
use bytes::Bytes;
use client::fake::FakeApi;
use client::{Body, Client, LeaderElector, LeaderElectorOptions, Leadership, Transport, TransportError};
use foundation::{CancellationToken, ManualClock, SeededRandomness};
use jiff::Timestamp;
use tokio::sync::mpsc;

fn candidate(api: &FakeApi, clock: &Arc<ManualClock>, identity: &str) -> LeaderElector {
    LeaderElector::new(
        api.client(),
        clock.clone(),
        Arc::new(SeededRandomness::new(1)),
        LeaderElectorOptions::new("kube-system", "lock", identity),
    )
}

fn holder(leases: &[Lease]) -> String {
    leases.first().and_then(|lease| lease.spec.clone()?.holder_identity).unwrap_or_default()
}

async fn start(
    api: &FakeApi,
    clock: &Arc<ManualClock>,
    identity: &'static str,
    leads: mpsc::UnboundedSender<&'static str>,
) -> (CancellationToken, tokio::task::JoinHandle<Leadership>) {
    let stop = CancellationToken::new();
    let elector = candidate(api, clock, identity);
    let task = tokio::spawn(elector.run(stop.clone(), move |lost| async move {
        leads.send(identity).unwrap();
        lost.cancelled().await;
    }));
    (stop, task)
}

#[tokio::test]
async fn a_released_lease_is_taken_at_the_next_try() {
    let (api, clock) = (FakeApi::new(), Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)));
    let (leads, mut led) = mpsc::unbounded_channel();
    let (stop_a, a) = start(&api, &clock, "a", leads.clone()).await;
    assert_eq!(led.recv().await, Some("a"));
    let (stop_b, b) = start(&api, &clock, "b", leads).await;
    // One sleeps until it renews, the other until it tries again.
    clock.wait_for_sleepers(2).await;
    assert!(led.try_recv().is_err(), "one leader at a time");
    stop_a.cancel();
    assert_eq!(a.await.unwrap(), Leadership::Released);
    assert_eq!(holder(&api.objects()), "");
    clock.advance(Duration::from_secs(5));
    assert_eq!(led.recv().await, Some("b"));
    assert_eq!(holder(&api.objects()), "b");
    stop_b.cancel();
    assert_eq!(b.await.unwrap(), Leadership::Released);
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up() {
    let (api, clock) = (FakeApi::new(), Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)));
    let (leads, mut led) = mpsc::unbounded_channel();
    let (_stop, a) = start(&api, &clock, "a", leads).await;
    assert_eq!(led.recv().await, Some("a"));
    api.react(|_| Some(api::Status::service_unavailable("gone")));
    for _ in 0..5 {
        clock.wait_for_sleepers(1).await;
        clock.advance(Duration::from_secs(2));
    }
    assert_eq!(a.await.unwrap(), Leadership::Lost);
}

/// A server that stops answering.
struct Hanging {
    api: FakeApi,
    hangs: AtomicBool,
}

#[async_trait::async_trait]
impl Transport for Hanging {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.api.send(request).await
    }
}

#[tokio::test]
async fn a_leader_whose_renewal_hangs_gives_up() {
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let transport = Arc::new(Hanging { api: FakeApi::new(), hangs: AtomicBool::new(false) });
    let elector = LeaderElector::new(
        Client::new(transport.clone(), "test"),
        clock.clone(),
        Arc::new(SeededRandomness::new(1)),
        LeaderElectorOptions::new("kube-system", "lock", "a"),
    );
    let (leads, mut led) = mpsc::unbounded_channel();
    let leader = tokio::spawn(elector.run(CancellationToken::new(), move |lost| async move {
        leads.send("a").unwrap();
        lost.cancelled().await;
    }));
    assert_eq!(led.recv().await, Some("a"));
    transport.hangs.store(true, Ordering::Relaxed);
    clock.wait_for_sleepers(2).await;
    clock.advance(Duration::from_secs(10));
    let outcome =
        tokio::time::timeout(Duration::from_secs(30), leader).await.expect("it does not wait for ever");
    assert_eq!(outcome.unwrap(), Leadership::Lost);
}
