//! One schedule: an engine on a simulated disk, the model beside it, and the dice that say what comes next.
//!
//! Not here: what must hold is checked where it is found out, but what the model says is the model's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foundation::{Clock as _, ManualClock, Randomness, SeededRandomness};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Coverage;
use super::model::{Candidate, Lease, Model, State};
use crate::WatchStream;
use crate::embedded::disk::simulated::{Fault, SimulatedDisk};
use crate::embedded::mvcc::Cursor;
use crate::embedded::writer::{Request, Writer};
use crate::embedded::{Options, Shared, watch};
use crate::error::Error;
use crate::types::{
    Compare, EventKind, LeaseId, Op, PutValue, Range, Revision, Target, Txn, TxnResponse, WatchRequest,
};

const STEPS: u64 = 32;
const KEYS: u64 = 8;

/// The engine, without its threads.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Writer,
    pub(super) watch: Option<WatchStream>,
    /// The last revision that the watch has told of in whole.
    pub(super) seen: Revision,
}

pub(super) struct World {
    pub(super) random: SeededRandomness,
    pub(super) disk: SimulatedDisk,
    pub(super) clock: ManualClock,
    pub(super) options: Options,
    /// Whether the engine may compact by itself.
    pub(super) forgets: bool,
    pub(super) running: Option<Running>,
    pub(super) model: Model,
    /// A sync has lied since the store was made.
    pub(super) lied: bool,
    pub(super) said: bool,
    counts: BTreeMap<&'static str, u64>,
    aloud: bool,
}

pub(super) fn directory() -> &'static Path {
    Path::new("/store")
}

/// Plays the schedule of a seed.
pub(super) fn play(seed: u64, coverage: &Coverage) {
    let random = SeededRandomness::new(seed);
    let forgets = random.below(2) == 0;
    let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(random.u64())));
    let pick = |choices: [u64; 3]| choices[random.below(3) as usize];
    let options = Options {
        history_age: Duration::from_secs(if forgets { 40 } else { 1 << 30 }),
        history_bytes: if forgets { 4 << 10 } else { 1 << 40 },
        segment_bytes: pick([1, 1, 16 << 10]),
        checkpoint_bytes: pick([200, 2_000, 1 << 40]),
        randomness: Arc::new(SeededRandomness::new(random.u64())),
        disk: Arc::new(disk.clone()),
        ..Options::default()
    };
    let mut world = World {
        random,
        disk: disk.clone(),
        clock: ManualClock::default(),
        options,
        forgets,
        running: None,
        model: Model::new(),
        lied: false,
        said: false,
        counts: BTreeMap::new(),
        aloud: std::env::var_os("IRONCLAD_SEED").is_some(),
    };
    world.open();
    let world = Arc::new(Mutex::new(world));
    let beside = world.clone();
    disk.observe(move |_, _| {
        // Only the upkeep calls the disk while nobody has the world: writers go on beside it.
        if let Some(mut world) = beside.try_lock()
            && world.running.is_some()
            && world.random.below(4) == 0
        {
            world.count("batches beside the upkeep");
            world.batch();
        }
    });
    for _ in 0..STEPS {
        let upkeep = {
            let mut world = world.lock();
            world.step();
            if world.said {
                break;
            }
            let shared = world.running.as_ref().map(|running| running.shared.clone());
            shared.filter(|_| world.random.below(3) > 0)
        };
        if let Some(shared) = upkeep
            && let Some(jobs) = shared.take_jobs()
        {
            let done = shared.carry_out(jobs);
            if jobs.is_checkpoint() && done.is_ok() {
                world.lock().count("checkpoints");
            }
        }
    }
    disk.unobserve();
    let mut world = world.lock();
    if !world.said {
        world.disk.disarm();
        world.disk.set_room(u64::MAX);
        world.reopen(false);
    }
    for (fault, count) in world.disk.struck() {
        *world.counts.entry(fault).or_default() += count;
    }
    world.count("schedules");
    world.running = None;
    coverage.add(&world.counts);
}

