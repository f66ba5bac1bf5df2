//! What members of different versions say to each other: nothing that one of them does not understand.
//!
//! Every kind of entry, and whatever else goes into the log or a checkpoint, has a level. A member tells the others the
//! highest that it understands whenever it connects; the leader takes the lowest of all, and has all agree on it, by an
//! entry, once that is higher than the one they had. From then on what is of that level may be written, by any of them. It
//! never falls: a member of an earlier version is not taken on any more, and says so itself if it is put back.
//!
//! **To add a kind of entry**: raise [`LATEST`], and say in [`needed`] that the kind is of that level. It is refused with
//! [`store::Error::Unavailable`] until all members understand it; whoever uses it says what is done until then.
//!
//! Pure. Not here: who tells whom (`transport`), when the leader proposes it (`core`).

use store::embedded::replica::Command;

/// A level. Those who say none, because their version has never heard of levels, are at [`FIRST`].
pub type Level = u32;

/// Of everything that was there from the beginning.
pub const FIRST: Level = 1;
/// Of the entry that says which level the members have come to.
pub(crate) const AGREED: Level = 2;
/// The highest that this version understands.
pub const LATEST: Level = AGREED;

/// Which level a command is of.
pub(crate) fn needed(command: &Command) -> Level {
    match command {
        Command::Txn(_)
        | Command::Grant { .. }
        | Command::KeepAlive { .. }
        | Command::Revoke { .. }
        | Command::Expire
        | Command::Compact { .. } => FIRST,
    }
}
