//! The consensus on virtual time: members that join, leave and come back as others while messages are lost, late, doubled
//! and out of order, parts of the network are cut off, disks refuse, tear writes, are full and lose their power, members
//! stop at any moment and come back with what their disks have kept, hand over the lead, are upgraded one after the other,
//! and clocks jump.
//!
//! One schedule per seed; a failing one says which, and `IRONCLAD_SEED=<n>` runs it alone. What must hold: at most one
//! leader per term; what was acknowledged is in everybody's history, once, at the revision that was told; what is of
//! unknown outcome is there once or not at all; reads, writes and conditional writes have an order that explains them
//! all; no lease ends early; all histories are the same; a member votes for one in a term; and once the faults end, every
//! member takes writes again. `clients` asks and judges, `nodes` runs the members, `scenes` has single faults by
//! themselves, `broken` shows for each promise that it is noticed when it is not kept, this file has the events.

mod broken;
mod clients;
mod nodes;
mod scenes;

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foundation::{SeededRandomness, SharedRandomness};
use raft::eraftpb::Message;
use store::WatchStream;
use store::embedded::Options;
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::embedded::replica::Replica;
use store_raft::Member;
use store_raft::core::{Core, Persist};
use store_raft::keeper::Keeper;
use store_raft::level::{self, Level};

use broken::Broken;
use clients::{Asked, Seen};

const TICK: Duration = Duration::from_millis(100);
const DIRECTORY: &str = "/member";
const MEMBERS: usize = 3;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Node {
    id: u64,
    disk: SimulatedDisk,
    running: Option<Running>,
    /// Counts its starts, so that what an earlier one was waiting for goes nowhere.
    start: u64,
    /// How far its clock is ahead of the world's.
    ahead: Duration,
    joined: bool,
    /// The highest level that its version understands.
    level: Level,
}

struct Running {
    core: Core,
    keeper: Keeper,
    replica: Arc<Replica>,
    persists: VecDeque<Persist>,
    /// Which file the checkpoint with an index is in.
    received: HashMap<u64, std::path::PathBuf>,
    /// Whom it knows to have been removed.
    gone: Vec<u64>,
    /// What happens to keys with leases.
    leases: WatchStream,
    /// Why its disk has refused last.
    refused: Option<store::Error>,
}

