//! Applying what is committed: commands to the replica, changes of members to the membership.
//!
//! The same on every member; only the answers are for those who asked here. Not here: what a command does
//! (`store::embedded::replica`).

use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use store::Error;
use store::embedded::replica::{Outcome, Position, Step};

use super::{Core, Output, Reply, Request};
use crate::entry::{Body, Envelope};
use crate::level::Level;
use crate::membership::{Member, Membership};

const LOST: &str = store::unavailable::LEADER_LOST;

impl Core {
    /// The state has been replaced by a checkpoint that came from another member.
    pub fn installed(&mut self, position: &Position, now: Duration) {
        let Some(membership) = Membership::decode(position.attachment.clone()) else {
            return self.fail(position.index, "the members that the checkpoint tells of");
        };
        if membership.level > self.settings.level {
            return self.fail(position.index, "the checkpoint");
        }
        self.members_are(membership);
        self.node.advance_apply_to(position.index);
        self.time.observe(self.replica.time(), now);
        self.answer_reads(now);
        self.answer_changes();
        self.fail_before(position.term, LOST);
    }

    /// Applies what is committed, in order, up to what is not understood: a member of a later version has written it, and
    /// one that passed over it would come apart from the others.
    pub(super) fn apply(&mut self, committed: Vec<Entry>, now: Duration) {
        let mut applied = None;
        let mut steps = Vec::new();
        let mut asked = Vec::new();
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            let mut step = Step { index, term, time: Duration::ZERO, command: None };
            let understood = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => match Envelope::decode(entry.data) {
                    None => Err("an entry of the log"),
                    Some(envelope) => {
                        step.time = envelope.time;
                        let waiting = self.waits_for(&envelope);
                        match envelope.body {
                            Body::Command(command) => {
                                step.command = Some(command);
                                asked.push((steps.len(), waiting));
                                Ok(())
                            }
                            Body::Member(member) => {
                                self.carry_out(&mut steps, &mut asked);
                                self.update_member(member, waiting);
                                Ok(())
                            }
                            Body::Level(level) => {
                                self.carry_out(&mut steps, &mut asked);
                                self.raise_level(level)
                            }
                        }
                    }
                },
                EntryType::EntryConfChange => {
                    self.carry_out(&mut steps, &mut asked);
                    self.apply_change(&entry)
                }
                // Never proposed by this version.
                EntryType::EntryConfChangeV2 => Err("a change of members"),
            };
            if let Err(what) = understood {
                self.fail(index, what);
                break;
            }
            applied = Some((index, term));
            steps.push(step);
        }
        self.carry_out(&mut steps, &mut asked);
        let Some((index, term)) = applied else { return };
        self.node.advance_apply_to(index);
        self.time.observe(self.replica.time(), now);
        self.duties.applied();
        // What an earlier leader had been given stands before the first entry of this one, or is lost.
        self.fail_before(term, LOST);
    }

    /// Ends this member's part: it must not go on without what it does not understand.
    fn fail(&mut self, index: u64, what: &str) {
        let why = format!(
            "{what} (at index {index}) is not understood by this version: a member of a later one has written it; upgrade \
             this member"
        );
        self.failed = true;
        self.outputs.push(Output::Failed(why));
    }

    fn update_member(&mut self, member: Member, waiting: Option<Request>) {
        let mut membership = self.membership.clone();
        membership.update(member);
        self.replica.attach(membership.encode());
        self.members_are(membership);
        if let Some(request) = waiting {
            self.answer(request, Ok(Reply::Changed));
        }
    }

    /// Says whether it is understood.
    fn raise_level(&mut self, level: Level) -> Result<(), &'static str> {
        if level > self.settings.level {
            return Err("an entry of the log");
        }
        let mut membership = self.membership.clone();
        membership.level = membership.level.max(level);
        tracing::info!(level, "all members understand what is of this level");
        self.replica.attach(membership.encode());
        self.members_are(membership);
        Ok(())
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

    /// Says what of it is not understood.
    fn apply_change(&mut self, entry: &Entry) -> Result<(), &'static str> {
        const WHAT: &str = "a change of members";
        let mut change = ConfChange::default();
        change.merge_from_bytes(&entry.data).map_err(|_| WHAT)?;
        let envelope = Envelope::decode(change.context.clone()).ok_or(WHAT)?;
        let waiting = self.waits_for(&envelope);
        let Body::Member(member) = envelope.body else { return Err(WHAT) };
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
            return Ok(());
        }
        let conf = match self.node.apply_conf_change(&change) {
            Ok(conf) => conf,
            // Nobody can, and everybody sees so: the last one that votes is to leave.
            Err(error) => {
                tracing::warn!(%error, "a change of members is not possible");
                if let Some(request) = waiting {
                    self.answer(request, Err(Error::Invalid("the members cannot be changed so")));
                }
                return Ok(());
            }
        };
        let mut membership = self.membership.clone();
        membership.follow(&change, Some(member), conf);
        self.replica.attach(membership.encode());
        self.members_are(membership);
        if change.get_change_type() == ConfChangeType::RemoveNode && change.node_id == self.settings.id {
            self.told_removed();
            if self.leads() {
                // It has come to lead with its own removal in the log. Raft panics when one that is no member commits
                // anything more; the others elect somebody.
                let term = self.node.raft.term;
                self.node.raft.become_follower(term, raft::INVALID_ID);
            }
        }
        if let Some(request) = waiting {
            self.answer(request, Ok(Reply::Changed));
        }
        Ok(())
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
