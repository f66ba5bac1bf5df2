//! What the members agree on: the content of an entry of the log, and its bytes.
//!
//! Pure. An [`Envelope`] says who proposed it, so that this member answers its caller when the entry is applied, and
//! at what time, which the leader fills in. Not here: Raft's own entries (changes of who votes, the empty one of a new
//! leader), whose context is an envelope too.

use std::time::Duration;

use bytes::Bytes;
use store::embedded::replica::Command;
use store::{Compare, Op, PutValue, Range, Relation, Target, Txn};

use crate::level::Level;
use crate::membership::Member;
use crate::wire::{Reader, Writer};

const VERSION: u8 = 1;
/// Where the time is, for the leader.
const TIME_AT: usize = 26;
/// Deeper than any transaction that [`Txn::check`] lets through.
const DEPTH: usize = 40;

/// An entry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The member that waits for the outcome.
    pub proposer: u64,
    /// Chosen at random when that member started: after a restart nobody waits any more.
    pub incarnation: u64,
    /// The member's own number for it.
    pub sequence: u64,
    /// The leader's time.
    pub time: Duration,
    /// What it is about.
    pub body: Body,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// The store.
    Command(Command),
    /// A member: its name and address. In a change of who votes, the member that comes or goes.
    Member(Member),
    /// What all members understand from now on.
    Level(Level),
}

/// Writes the leader's time into an envelope's bytes.
pub(crate) fn stamp(bytes: &Bytes, time: Duration) -> Bytes {
    let mut stamped = bytes.to_vec();
    if let Some(place) = stamped.get_mut(TIME_AT..TIME_AT + 8) {
        place.copy_from_slice(&(time.as_millis() as u64).to_le_bytes());
    }
    stamped.into()
}

impl Envelope {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let kind = match self.body {
            Body::Command(_) => 1,
            Body::Member(_) => 2,
            Body::Level(_) => 3,
        };
        out.u8(VERSION).u8(kind).u64(self.proposer).u64(self.incarnation).u64(self.sequence);
        out.u64(self.time.as_millis() as u64);
        match &self.body {
            Body::Command(command) => write_command(&mut out, command),
            Body::Member(member) => member.encode(&mut out),
            Body::Level(level) => drop(out.u32(*level)),
        }
        out.0
    }

    /// `None`: these are no envelope's bytes, or those of a later version.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let mut input = Reader::new(bytes);
        if input.u8()? != VERSION {
            return None;
        }
        let kind = input.u8()?;
        let (proposer, incarnation, sequence) = (input.u64()?, input.u64()?, input.u64()?);
        let time = Duration::from_millis(input.u64()?);
        let body = match kind {
            1 => Body::Command(read_command(&mut input)?),
            2 => Body::Member(Member::decode(&mut input)?),
            3 => Body::Level(input.u32()?),
            _ => return None,
        };
        input.is_empty().then_some(Self { proposer, incarnation, sequence, time, body })
    }
}

fn write_command(out: &mut Writer, command: &Command) {
    match command {
        Command::Txn(txn) => {
            out.u8(1);
            write_txn(out, txn);
        }
        Command::Grant { id, ttl } => drop(out.u8(2).i64(*id).i64(*ttl)),
        Command::KeepAlive { id } => drop(out.u8(3).i64(*id)),
        Command::Revoke { id } => drop(out.u8(4).i64(*id)),
        Command::Expire => drop(out.u8(5)),
        Command::Compact { revision } => drop(out.u8(6).u64(*revision)),
    }
}

fn read_command(input: &mut Reader) -> Option<Command> {
    Some(match input.u8()? {
        1 => Command::Txn(read_txn(input, DEPTH)?),
        2 => Command::Grant { id: input.i64()?, ttl: input.i64()? },
        3 => Command::KeepAlive { id: input.i64()? },
        4 => Command::Revoke { id: input.i64()? },
        5 => Command::Expire,
        6 => Command::Compact { revision: input.u64()? },
        _ => return None,
    })
}

fn write_txn(out: &mut Writer, txn: &Txn) {
    out.count(txn.compare.len());
    for compare in &txn.compare {
        write_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        out.count(branch.len());
        for op in branch {
            write_op(out, op);
        }
    }
}

fn read_txn(input: &mut Reader, depth: usize) -> Option<Txn> {
    let depth = depth.checked_sub(1)?;
    Some(Txn {
        compare: input.list(read_compare)?,
        success: input.list(|input| read_op(input, depth))?,
        failure: input.list(|input| read_op(input, depth))?,
    })
}

fn write_compare(out: &mut Writer, compare: &Compare) {
    out.bytes(&compare.start);
    match &compare.end {
        None => out.u8(0),
        Some(end) => out.u8(1).bytes(end),
    };
    out.u8(match compare.relation {
        Relation::Equal => 0,
        Relation::NotEqual => 1,
        Relation::Greater => 2,
        Relation::Less => 3,
    });
    match &compare.target {
        Target::ModRevision(revision) => out.u8(1).u64(*revision),
        Target::CreateRevision(revision) => out.u8(2).u64(*revision),
        Target::Version(version) => out.u8(3).u64(*version),
        Target::Value(value) => out.u8(4).bytes(value),
        Target::Lease(lease) => out.u8(5).i64(*lease),
    };
}

