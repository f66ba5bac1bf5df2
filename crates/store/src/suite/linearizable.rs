//! Whether what clients saw has an order that explains it: for every backend, under whatever its tests do to it.
//!
//! Records when each operation began, when it ended and what it said, and looks for an order of all of them that keeps
//! to the times and in which a plain register for each key says the same (the search of Wing and Gong, with the memory
//! of Lowe: a set of operations and a value that were seen together once lead nowhere twice; a read that fits where the
//! search stands is taken at once). An operation whose fate is unknown may take effect at any time after it began, or never. Keys do not affect each other here, so each is
//! judged by itself. Not here: faults, which each backend's tests bring; what one client alone may notice (the rest of
//! the suite).

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foundation::{Randomness, SeededRandomness};
use parking_lot::Mutex;

use crate::{Compare, Error, Op, Range, Store, Target, Txn};

/// What a key holds; 0 is nothing.
pub type Value = u64;

/// What was asked of one key, and what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Read(Value),
    Write(Value),
    Delete,
    /// If it holds the first, the second is written; whether it did.
    Swap(Value, Value, bool),
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub act: Act,
    /// In any order that all operations of a history share.
    pub began: u64,
    /// `None`: nobody knows whether it happened.
    pub ended: Option<u64>,
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
pub fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 128, "{} operations of one key", events.len());
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.began);
    let certain = events.iter().enumerate().filter_map(|(at, event)| Some((event.ended?, 1 << at)));
    let mut ends: Vec<(u64, u128)> = certain.collect();
    ends.sort_unstable();
    let certain = ends.iter().fold(0, |set, (_, one)| set | one);
    Search { events, ends, certain, seen: HashSet::default() }.goes_on(0, 0, 0)
}

/// Written with plain loops: it runs millions of times, and in builds that optimize nothing.
struct Search {
    /// By their beginnings.
    events: Vec<Event>,
    /// The ends of those that are known to have happened, and which those are, in order.
    ends: Vec<(u64, u128)>,
    certain: u128,
    /// What led nowhere.
    seen: HashSet<(u128, Value), BuildHasherDefault<Mixed>>,
}

impl Search {
    /// Whether an order of what is not `done` goes on from `value`. Of `ends`, those before `ended` are done.
    fn goes_on(&mut self, mut done: u128, value: Value, mut ended: usize) -> bool {
        let first_end = loop {
            if done & self.certain == self.certain {
                return true;
            }
            while done & self.ends[ended].1 != 0 {
                ended += 1;
            }
            // Whatever ended first must come before all that began later.
            let first_end = self.ends[ended].0;
            // A read that fits can come now if it can come later.
            let mut at = (!done).trailing_zeros() as usize;
            let read = loop {
                match self.events.get(at) {
                    Some(event) if event.began <= first_end => {
                        let fits = event.act == Act::Read(value) && event.ended.is_some();
                        if fits && done & 1 << at == 0 {
                            break Some(at);
                        }
                    }
                    _ => break None,
                }
                at += 1;
            };
            match read {
                Some(at) => done |= 1 << at,
                None => break first_end,
            }
        };
        if !self.seen.insert((done, value)) {
            return false;
        }
        let mut at = (!done).trailing_zeros() as usize;
        while let Some(event) = self.events.get(at).filter(|event| event.began <= first_end) {
            if done & 1 << at == 0
                && let Some(value) = event.act.after(value, event.ended.is_some())
                && self.goes_on(done | 1 << at, value, ended)
            {
                return true;
            }
            at += 1;
        }
        false
    }
}

/// Of numbers, and quick.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }
}

/// What many clients have seen.
#[derive(Default)]
pub struct History {
    time: AtomicU64,
    /// Every write has a value of its own.
    values: AtomicU64,
    events: Mutex<Vec<(String, Event)>>,
    stop: AtomicBool,
}

impl History {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes an operation. Whether its fate is known.
    fn note(&self, key: &str, began: u64, act: Act, failed: Option<&Error>) -> bool {
        let ended = match failed {
            None => Some(self.now()),
            Some(Error::Io { .. } | Error::NoSpace | Error::Unavailable(_)) => None,
            Some(other) => panic!("{other}"),
        };
        if ended.is_some() || !matches!(act, Act::Read(_)) {
            self.events.lock().push((key.to_owned(), Event { act, began, ended }));
        }
        ended.is_some()
    }

    /// How many operations were carried out, and of how many nobody knows.
    pub fn counts(&self) -> (usize, usize) {
        let events = self.events.lock();
        let known = events.iter().filter(|(_, event)| event.ended.is_some()).count();
        (known, events.len() - known)
    }

    /// Lets every client end after what it is at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Fails unless there is an order for every key.
    pub fn judge(&self, what: &str) {
        let mut keys: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for (key, event) in self.events.lock().iter() {
            keys.entry(key.clone()).or_default().push(*event);
        }
        for (key, events) in keys {
            assert!(is_linearizable(&events), "{what}, key {key}: no order explains {events:#?}");
        }
    }
}

