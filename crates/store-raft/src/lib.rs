//! A store that several machines keep together: the embedded engine's memory under a log that they agree on by Raft.
//!
//! Read first: [`RaftStore`], the store as a member serves it; [`core::Core`], one member's part as a machine without I/O
//! (what goes into the log is an entry that every member applies alike, `store::embedded::replica`), [`keeper::Keeper`],
//! what it keeps on its disk; [`transport::Transport`], how members reach one another.
//!
//! **Invariants.** Nothing is acknowledged before a majority has it on their disks. A write whose leader was lost is
//! answered [`store::Error::Unavailable`], whatever became of it: never a false success, never a false refusal. All
//! decisions are made on time and messages that are handed in; all I/O is the executor's. Nothing here knows what a pod
//! is.
//!
//! The consensus is TiKV's `raft`, a port of etcd's: pre-vote and check-quorum are on, reads ask the leader's majority,
//! members are known by a random id, new ones learn before they vote. While they are upgraded one after the other, none
//! writes what another does not understand ([`level`]). What follows from it all is promised, in numbered prose, below.
//!
//! # How a server uses it
//!
//! Every member has a certificate of the members' own authority, with the names that [`transport::tls::names`] gives for
//! its id; [`transport::tls::Security`] holds it. The id is chosen by whoever makes the member, before its certificate.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use store_raft::{Identity, Member, Options, RaftStore};
//! # use store_raft::transport::tls::{Security, TlsTransport, ask_to_join};
//! # type Secured = fn(u64) -> Security;
//! # async fn example(id: u64, security: Secured, clock: foundation::SharedClock) -> Result<(), Box<dyn std::error::Error>> {
//! let directory = Path::new("/var/lib/ironclad/raft");
//! let options = Options::new("node-1", "10.0.0.1:2380");
//! match Identity::load(directory)? {
//!     // Made already: flags that say how to make one do not count.
//!     Some(_) => {}
//!     // The first one, with what the embedded store beside it holds (it must not be open).
//!     None if id == 0 => drop(RaftStore::found(directory, &options, Some(Path::new("/var/lib/ironclad/store")))?),
//!     // Another one. After an unknown outcome the same member may ask again, here or elsewhere.
//!     None => {
//!         let member = Member { id, name: options.name.clone(), address: options.address.clone() };
//!         let identity = ask_to_join(&security(id), "10.0.0.9:2380", &member).await?;
//!         RaftStore::join(directory, identity)?;
//!     }
//! }
//! let listener = tokio::net::TcpListener::bind("10.0.0.1:2380").await?;
//! // An address (or a name) that is not the one the others know is told to them once a leader is known. Opening blocks
//! // while it reads its files.
//! let address = options.address.clone();
//! let store = RaftStore::open(directory, options, clock, |identity, inward| {
//!     TlsTransport::start(identity, address, listener, security(identity.member), inward)
//! })?;
//! // Until it votes and has everything. (What is asked before waits too, but no longer than a request may.)
//! store.joined().await?;
//! // Who the members are, who votes, who leads (0: nobody), whom the leader does not hear of.
//! let standing = store.standing().borrow().clone();
//! // For good, whichever member is asked; a member that is told so ends: `ended` says why.
//! if let Some(gone) = standing.silent.first() {
//!     store.remove_member(*gone).await?;
//! }
//! // Hands over the lead, and blocks until the directory is free.
//! tokio::task::spawn_blocking(move || store.shutdown()).await?;
//! # Ok(()) }
//! ```
//!
//! After the loss of the majority, [`reset`] makes a member that is not running the only one of a new cluster; the others
//! join it anew with empty directories. [`look`] tells what a member holds that is stopped. Beside the contract of every store, [`RaftStore::ended`] says when a member
//! cannot go on or was removed: whoever runs it should stop then. `status().alarm` says that nobody leads,
//! `warnings()` what else people should know, and the metrics `store_raft_*` the same in numbers.
//!
#![doc = include_str!("../PROMISES.md")]

// The tests of the transport share a file with those outside of the crate.
#[cfg(test)]
extern crate self as store_raft;

pub mod core;
mod entry;
mod identity;
pub mod keeper;
pub mod level;
mod logging;
mod look;
mod member;
mod membership;
pub mod peers;
mod records;
mod reset;
mod tail;
pub mod transport;
mod wire;

pub use identity::Identity;
pub use look::{Looked, look};
pub use member::{Ended, Options, RaftStore};
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