fn read_compare(input: &mut Reader) -> Option<Compare> {
    let start = input.bytes()?;
    let end = match input.u8()? {
        0 => None,
        1 => Some(input.bytes()?),
        _ => return None,
    };
    let relation = match input.u8()? {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Greater,
        3 => Relation::Less,
        _ => return None,
    };
    let target = match input.u8()? {
        1 => Target::ModRevision(input.u64()?),
        2 => Target::CreateRevision(input.u64()?),
        3 => Target::Version(input.u64()?),
        4 => Target::Value(input.bytes()?),
        5 => Target::Lease(input.i64()?),
        _ => return None,
    };
    Some(Compare { start, end, relation, target })
}

fn write_op(out: &mut Writer, op: &Op) {
    match op {
        Op::Put { key, value: PutValue::Plain(value), lease } => {
            out.u8(1).bytes(key).bytes(value).i64(*lease);
        }
        Op::Put { key, value: PutValue::Stamped { head, tail }, lease } => {
            out.u8(2).bytes(key).bytes(head).bytes(tail).i64(*lease);
        }
        Op::Delete { start, end } => drop(out.u8(3).bytes(start).bytes(end)),
        Op::Range(range) => {
            let flags = [range.count_only, range.keys_only, range.uncounted];
            let flags = flags.iter().enumerate().map(|(bit, on)| u8::from(*on) << bit).sum();
            out.u8(4).bytes(&range.start).bytes(&range.end).u64(range.revision);
            out.u64(range.limit as u64).u8(flags);
        }
        Op::Txn(txn) => {
            out.u8(5);
            write_txn(out, txn);
        }
    }
}

fn read_op(input: &mut Reader, depth: usize) -> Option<Op> {
    Some(match input.u8()? {
        1 => {
            let (key, value) = (input.bytes()?, PutValue::Plain(input.bytes()?));
            Op::Put { key, value, lease: input.i64()? }
        }
        2 => {
            let key = input.bytes()?;
            let value = PutValue::Stamped { head: input.bytes()?, tail: input.bytes()? };
            Op::Put { key, value, lease: input.i64()? }
        }
        3 => Op::Delete { start: input.bytes()?, end: input.bytes()? },
        4 => {
            let (start, end, revision) = (input.bytes()?, input.bytes()?, input.u64()?);
            let (limit, flags) = (input.u64()? as usize, input.u8()?);
            let flag = |bit: u8| flags & 1 << bit != 0;
            Op::Range(Range {
                start,
                end,
                revision,
                limit,
                count_only: flag(0),
                keys_only: flag(1),
                uncounted: flag(2),
                // What stands in the log has been agreed on.
                serializable: false,
            })
        }
        5 => Op::Txn(read_txn(input, depth)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: Body) -> Envelope {
        Envelope { proposer: 1, incarnation: 2, sequence: 3, time: Duration::from_millis(4), body }
    }

    #[test]
    fn bytes_round_trip_and_every_cut_is_refused() {
        let compare = |relation, target, end| Compare { start: "a".into(), end, relation, target };
        let range = Range { limit: 7, revision: 3, keys_only: true, uncounted: true, ..Range::prefix("r") };
        let txn = Txn {
            compare: vec![
                compare(Relation::Equal, Target::ModRevision(1), None),
                compare(Relation::NotEqual, Target::CreateRevision(2), Some("b".into())),
                compare(Relation::Greater, Target::Version(3), None),
                compare(Relation::Less, Target::Value("v".into()), None),
                compare(Relation::Equal, Target::Lease(-5), None),
            ],
            success: vec![
                Op::put("k", "v"),
                Op::Put {
                    key: "s".into(),
                    value: PutValue::Stamped { head: "h".into(), tail: "t".into() },
                    lease: 9,
                },
                Op::delete("d"),
                Op::Range(range),
                Op::Txn(Txn::of(vec![Op::put("inner", "v")])),
            ],
            failure: vec![Op::delete("f")],
        };
        let member = Member { id: 5, name: "one".into(), address: "host:2380".into() };
        for body in [
            Body::Command(Command::Txn(txn)),
            Body::Command(Command::Grant { id: 1, ttl: 2 }),
            Body::Command(Command::KeepAlive { id: 1 }),
            Body::Command(Command::Revoke { id: 1 }),
            Body::Command(Command::Expire),
            Body::Command(Command::Compact { revision: 8 }),
            Body::Member(member),
            Body::Level(7),
        ] {
            let envelope = envelope(body);
            let bytes = Bytes::from(envelope.encode());
            assert_eq!(Envelope::decode(bytes.clone()), Some(envelope.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(Envelope::decode(bytes.slice(..cut)), None, "cut at {cut}");
            }
            let time = Duration::from_millis(1 << 40);
            let stamped = Envelope::decode(stamp(&bytes, time)).unwrap();
            assert_eq!(stamped, Envelope { time, ..envelope });
        }
    }

    #[test]
    fn nesting_has_a_bottom() {
        let mut txn = Txn::default();
        for _ in 0..100 {
            txn = Txn::of(vec![Op::Txn(txn)]);
        }
        let bytes = envelope(Body::Command(Command::Txn(txn))).encode();
        assert_eq!(Envelope::decode(bytes.into()), None);
    }
}
