//! Who waits for what: writes on their way through the log, writes that wait for a leader, and reads.
//!
//! Every request ends: by its outcome, by being known to be undecidable here (its leader was lost), or with its
//! patience. Not here: what applying an entry does (`core`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use raft::eraftpb::{ConfChange, ConfChangeType};
use store::embedded::replica::Command;
use store::{Error, unavailable};

use super::{Change, Core, Request};
use crate::entry::{Body, Envelope};
use crate::level::{Level, needed};
use crate::membership::Member;

/// How long a question of how far the log is committed may stay without an answer before it is asked again: the
/// leader may have been too new to know, or another one has come.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// What is to be brought into the log.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Command(Command),
    Change(Change),
    /// A learner has caught up.
    Promote(u64),
    /// All members understand what is of this level.
    Level(Level),
}

struct Waiting {
    request: Option<Request>,
    asked: Asked,
    deadline: Duration,
}

struct Proposed {
    request: Request,
    /// What it is, if it is a change of members.
    change: Option<Change>,
    /// Under whose leadership it was proposed, as far as was known here.
    term: u64,
    deadline: Duration,
}

/// The writes of this member's callers.
#[derive(Default)]
pub(super) struct Requests {
    sequence: u64,
    /// Not proposed: there was no leader, or it could not take them on.
    waiting: VecDeque<Waiting>,
    /// By their sequence.
    proposed: BTreeMap<u64, Proposed>,
}

impl Requests {
    /// Takes out those whose patience is at its end.
    pub fn late(&mut self, now: Duration) -> Vec<Request> {
        let mut late = Vec::new();
        self.waiting.retain(|waiting| {
            let keep = waiting.deadline > now;
            late.extend(waiting.request.filter(|_| !keep));
            keep
        });
        self.proposed.retain(|_, proposed| {
            let keep = proposed.deadline > now;
            late.extend((!keep).then_some(proposed.request));
            keep
        });
        late
    }
}

impl Requests {
    /// Takes out those that were not proposed.
    pub fn take_waiting(&mut self) -> Vec<Request> {
        self.waiting.drain(..).filter_map(|waiting| waiting.request).collect()
    }

    /// Takes out who waits for a removal that was proposed.
    pub fn take_removal(&mut self, sequence: u64) -> Option<Request> {
        let removes = |proposed: &Proposed| matches!(proposed.change, Some(Change::Remove(_)));
        self.proposed.get(&sequence).filter(|proposed| removes(proposed))?;
        self.proposed.remove(&sequence).map(|proposed| proposed.request)
    }
}

/// The reads of this member's callers.
#[derive(Default)]
pub(super) struct Reads {
    sequence: u64,
    /// Came after the question that is on its way: its answer is not good enough for them.
    gathered: Vec<(Request, Duration)>,
    asked: Option<Question>,
    /// May be answered once this index is applied.
    settled: BTreeMap<u64, Vec<(Request, Duration)>>,
}

struct Question {
    context: Vec<u8>,
    since: Duration,
    requests: Vec<(Request, Duration)>,
}

impl Reads {
    pub fn gather(&mut self, request: Request, deadline: Duration) {
        self.gathered.push((request, deadline));
    }

    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    pub fn is_stale(&self, now: Duration) -> bool {
        self.asked.as_ref().is_some_and(|asked| now >= asked.since + ASK_AGAIN)
            || (self.asked.is_none() && !self.gathered.is_empty())
    }

    /// The log is committed up to `index`, says the answer to a question.
    pub fn settle(&mut self, context: &[u8], index: u64) {
        // One that was asked again is answered by the later answer only.
        if let Some(asked) = self.asked.take_if(|asked| asked.context == context) {
            self.settled.entry(index).or_default().extend(asked.requests);
        }
    }

    /// Takes out all that wait.
    pub fn take_unanswered(&mut self) -> Vec<Request> {
        let asked = self.asked.take().map(|asked| asked.requests).unwrap_or_default();
        let waiting = asked.into_iter().chain(self.gathered.drain(..));
        let settled = std::mem::take(&mut self.settled).into_values().flatten();
        waiting.chain(settled).map(|(request, _)| request).collect()
    }

    fn ready(&mut self, applied: u64) -> Vec<Request> {
        let later = self.settled.split_off(&(applied + 1));
        let ready = std::mem::replace(&mut self.settled, later);
        ready.into_values().flatten().map(|(request, _)| request).collect()
    }

