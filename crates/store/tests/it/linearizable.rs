//! Many clients at once, the machine losing its power under them: what they saw has an order that explains it.
//!
//! Records when each operation began, when it ended and what it said, and looks for an order of all of them that keeps
//! to the times and in which a plain register for each key says the same (the search of Wing and Gong, with the memory
//! of Lowe: a set of operations and a value that were seen together once lead nowhere twice). An operation whose fate
//! is unknown may take effect at any time after it began, or never. Keys do not affect each other here, so each is
//! judged by itself. Not here: what one client alone may notice (the suite).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foundation::{Randomness, SeededRandomness, SystemClock};
use parking_lot::Mutex;
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::embedded::{Engine, Options};
use store::{Compare, Error, Op, Range, Store, Target, Txn};

const HISTORIES: u64 = 40;
const LIVES: u64 = 4;
const CLIENTS: u64 = 6;
const KEYS: u64 = 2;
const EACH: u64 = 6;
const FIRST: u64 = 20_261_122;

/// What a key holds; 0 is nothing.
type Value = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Read(Value),
    Write(Value),
    Delete,
    /// If it holds the first, the second is written; whether it did.
    Swap(Value, Value, bool),
}

#[derive(Debug, Clone, Copy)]
struct Event {
    act: Act,
    began: u64,
    /// `None`: nobody knows whether it happened.
    ended: Option<u64>,
}

impl Act {
    /// What a key holds after it, if it can have happened to a key that held `value`. Of what is not known to have
    /// happened, nothing was seen.
    fn after(self, value: Value, known: bool) -> Option<Value> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(written) => Some(written),
            Self::Delete => Some(0),
            Self::Swap(expected, written, took) => match (expected == value, known) {
                (true, true) => took.then_some(written),
                (false, true) => (!took).then_some(value),
                // As if it had never been, which is looked at anyway.
                (false, false) => None,
                (true, false) => Some(written),
            },
        }
    }
}

/// Whether there is such an order. At most 128 operations.
fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 128, "{} operations of one key", events.len());
    let certain = (0..events.len()).filter(|at| events[*at].ended.is_some());
    let certain = certain.fold(0u128, |set, at| set | 1 << at);
    search(events, certain, 0, 0, &mut HashSet::new())
}

fn search(
    events: &[Event],
    certain: u128,
    done: u128,
    value: Value,
    seen: &mut HashSet<(u128, Value)>,
) -> bool {
    if done & certain == certain {
        return true;
    }
    if !seen.insert((done, value)) {
        return false;
    }
    let open = |at: &usize| done & 1 << at == 0;
    // Whatever ended first must come before all that began later.
    let first_end =
        (0..events.len()).filter(open).filter_map(|at| events[at].ended).min().unwrap_or(u64::MAX);
    (0..events.len()).filter(open).filter(|at| events[*at].began <= first_end).any(|at| {
        let after = events[at].act.after(value, events[at].ended.is_some());
        after.is_some_and(|value| search(events, certain, done | 1 << at, value, seen))
    })
}

#[derive(Default)]
struct History {
    time: AtomicU64,
    events: Mutex<Vec<(u64, Event)>>,
}

impl History {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes an operation. Whether its fate is known: a client that does not know stops, as one that is waiting would.
    fn note(&self, key: u64, began: u64, act: Act, failed: Option<&Error>) -> bool {
        let ended = match failed {
            None => Some(self.now()),
            Some(Error::Io { .. } | Error::NoSpace | Error::Unavailable(_)) => None,
            Some(other) => panic!("{other}"),
        };
        if ended.is_some() || !matches!(act, Act::Read(_)) {
            self.events.lock().push((key, Event { act, began, ended }));
        }
        ended.is_some()
    }
}

fn name(key: u64) -> String {
    format!("k/{key}")
}

async fn read(store: &dyn Store, key: u64) -> Result<Value, Error> {
    let found = store.range(Range::key(name(key))).await?;
    Ok(found.kvs.first().map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap()))
}

