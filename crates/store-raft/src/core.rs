//! One member's part in the consensus, as a machine without I/O: messages and time in, commands to the executor out.
//!
//! Reads nothing and writes nothing but the state in memory ([`Replica`]). Whoever drives a [`Core`] calls one of its
//! inputs and then [`Core::poll`], carries out the [`Output`]s in order, and says when what had to be made durable is
//! ([`Core::persisted`]). So the same code runs on threads and sockets (`member`) and in a simulation on virtual time
//! (`tests/it/simulation.rs`).
//!
//! A write is proposed as an [`Envelope`], by whichever member was asked; the leader appends it, every member applies it
//! in the order of the log, and the one that was asked answers with what came out of it *there*: all come to the same.
//! Reads ask the leader how far the log is committed and wait until that is applied here. Parts: `applying` (what
//! is committed), `requests` (who waits for what), `duties` (what only the leader does), `removal` (who may leave),
//! `interface` (what goes in and comes out).
//!
//! Upstream: etcd's `server/etcdserver` over the same algorithm.

mod applying;
mod duties;
mod interface;
mod removal;
mod requests;
mod time;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, SnapshotMetadata};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use store::Error;
use store::embedded::replica::{Command, Position, Replica};

use crate::entry::stamp;
use crate::level::Level;
use crate::membership::{Member, Membership};
use crate::tail::Tail;
pub use interface::{Change, Output, Persist, Reply, Request, Settings, Standing};
use requests::{Asked, Reads, Requests};
use time::SharedTime;

/// Ticks without a word from a leader after which a member wants to become one, at the least; at most half as many
/// more, so that rarely two want to at once. With ticks of 100 ms a new leader stands in well under two seconds.
const ELECTION_TICKS: usize = 10;
/// Entries in one message, in bytes.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages on their way to one follower.
const IN_FLIGHT: usize = 256;
/// Entries that wait to be committed, in bytes; more are not taken on until some are.
const UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Entries applied at once, in bytes.
const APPLY_BYTES: u64 = 8 << 20;
/// How long the leader may hear nothing of a member, which answers its word every tick, before that is worth saying.
const SILENT: Duration = Duration::from_secs(5);

/// Messages that may be sent once what came before them is durable.
struct Held {
    number: u64,
    messages: Vec<Message>,
    /// Something of it is to be made durable itself.
    persist: bool,
}

/// A member's part in the consensus.
pub struct Core {
    node: RawNode<Tail>,
    replica: Arc<Replica>,
    settings: Settings,
    membership: Membership,
    time: SharedTime,
    requests: Requests,
    reads: Reads,
    held: VecDeque<Held>,
    outputs: Vec<Output>,
    leader: u64,
    /// The last term in which this member led, and since when.
    led: u64,
    led_since: Duration,
    /// When each member was last heard of.
    heard: HashMap<u64, Duration>,
    /// What each member has said that it understands.
    levels: HashMap<u64, Level>,
    removed: bool,
    /// It has come to something that it does not understand.
    failed: bool,
    /// A checkpoint or the like is being worked on.
    upkeep: bool,
    /// How often in a row that failed, and when it may be tried again.
    upkeep_failures: u32,
    upkeep_from: Duration,
    duties: duties::Duties,
}