enum What {
    Tick {
        node: usize,
        start: u64,
    },
    Deliver {
        node: usize,
        message: Message,
        checkpoint: Option<Vec<u8>>,
        /// Who has brought it, and what that understands. (It may be another's proposal, passed on.)
        by: (u64, Level),
    },
    Persist {
        node: usize,
        start: u64,
    },
    Release {
        node: usize,
        start: u64,
        index: u64,
    },
    Upkeep {
        node: usize,
        start: u64,
        checkpoint: bool,
    },
    /// Another member says that it has been removed.
    Removed {
        node: usize,
        start: u64,
    },
    Crash {
        node: usize,
        start: u64,
    },
    /// It is stopped, and started as a later version.
    Upgrade {
        node: usize,
    },
    /// There is room on its disk again.
    Room {
        node: usize,
    },
    Client,
    Join {
        joiner: usize,
    },
    Remove {
        victim: usize,
    },
    /// The member that was removed begins anew as another one.
    Anew {
        node: usize,
    },
    Fault,
    Start {
        node: usize,
    },
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

struct Simulation {
    randomness: SharedRandomness,
    now: Duration,
    order: u64,
    events: BinaryHeap<Event>,
    nodes: Vec<Node>,
    /// Cut off from the others.
    cut: Option<usize>,
    faults: bool,
    /// Whether clocks jump in this schedule, and whether disks take their time.
    jumps: bool,
    slow: bool,
    /// Whether nobody takes the lead that is handed over.
    unwilling: bool,
    /// The member that is being removed.
    leaving: Option<usize>,
    asked: HashMap<u64, (usize, u64, Asked)>,
    next: u64,
    /// Value written, by what was told of it: the revision, or `None` for an unknown outcome.
    told: BTreeMap<String, Option<u64>>,
    seen: Seen,
    leaders: HashMap<u64, u64>,
    /// For whom a member has voted in a term.
    votes: HashMap<(u64, u64), u64>,
    /// What is wrong with the members on purpose.
    broken: Broken,
    /// Leases granted, with the earliest time that they may end.
    leases: HashMap<i64, Duration>,
    ended: u64,
    counts: Counts,
}

/// What came about, over many schedules.
#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    removed: u64,
    handed_over: u64,
    rotated: u64,
    /// Members that were started as a later version while others were not yet.
    upgraded: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.removed += other.removed;
        self.handed_over += other.handed_over;
        self.rotated += other.rotated;
        self.upgraded += other.upgraded;
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let randomness: SharedRandomness = Arc::new(SeededRandomness::new(seed));
        let nodes = (0..MEMBERS)
            .map(|index| Node {
                id: 100 + index as u64,
                disk: SimulatedDisk::new(Arc::new(SeededRandomness::new(randomness.u64()))),
                running: None,
                start: 0,
                ahead: ms(randomness.below(1_000_000)),
                joined: index == 0,
                level: if randomness.below(2) == 0 { level::FIRST } else { level::LATEST },
            })
            .collect();
        let (jumps, slow) = (randomness.below(3) == 0, randomness.below(4) == 0);
        let mut simulation = Self {
            randomness,
            now: Duration::ZERO,
            order: 0,
            events: BinaryHeap::new(),
            nodes,
            cut: None,
            faults: true,
            jumps,
            slow,
            unwilling: false,
            leaving: None,
            asked: HashMap::new(),
            next: 0,
            told: BTreeMap::new(),
            seen: Seen::default(),
            leaders: HashMap::new(),
            votes: HashMap::new(),
            broken: Broken::NotAtAll,
            leases: HashMap::new(),
            ended: 0,
            counts: Counts::default(),
        };
        let first = simulation.member(0);
        let options = simulation.options(0);
        store_raft::found(Path::new(DIRECTORY), &options, first, None).unwrap();
        simulation.start(0);
        for joiner in 1..MEMBERS {
            simulation.start(joiner);
            let at = ms(simulation.randomness.below(3_000));
            simulation.after(at, What::Join { joiner });
        }
        simulation.after(ms(50), What::Client);
        simulation.after(ms(500), What::Fault);
        for node in 0..MEMBERS {
            // Later than some, so that old and new ones work together.
            let at = ms(4_000 + simulation.randomness.below(4_000));
            simulation.after(at, What::Upgrade { node });
        }
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
            // The smallest that there are: the log goes through many.
            segment_bytes: 1,
            ..Options::default()
        }
    }

    fn chance(&self, of: u64) -> bool {
        self.randomness.below(of) == 0
    }

    /// Any of the members.
    fn any(&self) -> usize {
        self.randomness.below(MEMBERS as u64) as usize
    }

    fn after(&mut self, wait: Duration, what: What) {
        self.order += 1;
        self.events.push(Event { at: self.now + wait, order: self.order, what });
    }

    fn clock(&self, index: usize) -> Duration {
        self.now + self.nodes[index].ahead
    }

    fn is_running(&self, node: usize, start: u64) -> bool {
        self.nodes[node].start == start && self.nodes[node].running.is_some()
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
            What::Deliver { node, message, checkpoint, by } => self.deliver(node, message, checkpoint, by),
            What::Persist { node, start } if self.is_running(node, start) => self.persist(node),
            What::Release { node, start, index } if self.is_running(node, start) => self.release(node, index),
            What::Upkeep { node, start, checkpoint } if self.is_running(node, start) => {
                self.upkeep(node, checkpoint);
            }
            What::Removed { node, start } if self.is_running(node, start) => {
                if let Some(running) = &mut self.nodes[node].running {
                    running.core.told_removed();
                }
                self.poll(node);
            }
            What::Crash { node, start } if self.faults && self.is_running(node, start) => self.crash(node),
            What::Upgrade { node } => self.upgrade(node),
            What::Room { node } => self.nodes[node].disk.set_room(u64::MAX),
            What::Client => self.client(),
            What::Join { joiner } => {
                let through = (joiner + 1 + self.randomness.below(2) as usize) % MEMBERS;
                if self.nodes[through].joined && self.nodes[through].running.is_some() {
                    self.ask(through, Asked::Join { joiner });
                } else {
                    self.after(ms(50), What::Join { joiner });
                }
            }
            What::Remove { victim } => {
                // Sometimes it is asked itself.
                let through = self.any();
                if self.nodes[through].joined && self.nodes[through].running.is_some() {
                    self.ask(through, Asked::Remove { victim });
                } else {
                    self.after(ms(50), What::Remove { victim });
                }
            }
            What::Anew { node } => self.anew(node),
            What::Start { node } => self.start(node),
            What::Fault if self.faults => {
                self.fault();
                let wait = ms(self.randomness.below(1_500));
                self.after(wait, What::Fault);
            }
            _ => {}
        }
        true
    }

    fn fault(&mut self) {
        let victim = self.any();
        match self.randomness.below(13) {
            0 | 1 => self.crash(victim),
            2 | 3 => self.cut = Some(victim),
            4 if self.jumps => self.nodes[victim].ahead += ms(self.randomness.below(60_000)),
            5 if self.chance(3) => (0..MEMBERS).for_each(|node| self.crash(node)),
            6..=8 => {
                let faults = [Fault::Refused, Fault::ShortWrite, Fault::Full, Fault::PowerLoss];
                let fault = faults[self.randomness.below(4) as usize];
                self.nodes[victim].disk.arm(self.randomness.below(30), fault);
            }
            9 => {
                let disk = &self.nodes[victim].disk;
                disk.set_room(disk.used() + self.randomness.below(4_000));
                let wait = ms(self.randomness.below(3_000));
                self.after(wait, What::Room { node: victim });
            }
            10 => {
                let now = self.clock(victim);
                if let Some(running) = &mut self.nodes[victim].running {
                    self.counts.handed_over += u64::from(running.core.leads());
                    running.core.hand_over(now);
                }
                self.poll(victim);
            }
            11 if self.leaving.is_none() && self.nodes.iter().all(|node| node.joined) => {
                self.leaving = Some(victim);
                self.after(ms(0), What::Remove { victim });
            }
            _ => self.cut = None,
        }
    }

    fn run_until(&mut self, end: Duration) {
        while self.events.peek().is_some_and(|event| event.at < end) && self.step() {}
        self.now = self.now.max(end);
    }

    fn run(mut self) -> Counts {
        self.run_until(Duration::from_secs(8));
        self.faults = false;
        self.cut = None;
        for node in 0..MEMBERS {
            self.nodes[node].disk.disarm();
            self.nodes[node].disk.set_room(u64::MAX);
            self.start(node);
        }
        let mut rounds = 0;
        while rounds < 2 || self.leaving.is_some() || !self.is_settled() {
            let end = self.now + Duration::from_secs(2);
            self.run_until(end);
            rounds += 1;
            assert!(rounds < 40, "not everybody votes: {:#?}", self.stand());
        }
        self.judge();
        for node in &self.nodes {
            for (fault, count) in node.disk.struck() {
                *self.counts.faults.entry(fault).or_default() += count;
            }
        }
        self.counts
    }
}