/// One client: some operations on keys that the others use too. `values` gives every write a value of its own.
async fn client(
    store: Arc<dyn Store>,
    history: Arc<History>,
    random: SeededRandomness,
    values: Arc<AtomicU64>,
) {
    for _ in 0..EACH {
        let key = random.below(KEYS);
        let value = values.fetch_add(1, Ordering::SeqCst);
        let put = Op::put(name(key), value.to_string());
        let known = match random.below(6) {
            0..=1 => {
                let began = history.now();
                let found = read(&*store, key).await;
                history.note(key, began, Act::Read(*found.as_ref().unwrap_or(&0)), found.as_ref().err())
            }
            2 => {
                let began = history.now();
                let done = store.txn(Txn::of(vec![put])).await;
                history.note(key, began, Act::Write(value), done.as_ref().err())
            }
            3 => {
                let began = history.now();
                let done = store.txn(Txn::of(vec![Op::delete(name(key))])).await;
                history.note(key, began, Act::Delete, done.as_ref().err())
            }
            _ => {
                // What it holds, as far as this client can know, and sometimes what it does not.
                let expected = read(&*store, key).await.unwrap_or(0);
                let compare = match expected {
                    0 => Compare::absent(name(key)),
                    value => Compare::equal(name(key), Target::Value(value.to_string().into())),
                };
                let began = history.now();
                let txn = Txn { compare: vec![compare], success: vec![put], failure: vec![] };
                let done = store.txn(txn).await;
                let took = done.as_ref().is_ok_and(|done| done.succeeded);
                history.note(key, began, Act::Swap(expected, value, took), done.as_ref().err())
            }
        };
        if !known {
            return;
        }
    }
}

fn judge(history: &History, seed: u64) {
    let all = history.events.lock();
    for key in 0..KEYS {
        let events: Vec<_> = all.iter().filter(|(of, _)| *of == key).map(|(_, event)| *event).collect();
        assert!(is_linearizable(&events), "seed {seed}, key {key}: no order explains {events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_clients_see_has_an_order_though_the_power_fails() {
    let (mut lost, mut unknown) = (0, 0);
    for seed in FIRST..FIRST + HISTORIES {
        let random = SeededRandomness::new(seed);
        let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(random.u64())));
        let history = Arc::new(History::default());
        let values = Arc::new(AtomicU64::new(1));
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
                tokio::spawn(client(store.clone(), history.clone(), random, values.clone()))
            });
            for ended in futures::future::join_all(clients).await {
                ended.unwrap();
            }
            drop(store);
            disk.disarm();
            lost += u64::from(disk.is_off());
            disk.lose_power();
        }
        unknown += history.events.lock().iter().filter(|(_, event)| event.ended.is_none()).count();
        judge(&history, seed);
    }
    assert!(lost > 20 && unknown > 50, "{lost} losses of power, {unknown} operations of unknown fate");
}

#[test]
fn the_checker_tells_orders_from_disorder() {
    let event = |act, began, ended| Event { act, began, ended };
    use Act::{Delete, Read, Swap, Write};
    for (what, events, expected) in [
        ("one after the other", vec![event(Write(1), 0, Some(1)), event(Read(1), 2, Some(3))], true),
        ("a stale read", vec![event(Write(1), 0, Some(1)), event(Read(0), 2, Some(3))], false),
        ("a read beside a write", vec![event(Write(1), 0, Some(3)), event(Read(0), 1, Some(2))], true),
        (
            "a read that goes back",
            vec![event(Write(1), 0, Some(9)), event(Read(1), 1, Some(2)), event(Read(0), 3, Some(4))],
            false,
        ),
        (
            "a lost write",
            vec![event(Write(1), 0, Some(1)), event(Delete, 2, None), event(Read(0), 3, Some(4))],
            true,
        ),
        (
            "what may have happened came back",
            vec![event(Write(1), 0, None), event(Read(0), 1, Some(2)), event(Read(1), 3, Some(4))],
            true,
        ),
        (
            "two swaps of one value",
            vec![event(Swap(0, 1, true), 0, Some(3)), event(Swap(0, 2, true), 1, Some(2))],
            false,
        ),
        (
            "a swap that was refused without a reason",
            vec![event(Write(1), 0, Some(1)), event(Swap(1, 2, false), 2, Some(3))],
            false,
        ),
    ] {
        assert_eq!(is_linearizable(&events), expected, "{what}");
    }
}
