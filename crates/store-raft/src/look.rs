//! What a member that is stopped holds: looked at, and nothing of it changed.
//!
//! Takes of its log what the member knows to be agreed on, and no more. An entry behind that may be one that another
//! leader has replaced since: it was never acknowledged, and whoever took it would see what never came to be. Of a member
//! that votes alone everything is agreed on once it is on its disk, up to a change that gives somebody else a vote too.
//!
//! So what is seen is the cluster's, as of some moment, which may be behind what others have. A member that was stopped in
//! order has noted how far everything was agreed on; one that was killed has noted that with what it wrote last, and what
//! it left out may have been acknowledged. How much that is, is told. Not here: going on alone with all of it (`reset`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use store::Error;
use store::embedded::log;
use store::embedded::replica::{Position, Step};
use store::embedded::view::View;

use crate::entry::{Body, Envelope};
use crate::identity::Identity;
use crate::level::LATEST;
use crate::membership::{Member, Membership};
use crate::records::Found;

const LATER: Error = Error::Invalid(
    "the member's log has something that this version does not understand: a later one has to look at it",
);

/// A member that is stopped.
pub struct Looked {
    /// Its keys and leases.
    pub view: View,
    /// The newest entry of the log that they are as of.
    pub index: u64,
    /// Entries after it in the log, of which the member does not know whether they were agreed on.
    pub left_out: usize,
    /// Whether it votes alone.
    pub alone: bool,
    /// What is recorded of it.
    pub member: Member,
}

/// Looks into a member's directory.
///
/// # Errors
/// [`Error::Locked`] when the member runs; what opening it would give; [`Error::Invalid`] where there is no member, or one
/// that has not been given anything yet.
pub fn look(directory: &Path) -> Result<Looked, Error> {
    let identity = Identity::load(directory)?.ok_or(Error::Invalid("there is no member in the directory"))?;
    let mut found = None;
    let view = View::of_replica(directory, |checkpoint| {
        if checkpoint.index == 0 {
            return Err(Error::Invalid("the member had not joined its cluster yet: it holds nothing"));
        }
        let mut records = Found::default();
        let bytes = log::read(directory, |_, record| records.take(record))?;
        if !records.settle(checkpoint) {
            return Err(Error::Corrupt {
                path: directory.to_owned(),
                offset: 0,
                detail: format!(
                    "the log does not go on where the checkpoint ends, at entry {}",
                    checkpoint.index
                ),
            });
        }
        let mut agreed = agreed(identity.member, checkpoint, records)?;
        let steps = std::mem::take(&mut agreed.steps);
        found = Some(agreed);
        Ok((steps, bytes))
    })?;
    let Agreed { index, left_out, alone, member, .. } = found.unwrap_or_default();
    Ok(Looked { view, index, left_out, alone, member })
}

/// What is known to be agreed on.
#[derive(Default)]
struct Agreed {
    steps: Vec<Step>,
    /// The last one's index.
    index: u64,
    left_out: usize,
    /// Whether the member votes alone after them.
    alone: bool,
    member: Member,
}

fn agreed(me: u64, checkpoint: &Position, found: Found) -> Result<Agreed, Error> {
    let mut membership = Membership::decode(checkpoint.attachment.clone()).ok_or(LATER)?;
    if membership.level > LATEST {
        return Err(LATER);
    }
    let mut voters: BTreeSet<u64> = membership.conf.voters.iter().copied().collect();
    let alone = |voters: &BTreeSet<u64>| voters.len() == 1 && voters.contains(&me);
    let (commit, mut index, mut steps) = (found.hard.commit, checkpoint.index, Vec::new());
    let mut left = found.entries.len();
    for entry in found.entries {
        if entry.index > commit && !alone(&voters) {
            break;
        }
        follow(&mut voters, &entry)?;
        (index, left) = (entry.index, left - 1);
        let (step, member) = step(entry)?;
        steps.push(step);
        member.into_iter().for_each(|member| membership.update(member));
    }
    let member = membership.members.remove(&me).unwrap_or_default();
    Ok(Agreed { steps, index, left_out: left, alone: alone(&voters), member })
}

