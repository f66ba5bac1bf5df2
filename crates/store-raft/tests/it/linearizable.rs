//! Many clients of three members at once, whose network parts, delays and reorders, whose clocks jump and who stop and come
//! back: what the clients saw has an order that explains it.
//!
//! Over real time and threads; the simulation does the same, and crashes, on virtual time, `processes` with processes that
//! are killed. Not here: the search for the order (`store::suite::linearizable`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foundation::{Randomness, SeededRandomness};
use store::suite::linearizable::{History, client};

use super::cluster::{Cluster, Network, Under};
use super::failover::soon;

const ROUNDS: u64 = 14;
const CLIENTS: u64 = 9;
const EACH: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_has_an_order_though_the_members_lose_each_other() {
    let network = Network::default();
    let mut cluster = Cluster::start(Under::Memory(network.clone())).await;
    let random = SeededRandomness::new(20_261_122);
    let history = Arc::new(History::default());
    for round in 0..ROUNDS {
        let keys: Vec<String> = (0..3).map(|key| format!("k/{round}/{key}")).collect();
        let leader = cluster.leader_seen_by(0);
        let victim = if random.below(2) == 0 { leader } else { random.below(3) as usize };
        let other = (victim + 1) % 3;
        let ask = |member: usize| {
            let random = SeededRandomness::new(random.u64());
            tokio::spawn(client(cluster.member(member), history.clone(), random, keys.clone(), EACH))
        };
        let asked: Vec<_> =
            (0..CLIENTS).map(|number| ((number % 3) as usize, ask((number % 3) as usize))).collect();
        match round % 7 {
            0 => network.cut(cluster.id(victim)),
            1 => network.part(cluster.id(victim), cluster.id(other)),
            2 => network.delay(Duration::from_millis(120)),
            3 => drop(cluster.clocks[victim].fetch_add(random.below(90_000), Ordering::Relaxed)),
            4 => {
                network.delay(Duration::from_millis(40));
                network.cut(cluster.id(victim));
            }
            _ => {
                cluster.kill(victim).await;
                network.mend(cluster.id(victim));
                cluster.restart(victim).await;
            }
        }
        let (mut stuck, mut asked_others) = (Vec::new(), Vec::new());
        for (member, asked) in asked {
            if member == victim { stuck.push(asked) } else { asked_others.push(asked) }
        }
        // The others go on; what is cut off waits until it is not.
        for asked in asked_others {
            soon(asked).await.unwrap();
        }
        network.heal();
        for asked in stuck {
            soon(asked).await.unwrap();
        }
        cluster.settled().await;
    }
    let (known, unknown) = history.counts();
    eprintln!("{known} operations, and {unknown} that nobody knows of");
    assert!(known as u64 > ROUNDS * CLIENTS * EACH / 2, "{known} operations, {unknown} unknown");
    history.judge("three members");
    cluster.stop().await;
}