fn run(seed: u64) -> Counts {
    let result = std::panic::catch_unwind(|| Simulation::new(seed).run());
    result.unwrap_or_else(|_| panic!("run it alone with IRONCLAD_SEED={seed}"))
}

impl Simulation {
    /// Where the members stand, for whoever looks for a fault.
    fn stand(&self) -> Vec<String> {
        let stand = |(index, node): (usize, &Node)| {
            let joined = node.joined;
            match &node.running {
                None => format!("{index}: {} is down, joined: {joined}", node.id),
                Some(running) => {
                    let standing = running.core.standing(self.clock(index));
                    let (waiting, refused) = (running.persists.len(), &running.refused);
                    format!(
                        "{index}: joined {joined}, {waiting} to persist ({refused:?}), leaving {:?}: {standing:?}",
                        self.leaving
                    )
                }
            }
        };
        self.nodes.iter().enumerate().map(stand).collect()
    }

    /// Whether everybody runs, votes, and knows who leads.
    fn is_settled(&self) -> bool {
        let settled = |(index, node): (usize, &Node)| {
            node.running.as_ref().is_some_and(|running| {
                let standing = running.core.standing(self.clock(index));
                let level = self.nodes.iter().map(|node| node.level).min();
                let agreed = self.faults || Some(standing.level) == level;
                node.joined && standing.leader != 0 && standing.voters.len() == MEMBERS && agreed
            })
        };
        self.nodes.iter().enumerate().all(settled)
    }

    fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.running.as_ref().is_some_and(|running| running.core.leads());
        self.nodes.iter().position(leads)
    }
}

/// `IRONCLAD_SCHEDULES` asks for more.
#[test]
fn a_thousand_schedules() {
    if let Ok(seed) = std::env::var("IRONCLAD_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let count =
        std::env::var("IRONCLAD_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000);
    // Halves on threads of their own.
    let mut all = Counts::default();
    std::thread::scope(|scope| {
        let half = |half: u64| move || (half..count).step_by(2).map(run).collect::<Vec<_>>();
        let halves: Vec<_> = (0..2).map(|number| scope.spawn(half(number))).collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).for_each(|counts| all.add(&counts));
    });
    eprintln!("{all:?}");
    // Most of it got through, whatever happened; and it did happen.
    assert!(all.answered > count * 50, "{all:?}");
    for (what, seen) in [
        ("removals", all.removed),
        ("hand-overs", all.handed_over),
        ("segments", all.rotated),
        ("upgrades", all.upgraded),
    ] {
        assert!(seen * 10 > count, "hardly any {what}: {all:?}");
    }
    for fault in ["refused", "short write", "full", "power loss"] {
        assert!(
            all.faults.get(fault).is_some_and(|struck| struck * 20 > count),
            "hardly any {fault}: {all:?}"
        );
    }
}
