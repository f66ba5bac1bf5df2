//! What goes into a [`Core`](super::Core) and what comes out of it, for whoever drives one.
//!
//! Plain data. Not here: what is done with it.

use std::time::Duration;

use raft::eraftpb::{Entry, HardState, Message, SnapshotMetadata};
use store::Error;
use store::embedded::replica::Outcome;

use crate::level::Level;
use crate::membership::Member;

/// What a number that the executor has chosen for a caller stands for.
pub type Request = u64;

/// What a core is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member.
    pub id: u64,
    /// A number chosen at random at this start.
    pub incarnation: u64,
    /// How long a request may wait before it is answered that its outcome is unknown.
    pub patience: Duration,
    /// Bytes of the log after which a checkpoint is worth it, at the least.
    pub checkpoint_bytes: u64,
    /// Bytes of the log to keep for followers though they are in a checkpoint.
    pub keep_bytes: u64,
    /// The highest level that this member understands: [`level::LATEST`](crate::level::LATEST), but in tests.
    pub level: Level,
}

/// What is to be made durable, after everything before it.
#[derive(Debug, Clone, Default)]
pub struct Persist {
    /// For [`Core::persisted`](super::Core::persisted).
    pub number: u64,
    /// Term, vote and commitment.
    pub hard: HardState,
    /// Entries, which replace those from the first one's index on.
    pub entries: Vec<Entry>,
    /// First of all, the checkpoint that was received takes the place of everything.
    pub snapshot: Option<SnapshotMetadata>,
}

/// What the executor is to do.
#[derive(Debug)]
pub enum Output {
    /// Send to the member it names; may be lost. One that carries a snapshot takes the checkpoint along, and
    /// [`Core::snapshot_sent`](super::Core::snapshot_sent) is told.
    Send(Message),
    /// Make durable.
    Persist(Persist),
    /// Tell whoever asked.
    Answer(Request, Result<Reply, Error>),
    /// Who the members are, or where, has changed.
    Members {
        /// They.
        members: Vec<Member>,
        /// Those that have been removed.
        gone: Vec<u64>,
    },
    /// Write a checkpoint ([`Core::upkeep_done`](super::Core::upkeep_done) is told) or only drop what was compacted, in the background.
    Upkeep {
        /// Write a checkpoint too.
        checkpoint: bool,
    },
    /// The log up to this index is in a checkpoint.
    Release(u64),
    /// This member cannot go on, and must be stopped. Nothing comes after it.
    Failed(String),
}

/// The answer to a request that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// What a command did.
    Outcome(Outcome),
    /// The state here has in it all that was acknowledged anywhere before the request.
    Readable,
    /// The members are as asked for.
    Changed,
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new one, which learns first and votes once it has caught up.
    Add(Member),
    /// One leaves.
    Remove(u64),
    /// One has another name or address.
    Update(Member),
}

/// What others may know of where a member stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// This member.
    pub id: u64,
    /// Who leads; 0 if nobody is known to.
    pub leader: u64,
    /// The term.
    pub term: u64,
    /// The last entry that is known to be committed.
    pub committed: u64,
    /// The last entry that was applied here.
    pub applied: u64,
    /// The members.
    pub members: Vec<Member>,
    /// Which of them vote; the others learn.
    pub voters: Vec<u64>,
    /// Whether this member has been removed.
    pub removed: bool,
    /// The members that the leader has not heard of for a while; known to the leader only.
    pub silent: Vec<u64>,
    /// What all members understand, and entries are written in.
    pub level: Level,
}