impl World {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.aloud {
            println!("{}", what());
        }
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the store is open")
    }

    fn step(&mut self) {
        if self.disk.is_off() {
            return self.reopen(true);
        }
        match self.below(40) {
            0..=15 => self.batch(),
            16..=17 => self.grant(),
            18 => self.keep_alive(),
            19 => self.revoke(),
            20 => self.expire(),
            21..=22 => self.compact(),
            23..=24 => {
                self.say(|| "checkpoint wanted".to_owned());
                self.running().shared.checkpoint_now(oneshot::channel().0);
            }
            25..=26 => self.snapshot(),
            27..=29 => self.watch(),
            30..=34 => {
                let fault = match self.below(9) {
                    0..=2 => Fault::Refused,
                    3 => Fault::ShortWrite,
                    4 => Fault::Full,
                    5 if self.below(3) == 0 => Fault::Lie,
                    _ => Fault::PowerLoss,
                };
                self.lied |= fault == Fault::Lie;
                let after = self.below(12);
                self.say(|| format!("arm {fault:?} after {after} calls"));
                self.disk.arm(after, fault);
            }
            35 => {
                let room = match self.below(3) {
                    0 => self.disk.used() + self.below(3) * 4096,
                    _ => u64::MAX,
                };
                self.say(|| format!("room for {room}"));
                self.disk.set_room(room);
            }
            36..=37 => self.reopen(false),
            38 => self.reopen(true),
            _ => self.flip(),
        }
        if self.disk.is_off() && !self.said {
            self.reopen(true);
        }
    }

    fn key(&self) -> Bytes {
        format!("k/{}", self.below(KEYS)).into()
    }

    fn a_txn(&self) -> Txn {
        let mut compare = Vec::new();
        if self.below(3) == 0 {
            let key = self.key();
            let found = self.model.state.keys.get(&key).map_or(0, |kv| kv.mod_revision);
            let wrong = u64::from(self.below(3) == 0);
            compare.push(Compare::equal(key, Target::ModRevision(found + wrong)));
        }
        let mut ops = vec![match self.below(6) {
            0 => Op::Delete { start: self.key(), end: self.key() },
            1 => Op::delete(self.key()),
            _ => self.a_put(),
        }];
        if let Op::Put { key, .. } = &ops[0] {
            let (first, second) = (key.clone(), self.a_put());
            if matches!(&second, Op::Put { key, .. } if *key != first) && self.below(2) == 0 {
                ops.push(second);
            }
        }
        if self.below(4) == 0 {
            ops.push(Op::Range(Range::prefix("k/")));
        }
        let failure = if self.below(2) == 0 { vec![self.a_put()] } else { Vec::new() };
        Txn { compare, success: ops, failure }
    }

    fn a_put(&self) -> Op {
        let size = match self.below(30) {
            0 => 9000,
            1..=4 => 600,
            _ => self.below(40),
        };
        let bytes = Bytes::from(vec![b'a' + self.below(26) as u8; size as usize]);
        let value = match self.below(3) {
            0 => PutValue::Stamped { head: bytes.clone(), tail: "]".into() },
            _ => PutValue::Plain(bytes),
        };
        let lease = if self.below(4) == 0 { 1 + self.below(4) as LeaseId } else { 0 };
        Op::Put { key: self.key(), value, lease }
    }

    /// Some transactions that share a sync.
    fn batch(&mut self) {
        let txns: Vec<_> = (0..1 + self.below(4)).map(|_| self.a_txn()).collect();
        let mut candidate = Candidate::of(&self.model.state);
        let expected: Vec<Option<TxnResponse>> = txns.iter().map(|txn| candidate.txn(txn)).collect();
        let writes = !candidate.log.is_empty();
        let slots = self.running().shared.slots.clone();
        let (requests, answers): (Vec<_>, Vec<_>) = txns
            .into_iter()
            .map(|txn| {
                let (reply, answer) = oneshot::channel();
                let slot = slots.clone().try_acquire_owned().expect("nobody else has any");
                (Request::Txn { txn, reply, slot }, answer)
            })
            .unzip();
        self.running().writer.carry_out(requests);
        let mut committed = None;
        for (mut answer, expected) in answers.into_iter().zip(expected) {
            let found = answer.try_recv().expect("the writer answers everybody");
            match expected {
                None => assert!(matches!(found, Err(Error::LeaseNotFound { .. })), "{found:?}"),
                Some(expected) => {
                    assert_eq!(*committed.get_or_insert(found.is_ok()), found.is_ok(), "a batch was split");
                    match found {
                        Ok(found) => assert_eq!(found, expected),
                        Err(error) => failure(&error),
                    }
                }
            }
        }
        if let Some(committed) = committed.filter(|_| writes) {
            self.settle(candidate, committed);
        } else {
            assert!(committed != Some(false), "nothing was to be written");
        }
    }

    /// Takes what the writer said of a batch into the model.
    fn settle(&mut self, mut candidate: Candidate, committed: bool) {
        if !committed {
            self.count("failed batches");
            self.say(|| format!("failed on the way to {}", candidate.state.revision));
            self.model.maybe.push(candidate);
            return;
        }
        self.count("batches");
        let (found, revision) = {
            let state = self.running().shared.memory.state.read();
            (state.mvcc.compact_revision, state.mvcc.revision)
        };
        assert_eq!(revision, candidate.state.revision);
        self.compacted(&mut candidate.state, found);
        self.say(|| format!("committed up to {revision}"));
        self.model.adopt(candidate);
    }

    /// The engine may compact by itself, forward.
    pub(super) fn compacted(&self, state: &mut State, found: Revision) {
        match self.forgets {
            false => assert_eq!(found, state.compacted, "of {state}"),
            true => assert!((state.compacted..=state.revision).contains(&found), "{found} of {state}"),
        }
        state.compacted = found;
    }

    /// One request that is not a transaction.
    fn single<T>(
        &mut self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, mut answer) = oneshot::channel();
        self.running().writer.carry_out(vec![request(reply)]);
        answer.try_recv().expect("the writer answers everybody")
    }

    fn committed<T>(&mut self, candidate: Candidate, found: Result<T, Error>) {
        if let Err(error) = &found {
            failure(error);
        }
        self.settle(candidate, found.is_ok());
    }

    fn grant(&mut self) {
        let (id, ttl) = (1 + self.below(4) as LeaseId, 5 + self.below(60) as i64);
        self.say(|| format!("grant {id} for {ttl} s"));
        let found = self.single(|reply| Request::Grant { id, ttl, reply });
        if self.model.state.leases.contains_key(&id) {
            assert!(matches!(found, Err(Error::LeaseExists { .. })), "{found:?}");
            return;
        }
        let mut candidate = Candidate::of(&self.model.state);
        let deadline = self.clock.monotonic() + Duration::from_secs(ttl as u64);
        candidate.state.leases.insert(id, Lease { ttl, deadline });
        self.committed(candidate, found);
    }

    fn keep_alive(&mut self) {
        let id = 1 + self.below(4) as LeaseId;
        self.say(|| format!("keep {id} alive"));
        let now = self.clock.monotonic();
        let found = self.running().shared.memory.state.write().leases.keep_alive(id, now);
        let Some(lease) = self.model.state.leases.get_mut(&id) else {
            assert!(matches!(found, Err(Error::LeaseNotFound { .. })), "{found:?}");
            return;
        };
        lease.deadline = now + Duration::from_secs(lease.ttl as u64);
        let (info, unnoted) = found.expect("the lease is there");
        assert_eq!(info.ttl, lease.ttl);
        if unnoted {
            let candidate = Candidate::of(&self.model.state);
            let found = self.single(|reply| Request::Renew { id, reply });
            if found.is_err() {
                // Not noted: a crash may make it end early, and the engine has said that it could not be written.
                self.forgive(id);
            }
            self.committed(candidate, found);
        }
    }

    /// Nothing is asked of what is left of a lease after the next crash.
    fn forgive(&mut self, id: LeaseId) {
        if let Some(lease) = self.model.state.leases.get_mut(&id) {
            lease.deadline = self.clock.monotonic();
        }
    }

    fn revoke(&mut self) {
        let id = 1 + self.below(4) as LeaseId;
        self.say(|| format!("revoke {id}"));
        let found = self.single(|reply| Request::Revoke { id, reply });
        if !self.model.state.leases.contains_key(&id) {
            assert!(matches!(found, Err(Error::LeaseNotFound { .. })), "{found:?}");
            return;
        }
        let mut candidate = Candidate::of(&self.model.state);
        candidate.revoke(id);
        self.committed(candidate, found);
    }

    fn expire(&mut self) {
        let seconds = 1 + self.below(30);
        self.say(|| format!("{seconds} s pass"));
        self.clock.advance(Duration::from_secs(seconds));
        let now = self.clock.monotonic();
        let due = self.running().shared.memory.state.read().leases.due(now);
        let mut candidate = Candidate::of(&self.model.state);
        let none = due.is_empty();
        for id in due {
            let lease = candidate.state.leases[&id];
            assert!(lease.deadline <= self.clock.monotonic(), "lease {id} ends before its time: {lease:?}");
            candidate.revoke(id);
            self.count("leases expired");
        }
        let found = self.single(|reply| Request::Expire { reply });
        if none {
            return found.expect("nothing was to be written");
        }
        self.committed(candidate, found);
    }

    fn compact(&mut self) {
        let State { revision: latest, compacted, .. } = self.model.state;
        let revision = compacted.saturating_sub(1) + self.below(latest - compacted.saturating_sub(1) + 2);
        self.say(|| format!("compact at {revision}"));
        let found = self.single(|reply| Request::Compact { revision, reply });
        if revision > latest {
            assert!(
                matches!(found, Err(Error::FutureRevision { current }) if current == latest),
                "{found:?}"
            );
        } else if revision <= compacted {
            assert!(
                matches!(found, Err(Error::Compacted { revision }) if revision == compacted),
                "{found:?}"
            );
        } else {
            let mut candidate = Candidate::of(&self.model.state);
            candidate.state.compacted = revision;
            self.committed(candidate, found);
        }
    }

    /// Reads everything as of one revision in small pieces, with batches between them.
    fn snapshot(&mut self) {
        let State { revision: latest, compacted, .. } = self.model.state;
        let wanted = match self.below(2) {
            0 => 0,
            _ => compacted.max(1) + self.below(latest + 1 - compacted.max(1)),
        };
        self.say(|| format!("snapshot at {wanted}"));
        let mut cursor = Cursor::new(Range::prefix("").at(wanted));
        loop {
            let shared = self.running().shared.clone();
            let read = shared.memory.state.read().mvcc.read(&mut cursor, 3);
            match read {
                Ok(true) => break,
                Ok(false) => self.batch(),
                Err(Error::Compacted { revision }) => {
                    assert!(wanted != 0 && wanted < revision && revision == self.model.state.compacted);
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let at = if wanted == 0 { cursor.response.revision } else { wanted };
        let expected: Vec<_> = self.model.at(at).values().cloned().collect();
        assert_eq!(cursor.response.kvs, expected, "at {at}");
        self.count("snapshots");
    }

    /// Reads what the watch has to say.
    pub(super) fn watch(&mut self) {
        let Running { shared, watch, seen, .. } = self.running.as_mut().expect("the store is open");
        let mut stream = match watch.take() {
            Some(stream) => stream,
            None => open_watch(shared, *seen + 1),
        };
        let compacted = self.model.state.compacted;
        let mut expected = self.model.since(*seen + 1).peekable();
        let mut idle = 0;
        // A stream that has looked at much lets others run.
        while idle < 3 {
            match stream.next().now_or_never() {
                None => idle += 1,
                Some(None) => panic!("the watch has ended"),
                Some(Some(Err(Error::Compacted { revision }))) => {
                    assert!(revision == compacted && *seen + 1 < compacted, "{revision}: seen {seen}");
                    *seen = compacted - 1;
                    return;
                }
                Some(Some(Err(error))) => panic!("{error}"),
                Some(Some(Ok(batch))) => {
                    for event in &batch.events {
                        let (revision, (key, kv)) = expected.next().expect("a change that never was");
                        assert_eq!((event.kv.mod_revision, &event.kv.key), (revision, key));
                        assert_eq!((event.kind == EventKind::Put).then_some(&event.kv), kv.as_ref());
                        if revision > compacted {
                            let before = self.model.at(revision - 1);
                            assert_eq!(event.prev.as_ref(), before.get(key), "before {revision}");
                        }
                    }
                    let whole = expected.peek().is_none_or(|(revision, _)| *revision > batch.revision);
                    assert!(whole && batch.revision > *seen, "revision {} is split or late", batch.revision);
                    *seen = batch.revision;
                }
            }
        }
        assert!(expected.next().is_none(), "the watch says nothing of what came after {seen}");
        *seen = (*seen).max(self.model.state.revision);
        *watch = Some(stream);
    }
}

fn open_watch(shared: &Arc<Shared>, from: Revision) -> WatchStream {
    let request = WatchRequest { prev_kv: true, ..WatchRequest::prefix("", from.max(1)) };
    match watch::open(&shared.memory, request) {
        Ok(stream) => stream,
        // As if it had been the first thing the stream said.
        Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
    }
}

/// What a write may fail with.
fn failure(error: &Error) {
    assert!(matches!(error, Error::Io { .. } | Error::NoSpace | Error::Unavailable(_)), "{error:?}");
}
