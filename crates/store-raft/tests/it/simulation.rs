//! The consensus on virtual time: members that join while messages are lost, late, doubled and out of order, parts of the
//! network are cut off, members stop at any moment and come back with what was on their disks, clocks jump.
//!
//! One schedule per seed; a failing one says which, and `IRONCLAD_SEED=<n>` runs it alone. What must hold: at most one
//! leader per term; what was acknowledged is in everybody's history, once, at the revision that was told; what is of unknown outcome is there once or not at all; a read sees every write that was acknowledged
//! before it was asked for and goes back behind no other; no lease ends early; all histories are the same; and once the
//! faults end, every member takes writes again.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foundation::{Randomness, SeededRandomness};
use futures::{FutureExt, StreamExt};
use raft::eraftpb::{Message, MessageType};
use store::embedded::Options;
use store::embedded::replica::{Command, Outcome, Replica};
use store::{Error, EventKind, Op, PutValue, Range, Txn, WatchRequest, WatchStream};
use store_raft::Member;
use store_raft::core::{Change, Core, Output, Persist, Reply, Settings};
use store_raft::keeper::Keeper;

use super::memory_disk::MemoryDisk;

const TICK: Duration = Duration::from_millis(100);
const DIRECTORY: &str = "/member";
const MEMBERS: usize = 3;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Node {
    id: u64,
    disk: MemoryDisk,
    running: Option<Running>,
    /// Counts its starts, so that what an earlier one was waiting for goes nowhere.
    start: u64,
    /// How far its clock is ahead of the world's.
    ahead: Duration,
}

struct Running {
    core: Core,
    keeper: Keeper,
    replica: Arc<Replica>,
    persists: VecDeque<Persist>,
    /// What happens to keys with leases.
    leases: WatchStream,
}

enum What {
    Tick { node: usize, start: u64 },
    Deliver { node: usize, message: Message, checkpoint: Option<Vec<u8>> },
    Persist { node: usize, start: u64 },
    Upkeep { node: usize, start: u64, checkpoint: bool },
    Client,
    Join { joiner: usize },
    Fault,
    Start { node: usize },
}

struct Event {
    at: Duration,
    order: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What was asked, and what must be true of it.
enum Asked {
    Write { key: String, value: String },
    Read { at_least: u64 },
    Grant { id: i64, since: Duration },
    Join { joiner: usize },
}

struct Simulation {
    randomness: SeededRandomness,
    now: Duration,
    order: u64,
    events: BinaryHeap<Event>,
    nodes: Vec<Node>,
    /// Cut off from the others.
    cut: Option<usize>,
    faults: bool,
    /// Whether clocks jump in this schedule.
    jumps: bool,
    asked: HashMap<u64, (usize, u64, Asked)>,
    next: u64,
    /// Value written, by what was told of it: the revision, or `None` for an unknown outcome.
    told: BTreeMap<String, Option<u64>>,
    /// The latest revision that somebody has seen.
    seen: u64,
    leaders: HashMap<u64, u64>,
    /// Leases granted, with the earliest time that they may end.
    leases: HashMap<i64, Duration>,
    joined: Vec<bool>,
    answered: u64,
    ended: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let randomness = SeededRandomness::new(seed);
        let nodes = (0..MEMBERS)
            .map(|index| Node {
                id: 100 + index as u64,
                disk: MemoryDisk::default(),
                running: None,
                start: 0,
                ahead: ms(randomness.below(1_000_000)),
            })
            .collect();
        let jumps = randomness.below(3) == 0;
        let mut simulation = Self {
            randomness,
            now: Duration::ZERO,
            order: 0,
            events: BinaryHeap::new(),
            nodes,
            cut: None,
            faults: true,
            jumps,
            asked: HashMap::new(),
            next: 0,
            told: BTreeMap::new(),
            seen: 0,
            leaders: HashMap::new(),
            leases: HashMap::new(),
            joined: vec![false; MEMBERS],
            answered: 0,
            ended: 0,
        };
        let first = simulation.member(0);
        let options = simulation.options(0);
        store_raft::found(Path::new(DIRECTORY), &options, first, None).unwrap();
        simulation.joined[0] = true;
        simulation.start(0);
        for joiner in 1..MEMBERS {
            simulation.start(joiner);
            let at = ms(simulation.randomness.below(3_000));
            simulation.after(at, What::Join { joiner });
        }
        simulation.after(ms(50), What::Client);
        simulation.after(ms(500), What::Fault);
        simulation
    }

    fn member(&self, index: usize) -> Member {
        let id = self.nodes[index].id;
        Member { id, name: format!("m{index}"), address: format!("m{index}:2380") }
    }

