//! Many clients at once, the machine losing its power under them: what they saw has an order that explains it.
//!
//! Not here: the search for it (`store::suite::linearizable`).

use std::sync::Arc;

use foundation::{Randomness, SeededRandomness, SystemClock};
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::embedded::{Engine, Options};
use store::suite::linearizable::{History, client};

const HISTORIES: u64 = 40;
const LIVES: u64 = 4;
const CLIENTS: u64 = 6;
const KEYS: u64 = 2;
const EACH: u64 = 6;
const FIRST: u64 = 20_261_122;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_clients_see_has_an_order_though_the_power_fails() {
    let (mut lost, mut unknown) = (0, 0);
    for seed in FIRST..FIRST + HISTORIES {
        let random = SeededRandomness::new(seed);
        let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(random.u64())));
        let history = Arc::new(History::default());
        for _ in 0..LIVES {
            let options = Options {
                segment_bytes: 1,
                checkpoint_bytes: 500,
                disk: Arc::new(disk.clone()),
                ..Options::default()
            };
            let store = Engine::open("/store", options, SystemClock::shared()).unwrap();
            let fault = if random.below(3) == 0 { Fault::Refused } else { Fault::PowerLoss };
            disk.arm(random.below(40), fault);
            let clients = (0..CLIENTS).map(|_| {
                let random = SeededRandomness::new(random.u64());
                let keys = (0..KEYS).map(|key| format!("k/{key}")).collect();
                tokio::spawn(client(store.clone(), history.clone(), random, keys, EACH))
            });
            for ended in futures::future::join_all(clients).await {
                ended.unwrap();
            }
            drop(store);
            disk.disarm();
            lost += u64::from(disk.is_off());
            disk.lose_power();
        }
        unknown += history.counts().1;
        history.judge(&format!("seed {seed}"));
    }
    assert!(lost > 20 && unknown > 50, "{lost} losses of power, {unknown} operations of unknown fate");
}
