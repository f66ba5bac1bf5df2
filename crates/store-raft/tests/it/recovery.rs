//! What comes back by itself, and what is done when it cannot: all members stopped, and most of them lost.

use std::collections::BTreeMap;
use std::path::Path;

use store::{Error, Op, Range, Store, Txn};
use store_raft::look;

use super::cluster::{Authority, Cluster, Network, Under};
use super::failover::soon;

fn put(value: usize) -> Txn {
    Txn::of(vec![Op::put("a", value.to_string())])
}

async fn value(cluster: &Cluster, index: usize) -> String {
    let found = soon(cluster.member(index).range(Range::key("a"))).await.unwrap();
    String::from_utf8_lossy(&found.kvs[0].value).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_come_back_in_any_order_and_from_elsewhere() {
    let mut cluster = Cluster::start(Under::Tls(Authority::default())).await;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (round, order) in orders.into_iter().enumerate() {
        soon(cluster.member(order[round % 3]).txn(put(round))).await.unwrap();
        cluster.stop().await;
        for (place, index) in order.into_iter().enumerate() {
            // One of them, the first as well as the last; in the end two.
            if place == round % 3 || round == 5 && place == 0 {
                cluster.restart_elsewhere(index).await;
            } else {
                cluster.restart(index).await;
            }
        }
        cluster.settled().await;
        for index in 0..3 {
            assert_eq!(value(&cluster, index).await, round.to_string(), "member {index}, order {order:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_goes_on_alone_and_the_others_join_anew() {
    let mut cluster = Cluster::start(Under::Tls(Authority::default())).await;
    soon(cluster.member(1).txn(put(1))).await.unwrap();
    // It must have it: what only the lost ones had is lost with them.
    assert_eq!(value(&cluster, 0).await, "1");
    cluster.stop().await;
    let old = cluster.identity(0);
    cluster.restart(0).await;
    let refused = cluster.patience_ends(0, cluster.member(0).txn(put(2))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "alone it is no majority: {refused:?}");
    cluster.kill(0).await;
    let new = cluster.reset(0);
    assert!(new.cluster != old.cluster && new.member == old.member, "{old:?} {new:?}");
    cluster.restart(0).await;
    soon(cluster.member(0).joined()).await.unwrap();
    soon(cluster.member(0).txn(put(3))).await.unwrap();

    let directory = cluster.join_anew(1, 0).await;
    soon(cluster.member(1).joined()).await.unwrap();
    assert_eq!(value(&cluster, 1).await, "3");
    cluster.join_anew(2, 1).await;
    cluster.settled().await;
    assert_eq!(value(&cluster, 2).await, "3");
    // A majority is enough again.
    cluster.kill(0).await;
    soon(cluster.member(1).txn(put(4))).await.unwrap();
    assert_eq!(value(&cluster, 2).await, "4");

    // One of the old cluster finds nobody, and disturbs nobody: not even the one at its own address.
    cluster.kill(2).await;
    let id = cluster.identity(2);
    let mine = cluster.put_back(2, directory);
    assert_eq!(cluster.identity(2).cluster, old.cluster);
    cluster.restart(2).await;
    let refused = cluster.patience_ends(2, cluster.member(2).range(Range::key("a"))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(cluster.member(2).status().await.unwrap().alarm.is_some());
    cluster.kill(2).await;
    cluster.put_back(2, mine);
    assert_eq!(cluster.identity(2), id);
    cluster.restart(2).await;
    cluster.restart(0).await;
    cluster.settled().await;
    assert_eq!(value(&cluster, 0).await, "4");
    cluster.stop().await;
}

/// Every file of a directory, with its content.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_is_looked_at_and_nothing_of_it_changes() {
    let mut cluster = Cluster::start(Under::Memory(Network::default())).await;
    for value in 0..20 {
        soon(cluster.member(value % 3).txn(put(value))).await.unwrap();
    }
    let lease = soon(cluster.member(0).lease_grant(600, 0)).await.unwrap().id;
    soon(cluster.member(1).defragment()).await.unwrap();
    soon(cluster.member(1).txn(put(20))).await.unwrap();
    // Each has all of it, and so knows that it was agreed on.
    for index in 0..3 {
        assert_eq!(value(&cluster, index).await, "20");
    }
    let revision = cluster.member(0).revision().await.unwrap();
    let held = look(cluster.directory(0)).err();
    assert!(matches!(held, Some(Error::Locked { .. })), "it runs: {held:?}");
    cluster.stop().await;
    for index in 0..3 {
        let before = files(cluster.directory(index));
        let looked = look(cluster.directory(index)).unwrap();
        let found = looked.view.range(Range::key("a")).await.unwrap();
        assert_eq!((found.revision, &found.kvs[0].value[..]), (revision, &b"20"[..]), "member {index}");
        assert_eq!(looked.view.range(Range::key("a").at(revision - 1)).await.unwrap().kvs[0].value, "19");
        assert_eq!(looked.view.leases().await.unwrap(), [lease]);
        assert!(!looked.alone && looked.member.id == cluster.id(index));
        drop(looked);
        assert!(files(cluster.directory(index)) == before, "member {index}: a file has changed");
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    cluster.settled().await;
    assert_eq!(value(&cluster, 2).await, "20");
    cluster.stop().await;
}