    fn options(&self, index: usize) -> Options {
        Options {
            disk: Arc::new(self.nodes[index].disk.clone()),
            randomness: Arc::new(SeededRandomness::new(self.randomness.u64())),
            ..Options::default()
        }
    }

    fn chance(&self, of: u64) -> bool {
        self.randomness.below(of) == 0
    }

    fn after(&mut self, wait: Duration, what: What) {
        self.order += 1;
        self.events.push(Event { at: self.now + wait, order: self.order, what });
    }

    fn clock(&self, index: usize) -> Duration {
        self.now + self.nodes[index].ahead
    }

    fn start(&mut self, index: usize) {
        if self.nodes[index].running.is_some() {
            return;
        }
        let recovered = Keeper::open(Path::new(DIRECTORY), &self.options(index)).unwrap();
        let settings = Settings {
            id: self.nodes[index].id,
            incarnation: self.randomness.u64(),
            patience: Duration::from_secs(5),
            checkpoint_bytes: 4_000,
            keep_bytes: self.randomness.below(3) * 1_000,
        };
        let now = self.clock(index);
        let replica = recovered.replica.clone();
        let core = Core::new(settings, replica.clone(), recovered.hard, recovered.entries, now).unwrap();
        let leases = replica.watch(WatchRequest::prefix("lease/", 0)).unwrap();
        let running = Running { core, keeper: recovered.keeper, replica, persists: VecDeque::new(), leases };
        self.nodes[index].running = Some(running);
        self.nodes[index].start += 1;
        let start = self.nodes[index].start;
        let first = ms(self.randomness.below(100));
        self.after(first, What::Tick { node: index, start });
        self.poll(index);
    }

