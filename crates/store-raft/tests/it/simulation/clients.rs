//! What is asked of the members, and what must be true of their answers and of what they hold in the end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use store::embedded::replica::{Command, Outcome};
use store::suite::linearizable::{Act, Event, is_linearizable};
use store::{Compare, Error, EventKind, Op, PutValue, Range, Target, Txn, WatchRequest};
use store_raft::core::{Change, Reply};

use super::{MEMBERS, Simulation, What, ms};

/// What was asked, and what must be true of it.
pub(super) enum Asked {
    Write {
        key: String,
        value: u64,
    },
    /// The value is written if the key holds another.
    Swap {
        key: String,
        expected: u64,
        value: u64,
    },
    Read {
        key: String,
        at_least: u64,
    },
    Grant {
        id: i64,
        since: Duration,
    },
    Join {
        joiner: usize,
    },
    Remove {
        victim: usize,
    },
}

/// What clients have seen.
#[derive(Default)]
pub(super) struct Seen {
    /// The latest revision.
    pub(super) revision: u64,
    /// The order of what happened.
    moment: u64,
    events: BTreeMap<String, Vec<Event>>,
    /// When what is on its way began.
    began: HashMap<u64, u64>,
}

impl Seen {
    fn begin(&mut self, request: u64) {
        self.moment += 1;
        self.began.insert(request, self.moment);
    }

    fn end(&mut self, request: u64, key: String, act: Act, known: bool) {
        self.moment += 1;
        let Some(began) = self.began.remove(&request) else { return };
        let ended = known.then_some(self.moment);
        if known || !matches!(act, Act::Read(_)) {
            self.events.entry(key).or_default().push(Event { act, began, ended });
        }
    }
}

pub(super) fn name(value: u64) -> String {
    format!("value {value}")
}

fn number(value: &[u8]) -> u64 {
    text(value)["value ".len()..].parse().unwrap()
}

impl Simulation {
    pub(super) fn client(&mut self) {
        let node = self.any();
        let (now, value) = (self.now, self.next + 1);
        // A while each, so that a key has not more operations than can be put in order.
        let key = format!("key/{}/{}", now.as_secs() / 2, self.randomness.below(4));
        let asked = match self.randomness.below(10) {
            0..=3 => Asked::Write { key, value },
            4 | 5 => {
                let expected = self.value(self.any(), &key).unwrap_or(0);
                Asked::Swap { key, expected, value }
            }
            9 => Asked::Grant { id: value as i64, since: now },
            _ => Asked::Read { key, at_least: self.seen.revision },
        };
        if self.nodes[node].joined {
            self.ask(node, asked);
        }
        let wait = ms(self.randomness.below(60));
        self.after(wait, What::Client);
    }

