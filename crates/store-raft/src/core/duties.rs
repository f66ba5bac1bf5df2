//! What only the leader does: ends leases, forgets history, lets learners vote, raises the level, hands over the lead.
//!
//! It decides and proposes; the decision takes effect when it is applied, as any write, so that it does not matter if a
//! new leader decides the same again.

use std::collections::VecDeque;
use std::time::Duration;

use raft::ProgressState;
use raft::eraftpb::Message;
use store::Error;
use store::embedded::replica::Command;

use super::requests::Asked;
use super::{Core, SILENT};
use crate::level::FIRST;

/// How many entries a learner may still lack when it is given a vote.
const CAUGHT_UP: u64 = 1000;
/// The pause before what was proposed without an effect is proposed again.
const AGAIN: Duration = Duration::from_secs(1);

/// What was proposed already.
#[derive(Default)]
pub(super) struct Duties {
    /// Something was applied since the history was looked at.
    history: bool,
    expired: Option<Duration>,
    promoted: Option<(u64, Duration)>,
    raised: Option<Duration>,
    /// Changes of members that others have passed on, which wait for the one on its way, or until it is known who is there.
    put_off: VecDeque<Message>,
    /// Until when it tries to hand over the lead, because it is to stop.
    pub retires: Option<Duration>,
    /// Why its disk refuses, if it does.
    pub unfit: Option<Error>,
    /// To whom it tried to hand over last, and when.
    tried: Option<(u64, Duration)>,
}

/// A member that was heard of so lately is there: it answers the leader every tick.
const PRESENT: Duration = Duration::from_secs(1);

/// The pause between the beginnings of two attempts to hand over the lead, each of which is given up after a second and
/// keeps all writes waiting until then.
const PASS_ON: Duration = Duration::from_millis(1_300);

/// Changes of members that may wait. Whoever asked for one too many asks again.
const PUT_OFF: usize = 16;

impl Duties {
    pub fn applied(&mut self) {
        self.history = true;
    }

    pub fn put_off(&mut self, change: Message) {
        if self.put_off.len() < PUT_OFF {
            self.put_off.push_back(change);
        }
    }

    /// Those of an earlier leadership: whoever asked has been told that nobody knows what became of it, and may have thought
    /// better of it long ago.
    pub fn forget_put_off(&mut self) {
        self.put_off.clear();
    }
}

impl Core {
    pub(super) fn lead(&mut self, now: Duration) {
        // Before that it does not know all that its predecessors did.
        if !self.node.raft.apply_to_current_term() {
            return;
        }
        if !self.node.raft.has_pending_conf()
            && let Some(change) = self.duties.put_off.pop_front()
        {
            // Not as something that was heard just now.
            self.take_in(change, now);
        }
        self.duties.retires.take_if(|end| now >= *end);
        if self.duties.retires.is_some() || self.duties.unfit.is_some() {
            self.pass_on(now);
        }
        self.end_leases(now);
        self.forget(now);
        self.promote(now);
        self.agree_on_level(now);
    }

    /// Asks the voter that lacks least, of those that are there, to lead; another one next time if it does not.
    fn pass_on(&mut self, now: Duration) {
        let lately = self.duties.tried.is_some_and(|(_, since)| now < since + PASS_ON);
        if self.node.raft.lead_transferee.is_some() || lately {
            return;
        }
        let tried = self.duties.tried.map(|(id, _)| id);
        let there = |id: &u64| self.is_there(*id, now);
        let matched = |id: &u64| self.node.raft.prs().get(*id).map_or(0, |progress| progress.matched);
        let others = self.membership.conf.voters.iter().filter(|id| **id != self.settings.id && there(id));
        let next = others.copied().max_by_key(|id| (Some(*id) != tried, matched(id)));
        if let Some(next) = next {
            self.duties.tried = Some((next, now));
            self.node.transfer_leader(next);
        }
    }

    /// Asks this voter to lead, once. Nothing comes of it where another member leads.
    pub fn move_leader(&mut self, to: u64, now: Duration) {
        if self.leads() && to != self.settings.id && self.membership.conf.voters.contains(&to) {
            self.duties.tried = Some((to, now));
            self.node.transfer_leader(to);
        }
    }

    /// Whether who leads hears of a member. `None`: not lately, and not long enough not to say that it does not.
    pub(super) fn hears(&self, id: u64, now: Duration) -> Option<bool> {
        if id == self.settings.id || self.is_there(id, now) {
            return Some(true);
        }
        let heard = self.heard.get(&id).copied().unwrap_or_default().max(self.led_since);
        (now >= heard + SILENT).then_some(false)
    }

    fn is_there(&self, id: u64, now: Duration) -> bool {
        self.heard.get(&id).is_some_and(|heard| now <= *heard + PRESENT)
    }

    /// Why a write is not even tried: this member has to make it durable, cannot, and nobody else is there to lead.
    pub(super) fn hopeless(&self, now: Duration) -> Option<Error> {
        let mut others = self.membership.conf.voters.iter().filter(|id| **id != self.settings.id);
        let alone = self.leads() && !others.any(|id| self.is_there(*id, now));
        self.duties.unfit.clone().filter(|_| alone)
    }

    fn end_leases(&mut self, now: Duration) {
        // After whatever was received meanwhile: a lease that is kept alive though the disk was slow lives on.
        let due = self.replica.next_expiry().is_some_and(|end| end <= self.time.at(now));
        if !due {
            self.duties.expired = None;
        } else if self.duties.expired.is_none_or(|since| now >= since + AGAIN) {
            self.duties.expired = Some(now);
            self.ask(None, Asked::Command(Command::Expire), now);
        }
    }

    fn forget(&mut self, now: Duration) {
        if !std::mem::take(&mut self.duties.history) {
            return;
        }
        if let Some(revision) = self.replica.due_compaction(self.time.at(now)) {
            self.ask(None, Asked::Command(Command::Compact { revision }), now);
        }
    }

    fn promote(&mut self, now: Duration) {
        if self.membership.conf.learners.is_empty() || self.node.raft.has_pending_conf() {
            return;
        }
        let committed = self.node.raft.raft_log.committed;
        let ready = self.membership.conf.learners.iter().copied().find(|id| {
            self.node.raft.prs().get(*id).is_some_and(|progress| {
                // Not only in the state of replicating: with nothing new in the log it never comes to that.
                let joined = progress.matched > 0 && progress.state != ProgressState::Snapshot;
                joined && progress.matched + CAUGHT_UP >= committed
            })
        });
        let Some(id) = ready else { return };
        if self.duties.promoted.is_none_or(|(last, since)| last != id || now >= since + AGAIN) {
            self.duties.promoted = Some((id, now));
            self.ask(None, Asked::Promote(id), now);
        }
    }

    /// Has the members write what all of them understand by now.
    fn agree_on_level(&mut self, now: Duration) {
        // Somebody may be on the way who does not.
        if self.node.raft.has_pending_conf() {
            return;
        }
        let understood = |id: &u64| match *id == self.settings.id {
            true => self.settings.level,
            false => self.levels.get(id).copied().unwrap_or(FIRST),
        };
        let common = self.membership.members.keys().map(understood).min().unwrap_or(FIRST);
        if common > self.membership.level && self.duties.raised.is_none_or(|since| now >= since + AGAIN) {
            self.duties.raised = Some(now);
            self.ask(None, Asked::Level(common), now);
        }
    }
}
