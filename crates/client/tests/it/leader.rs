//! One leader at a time, and the next takes over.

use std::sync::Arc;
use std::time::Duration;

use api::types::coordination::v1::Lease;
use client::fake::FakeApi;
use client::{LeaderElector, LeaderElectorOptions, Leadership};
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
