//! The thread that runs a member's part in the consensus.
//!
//! It owns the [`Core`]: takes what has come in, lets time tick, and carries out what the core wants done: to the disk's
//! threads (`disk`), to the transport, to whoever waits for an answer. Not here: decisions (`core`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raft::eraftpb::MessageType;

use super::disk::{self, DiskThreads, Job};
use super::inbox::Input;
use super::{Ended, NO_LEADER, Shared, Waiter};
use crate::Member;
use crate::core::{Change, Core, Output, describe};
use crate::transport::Transport;

/// The length of a tick; a new leader stands after 10 to 15 of them and two rounds between members.
const TICK: Duration = Duration::from_millis(100);
/// The pause before a member says again where it is now.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// How long what a member says of where it is is passed on: as long as it finds nobody who leads, it says it again.
const BELIEVED: Duration = Duration::from_secs(10);
/// How long a member that was removed goes on voting: those who are to agree on its removal may not know yet that they
/// have.
const LINGER: Duration = Duration::from_secs(3);

/// What runs on the member's thread.
pub(super) struct Worker {
    pub core: Core,
    pub disk: DiskThreads,
    pub transport: Arc<dyn Transport>,
    pub shared: Arc<Shared>,
    pub me: Member,
    /// When it last said where it is now.
    pub said: Option<Duration>,
    /// Who has said to be somewhere else than is recorded: where, and when it said so last.
    pub moved: HashMap<u64, (String, Duration)>,
    /// When it learned that it has been removed.
    pub removed: Option<Duration>,
    /// Whether it can be watched: somebody has led lately.
    pub watched: bool,
    /// The indexes of checkpoints that have just come.
    pub arrived: Vec<u64>,
    /// That of the last one that Raft wanted: the disk may still be at it.
    pub wanted: u64,
}

