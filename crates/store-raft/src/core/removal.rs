//! Whether a member may be removed: not where most of those that would be left are not heard of. Nothing could be agreed on
//! any more, for good.
//!
//! Only who leads hears of all others. So it decides, when a removal is about to come into the log, and tells the member that
//! was asked, whose caller waits there. It says so by the answer to a question of how far the log is committed that nobody
//! has asked: members of earlier versions pass over it. Not here: who waits (`requests`).

use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};
use store::{Error, unavailable};

use super::Core;
use crate::entry::Envelope;

/// Tells a refusal from the contexts of reads, beside its length.
const REFUSED: u64 = u64::from_le_bytes(*b"unheard\0");

/// Which member an entry is to remove, and who asked for it.
pub(super) fn of(entry: &Entry) -> Option<(u64, Option<Envelope>)> {
    let mut change = ConfChange::default();
    let removes = entry.get_entry_type() == EntryType::EntryConfChange
        && change.merge_from_bytes(&entry.data).is_ok()
        && change.get_change_type() == ConfChangeType::RemoveNode;
    removes.then(|| (change.node_id, Envelope::decode(change.context.clone())))
}

/// Whether a majority of the voters that would be left is heard of. `None`: it cannot be told yet, as `heard` cannot of one.
fn keeps_majority(voters: &[u64], id: u64, heard: impl Fn(u64) -> Option<bool>) -> Option<bool> {
    let left: Vec<_> = voters.iter().filter(|voter| **voter != id).map(|voter| heard(*voter)).collect();
    // Who only learns is not needed. That the last one that votes leaves is refused elsewhere.
    if left.len() == voters.len() || left.is_empty() {
        return Some(true);
    }
    let needed = left.len() / 2 + 1;
    let count = |what| left.iter().filter(|heard| **heard == what).count();
    match count(Some(true)) {
        there if there >= needed => Some(true),
        there if there + count(None) >= needed => None,
        _ => Some(false),
    }
}

/// What says to a proposer that its proposal has been refused.
fn refusal(proposal: &Envelope, from: u64, term: u64) -> Message {
    let numbers = [proposal.proposer, proposal.incarnation, proposal.sequence, REFUSED];
    let context: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut message = Message { from, to: proposal.proposer, term, ..Message::default() };
    message.set_msg_type(MessageType::MsgReadIndexResp);
    message.mut_entries().push(Entry { data: context.into(), ..Entry::default() });
    message
}

/// The proposer, its incarnation and its number of what a message says to be refused.
fn refused(message: &Message) -> Option<[u64; 3]> {
    let [entry] = message.get_entries() else { return None };
    let (numbers, rest) = entry.data.as_chunks::<8>();
    let [proposer, incarnation, sequence, mark] = *numbers else { return None };
    let fits = message.get_msg_type() == MessageType::MsgReadIndexResp
        && rest.is_empty()
        && u64::from_le_bytes(mark) == REFUSED;
    fits.then(|| [proposer, incarnation, sequence].map(u64::from_le_bytes))
}

impl Core {
    /// Whether a member can be removed without an end of it all, as far as who leads can tell yet.
    pub(super) fn can_lose(&self, id: u64, now: Duration) -> Option<bool> {
        keeps_majority(&self.membership.conf.voters, id, |voter| self.hears(voter, now))
    }

    /// Tells the member that has passed it on.
    pub(super) fn refuse(&mut self, proposal: &Envelope) {
        let message = refusal(proposal, self.settings.id, self.node.raft.term);
        self.outputs.push(super::Output::Send(message));
    }

    /// Tells whoever waits for it, if a message says that a removal was refused. Says whether it does.
    pub(super) fn takes_refusal(&mut self, message: &Message) -> bool {
        let Some([proposer, incarnation, sequence]) = refused(message) else { return false };
        if (proposer, incarnation) == (self.settings.id, self.settings.incarnation)
            && let Some(request) = self.requests.take_removal(sequence)
        {
            self.answer(request, Err(Error::Unavailable(unavailable::UNHEARD)));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Body;
    use crate::membership::Member;

    #[test]
    fn the_majority_of_those_left_is_needed() {
        const THERE: u64 = 3;
        const OPEN: u64 = 5;
        // Up to 3 there, up to 5 not known yet, above it silent.
        let heard = |id| (!(THERE + 1..=OPEN).contains(&id)).then_some(id <= THERE);
        for (voters, removed, expected) in [
            (&[1, 2, 3][..], 3, Some(true)),
            (&[1, 2, 6], 6, Some(true)),
            (&[1, 2, 6], 2, Some(false)),
            (&[1, 2, 6], 1, Some(false)),
            (&[1, 2, 4], 2, None),
            (&[1, 2, 4], 4, Some(true)),
            (&[1, 2, 3, 6], 3, Some(true)),
            (&[1, 2, 3, 6, 7], 3, Some(false)),
            (&[1, 2, 3, 4, 7], 3, None),
            (&[1, 2], 2, Some(true)),
            (&[1], 1, Some(true)),
            (&[1], 7, Some(true)),
            (&[1, 2, 6], 9, Some(true)),
        ] {
            assert_eq!(keeps_majority(voters, removed, heard), expected, "{voters:?} {removed}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_the_answers_to_reads() {
        let (proposer, incarnation, sequence) = (2, 77, 9);
        let body = Body::Member(Member::default());
        let proposal = Envelope { proposer, incarnation, sequence, time: Duration::ZERO, body };
        let message = refusal(&proposal, 1, 4);
        assert_eq!((message.from, message.to, message.term), (1, 2, 4));
        assert_eq!(refused(&message), Some([proposer, incarnation, sequence]));
        for cut in [0, 8, 24, 31] {
            let mut other = message.clone();
            let data = other.entries[0].data.slice(..cut);
            other.entries[0].data = data;
            assert_eq!(refused(&other), None, "cut at {cut}");
        }
        let mut other = message.clone();
        other.set_msg_type(MessageType::MsgAppend);
        assert_eq!(refused(&other), None);
    }
}