async fn read(store: &dyn Store, key: &str) -> Result<Value, Error> {
    let found = store.range(Range::key(key.to_owned())).await?;
    Ok(found.kvs.first().map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap()))
}

/// One client: some operations on keys that the others use too. One that does not know what became of an operation
/// stops there, as one that waits for it would, and says so; another may take its place.
pub async fn client(
    store: Arc<dyn Store>,
    history: Arc<History>,
    random: SeededRandomness,
    keys: Vec<String>,
    operations: u64,
) -> bool {
    for _ in 0..operations {
        if history.stop.load(Ordering::SeqCst) {
            return true;
        }
        let key = &*keys[random.below(keys.len() as u64) as usize];
        let value = history.values.fetch_add(1, Ordering::SeqCst) + 1;
        let put = Op::put(key.to_owned(), value.to_string());
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
                let done = store.txn(Txn::of(vec![Op::delete(key.to_owned())])).await;
                history.note(key, began, Act::Delete, done.as_ref().err())
            }
            _ => {
                // What it holds, as far as this client can know, and sometimes what it does not.
                let expected = read(&*store, key).await.unwrap_or(0);
                let compare = match expected {
                    0 => Compare::absent(key.to_owned()),
                    value => Compare::equal(key.to_owned(), Target::Value(value.to_string().into())),
                };
                let began = history.now();
                let txn = Txn { compare: vec![compare], success: vec![put], failure: vec![] };
                let done = store.txn(txn).await;
                let took = done.as_ref().is_ok_and(|done| done.succeeded);
                history.note(key, began, Act::Swap(expected, value, took), done.as_ref().err())
            }
        };
        if !known {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Every order there is, tried one after the other.
    fn by_trying_all(events: &[Event], done: u32, value: Value) -> bool {
        let open = |at: &usize| done & 1 << at == 0;
        let mut left = (0..events.len()).filter(open).filter_map(|at| events[at].ended).peekable();
        if left.peek().is_none() {
            return true;
        }
        let first_end = left.min().unwrap();
        (0..events.len()).filter(open).filter(|at| events[*at].began <= first_end).any(|at| {
            let after = events[at].act.after(value, events[at].ended.is_some());
            after.is_some_and(|value| by_trying_all(events, done | 1 << at, value))
        })
    }

    /// A history of `count` operations of one key. Half of them have an order, about.
    fn random_history(random: &SeededRandomness, count: u64) -> Vec<Event> {
        let event = |_| {
            let (value, other) = (random.below(3), random.below(3));
            let act = match random.below(6) {
                0..=2 => Act::Read(value),
                3 => Act::Write(value),
                4 => Act::Delete,
                _ => Act::Swap(value, other, random.below(2) == 0),
            };
            let began = random.below(20);
            let known = matches!(act, Act::Read(_)) || random.below(4) > 0;
            Event { act, began, ended: known.then(|| began + 1 + random.below(12)) }
        };
        (0..count).map(event).collect()
    }

    #[test]
    fn the_search_finds_what_trying_all_finds() {
        let random = SeededRandomness::new(7);
        let mut found = [0, 0];
        for _ in 0..20_000 {
            let events = random_history(&random, 2 + random.below(5));
            let expected = by_trying_all(&events, 0, 0);
            assert_eq!(is_linearizable(&events), expected, "{events:?}");
            found[usize::from(expected)] += 1;
        }
        assert!(found.iter().all(|count| *count > 3_000), "{found:?}");
    }

    /// A register for the judge that others wrote.
    struct Register;

    impl todc_utils::Specification for Register {
        type State = Value;
        type Operation = (Act, bool);

        fn init() -> Value {
            0
        }

        fn apply((act, known): &(Act, bool), value: &Value) -> (bool, Value) {
            match act.after(*value, *known) {
                Some(after) => (true, after),
                // It wants every operation to have taken place: one that did nothing has.
                None => (!known, *value),
            }
        }
    }

    /// Its verdict. It wants an end of every operation: one of unknown fate ends when all is over, and if it never took
    /// effect it does so then, when nobody looks.
    fn by_another_judge(events: &[Event]) -> bool {
        use todc_utils::Action::{Call, Response};
        let mut actions = Vec::new();
        for (client, event) in events.iter().enumerate() {
            let operation = (event.act, event.ended.is_some());
            actions.push((event.began, false, (client, Call(operation))));
            actions.push((event.ended.unwrap_or(u64::MAX), true, (client, Response(operation))));
        }
        actions.sort_by_key(|(at, is_end, _)| (*at, *is_end));
        let actions = actions.into_iter().map(|(.., action)| action).collect();
        todc_utils::WGLChecker::<Register>::is_linearizable(todc_utils::History::from_actions(actions))
    }

    #[test]
    fn the_search_finds_what_another_judge_finds() {
        let random = SeededRandomness::new(8);
        let mut found = [0, 0];
        for _ in 0..5_000 {
            let events = random_history(&random, 2 + random.below(10));
            let expected = by_another_judge(&events);
            assert_eq!(is_linearizable(&events), expected, "{events:?}");
            found[usize::from(expected)] += 1;
        }
        assert!(found.iter().all(|count| *count > 500), "{found:?}");
    }
}
