//! Who the members are: by an id that never changes, with a name and an address that may.
//!
//! Pure; part of the replicated state, and kept with it in checkpoints. Not here: when members are added, promoted and
//! removed (`core`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

use crate::core::Change;
use crate::level::{FIRST, Level};
use crate::wire::{Reader, Writer};

/// Of the bytes: without a level, which is the first then, and with one. Members that know of no levels read the former.
const VERSIONS: [u8; 2] = [1, 2];
/// How many of those that have left are remembered.
const GONE: usize = 1000;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Chosen at random when it was made; never 0.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Where the others reach it: host and port.
    pub address: String,
}

impl Member {
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.u64(self.id).bytes(self.name.as_bytes()).bytes(self.address.as_bytes());
    }

    pub(crate) fn decode(input: &mut Reader) -> Option<Self> {
        Some(Self { id: input.u64()?, name: input.text()?, address: input.text()? })
    }
}

/// All members as of some entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Membership {
    /// Who votes and who only learns.
    pub conf: ConfState,
    /// What is known of each.
    pub members: BTreeMap<u64, Member>,
    /// Those that were removed, the latest last: they are told so when they call, and not taken on again.
    pub gone: VecDeque<u64>,
    /// What all of them understand.
    pub level: Level,
}

impl Default for Membership {
    fn default() -> Self {
        let (conf, members, gone) = Default::default();
        Self { conf, members, gone, level: FIRST }
    }
}

impl Membership {
    /// A cluster of one.
    pub fn alone(member: Member) -> Self {
        let conf = ConfState { voters: vec![member.id], ..ConfState::default() };
        Self { conf, members: BTreeMap::from([(member.id, member)]), ..Self::default() }
    }

    /// Follows a change of who votes, whose result is `conf`.
    pub fn follow(&mut self, change: &ConfChange, member: Option<Member>, conf: ConfState) {
        self.conf = conf;
        match change.change_type {
            ConfChangeType::RemoveNode => {
                self.members.remove(&change.node_id);
                self.gone.push_back(change.node_id);
                if self.gone.len() > GONE {
                    self.gone.pop_front();
                }
            }
            ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                // A promotion says nothing new of its member.
                if let Some(member) = member.filter(|member| !member.address.is_empty()) {
                    self.members.insert(member.id, member);
                }
            }
        }
    }

    /// Takes up what a member says of itself. Nobody becomes one by it.
    pub fn update(&mut self, member: Member) {
        if let Some(known) = self.members.get_mut(&member.id) {
            *known = member;
        }
    }

    /// Whether the members are as a change is to make them.
    pub fn has(&self, change: &Change) -> bool {
        match change {
            Change::Add(member) => self.members.contains_key(&member.id),
            // Not because it is not known: this member may not know of all yet.
            Change::Remove(id) => self.gone.contains(id),
            Change::Update(member) => self.members.get(&member.id) == Some(member),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self.level {
            FIRST => out.u8(VERSIONS[0]),
            level => out.u8(VERSIONS[1]).u32(level),
        };
        for ids in [&self.conf.voters, &self.conf.learners] {
            out.count(ids.len());
            for id in ids {
                out.u64(*id);
            }
        }
        out.count(self.members.len());
        for member in self.members.values() {
            member.encode(&mut out);
        }
        out.count(self.gone.len());
        for id in &self.gone {
            out.u64(*id);
        }
        out.0.into()
    }

    /// `None`: these are not its bytes. No bytes are nobody.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let mut input = Reader::new(bytes);
        let level = match input.u8()? {
            version if version == VERSIONS[0] => FIRST,
            version if version == VERSIONS[1] => input.u32()?,
            _ => return None,
        };
        let voters = input.list(Reader::u64)?;
        let learners = input.list(Reader::u64)?;
        let conf = ConfState { voters, learners, ..ConfState::default() };
        let members = input.list(Member::decode)?.into_iter().map(|member| (member.id, member)).collect();
        let gone = input.list(Reader::u64)?.into();
        input.is_empty().then_some(Self { conf, members, gone, level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, address: &str) -> Member {
        Member { id, name: format!("m{id}"), address: address.to_owned() }
    }

    #[test]
    fn bytes_round_trip() {
        let mut membership = Membership::alone(member(7, "a:1"));
        membership.conf.learners.push(9);
        membership.members.insert(9, member(9, "b:1"));
        membership.gone.push_back(3);
        for (level, version) in [(1, 1), (2, 2), (7, 2)] {
            membership.level = level;
            let bytes = membership.encode();
            assert_eq!(bytes[0], version, "members without levels read the first ones");
            assert_eq!(Membership::decode(bytes.clone()), Some(membership.clone()));
            for cut in 1..bytes.len() {
                assert_eq!(Membership::decode(bytes.slice(..cut)), None, "cut at {cut}");
            }
        }
        assert_eq!(Membership::decode(Bytes::new()), Some(Membership::default()));
    }

    #[test]
    fn an_address_changes_and_nobody_comes_by_it() {
        let mut membership = Membership::alone(member(7, "a:1"));
        membership.update(member(7, "b:2"));
        membership.update(member(8, "c:3"));
        assert_eq!(membership.members, BTreeMap::from([(7, member(7, "b:2"))]));
    }
}