    /// What a key holds in a member's memory, which may be old; 0 is nothing. `None`: it has made room for a checkpoint that
    /// its disk has not given yet.
    fn value(&self, node: usize, key: &str) -> Option<u64> {
        let Some(running) = &self.nodes[node].running else { return Some(0) };
        match running.replica.range(Range::key(key.to_owned())).now_or_never().unwrap() {
            Ok(found) => Some(found.kvs.first().map_or(0, |kv| number(&kv.value))),
            Err(Error::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn ask(&mut self, index: usize, asked: Asked) {
        let now = self.clock(index);
        let start = self.nodes[index].start;
        let (joiner, leaver) = match &asked {
            Asked::Join { joiner } => (self.member(*joiner), 0),
            Asked::Remove { victim } => (self.member(*victim), self.nodes[*victim].id),
            _ => (self.member(index), 0),
        };
        let understood = match &asked {
            Asked::Join { joiner } => self.nodes[*joiner].level,
            _ => self.nodes[index].level,
        };
        let Some(running) = &mut self.nodes[index].running else { return };
        self.next += 1;
        let request = self.next;
        let put = |key: &String, value: &u64| Op::put(key.clone(), name(*value));
        match &asked {
            Asked::Write { key, value } => {
                self.seen.begin(request);
                running.core.propose(request, Command::Txn(Txn::of(vec![put(key, value)])), now);
            }
            Asked::Swap { key, expected, value } => {
                self.seen.begin(request);
                let compare = match expected {
                    0 => Compare::absent(key.clone()),
                    held => Compare::equal(key.clone(), Target::Value(name(*held).into())),
                };
                let txn = Txn { compare: vec![compare], success: vec![put(key, value)], failure: vec![] };
                running.core.propose(request, Command::Txn(txn), now);
            }
            Asked::Read { .. } => {
                self.seen.begin(request);
                running.core.read(request, now);
            }
            Asked::Grant { id, .. } => running.core.propose(request, Command::Grant { id: *id, ttl: 2 }, now),
            Asked::Join { .. } => running.core.join(request, joiner, understood, now),
            Asked::Remove { .. } => running.core.change(request, Change::Remove(leaver), now),
        }
        self.asked.insert(request, (index, start, asked));
        self.poll(index);
    }

    pub(super) fn answered(&mut self, index: usize, request: u64, result: Result<Reply, Error>) {
        let Some((_, _, asked)) = self.asked.remove(&request) else { return };
        self.counts.answered += u64::from(result.is_ok());
        match (asked, result) {
            (Asked::Write { key, value }, Ok(Reply::Outcome(Outcome::Txn(response)))) => {
                assert!(response.succeeded);
                self.told.insert(name(value), Some(response.revision));
                self.seen.revision = self.seen.revision.max(response.revision);
                self.seen.end(request, key, Act::Write(value), true);
            }
            (Asked::Swap { key, expected, value }, Ok(Reply::Outcome(Outcome::Txn(response)))) => {
                if response.succeeded {
                    self.told.insert(name(value), Some(response.revision));
                }
                self.seen.revision = self.seen.revision.max(response.revision);
                self.seen.end(request, key, Act::Swap(expected, value, response.succeeded), true);
            }
            (Asked::Read { key, at_least }, Ok(Reply::Readable)) => {
                let Some(value) = self.value(index, &key) else {
                    return self.seen.end(request, key, Act::Read(0), false);
                };
                let revision = self.revision(index);
                assert!(revision >= at_least, "a read at {revision} after {at_least} was seen");
                self.seen.revision = self.seen.revision.max(revision);
                self.seen.end(request, key, Act::Read(value), true);
            }
            (Asked::Grant { id, since }, Ok(Reply::Outcome(Outcome::Lease(_)))) => {
                self.leases.insert(id, since + Duration::from_secs(2));
                let value = PutValue::Plain("leased".into());
                let op = Op::Put { key: format!("lease/{id}").into(), value, lease: id };
                let now = self.clock(index);
                if let Some(running) = &mut self.nodes[index].running {
                    // Nobody waits for it: what counts is when it ends.
                    running.core.propose(u64::MAX, Command::Txn(Txn::of(vec![op])), now);
                }
            }
            (Asked::Join { joiner }, Ok(_)) => self.nodes[joiner].joined = true,
            (Asked::Remove { victim }, Ok(_)) => {
                self.counts.removed += 1;
                // It runs on for a while, and must not be in the way.
                self.nodes[victim].joined = false;
                let wait = ms(self.randomness.below(3_000));
                self.after(wait, What::Anew { node: victim });
            }
            // Of a version that is too old for the others; or whoever was asked does not know yet that the one before has left.
            (Asked::Join { joiner }, Err(Error::Invalid(why))) => {
                if why.contains("version") {
                    self.upgrade(joiner);
                }
                self.after(ms(100), What::Join { joiner });
            }
            // The others do not vote yet.
            (Asked::Remove { victim }, Err(Error::Invalid(_))) => {
                self.after(ms(100), What::Remove { victim })
            }
            (asked, Err(Error::Unavailable(_) | Error::NoSpace | Error::Io { .. })) => {
                self.unknown(request, asked)
            }
            (_, other) => panic!("an answer to another question: {other:?}"),
        }
    }

    /// Nobody will learn what became of it.
    fn unknown(&mut self, request: u64, asked: Asked) {
        match asked {
            Asked::Write { key, value } => {
                self.told.insert(name(value), None);
                self.seen.end(request, key, Act::Write(value), false);
            }
            Asked::Swap { key, expected, value } => {
                self.told.insert(name(value), None);
                self.seen.end(request, key, Act::Swap(expected, value, true), false);
            }
            Asked::Join { joiner } => self.after(ms(100), What::Join { joiner }),
            Asked::Remove { victim } => self.after(ms(100), What::Remove { victim }),
            Asked::Read { .. } | Asked::Grant { .. } => {}
        }
    }

    /// Whoever asked a member that has gone down gets no answer.
    pub(super) fn lose_callers(&mut self, index: usize) {
        let of = |(_, (node, ..)): &(&u64, &(usize, u64, Asked))| *node == index;
        let mut lost: Vec<u64> = self.asked.iter().filter(of).map(|(request, _)| *request).collect();
        lost.sort_unstable();
        for request in lost {
            if let Some((_, _, asked)) = self.asked.remove(&request) {
                self.unknown(request, asked);
            }
        }
    }

    fn revision(&self, index: usize) -> u64 {
        let running = self.nodes[index].running.as_ref();
        running.map_or(0, |running| running.replica.status().unwrap().revision)
    }

    /// Whether everything is as it must be, now that nothing is in the way any more.
    pub(super) fn judge(&mut self) {
        let before = self.told.values().flatten().count();
        for node in 0..MEMBERS {
            let mut attempts = 0;
            loop {
                let value = self.next + 1;
                self.ask(node, Asked::Write { key: "last".into(), value });
                // Longer than anybody's patience. One whose write has come to it in a checkpoint does not learn of it.
                let end = self.now + Duration::from_secs(6);
                while self.now < end && !self.told.contains_key(&name(value)) {
                    let soon = self.now + ms(100);
                    self.run_until(soon);
                }
                if matches!(self.told.get(&name(value)), Some(Some(_))) {
                    break;
                }
                attempts += 1;
                assert!(attempts < 4, "member {node} takes no writes: {:#?}", self.stand());
            }
        }
        assert!(self.told.values().flatten().count() >= before + MEMBERS);
        // Nothing new, and what was asked ends: longer than anybody's patience, and than any lease.
        self.events.retain(|event| !matches!(event.what, What::Client));
        let end = self.now + Duration::from_secs(6);
        self.run_until(end);
        assert!(self.asked.is_empty(), "somebody waits for an answer");
        let histories: Vec<_> = (0..MEMBERS).map(|node| self.history(node)).collect();
        for node in 1..MEMBERS {
            assert_eq!(histories[0], histories[node], "the histories of members 0 and {node}");
        }
        self.check(&histories[0].0);
        assert!(self.ended >= self.leases.len() as u64, "leases have not ended");
        for (key, events) in &self.seen.events {
            assert!(is_linearizable(events), "{key}: no order explains {events:#?}");
        }
    }

    /// Every change, what is there now, and the revision.
    fn history(&self, node: usize) -> (Vec<Change3>, Vec<Change3>, u64) {
        let replica = &self.nodes[node].running.as_ref().unwrap().replica;
        let mut watch = replica.watch(WatchRequest::prefix("", 2)).unwrap();
        let mut changes = Vec::new();
        while let Some(Some(batch)) = watch.next().now_or_never() {
            for event in batch.unwrap().events {
                let value = match event.kind {
                    EventKind::Put => text(&event.kv.value),
                    EventKind::Delete => "deleted".to_owned(),
                };
                changes.push((event.kv.mod_revision, text(&event.kv.key), value));
            }
        }
        let now = replica.range(Range::prefix("")).now_or_never().unwrap().unwrap();
        let keys = now.kvs.iter().map(|kv| (kv.mod_revision, text(&kv.key), text(&kv.value))).collect();
        (changes, keys, now.revision)
    }

    fn check(&self, changes: &[Change3]) {
        let mut found: HashMap<&str, Vec<u64>> = HashMap::new();
        for (revision, _, value) in changes {
            found.entry(value).or_default().push(*revision);
        }
        for (value, told) in &self.told {
            let at = found.get(value.as_str()).cloned().unwrap_or_default();
            match told {
                Some(revision) => assert_eq!(at, [*revision], "{value:?} was acknowledged"),
                None => assert!(at.len() <= 1, "{value:?} is there twice: {at:?}"),
            }
        }
    }

    /// No lease ends before its time, as far as members see it.
    pub(super) fn watch_leases(&mut self, index: usize) {
        let Some(running) = &mut self.nodes[index].running else { return };
        while let Some(Some(batch)) = running.leases.next().now_or_never() {
            for event in batch.unwrap().events.iter().filter(|event| event.kind == EventKind::Delete) {
                let id = text(&event.kv.key)["lease/".len()..].parse().unwrap();
                let early = self.leases.get(&id).is_some_and(|end| self.now < *end);
                assert!(self.jumps || !early, "lease {id} has ended early, at {:?}", self.now);
                self.ended += 1;
            }
        }
    }
}

/// Revision, key and value.
type Change3 = (u64, String, String);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
