//! Applying what is committed: commands to the replica, changes of members to the membership.
//!
//! The same on every member; only the answers are for those who asked here. Not here: what a command does
//! (`store::embedded::replica`).

use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use store::embedded::replica::{Outcome, Position, Step};

use super::{Core, Output, Reply, Request};
use crate::entry::{Body, Envelope};
use crate::membership::Membership;

const LOST: &str = "the leader was lost; the write may have happened or not";

impl Core {
    /// The state has been replaced by a checkpoint that came from another member.
    pub fn installed(&mut self, position: &Position, now: Duration) {
        if let Some(membership) = Membership::decode(position.attachment.clone()) {
            self.members_are(membership);
        }
        self.node.advance_apply_to(position.index);
        self.time.observe(self.replica.time(), now);
        self.answer_reads(now);
        self.fail_before(position.term, LOST);
    }

    /// Applies what is committed, in order.
    pub(super) fn apply(&mut self, committed: Vec<Entry>, now: Duration) {
        let Some(last) = committed.last() else { return };
        let (index, term) = (last.index, last.term);
        let mut steps = Vec::new();
        let mut asked = Vec::new();
        for entry in committed {
            let mut step = Step { index: entry.index, term: entry.term, time: Duration::ZERO, command: None };
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => match Envelope::decode(entry.data) {
                    Some(envelope) => {
                        step.time = envelope.time;
                        let waiting = self.waits_for(&envelope);
                        match envelope.body {
                            Body::Command(command) => {
                                step.command = Some(command);
                                asked.push((steps.len(), waiting));
                            }
                            Body::Member(member) => {
                                self.carry_out(&mut steps, &mut asked);
                                let mut membership = self.membership.clone();
                                membership.update(member);
                                self.replica.attach(membership.encode());
                                self.members_are(membership);
                                if let Some(request) = waiting {
                                    self.answer(request, Ok(Reply::Changed));
                                }
                            }
                        }
                    }
                    None => tracing::error!(index = entry.index, "an entry of the log is not understood"),
                },
                EntryType::EntryConfChange => {
                    self.carry_out(&mut steps, &mut asked);
                    self.apply_change(&entry);
                }
                // Never proposed here.
                EntryType::EntryConfChangeV2 => {
                    tracing::error!(index = entry.index, "a change of members is not understood");
                }
            }
            steps.push(step);
        }
        self.carry_out(&mut steps, &mut asked);
        self.node.advance_apply_to(index);
        self.time.observe(self.replica.time(), now);
        self.duties.applied();
        // What an earlier leader had been given stands before the first entry of this one, or is lost.
        self.fail_before(term, LOST);
    }

    fn carry_out(&mut self, steps: &mut Vec<Step>, asked: &mut Vec<(usize, Option<Request>)>) {
        if steps.is_empty() {
            return;
        }
        let mut outcomes = self.replica.apply(std::mem::take(steps));
        for (place, request) in asked.drain(..) {
            let outcome = std::mem::replace(&mut outcomes[place], Ok(Outcome::Done));
            if let Some(request) = request {
                self.answer(request, outcome.map(Reply::Outcome));
            }
        }
    }

    fn apply_change(&mut self, entry: &Entry) {
        let mut change = ConfChange::default();
        if change.merge_from_bytes(&entry.data).is_err() {
            tracing::error!(index = entry.index, "a change of members is not understood");
            return;
        }
        let envelope = Envelope::decode(change.context.clone());
        let waiting = envelope.as_ref().and_then(|envelope| self.waits_for(envelope));
        let member = envelope.and_then(|envelope| match envelope.body {
            Body::Member(member) => Some(member),
            Body::Command(_) => None,
        });
        let known = self.membership.members.contains_key(&change.node_id);
        let fits = match change.get_change_type() {
            // Somebody else was quicker: it may vote by now.
            ConfChangeType::AddLearnerNode => !known && !self.membership.gone.contains(&change.node_id),
            // It has left meanwhile.
            ConfChangeType::AddNode | ConfChangeType::RemoveNode => known,
        };
        if !fits {
            if let Some(request) = waiting {
                self.answer(request, Ok(Reply::Changed));
            }
            return;
        }
        let conf = match self.node.apply_conf_change(&change) {
            Ok(conf) => conf,
            Err(error) => {
                tracing::error!(%error, "a change of members cannot be applied");
                return;
            }
        };
        let mut membership = self.membership.clone();
        membership.follow(&change, member, conf);
        self.replica.attach(membership.encode());
        self.members_are(membership);
        if change.get_change_type() == ConfChangeType::RemoveNode && change.node_id == self.settings.id {
            self.told_removed();
        }
        if let Some(request) = waiting {
            self.answer(request, Ok(Reply::Changed));
        }
    }

    fn members_are(&mut self, membership: Membership) {
        self.membership = membership;
        self.tell_members();
    }

    pub(super) fn tell_members(&mut self) {
        let members = self.membership.members.values().cloned().collect();
        let gone = self.membership.gone.iter().copied().collect();
        self.outputs.push(Output::Members { members, gone });
    }
}