    /// Takes out those whose patience is at its end: nobody leads, or this member cannot carry out what it should.
    pub fn late(&mut self, now: Duration) -> Vec<Request> {
        let mut late = Vec::new();
        let mut keep = |(request, deadline): &(Request, Duration)| {
            let keep = *deadline > now;
            late.extend((!keep).then_some(*request));
            keep
        };
        self.gathered.retain(&mut keep);
        if let Some(asked) = &mut self.asked {
            asked.requests.retain(&mut keep);
        }
        self.settled.retain(|_, waiting| {
            waiting.retain(&mut keep);
            !waiting.is_empty()
        });
        if self.asked.as_ref().is_some_and(|asked| asked.requests.is_empty()) {
            self.asked = None;
        }
        late
    }
}

impl Core {
    /// Proposes, or waits for somebody to propose to.
    pub(super) fn ask(&mut self, request: Option<Request>, asked: Asked, now: Duration) {
        if self.removed {
            if let Some(request) = request {
                self.answer(request, Err(super::REMOVED));
            }
            return;
        }
        if let (Some(request), Some(why)) = (request, self.hopeless(now)) {
            return self.answer(request, Err(why));
        }
        // In their order, as long as there is one.
        let deadline = now + self.settings.patience;
        self.requests.waiting.push_back(Waiting { request, asked, deadline });
        self.take_up_waiting(now);
    }

    /// Proposes what waits, as far as there is a leader that takes it on.
    pub(super) fn take_up_waiting(&mut self, now: Duration) {
        let mut aside = Vec::new();
        while self.node.raft.leader_id != 0
            && let Some(waiting) = self.requests.waiting.pop_front()
        {
            let Err(waiting) = self.attempt(waiting, now) else { continue };
            match waiting.asked {
                // One at a time, and not of oneself while leading: what others want does not wait for it.
                Asked::Change(_) | Asked::Promote(_) => aside.push(waiting),
                Asked::Command(_) | Asked::Level(_) => {
                    self.requests.waiting.push_front(waiting);
                    break;
                }
            }
        }
        for waiting in aside.into_iter().rev() {
            self.requests.waiting.push_front(waiting);
        }
    }

    /// Proposes, or gives back what cannot be proposed now.
    fn attempt(&mut self, waiting: Waiting, now: Duration) -> Result<(), Waiting> {
        self.requests.sequence += 1;
        let sequence = self.requests.sequence;
        let envelope = |body| {
            Envelope {
                proposer: self.settings.id,
                incarnation: self.settings.incarnation,
                sequence,
                time: self.time.at(now),
                body,
            }
            .encode()
        };
        let leads = self.leads();
        let named = |id: u64| Member { id, ..Member::default() };
        let (kind, member) = match &waiting.asked {
            Asked::Level(level) => {
                let bytes = envelope(Body::Level(*level));
                return self.proposed(sequence, waiting, |core| core.node.propose(Vec::new(), bytes));
            }
            Asked::Command(command) if needed(command) > self.membership.level => {
                if let Some(request) = waiting.request {
                    let why = "not all members of the store understand this kind of write yet";
                    self.answer(request, Err(Error::Unavailable(why)));
                }
                return Ok(());
            }
            Asked::Command(command) => {
                let bytes = envelope(Body::Command(command.clone()));
                return self.proposed(sequence, waiting, |core| core.node.propose(Vec::new(), bytes));
            }
            Asked::Change(Change::Update(member)) => {
                let bytes = envelope(Body::Member(member.clone()));
                return self.proposed(sequence, waiting, |core| core.node.propose(Vec::new(), bytes));
            }
            // Who would be left is known once the change on its way is through.
            Asked::Change(Change::Remove(_)) if leads && self.node.raft.has_pending_conf() => {
                return Err(waiting);
            }
            Asked::Change(Change::Remove(id)) if leads && self.can_lose(*id, now) != Some(true) => {
                if self.can_lose(*id, now).is_none() {
                    return Err(waiting);
                }
                if let Some(request) = waiting.request {
                    self.answer(request, Err(Error::Unavailable(unavailable::UNHEARD)));
                }
                return Ok(());
            }
            Asked::Change(Change::Remove(id)) if leads && *id == self.settings.id => {
                // Its successor does it.
                self.hand_over(now);
                return Err(waiting);
            }
            Asked::Change(Change::Remove(id)) => (ConfChangeType::RemoveNode, named(*id)),
            Asked::Change(Change::Add(member)) => (ConfChangeType::AddLearnerNode, member.clone()),
            Asked::Promote(id) => (ConfChangeType::AddNode, named(*id)),
        };
        if leads && self.node.raft.has_pending_conf() {
            // Raft would put nothing in the place of a second change on its way.
            return Err(waiting);
        }
        let mut change = ConfChange { node_id: member.id, ..ConfChange::default() };
        change.set_change_type(kind);
        change.context = envelope(Body::Member(member)).into();
        self.proposed(sequence, waiting, |core| core.node.propose_conf_change(Vec::new(), change))
    }

