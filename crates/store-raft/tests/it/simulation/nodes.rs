//! Members on their simulated disks and network: started, crashed, and what they want done.
//!
//! The part of the executor that `member` has threads and sockets for. Not here: what is asked of them.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foundation::SeededRandomness;
use raft::eraftpb::{Message, MessageType};
use store::embedded::disk::Disk;
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::{Error, WatchRequest};
use store_raft::core::{Core, Output, Settings, describe};
use store_raft::keeper::Keeper;
use store_raft::level::{self, Level};

use super::broken::Broken;
use super::{DIRECTORY, Running, Simulation, What, ms};

/// The pause after a disk has refused.
const AGAIN: Duration = Duration::from_secs(1);

impl Simulation {
    pub(super) fn start(&mut self, index: usize) {
        if self.nodes[index].running.is_some() {
            return;
        }
        let recovered = match Keeper::open(Path::new(DIRECTORY), &self.options(index)) {
            Ok(recovered) => recovered,
            // Whoever runs it starts it again.
            Err(Error::Io { .. } | Error::NoSpace) => return self.down(index),
            Err(error) => panic!("member {index} cannot be opened: {error}"),
        };
        let settings = Settings {
            id: self.nodes[index].id,
            incarnation: self.randomness.u64(),
            patience: Duration::from_secs(5),
            checkpoint_bytes: 4_000,
            keep_bytes: self.randomness.below(3) * 1_000,
            level: self.nodes[index].level,
        };
        let now = self.clock(index);
        let replica = recovered.replica.clone();
        let core = Core::new(settings, replica.clone(), recovered.hard, recovered.entries, now).unwrap();
        let leases = replica.watch(WatchRequest::prefix("lease/", 0)).unwrap();
        let running = Running {
            core,
            keeper: recovered.keeper,
            replica,
            persists: VecDeque::new(),
            received: HashMap::new(),
            gone: Vec::new(),
            leases,
            refused: None,
        };
        self.nodes[index].running = Some(running);
        self.nodes[index].start += 1;
        let start = self.nodes[index].start;
        let first = ms(self.randomness.below(100));
        self.after(first, What::Tick { node: index, start });
        if self.faults && self.chance(4) {
            // Before much of what it does first can be durable.
            let wait = ms(self.randomness.below(60));
            self.after(wait, What::Crash { node: index, start });
        }
        self.poll(index);
    }

    /// The process is killed, or its machine loses its power.
    pub(super) fn crash(&mut self, index: usize) {
        if self.nodes[index].running.is_some() {
            self.down(index);
        }
    }

    fn down(&mut self, index: usize) {
        self.nodes[index].running = None;
        let disk = &self.nodes[index].disk;
        disk.disarm();
        match disk.is_off() || self.chance(2) {
            true => disk.lose_power(),
            false => disk.kill(),
        }
        self.lose_callers(index);
        let wait = ms(self.randomness.below(3_000));
        self.after(wait, What::Start { node: index });
    }

    /// A member is started as the latest version, if it was not.
    pub(super) fn upgrade(&mut self, index: usize) {
        if std::mem::replace(&mut self.nodes[index].level, level::LATEST) == level::LATEST {
            return;
        }
        let behind = self.nodes.iter().any(|node| node.level != level::LATEST);
        self.counts.upgraded += u64::from(behind);
        self.crash(index);
    }