impl Core {
    /// A member as it was when it stopped: its state as of the checkpoint, the rest of it in the log.
    pub fn new(
        settings: Settings,
        replica: Arc<Replica>,
        hard: HardState,
        entries: Vec<Entry>,
        now: Duration,
    ) -> Result<Self, Error> {
        let position = replica.position();
        let membership = Membership::decode(position.attachment.clone()).ok_or(Error::Unavailable(
            "the checkpoint says nothing of the members that this version understands",
        ))?;
        if membership.level > settings.level {
            return Err(Error::Unavailable(LATER));
        }
        let tail = Tail::new(hard, metadata(&position, &membership), entries);
        let config = Config {
            id: settings.id,
            applied: position.index,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS + ELECTION_TICKS / 2,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: APPLY_BYTES,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let node = RawNode::new(&config, tail, &crate::logging::logger()).map_err(|error| {
            tracing::error!(%error, "the log cannot be gone on with");
            Error::Unavailable("the log cannot be gone on with")
        })?;
        let time = SharedTime::from(replica.time(), now);
        let mut core = Self {
            node,
            replica,
            settings,
            membership,
            time,
            requests: Requests::default(),
            reads: Reads::default(),
            held: VecDeque::new(),
            outputs: Vec::new(),
            leader: 0,
            led: 0,
            led_since: now,
            heard: HashMap::new(),
            levels: HashMap::new(),
            removed: false,
            failed: false,
            upkeep: false,
            upkeep_failures: 0,
            upkeep_from: now,
            duties: duties::Duties::default(),
        };
        core.tell_members();
        if core.membership.conf.voters == [core.settings.id] {
            // Nobody else to wait for.
            let _ = core.node.campaign();
        }
        core.stepped(now);
        Ok(core)
    }

    /// Where this member stands.
    pub fn standing(&self, now: Duration) -> Standing {
        let silent = |id: &u64| self.hears(*id, now) == Some(false);
        Standing {
            id: self.settings.id,
            leader: self.node.raft.leader_id,
            term: self.node.raft.term,
            committed: self.node.raft.raft_log.committed,
            applied: self.node.raft.raft_log.applied,
            members: self.membership.members.values().cloned().collect(),
            voters: self.membership.conf.voters.clone(),
            removed: self.removed,
            level: self.membership.level,
            silent: match self.leads() {
                true => self.membership.members.keys().copied().filter(silent).collect(),
                false => Vec::new(),
            },
        }
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The time of the replicated state, as far as it is known here.
    pub fn time(&self, now: Duration) -> Duration {
        self.time.at(now)
    }

    /// A tick of time has passed. To be called once, however long it was: a member that slept through ten of them has
    /// not heard ten times nothing from its leader.
    pub fn tick(&mut self, now: Duration) {
        self.node.tick();
        self.stepped(now);
        const LATE: Error = Error::Unavailable(store::unavailable::UNDECIDED);
        for request in self.requests.late(now) {
            let why = self.duties.unfit.clone().unwrap_or(LATE);
            self.answer(request, Err(why));
        }
        for request in self.reads.late(now) {
            self.answer(request, Err(LATE));
        }
        if self.reads.is_stale(now) {
            self.ask_for_reads(now);
        }
    }

    /// A message from another member. A snapshot's checkpoint must be at hand already.
    pub fn step(&mut self, message: Message, now: Duration) {
        if self.leads() {
            self.heard.insert(message.from, now);
        }
        if !self.takes_refusal(&message) {
            self.take_in(message, now);
        }
    }

    /// Has a message do what it is to: at once, or after others.
    fn take_in(&mut self, mut message: Message, now: Duration) {
        if message.get_msg_type() == MessageType::MsgPropose && self.leads() {
            let changes = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
            if self.node.raft.has_pending_conf() && message.entries.iter().any(changes) {
                // Raft would put nothing in the place of a second change on its way.
                return self.duties.put_off(message);
            }
            if let Some((id, proposal)) = message.entries.iter().find_map(removal::of) {
                match (self.can_lose(id, now), proposal) {
                    (None, _) => return self.duties.put_off(message),
                    (Some(false), Some(proposal)) => return self.refuse(&proposal),
                    (Some(false), None) => return,
                    // Its successor does it, when it is asked again.
                    (Some(true), _) if id == self.settings.id => return self.hand_over(now),
                    (Some(true), _) => {}
                }
            }
            let time = self.time.at(now);
            for entry in message.mut_entries().iter_mut().filter(|entry| !entry.data.is_empty()) {
                if entry.get_entry_type() == EntryType::EntryNormal {
                    entry.data = stamp(&entry.data, time);
                }
            }
        }
        match self.node.step(message) {
            Ok(()) => {}
            // From a member that has left, or a forwarded proposal that has come to the wrong place: its proposer is
            // told when its patience ends.
            Err(error) => tracing::debug!(%error, "passed over a message"),
        }
        self.stepped(now);
    }

    /// Proposes a write.
    pub fn propose(&mut self, request: Request, command: Command, now: Duration) {
        self.ask(Some(request), Asked::Command(command), now);
    }

    /// Asks when everything acknowledged before can be read here.
    pub fn read(&mut self, request: Request, now: Duration) {
        if self.removed {
            return self.answer(request, Err(REMOVED));
        }
        self.reads.gather(request, now + self.settings.patience);
        if !self.reads.is_asking() {
            self.ask_for_reads(now);
        }
    }

    /// Another member says what it understands.
    pub fn told_level(&mut self, member: u64, level: Level) {
        self.levels.insert(member, level);
    }

    /// As [`Core::change`], for somebody who asks to become a member and understands what is of this level.
    pub fn join(&mut self, request: Request, member: Member, level: Level, now: Duration) {
        if level < self.membership.level {
            return self.answer(request, Err(Error::Invalid(LATER)));
        }
        self.change(request, Change::Add(member), now);
    }

    /// Proposes a change of the members.
    pub fn change(&mut self, request: Request, change: Change, now: Duration) {
        let members = &self.membership;
        // One that is known already only says where it is: adding it would take its vote away.
        let change = match change {
            Change::Add(member) if members.members.contains_key(&member.id) => Change::Update(member),
            other => other,
        };
        if members.has(&change) {
            return self.answer(request, Ok(Reply::Changed));
        }
        if let Change::Add(member) = &change
            && members.gone.contains(&member.id)
        {
            let why =
                "a member with this id was removed: it joins anew with an empty directory, as another one";
            return self.answer(request, Err(Error::Invalid(why)));
        }
        // The same machine with another disk: what it was before would go on counting for the majority, and never come.
        if let Change::Add(member) = &change
            && members.members.values().any(|it| it.name == member.name || it.address == member.address)
        {
            let why = "the cluster has a member with this name or address already: if that is gone for good, it has to be \
                       removed before this one joins (ironclad member remove)";
            return self.answer(request, Err(Error::Invalid(why)));
        }
        if let Change::Remove(id) = change
            && members.conf.voters == [id]
        {
            return self.answer(request, Err(Error::Invalid("the only voting member cannot leave")));
        }
        self.ask(Some(request), Asked::Change(change), now);
    }

    /// Everything up to this [`Persist`] is durable.
    pub fn persisted(&mut self, number: u64) {
        let mut last = None;
        while let Some(held) = self.held.front()
            && (held.number <= number || !held.persist)
        {
            last = Some(held.number);
            let messages = self.held.pop_front().map(|held| held.messages).unwrap_or_default();
            self.outputs.extend(messages.into_iter().map(Output::Send));
        }
        if let Some(last) = last {
            self.node.on_persist_ready(last);
        }
    }

    /// Term, vote and how far the log is agreed on, to be made durable after everything else: for a member that stops.
    pub fn last_word(&self) -> Persist {
        Persist { hard: self.node.store().hard.clone(), ..Persist::default() }
    }

    /// Another member says that this one has been removed.
    pub fn told_removed(&mut self) {
        if self.removed {
            return;
        }
        self.removed = true;
        tracing::warn!("this member has been removed from the cluster");
        self.fail_before(u64::MAX, "this member has been removed from the cluster");
        for request in self.requests.take_waiting().into_iter().chain(self.reads.take_unanswered()) {
            self.answer(request, Err(REMOVED));
        }
    }

    /// A member cannot be reached. What was forwarded to it may be lost.
    pub fn unreachable(&mut self, member: u64) {
        self.node.report_unreachable(member);
        if member == self.node.raft.leader_id {
            self.fail_before(u64::MAX, store::unavailable::LEADER_SILENT);
        }
    }

    /// What became of a snapshot that was to be sent.
    pub fn snapshot_sent(&mut self, member: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(member, status);
    }

    /// The work in the background is done; with where the new checkpoint stands, if there is one.
    pub fn upkeep_done(&mut self, checkpoint: Option<Position>) {
        self.upkeep = false;
        self.upkeep_failures = 0;
        let Some(position) = checkpoint else { return };
        let Some(membership) = Membership::decode(position.attachment.clone()) else { return };
        let keep = self.settings.keep_bytes;
        let released = self.node.mut_store().checkpointed(metadata(&position, &membership), keep);
        self.outputs.push(Output::Release(released));
    }

    /// The work in the background has failed: it is tried again after a while, a longer one each time.
    pub fn upkeep_failed(&mut self, now: Duration) {
        self.upkeep = false;
        self.upkeep_from =
            now + UPKEEP_PAUSE.0.saturating_mul(1 << self.upkeep_failures.min(16)).min(UPKEEP_PAUSE.1);
        self.upkeep_failures += 1;
    }

    /// Hands the lead to another member, as soon as there is one that can take it: before this one stops, or is removed.
    /// Given up when it takes longer than a request may.
    pub fn hand_over(&mut self, now: Duration) {
        self.duties.retires = Some(now + self.settings.patience);
    }

    /// Why this member's disk refuses, if it does. It leads only as long as nobody else can, and tells those who write why
    /// they cannot.
    pub fn disk_refuses(&mut self, why: Option<Error>) {
        self.duties.unfit = why;
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Duration) -> Vec<Output> {
        while !self.failed {
            self.stepped(now);
            self.take_up_waiting(now);
            if self.leads() {
                self.lead(now);
            }
            if !self.node.has_ready() {
                break;
            }
            self.ready(now);
            self.stepped(now);
        }
        self.consider_upkeep(now);
        std::mem::take(&mut self.outputs)
    }

    fn ready(&mut self, now: Duration) {
        let mut ready = self.node.ready();
        let number = ready.number();
        let led = ready.ss().is_some();
        let mut sent = ready.take_messages();
        // A leader's entries may go out before they are durable, because its term is: others have voted. One that votes
        // alone has asked nobody, and after a crash would give the same term to other entries, which its learners would
        // not tell apart.
        let mut waiting = match self.membership.conf.voters == [self.settings.id] {
            true => std::mem::take(&mut sent),
            false => Vec::new(),
        };
        self.outputs.extend(sent.into_iter().map(Output::Send));
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        if let Some(metadata) = &snapshot {
            self.node.mut_store().restore(metadata);
        }
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        if let Some(hard) = ready.hs() {
            self.node.mut_store().hard = hard.clone();
        }
        let reads = ready.take_read_states();
        let committed = ready.take_committed_entries();
        waiting.extend(ready.take_persisted_messages());
        let messages = waiting;
        // A commitment alone need not be durable: it is found again.
        let persist = ready.must_sync();
        self.node.advance_append_async(ready);
        if persist {
            let hard = self.node.store().hard.clone();
            self.outputs.push(Output::Persist(Persist { number, hard, entries, snapshot }));
        }
        self.held.push_back(Held { number, messages, persist });
        // Lets go at once of what waits for nothing.
        if self.held.iter().all(|held| !held.persist) {
            self.persisted(number);
        }
        self.apply(committed, now);
        if self.failed {
            return;
        }
        for read in reads {
            self.reads.settle(&read.request_ctx, read.index);
        }
        self.answer_reads(now);
        if led {
            self.leader_changed(now);
        }
    }

    fn answer(&mut self, request: Request, result: Result<Reply, Error>) {
        self.outputs.push(Output::Answer(request, result));
    }

    fn consider_upkeep(&mut self, now: Duration) {
        if self.upkeep || self.failed || now < self.upkeep_from {
            return;
        }
        let tail = self.node.store();
        let applied = self.node.raft.raft_log.applied;
        // As much log as state, as far as it fits into memory.
        let enough =
            (self.replica.live_bytes() / 2).clamp(self.settings.checkpoint_bytes, CHECKPOINT_BYTES_MAX);
        let checkpoint = applied > tail.checkpoint_index()
            && (tail.bytes_after_checkpoint() > enough || tail.wants_checkpoint());
        if checkpoint || self.replica.has_compacted() {
            self.upkeep = true;
            self.outputs.push(Output::Upkeep { checkpoint });
        }
    }

    /// Raft may be in another state than before.
    fn stepped(&mut self, now: Duration) {
        self.spread_elections();
        let term = self.node.raft.term;
        if self.leads() && self.led != term {
            self.led = term;
            self.led_since = now;
            self.heard.clear();
            self.duties.retires = None;
            self.duties.forget_put_off();
            self.time = SharedTime::from(self.replica.time(), now);
        }
    }

    /// Gives every member its own time until it stands for election, by its id and the term instead of Raft's own
    /// randomness: a simulation can be repeated, and two that wait equally long in one term do not in the next.
    fn spread_elections(&mut self) {
        let raft = &mut self.node.raft;
        let mixed = (self.settings.id ^ raft.term.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let extra = (mixed >> 33) as usize % (ELECTION_TICKS / 2);
        raft.set_randomized_election_timeout(ELECTION_TICKS + extra);
    }
}

/// However large the state is, the log after a checkpoint is kept in memory too.
const CHECKPOINT_BYTES_MAX: u64 = 128 << 20;
/// The pause after a checkpoint that failed, doubled each time up to the last.
const UPKEEP_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const LATER: &str = "the members have all been of a later version already: this one has to be upgraded";
const REMOVED: Error = Error::Unavailable("this member has been removed from the cluster");

/// Where a checkpoint stands, in Raft's words.
pub(crate) fn metadata(position: &Position, membership: &Membership) -> SnapshotMetadata {
    let mut metadata =
        SnapshotMetadata { index: position.index, term: position.term, ..SnapshotMetadata::default() };
    metadata.set_conf_state(membership.conf.clone());
    metadata
}

/// Makes a message that carries a snapshot say where the checkpoint that goes along stands: it may be newer than the
/// one that Raft had in mind.
pub fn describe(message: &mut Message, position: &Position) {
    if let Some(membership) = Membership::decode(position.attachment.clone()) {
        message.mut_snapshot().set_metadata(metadata(position, &membership));
    }
}
