//! A store that several machines keep together: the embedded engine's memory under a log that they agree on by Raft.
//!
//! Read first: [`RaftStore`], the store as a member serves it; [`core::Core`], one member's part as a machine without I/O (what goes into the log is an entry that every
//! member applies alike, `store::embedded::replica`), [`keeper::Keeper`], what it keeps on its disk; [`transport::Transport`], how members reach one another.
//!
//! **Invariants.** Nothing is acknowledged before a majority has it on their disks. A write whose leader was lost is
//! answered [`store::Error::Unavailable`], whatever became of it: never a false success, never a false refusal. All
//! decisions are made on time and messages that are handed in; all I/O is the executor's. Nothing here knows what a pod
//! is.
//!
//! The consensus is TiKV's `raft`, a port of etcd's: pre-vote and check-quorum are on, reads ask the leader's majority,
//! members are known by a random id, new ones learn before they vote.

pub mod core;
mod entry;
mod identity;
pub mod keeper;
mod logging;
mod member;
mod membership;
mod records;
mod reset;
mod tail;
pub mod transport;
mod wire;

pub use identity::Identity;
pub use member::{Options, RaftStore};
pub use membership::Member;
pub use reset::reset;

use std::path::Path;

use bytes::Bytes;
use store::Error;
use store::embedded::Options as EngineOptions;
use store::embedded::replica::{Position, Replica};

/// Makes the first member of a cluster in an empty directory: alone, with what an embedded store holds (which must not
/// be open), or with nothing.
pub fn found(
    directory: &Path,
    options: &EngineOptions,
    member: Member,
    from: Option<&Path>,
) -> Result<(), Error> {
    let membership = membership::Membership::alone(member);
    let attachment: Bytes = membership.encode();
    // Not 0: a member that joins has nothing, and must be given this.
    Replica::found(directory, options, &Position { index: 1, term: 1, attachment }, from)
}