    /// A member that was removed is made anew, as another one with an empty disk.
    pub(super) fn anew(&mut self, index: usize) {
        self.nodes[index].running = None;
        self.lose_callers(index);
        for (fault, count) in self.nodes[index].disk.struck() {
            *self.counts.faults.entry(fault).or_default() += count;
        }
        let node = &mut self.nodes[index];
        node.disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(self.randomness.u64())));
        node.id += super::MEMBERS as u64;
        // Of an earlier one it would not be taken on.
        node.level = level::LATEST;
        self.leaving = None;
        self.start(index);
        self.after(ms(0), What::Join { joiner: index });
    }

    pub(super) fn poll(&mut self, index: usize) {
        self.carry_out(index);
        self.watch_leases(index);
        if self.nodes[index].disk.is_off() {
            self.crash(index);
        }
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
        let mut lied = false;
        for output in outputs {
            // Carrying it out may have been too much for the disk.
            if !self.is_running(index, start) {
                return;
            }
            match output {
                Output::Send(message) => self.send(index, message),
                Output::Persist(persist) => {
                    let Some(running) = &mut self.nodes[index].running else { return };
                    if self.broken.says_that_it_is_durable(&persist, &running.persists) {
                        running.core.persisted(persist.number);
                        lied = true;
                    }
                    running.persists.push_back(persist);
                    let slow =
                        if self.faults && self.chance(if self.slow { 4 } else { 50 }) { 2_000 } else { 5 };
                    let wait = ms(self.randomness.below(slow));
                    self.after(wait, What::Persist { node: index, start });
                }
                Output::Answer(request, result) => self.answered(index, request, result),
                Output::Members { gone, .. } => {
                    let Some(running) = &mut self.nodes[index].running else { return };
                    running.gone = gone;
                }
                Output::Upkeep { checkpoint } => {
                    let wait = ms(self.randomness.below(200));
                    self.after(wait, What::Upkeep { node: index, start, checkpoint });
                }
                Output::Release(released) => self.release(index, released),
                // It had asked to join before the others had agreed on what it does not understand, and does not vote yet.
                Output::Failed(why)
                    if self.nodes[index].level == level::FIRST && !standing.voters.contains(&standing.id) =>
                {
                    assert!(why.contains("upgrade"), "member {index}: {why}");
                    return self.upgrade(index);
                }
                Output::Failed(why) => panic!("member {index}: {why}"),
            }
        }
        if lied {
            self.carry_out(index);
        }
    }

    /// A member votes for one in a term, and for itself when it asks others.
    fn note_vote(&mut self, message: &Message) {
        let voted = match message.get_msg_type() {
            MessageType::MsgRequestVote => message.from,
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            _ => return,
        };
        let first = *self.votes.entry((message.from, message.term)).or_insert(voted);
        assert_eq!(first, voted, "member {} has voted twice in term {}", message.from, message.term);
    }

    fn send(&mut self, from: usize, mut message: Message) {
        self.note_vote(&message);
        let Some(to) = self.nodes.iter().position(|node| node.id == message.to) else { return };
        let Some(running) = &mut self.nodes[from].running else { return };
        let mut checkpoint = None;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let read = running.replica.read_checkpoint();
            let Ok(Some((position, mut file))) = read else {
                return running.core.snapshot_sent(message.to, false);
            };
            describe(&mut message, &position);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            checkpoint = Some(bytes);
        }
        if self.unwilling && message.get_msg_type() == MessageType::MsgTimeoutNow {
            return;
        }
        let apart = self.cut.is_some_and(|cut| (cut == from) != (cut == to));
        let lost = apart || self.faults && self.chance(20);
        if let (Some(running), true) = (&mut self.nodes[from].running, checkpoint.is_some()) {
            // The transport sees whether it got through.
            running.core.snapshot_sent(message.to, !lost);
        }
        if let Some(forged) = self.broken.forged(&message, lost) {
            let by = (forged.from, self.nodes[to].level);
            self.after(ms(1), What::Deliver { node: from, message: forged, checkpoint: None, by });
        }
        if lost {
            return;
        }
        let (start, id) = (self.nodes[from].start, self.nodes[from].id);
        if self.nodes[to].running.as_ref().is_some_and(|running| running.gone.contains(&id)) {
            return self.after(ms(5), What::Removed { node: from, start });
        }
        // A proposal is handed over at most once, as the transport promises.
        let once = message.get_msg_type() == MessageType::MsgPropose && self.broken != Broken::ProposesTwice;
        let twice = !once && self.faults && self.chance(20);
        for _ in 0..=u8::from(twice) {
            let late = if self.faults && self.chance(30) { 3_000 } else { 20 };
            let wait = ms(1 + self.randomness.below(late));
            let (message, checkpoint) = (message.clone(), checkpoint.clone());
            let by = (id, self.nodes[from].level);
            self.after(wait, What::Deliver { node: to, message, checkpoint, by });
        }
    }

    pub(super) fn deliver(
        &mut self,
        node: usize,
        message: Message,
        checkpoint: Option<Vec<u8>>,
        by: (u64, Level),
    ) {
        let now = self.clock(node);
        if message.to != self.nodes[node].id || self.nodes[node].running.is_none() {
            return;
        }
        if let Some(bytes) = checkpoint {
            let index = message.get_snapshot().get_metadata().index;
            self.next += 1;
            let path = Path::new(DIRECTORY).join(format!("received-{index}-{}", self.next));
            let written = write(&self.nodes[node].disk, &path, &bytes);
            if self.nodes[node].disk.is_off() {
                return self.crash(node);
            }
            if written.is_err() {
                return;
            }
            let Some(running) = &mut self.nodes[node].running else { return };
            running.received.insert(index, path);
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        let told = if self.broken == Broken::OverratesOthers { level::LATEST } else { by.1 };
        running.core.told_level(by.0, told);
        let term = running.core.standing(now).term;
        running.core.step(self.broken.twisted(message, term), now);
        self.poll(node);
    }

    pub(super) fn persist(&mut self, node: usize) {
        let now = self.clock(node);
        let Some(running) = &mut self.nodes[node].running else { return };
        // Some of what came meanwhile shares the sync.
        let count = 1 + self.randomness.below(running.persists.len().max(1) as u64) as usize;
        let work: Vec<_> = running.persists.drain(..count.min(running.persists.len())).collect();
        let Some(last) = work.last().map(|persist| persist.number) else { return };
        let received = running.received.clone();
        let done = running.keeper.persist(&work, |index| received.get(&index).cloned());
        if self.broken != Broken::KeepsQuietAboutTheDisk {
            running.core.disk_refuses(done.as_ref().err().cloned());
        }
        match done {
            Ok(installed) => {
                running.core.persisted(last);
                if let Some(position) = installed {
                    running.core.installed(&position, now);
                }
                if running.keeper.wants_spare() {
                    // It is tried again when the next is due.
                    let _ = running.keeper.upkeep().make_spare();
                    self.counts.rotated += 1;
                }
            }
            Err(error) => {
                running.refused = Some(error);
                for persist in work.into_iter().rev() {
                    running.persists.push_front(persist);
                }
                let start = self.nodes[node].start;
                self.after(AGAIN, What::Persist { node, start });
            }
        }
        self.poll(node);
    }

    pub(super) fn release(&mut self, node: usize, index: u64) {
        let Some(running) = &mut self.nodes[node].running else { return };
        match running.keeper.release(index) {
            // What does not go now goes with the next.
            Ok(Some(batch)) => drop(running.keeper.upkeep().release(batch)),
            Ok(None) => {}
            Err(_) => {
                let start = self.nodes[node].start;
                self.after(AGAIN, What::Release { node, start, index });
            }
        }
        if self.nodes[node].disk.is_off() {
            self.crash(node);
        }
    }

    pub(super) fn upkeep(&mut self, node: usize, checkpoint: bool) {
        let now = self.clock(node);
        let Some(running) = &mut self.nodes[node].running else { return };
        running.replica.drop_compacted();
        let trusts = self.broken == Broken::TrustsTheCheckpoint;
        if checkpoint && trusts {
            (0..8).for_each(|_| self.nodes[node].disk.arm(0, Fault::Lie));
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        let written = checkpoint.then(|| running.replica.checkpoint()).transpose();
        if trusts {
            self.nodes[node].disk.disarm();
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        match written {
            Ok(position) => running.core.upkeep_done(position),
            Err(_) => running.core.upkeep_failed(now),
        }
        self.poll(node);
    }
}

fn write(disk: &SimulatedDisk, path: &PathBuf, bytes: &[u8]) -> std::io::Result<()> {
    let file = disk.create(path)?;
    file.write_at(bytes, 0)?;
    file.sync()
}
