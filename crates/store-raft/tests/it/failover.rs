//! What the loss of members means to those who use the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use store::{Error, Op, Range, Store, Txn, WatchRequest};
use store_raft::transport::tls::{ask_to_join, vouches_for};
use store_raft::{Ended, Member, RaftStore};

use super::cluster::{Authority, Cluster, Network, Under};

const DEADLINE: Duration = Duration::from_secs(60);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing happened before the deadline")
}

/// What writers were told.
#[derive(Default)]
struct Told {
    acknowledged: Mutex<BTreeMap<String, u64>>,
    stop: AtomicBool,
}

async fn write(store: Arc<RaftStore>, name: String, told: Arc<Told>) {
    let mut count = 0;
    while !told.stop.load(Ordering::Relaxed) {
        count += 1;
        let key = format!("k/{name}/{count}");
        match store.txn(Txn::of(vec![Op::put(key.clone(), "x")])).await {
            Ok(response) => drop(told.acknowledged.lock().insert(key, response.revision)),
            // It may be there or not.
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until so many more writes were acknowledged.
async fn more(told: &Told, count: usize) {
    let start = told.acknowledged.lock().len();
    soon(async {
        while told.acknowledged.lock().len() < start + count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_under_load() {
    let network = Network::default();
    let mut cluster = Cluster::start(Under::Memory(network.clone())).await;
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let told = Arc::new(Told::default());
    let mut watches = Vec::new();
    for index in others {
        watches.push(cluster.member(index).watch(WatchRequest::prefix("k/", 1)).await.unwrap());
    }
    let writers: Vec<_> = others
        .iter()
        .flat_map(|index| (0..4).map(move |writer| (*index, writer)))
        .map(|(index, writer)| {
            tokio::spawn(write(cluster.member(index), format!("{index}-{writer}"), told.clone()))
        })
        .collect();
    more(&told, 300).await;
    network.cut(cluster.id(leader));
    let killed = Instant::now();
    // More than are on their way at a time.
    more(&told, 20).await;
    eprintln!("writes resumed after {:?}", killed.elapsed());
    more(&told, 300).await;
    told.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        soon(writer).await.unwrap();
    }
    cluster.kill(leader).await;

    // Nothing acknowledged is lost, anywhere; and no watch misses an event.
    let acknowledged = told.acknowledged.lock().clone();
    let last = soon(cluster.member(others[0]).txn(Txn::of(vec![Op::put("k/end", "x")]))).await.unwrap();
    for (index, watch) in others.iter().zip(&mut watches) {
        let found = soon(cluster.member(*index).range(Range::prefix("k/"))).await.unwrap();
        let found: BTreeMap<_, _> = found
            .kvs
            .iter()
            .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision))
            .collect();
        for (key, revision) in &acknowledged {
            assert_eq!(found.get(key), Some(revision), "{key} was acknowledged");
        }
        let (mut seen, mut next) = (BTreeMap::new(), 2);
        while next <= last.revision {
            for event in soon(watch.next()).await.unwrap().unwrap().events {
                assert_eq!(event.kv.mod_revision, next, "a gap, or something twice");
                next += 1;
                seen.insert(String::from_utf8_lossy(&event.kv.key).into_owned(), event.kv.mod_revision);
            }
        }
        assert_eq!(seen, found);
    }

    // It comes back and has everything too.
    network.mend(cluster.id(leader));
    cluster.restart(leader).await;
    cluster.settled().await;
    let found = soon(cluster.member(leader).range(Range::prefix("k/"))).await.unwrap();
    assert_eq!(found.revision, last.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_is_needed_and_enough() {
    let network = Network::default();
    let cluster = Cluster::start(Under::Memory(network.clone())).await;
    let put = async |index: usize| cluster.member(index).txn(Txn::of(vec![Op::put("a", "x")])).await;
    let leader = cluster.leader();
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    network.cut(cluster.id(one));
    soon(put(leader)).await.unwrap();
    let refused = cluster.patience_ends(one, put(one)).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "alone it writes nothing");
    let read = cluster.patience_ends(one, cluster.member(one).range(Range::key("a"))).await;
    assert!(matches!(read, Err(Error::Unavailable(_))), "and does not read what may be old: {read:?}");
    network.cut(cluster.id(two));
    let refused = cluster.patience_ends(leader, put(leader)).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "nor does a leader alone");
    network.mend(cluster.id(one));
    network.mend(cluster.id(two));
    for index in 0..3 {
        soon(async { while put(index).await.is_err() {} }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_end_where_nobody_has_led_for_a_while() {
    let network = Network::default();
    let cluster = Cluster::start(Under::Memory(network.clone())).await;
    let lost = (cluster.leader() + 1) % 3;
    let there = (lost + 1) % 3;
    let put = |value: &'static str| Txn::of(vec![Op::put("k", value)]);
    let first = soon(cluster.member(there).txn(put("1"))).await.unwrap().revision;
    let from = |revision| WatchRequest::prefix("k", revision);
    let mut here = cluster.member(there).watch(from(first)).await.unwrap();
    let mut gone = cluster.member(lost).watch(from(first)).await.unwrap();
    for watch in [&mut here, &mut gone] {
        assert_eq!(soon(watch.next()).await.unwrap().unwrap().revision, first);
    }
    network.cut(cluster.id(lost));
    let mut standing = cluster.member(lost).standing();
    soon(standing.wait_for(|standing| standing.leader == 0)).await.unwrap();
    cluster.clocks[lost].fetch_add(3_000, Ordering::Relaxed);
    let end = soon(gone.next()).await;
    assert!(matches!(end, Some(Err(Error::Unavailable(why))) if why.contains("leads")), "{end:?}");
    assert!(soon(gone.next()).await.is_none());
    let refused = cluster.member(lost).watch(from(first)).await.err();
    assert!(matches!(refused, Some(Error::Unavailable(_))), "nor is one begun: {refused:?}");
    // Those of the others go on, and nothing is missed once it is back.
    let second = soon(cluster.member(there).txn(put("2"))).await.unwrap().revision;
    assert_eq!(soon(here.next()).await.unwrap().unwrap().revision, second);
    network.mend(cluster.id(lost));
    soon(standing.wait_for(|standing| standing.leader != 0)).await.unwrap();
    let mut again = cluster.member(lost).watch(from(first + 1)).await.unwrap();
    assert_eq!(soon(again.next()).await.unwrap().unwrap().revision, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_move_leave_and_go_on_alone() {
    let mut cluster = Cluster::start(Under::Tls(Authority::default())).await;
    let leader = cluster.leader();
    let (moved, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    // At another port it is still the same member.
    let before = cluster.id(moved);
    cluster.kill(moved).await;
    cluster.restart_elsewhere(moved).await;
    cluster.settled().await;
    assert_eq!(cluster.id(moved), before);
    soon(cluster.member(moved).txn(Txn::of(vec![Op::put("a", "1")]))).await.unwrap();

    let refused = cluster.reset_of(moved);
    assert!(matches!(refused, Err(Error::Locked { .. })), "not while it runs: {refused:?}");
    let id = cluster.id(gone);
    soon(cluster.member(leader).remove_member(id)).await.unwrap();
    assert_eq!(soon(cluster.member(gone).ended()).await, Ended::Removed);
    let mut standing = cluster.member(moved).standing();
    soon(standing.wait_for(|standing| standing.voters.len() == 2)).await.unwrap();
    soon(cluster.member(moved).txn(Txn::of(vec![Op::put("a", "2")]))).await.unwrap();
    cluster.stop().await;

    // The rest is lost: one goes on with what it has.
    let identity = cluster.reset(moved);
    assert_ne!(identity.cluster, cluster.identity(leader).cluster);
    cluster.restart(moved).await;
    let alone = cluster.member(moved);
    let found = soon(alone.range(Range::key("a"))).await.unwrap();
    assert_eq!(&*found.kvs[0].value, b"2");
    soon(alone.txn(Txn::of(vec![Op::put("a", "3")]))).await.unwrap();
    assert_eq!(alone.standing().borrow().voters, [identity.member]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_removed_by_whoever_is_asked() {
    let mut cluster = Cluster::start(Under::Memory(Network::default())).await;
    let leader = cluster.leader();
    let (asked, other) = ((leader + 1) % 3, (leader + 2) % 3);
    soon(cluster.member(asked).remove_member(cluster.id(leader))).await.unwrap();
    for index in [asked, other] {
        let mut standing = cluster.member(index).standing();
        let known = soon(standing.wait_for(|standing| standing.voters.len() == 2)).await.unwrap().clone();
        assert!(known.members.iter().all(|member| member.id != cluster.id(leader)), "{known:?}");
        soon(cluster.member(index).txn(Txn::of(vec![Op::put("a", "1")]))).await.unwrap();
    }
    // Itself, too; and the last one cannot.
    let leader = cluster.leader_seen_by(asked);
    let left = if leader == asked { other } else { asked };
    soon(cluster.member(leader).remove_member(cluster.id(leader))).await.ok();
    soon(cluster.member(left).txn(Txn::of(vec![Op::put("a", "2")]))).await.unwrap();
    let mut standing = cluster.member(left).standing();
    soon(standing.wait_for(|standing| standing.voters.len() == 1)).await.unwrap();
    let last = soon(cluster.member(left).remove_member(cluster.id(left))).await;
    assert!(matches!(last, Err(Error::Invalid(_))), "{last:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_speaks_for_another() {
    let authority = Authority::default();
    let mut cluster = Cluster::start(Under::Tls(authority)).await;
    let Under::Tls(authority) = &cluster.under else { unreachable!() };
    // A certificate of the right authority, but another member's: for joining...
    let security = authority.security(7);
    let member = Member { id: 8, name: "m8".into(), address: "127.0.0.1:1".into() };
    let refused = soon(ask_to_join(&security, cluster.address(0), &member)).await.unwrap_err();
    assert!(refused.to_string().contains("not that of the member"), "{refused}");
    assert_eq!(cluster.member(0).standing().borrow().members.len(), 3);
    // ... and for speaking: with another's certificate a member is let in nowhere, and the other two go on without it.
    let follower = (cluster.leader() + 1) % 3;
    cluster.kill(follower).await;
    cluster.certificate_of = Some(7);
    cluster.restart(follower).await;
    let put = || Txn::of(vec![Op::put("a", "1")]);
    let refused = cluster.patience_ends(follower, cluster.member(follower).txn(put())).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    soon(cluster.member((follower + 1) % 3).txn(put())).await.unwrap();
    let said = cluster.member(follower).status().await.unwrap().alarm;
    assert!(said.as_ref().is_some_and(|said| said.contains("no member of the store has led")), "{said:?}");
    // With its own, it is.
    cluster.kill(follower).await;
    cluster.certificate_of = None;
    cluster.restart(follower).await;
    soon(cluster.member(follower).joined()).await.unwrap();
    soon(cluster.member(follower).txn(put())).await.unwrap();
    cluster.stop().await;
}

#[test]
fn a_certificate_vouches_for_one_member() {
    let key = rcgen::KeyPair::generate().unwrap();
    for (names, member, vouched) in [
        (vec!["member.ironclad.internal", "00000000000000ab.member.ironclad.internal"], 0xab, true),
        (vec!["member.ironclad.internal", "00000000000000ab.member.ironclad.internal"], 0xac, false),
        (vec!["member.ironclad.internal"], 0xab, false),
        (vec![], 0xab, false),
    ] {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(vouches_for(certificate.der(), member), vouched, "{names:?} {member:x}");
    }
    assert!(!vouches_for(&vec![1, 2, 3].into(), 1), "no certificate at all");
}