    fn crash(&mut self, index: usize) {
        if self.nodes[index].running.take().is_none() {
            return;
        }
        self.nodes[index].disk.crash(&self.randomness);
        // Whoever asked there gets no answer.
        let start = self.nodes[index].start;
        let lost: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (node, at, _))| *node == index && *at == start)
            .map(|(request, _)| *request)
            .collect();
        for request in lost {
            match self.asked.remove(&request) {
                Some((_, _, Asked::Write { value, .. })) => drop(self.told.insert(value, None)),
                Some((_, _, Asked::Join { joiner })) => self.after(ms(100), What::Join { joiner }),
                _ => {}
            }
        }
        let wait = ms(self.randomness.below(3_000));
        self.after(wait, What::Start { node: index });
    }

    fn poll(&mut self, index: usize) {
        self.carry_out(index);
        self.watch_leases(index);
    }

    fn carry_out(&mut self, index: usize) {
        let now = self.clock(index);
        let Some(running) = &mut self.nodes[index].running else { return };
        let outputs = running.core.poll(now);
        let standing = running.core.standing(now);
        if running.core.leads() {
            let leader = *self.leaders.entry(standing.term).or_insert(standing.id);
            assert_eq!(leader, standing.id, "two leaders in term {}", standing.term);
        }
        let start = self.nodes[index].start;
        for output in outputs {
            match output {
                Output::Send(message) => self.send(index, message),
                Output::Persist(persist) => {
                    let Some(running) = &mut self.nodes[index].running else { return };
                    running.persists.push_back(persist);
                    let slow = if self.faults && self.chance(50) { 2_000 } else { 5 };
                    let wait = ms(self.randomness.below(slow));
                    self.after(wait, What::Persist { node: index, start });
                }
                Output::Answer(request, result) => self.answered(index, request, result),
                Output::Members { .. } => {}
                Output::Upkeep { checkpoint } => {
                    let wait = ms(self.randomness.below(200));
                    self.after(wait, What::Upkeep { node: index, start, checkpoint });
                }
                Output::Release(released) => {
                    let Some(running) = &mut self.nodes[index].running else { return };
                    if let Some(batch) = running.keeper.release(released).unwrap() {
                        running.keeper.upkeep().release(batch).unwrap();
                    }
                }
            }
        }
    }

    fn send(&mut self, from: usize, mut message: Message) {
        let Some(to) = self.nodes.iter().position(|node| node.id == message.to) else { return };
        let mut checkpoint = None;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let Some(running) = &self.nodes[from].running else { return };
            let (position, mut file) = running.replica.read_checkpoint().unwrap().unwrap();
            store_raft::core::describe(&mut message, &position);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            checkpoint = Some(bytes);
        }
        let apart = self.cut.is_some_and(|cut| (cut == from) != (cut == to));
        let lost = apart || self.faults && self.chance(20);
        if let (Some(running), true) = (&mut self.nodes[from].running, checkpoint.is_some()) {
            // The transport sees whether it got through.
            running.core.snapshot_sent(message.to, !lost);
        }
        if lost {
            return;
        }
        // A proposal is handed over at most once, as the transport promises.
        let twice = message.get_msg_type() != MessageType::MsgPropose && self.faults && self.chance(20);
        for _ in 0..=u8::from(twice) {
            let late = if self.faults && self.chance(30) { 3_000 } else { 20 };
            let wait = ms(1 + self.randomness.below(late));
            let (message, checkpoint) = (message.clone(), checkpoint.clone());
            self.after(wait, What::Deliver { node: to, message, checkpoint });
        }
    }

    fn ask(&mut self, index: usize, asked: Asked) {
        let now = self.clock(index);
        let start = self.nodes[index].start;
        let Some(running) = &mut self.nodes[index].running else { return };
        self.next += 1;
        let request = self.next;
        match &asked {
            Asked::Write { key, value } => {
                let op = Op::put(key.clone(), value.clone());
                running.core.propose(request, Command::Txn(Txn::of(vec![op])), now);
            }
            Asked::Read { .. } => running.core.read(request, now),
            Asked::Grant { id, .. } => running.core.propose(request, Command::Grant { id: *id, ttl: 2 }, now),
            Asked::Join { joiner } => {
                let change = Change::Add(self.member(*joiner));
                let running = self.nodes[index].running.as_mut().unwrap();
                running.core.change(request, change, now);
            }
        }
        self.asked.insert(request, (index, start, asked));
        self.poll(index);
    }

    fn answered(&mut self, index: usize, request: u64, result: Result<Reply, Error>) {
        let Some((_, _, asked)) = self.asked.remove(&request) else { return };
        let revision = self.revision(index);
        self.answered += u64::from(result.is_ok());
        match (asked, result) {
            (Asked::Write { value, .. }, Ok(Reply::Outcome(Outcome::Txn(response)))) => {
                assert!(response.succeeded);
                self.told.insert(value, Some(response.revision));
                self.seen = self.seen.max(response.revision);
            }
            (Asked::Write { value, .. }, Err(Error::Unavailable(_))) => {
                self.told.insert(value, None);
            }
            (Asked::Read { at_least }, Ok(Reply::Readable)) => {
                assert!(revision >= at_least, "a read at {revision} after {at_least} was seen");
                self.seen = self.seen.max(revision);
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
            (Asked::Join { joiner }, Ok(_)) => self.joined[joiner] = true,
            (Asked::Join { joiner }, Err(_)) => self.after(ms(100), What::Join { joiner }),
            (_, Err(Error::Unavailable(_))) => {}
            (_, other) => panic!("an answer to another question: {other:?}"),
        }
    }

    fn revision(&self, index: usize) -> u64 {
        let running = self.nodes[index].running.as_ref();
        running.map_or(0, |running| running.replica.status().unwrap().revision)
    }

    fn step(&mut self) -> bool {
        let Some(event) = self.events.pop() else { return false };
        self.now = event.at;
        match event.what {
            What::Tick { node, start } if self.is_running(node, start) => {
                let now = self.clock(node);
                if let Some(running) = &mut self.nodes[node].running {
                    running.core.tick(now);
                }
                self.after(TICK, What::Tick { node, start });
                self.poll(node);
            }
            What::Deliver { node, message, checkpoint } => {
                let now = self.clock(node);
                let Node { running: Some(running), disk, .. } = &mut self.nodes[node] else { return true };
                if let Some(bytes) = checkpoint {
                    let index = message.get_snapshot().get_metadata().index;
                    disk.put(&received(index), bytes);
                }
                running.core.step(message, now);
                self.poll(node);
            }
            What::Persist { node, start } if self.is_running(node, start) => {
                let now = self.clock(node);
                let Some(running) = &mut self.nodes[node].running else { return true };
                // Some of what came meanwhile shares the sync.
                let count = 1 + self.randomness.below(running.persists.len().max(1) as u64) as usize;
                let work: Vec<_> = running.persists.drain(..count.min(running.persists.len())).collect();
                let Some(last) = work.last().map(|persist| persist.number) else { return true };
                let installed = running.keeper.persist(&work, |index| Some(received(index))).unwrap();
                running.core.persisted(last);
                if let Some(position) = installed {
                    running.core.installed(&position, now);
                }
                self.poll(node);
            }
            What::Upkeep { node, start, checkpoint } if self.is_running(node, start) => {
                let Some(running) = &mut self.nodes[node].running else { return true };
                running.replica.drop_compacted();
                let position = checkpoint.then(|| running.replica.checkpoint().unwrap());
                running.core.upkeep_done(position);
                self.poll(node);
            }
            What::Client => {
                let node = self.randomness.below(MEMBERS as u64) as usize;
                let now = self.now;
                let asked = match self.randomness.below(8) {
                    0..4 => Asked::Write {
                        key: format!("key/{}", self.randomness.below(5)),
                        value: format!("value {}", self.next),
                    },
                    7 => Asked::Grant { id: self.next as i64 + 1, since: now },
                    _ => Asked::Read { at_least: self.seen },
                };
                if self.joined[node] {
                    self.ask(node, asked);
                }
                let wait = ms(self.randomness.below(60));
                self.after(wait, What::Client);
            }
            What::Join { joiner } => {
                let through = (joiner + 1 + self.randomness.below(2) as usize) % MEMBERS;
                if self.joined[through] && self.nodes[through].running.is_some() {
                    self.ask(through, Asked::Join { joiner });
                } else {
                    self.after(ms(50), What::Join { joiner });
                }
            }
            What::Start { node } => self.start(node),
            What::Fault if self.faults => {
                match self.randomness.below(6) {
                    0 | 1 => {
                        let victim = self.randomness.below(MEMBERS as u64) as usize;
                        self.crash(victim);
                    }
                    2 => self.cut = Some(self.randomness.below(MEMBERS as u64) as usize),
                    3 if self.jumps => {
                        let jump = ms(self.randomness.below(60_000));
                        let victim = self.randomness.below(MEMBERS as u64) as usize;
                        self.nodes[victim].ahead += jump;
                    }
                    4 if self.chance(4) => (0..MEMBERS).for_each(|node| self.crash(node)),
                    _ => self.cut = None,
                }
                let wait = ms(self.randomness.below(2_000));
                self.after(wait, What::Fault);
            }
            _ => {}
        }
        true
    }

    fn is_running(&self, node: usize, start: u64) -> bool {
        self.nodes[node].start == start && self.nodes[node].running.is_some()
    }

    fn run_until(&mut self, end: Duration) {
        while self.events.peek().is_some_and(|event| event.at < end) && self.step() {}
        self.now = self.now.max(end);
    }

    fn run(mut self) -> u64 {
        self.run_until(Duration::from_secs(6));
        self.faults = false;
        self.cut = None;
        for node in 0..MEMBERS {
            self.start(node);
        }
        let mut rounds = 0;
        while rounds < 2 || !self.joined.iter().all(|joined| *joined) {
            let end = self.now + Duration::from_secs(2);
            self.run_until(end);
            rounds += 1;
            assert!(rounds < 30, "not everybody has joined: {:?}", self.joined);
        }
        let before = self.told.values().flatten().count();
        for node in 0..MEMBERS {
            let value = format!("last of {node}");
            self.ask(node, Asked::Write { key: "last".into(), value });
        }
        let end = self.now + Duration::from_secs(3);
        self.run_until(end);
        for node in 0..MEMBERS {
            let told = self.told.get(&format!("last of {node}"));
            assert!(matches!(told, Some(Some(_))), "member {node} takes no writes: {told:?}");
        }
        assert!(self.told.values().flatten().count() >= before + MEMBERS);
        // Nothing is on its way any more.
        self.events.retain(|event| !matches!(event.what, What::Client));
        let end = self.now + Duration::from_secs(4);
        self.run_until(end);
        let histories: Vec<_> = (0..MEMBERS).map(|node| self.history(node)).collect();
        for node in 1..MEMBERS {
            assert_eq!(histories[0], histories[node], "the histories of members 0 and {node}");
        }
        self.check(&histories[0].0);
        assert!(self.ended >= self.leases.len() as u64, "leases have not ended");
        self.answered
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
    fn watch_leases(&mut self, index: usize) {
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

fn received(index: u64) -> std::path::PathBuf {
    Path::new(DIRECTORY).join(format!("received-{index}"))
}

#[test]
fn a_thousand_schedules() {
    let run = |seed: u64| {
        let result = std::panic::catch_unwind(|| Simulation::new(seed).run());
        result.unwrap_or_else(|_| panic!("run it alone with IRONCLAD_SEED={seed}"))
    };
    if let Ok(seed) = std::env::var("IRONCLAD_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let count = std::env::var("IRONCLAD_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    // Halves on threads of their own.
    let answered: u64 = std::thread::scope(|scope| {
        let halves: Vec<_> =
            (0..2).map(|half| scope.spawn(move || (half..count).step_by(2).map(run).sum::<u64>())).collect();
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    });
    // Most of it got through, whatever happened.
    assert!(answered > count * 50, "only {answered} answers");
}
