//! What comes back by itself, and what is done when it cannot: all members stopped, and most of them lost.

use store::{Error, Op, Range, Store, Txn};

use super::cluster::{Authority, Cluster, Under};
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
    let refused = soon(cluster.member(0).txn(put(2))).await;
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
    let refused = soon(cluster.member(2).range(Range::key("a"))).await;
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