impl Worker {
    pub fn run(mut self) {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work()));
        if ended.is_err() {
            tracing::error!("the member's part in the consensus panicked: the store is shut down");
            self.shared.end(Ended::Failed("the member's part in the consensus panicked".to_owned()));
        }
        self.shared.end(Ended::Stopped);
        self.shared.inbox.close();
        if ended.is_ok() {
            // While it ran this was not worth a sync. Who looks at it when it is stopped has nobody else to ask.
            self.disk.job(Job::Persist(self.core.last_word()));
        }
        self.disk.stop();
        self.transport.close();
        self.shared.slots.close();
        self.shared.answers.lock().clear();
        self.shared.replica.close();
    }

    fn work(&mut self) {
        let clock = self.shared.clock.clone();
        let mut tick = clock.monotonic() + TICK;
        self.carry_out(clock.monotonic());
        while let Some(inputs) = self.shared.inbox.take(tick.saturating_sub(clock.monotonic())) {
            let now = clock.monotonic();
            for input in inputs {
                self.take(input, now);
            }
            if now >= tick {
                self.core.disk_refuses(self.shared.health.failing());
                self.core.tick(now);
                tick = now + TICK;
                self.say_where(now);
                self.notice_removal(now);
            }
            self.carry_out(now);
        }
    }

    fn take(&mut self, input: Input, now: Duration) {
        match input {
            Input::Propose(request, command) => self.core.propose(request, command, now),
            Input::Read(request) => self.core.read(request, now),
            Input::Change(request, change) => self.core.change(request, change, now),
            Input::Level(member, level) => self.core.told_level(member, level),
            Input::Join(member, level, sender) => {
                let request = self.shared.next.fetch_add(1, Ordering::Relaxed);
                self.shared.answers.lock().insert(request, Waiter { answer: sender, _slots: None });
                self.core.join(request, member, level, now);
            }
            Input::Message(message) => self.core.step(message, now),
            Input::Snapshot(message, file) => {
                self.shared.health.snapshots_received.inc();
                let index = message.get_snapshot().get_metadata().index;
                // One that is there already may be about to be installed.
                if let Some(twice) = self.disk.take_in(index, file) {
                    disk::give_up(&twice);
                }
                self.arrived.push(index);
                self.core.step(message, now);
            }
            Input::Removed => self.core.told_removed(),
            Input::Unreachable(member) => self.core.unreachable(member),
            Input::SnapshotSent(member, arrived) => self.core.snapshot_sent(member, arrived),
            Input::Persisted(number, installed) => {
                self.core.persisted(number);
                if let Some(position) = installed {
                    self.wanted = 0;
                    self.core.installed(&position, now);
                }
            }
            Input::UpkeepDone(position) => self.core.upkeep_done(position),
            Input::UpkeepFailed => self.core.upkeep_failed(now),
            Input::Moved { member, address } => drop(self.moved.insert(member, (address, now))),
            Input::HandOver => self.core.hand_over(now),
            Input::MoveLeader(to) => self.core.move_leader(to, now),
        }
    }

    fn carry_out(&mut self, now: Duration) {
        let outputs = self.core.poll(now);
        self.pass_over(&outputs);
        for output in outputs {
            match output {
                Output::Send(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                    self.send_snapshot(message);
                }
                Output::Send(message) => self.transport.send(message),
                Output::Persist(persist) => self.disk.job(Job::Persist(persist)),
                Output::Release(index) => self.disk.job(Job::Release(index)),
                Output::Upkeep { checkpoint } => self.disk.upkeep(checkpoint),
                Output::Members { members, gone } => self.transport.members(&members, &gone),
                Output::Failed(why) => {
                    tracing::error!(why, "the member cannot go on: the store is shut down");
                    self.shared.end(Ended::Failed(why));
                    self.shared.inbox.close();
                }
                Output::Answer(request, result) => {
                    if let Some(waiter) = self.shared.answers.lock().remove(&request) {
                        // A caller that has gone away does not want to know.
                        let _ = waiter.answer.send(result);
                    }
                }
            }
        }
        *self.shared.time.lock() = (self.core.time(now), now);
        let standing = self.core.standing(now);
        self.shared.health.observe(&standing, now);
        let watched = self.shared.health.without_leader(now).is_none();
        if std::mem::replace(&mut self.watched, watched) && !watched {
            tracing::warn!("no member of the store has led for a while: watches end");
            self.shared.replica.end_watches(&NO_LEADER);
        }
        self.shared.standing.send_if_modified(|known| {
            // How far the log has come is looked at, not waited for.
            let news = (known.leader, known.term) != (standing.leader, standing.term)
                || known.members != standing.members
                || (&known.voters, known.level) != (&standing.voters, standing.level)
                || known.removed != standing.removed;
            *known = standing;
            news
        });
    }

    /// Gives up the checkpoints that have come and that Raft has no use for: out of date, or of an earlier leader.
    fn pass_over(&mut self, outputs: &[Output]) {
        for index in self.arrived.drain(..) {
            let wanted = |output: &Output| match output {
                Output::Persist(persist) => persist.snapshot.as_ref().is_some_and(|it| it.index == index),
                _ => false,
            };
            if outputs.iter().any(wanted) {
                self.wanted = index;
            } else if self.wanted != index {
                self.disk.pass_over(index);
            }
        }
    }

    fn send_snapshot(&mut self, mut message: raft::eraftpb::Message) {
        match self.shared.replica.read_checkpoint() {
            Ok(Some((position, checkpoint))) => {
                describe(&mut message, &position);
                self.shared.health.snapshots_sent.inc();
                self.transport.send_snapshot(message, checkpoint);
            }
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "the checkpoint cannot be sent");
                }
                self.core.snapshot_sent(message.to, false);
            }
        }
    }

    /// Has the others know where this member is now, and those that have told this one alone, if that is not what they
    /// know.
    fn say_where(&mut self, now: Duration) {
        let standing = self.shared.standing.borrow();
        if standing.leader == 0 || self.said.is_some_and(|said| now < said + SAY_AGAIN) {
            return;
        }
        let known = |id: u64| standing.members.iter().find(|member| member.id == id);
        let mut moved: Vec<Member> = known(self.me.id)
            .filter(|known| **known != self.me)
            .map(|_| self.me.clone())
            .into_iter()
            .collect();
        self.moved.retain(|id, (address, said)| {
            now < *said + BELIEVED && known(*id).is_none_or(|known| known.address != *address)
        });
        for (id, (address, _)) in &self.moved {
            moved.extend(known(*id).map(|known| Member { address: address.clone(), ..known.clone() }));
        }
        drop(standing);
        if !moved.is_empty() {
            self.said = Some(now);
        }
        for member in moved {
            // Nobody waits for it: it is said again.
            self.core.change(0, Change::Update(member), now);
        }
    }

    /// Says that it has been removed, once the others have had the time to go on without its vote.
    fn notice_removal(&mut self, now: Duration) {
        if self.shared.standing.borrow().removed && now >= *self.removed.get_or_insert(now) + LINGER {
            self.shared.end(Ended::Removed);
        }
    }
}