/// Who votes after an entry. A change that came to nothing is at worst taken for one: then less is taken.
fn follow(voters: &mut BTreeSet<u64>, entry: &Entry) -> Result<(), Error> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(()),
        EntryType::EntryConfChange => {
            let mut change = ConfChange::default();
            change.merge_from_bytes(&entry.data).map_err(|_| LATER)?;
            match change.get_change_type() {
                ConfChangeType::AddNode => drop(voters.insert(change.node_id)),
                ConfChangeType::RemoveNode => drop(voters.remove(&change.node_id)),
                ConfChangeType::AddLearnerNode => {}
            }
            Ok(())
        }
        EntryType::EntryConfChangeV2 => Err(LATER),
    }
}

/// What an entry does to the keys, and what it says of a member.
pub(crate) fn step(entry: Entry) -> Result<(Step, Option<Member>), Error> {
    let mut said = None;
    let mut step = Step { index: entry.index, term: entry.term, time: Duration::ZERO, command: None };
    if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
        let envelope = Envelope::decode(entry.data).ok_or(LATER)?;
        step.time = envelope.time;
        match envelope.body {
            Body::Command(command) => step.command = Some(command),
            Body::Level(level) if level > LATEST => return Err(LATER),
            Body::Member(member) => said = Some(member),
            Body::Level(_) => {}
        }
    }
    Ok((step, said))
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::HardState;

    use super::*;
    use crate::core::Persist;
    use crate::records::records;

    fn change(index: u64, kind: ConfChangeType, node_id: u64) -> Entry {
        let mut change = ConfChange { node_id, ..ConfChange::default() };
        change.set_change_type(kind);
        let data = change.write_to_bytes().unwrap().into();
        Entry { index, term: 2, entry_type: EntryType::EntryConfChange, data, ..Entry::default() }
    }

    fn plain(index: u64) -> Entry {
        Entry { index, term: 2, ..Entry::default() }
    }

    #[test]
    fn what_is_agreed_on_is_taken_and_no_more() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let cases = [
            // (voters, what the member knows to be agreed on, the log after entry 4, the last one taken, alone)
            (vec![1, 2, 3], 6, vec![plain(5), plain(6), plain(7), plain(8)], 6, false),
            (vec![1, 2, 3], 4, vec![plain(5)], 4, false),
            // Alone it needs nobody's word.
            (vec![1], 4, vec![plain(5), plain(6)], 6, true),
            (vec![1], 5, vec![], 4, true),
            // It only learns: the one that votes is another.
            (vec![2], 5, vec![plain(5), plain(6)], 5, false),
            // Another one learns, and then votes: from there on both have to agree.
            (vec![1], 4, vec![change(5, AddLearnerNode, 2), plain(6)], 6, true),
            (vec![1], 4, vec![change(5, AddNode, 2), plain(6)], 5, false),
            // The other one has left.
            (vec![1, 2], 5, vec![change(5, RemoveNode, 2), plain(6)], 6, true),
            (vec![1, 2], 4, vec![change(5, RemoveNode, 2), plain(6)], 4, false),
            (vec![1], 5, vec![change(5, RemoveNode, 1), plain(6)], 5, false),
        ];
        for (voters, commit, log, taken, alone) in cases {
            let mut membership = Membership::alone(Member { id: 1, ..Member::default() });
            membership.conf.voters = voters.clone();
            let checkpoint = Position { index: 4, term: 2, attachment: membership.encode() };
            let hard = HardState { term: 2, commit, ..HardState::default() };
            let work = Persist { hard, entries: log.clone(), ..Persist::default() };
            let mut found = Found::default();
            for record in records(&[work]) {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                assert!(found.take(&bytes));
            }
            assert!(found.settle(&checkpoint));
            let case = format!("{voters:?} {commit} {log:?}");
            let agreed = agreed(1, &checkpoint, found).unwrap();
            assert_eq!((agreed.index, agreed.alone), (taken, alone), "{case}");
            let steps = agreed.steps.len();
            assert_eq!((steps as u64, steps + agreed.left_out), (taken - 4, log.len()), "{case}");
        }
        let unknown = Entry { data: vec![9].into(), ..plain(5) };
        assert!(step(unknown).is_err(), "what is not understood is not passed over");
    }
}