    fn proposed(
        &mut self,
        sequence: u64,
        waiting: Waiting,
        propose: impl FnOnce(&mut Self) -> raft::Result<()>,
    ) -> Result<(), Waiting> {
        if propose(self).is_err() {
            return Err(waiting);
        }
        if let Some(request) = waiting.request {
            let change = match waiting.asked {
                Asked::Change(change) => Some(change),
                Asked::Command(_) | Asked::Promote(_) | Asked::Level(_) => None,
            };
            let (term, deadline) = (self.node.raft.term, waiting.deadline);
            let proposed = Proposed { request, change, term, deadline };
            self.requests.proposed.insert(sequence, proposed);
        }
        Ok(())
    }

    /// The caller that waits for an entry, if that is one of this member's.
    pub(super) fn waits_for(&mut self, envelope: &Envelope) -> Option<Request> {
        let own = envelope.proposer == self.settings.id && envelope.incarnation == self.settings.incarnation;
        let proposed = own.then(|| self.requests.proposed.remove(&envelope.sequence)).flatten();
        proposed.map(|proposed| proposed.request)
    }

    /// Tells those who wait for changes of members which a checkpoint had in it: what it holds does not come as an entry any
    /// more. (Of a write it cannot be told whether it is in there.)
    pub(super) fn answer_changes(&mut self) {
        let mut done = Vec::new();
        self.requests.proposed.retain(|_, proposed| {
            let keep = !proposed.change.as_ref().is_some_and(|change| self.membership.has(change));
            done.extend((!keep).then_some(proposed.request));
            keep
        });
        for request in done {
            self.answer(request, Ok(super::Reply::Changed));
        }
    }

    /// Tells those who proposed under an earlier leadership than `term` that nobody here will learn what became of it.
    pub(super) fn fail_before(&mut self, term: u64, why: &'static str) {
        let mut lost = Vec::new();
        self.requests.proposed.retain(|_, proposed| {
            let keep = proposed.term >= term;
            lost.extend((!keep).then_some(proposed.request));
            keep
        });
        for request in lost {
            self.answer(request, Err(Error::Unavailable(why)));
        }
    }

    /// Asks the leader how far the log is committed, for all reads that wait.
    pub(super) fn ask_for_reads(&mut self, now: Duration) {
        let mut requests = self.reads.asked.take().map(|asked| asked.requests).unwrap_or_default();
        requests.append(&mut self.reads.gathered);
        if requests.is_empty() {
            return;
        }
        self.reads.sequence += 1;
        let numbers = [self.settings.id, self.settings.incarnation, self.reads.sequence];
        let context: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.reads.asked = Some(Question { context: context.clone(), since: now, requests });
        self.node.read_index(context);
    }

    /// Answers the reads for which enough has been applied, and asks for those that came meanwhile.
    pub(super) fn answer_reads(&mut self, now: Duration) {
        let applied = self.node.raft.raft_log.applied;
        for request in self.reads.ready(applied) {
            self.answer(request, Ok(super::Reply::Readable));
        }
        if self.reads.asked.is_none() {
            self.ask_for_reads(now);
        }
    }

    pub(super) fn leader_changed(&mut self, now: Duration) {
        let leader = self.node.raft.leader_id;
        if leader == self.leader {
            return;
        }
        self.leader = leader;
        let (id, term) = (self.settings.id, self.node.raft.term);
        match leader {
            0 => tracing::info!(member = %format_args!("{id:016x}"), term, "no member leads"),
            leader => tracing::info!(
                member = %format_args!("{id:016x}"),
                leader = %format_args!("{leader:016x}"),
                term,
                "a member leads"
            ),
        }
        if leader != 0 {
            self.ask_for_reads(now);
        }
    }
}
