//! How members reach one another: what is expected of it, and where it delivers.
//!
//! A [`Transport`] may lose messages and put them out of order, and delivers each *at most once*: a proposal that was
//! forwarded twice would be carried out twice. `tls` is the one over the network; tests have one in memory.

pub mod tls;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::Message;
use store::Error;
use tokio::sync::oneshot;

use crate::Member;
use crate::level::Level;
use crate::member::inbox::{Inbox, Input};

/// Takes messages to other members. No call may block.
pub trait Transport: Send + Sync {
    /// Takes a message to the member that it names.
    fn send(&self, message: Message);

    /// Takes a message with the checkpoint that goes along with it, and tells [`Inward::snapshot_sent`] what became of
    /// it.
    fn send_snapshot(&self, message: Message, checkpoint: Box<dyn Read + Send>);

    /// Who the members are, and where; and who was removed, and is to be told so when it calls.
    fn members(&self, members: &[Member], gone: &[u64]);

    /// Ends it.
    fn close(&self);
}

/// Reaches nobody: for a member that needs nobody.
pub struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Message) {}

    fn send_snapshot(&self, _: Message, _: Box<dyn Read + Send>) {}

    fn members(&self, _: &[Member], _: &[u64]) {}

    fn close(&self) {}
}

/// Where a transport delivers to.
#[derive(Clone)]
pub struct Inward {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) directory: PathBuf,
}

impl Inward {
    /// A message has come. It waits for its turn; one too many is dropped.
    pub fn message(&self, message: Message) {
        self.inbox.offer(Input::Message(message));
    }

    /// A message with a checkpoint has come, which is whole in a file of [`Inward::directory`].
    pub fn snapshot(&self, message: Message, file: PathBuf) {
        self.inbox.push(Input::Snapshot(message, file));
    }

    /// A member cannot be reached.
    pub fn unreachable(&self, member: u64) {
        self.inbox.push(Input::Unreachable(member));
    }

    /// Another member has said that this one was removed.
    pub fn removed(&self) {
        self.inbox.push(Input::Removed);
    }

    /// A member says that it is at another address than the one recorded. The others are told, because it may not reach
    /// whoever leads.
    pub fn moved(&self, member: u64, address: String) {
        self.inbox.push(Input::Moved { member, address });
    }

    /// What became of a snapshot for a member.
    pub fn snapshot_sent(&self, member: u64, arrived: bool) {
        self.inbox.push(Input::SnapshotSent(member, arrived));
    }

    /// A member says, as it connects, what it understands.
    pub fn level(&self, member: u64, level: Level) {
        self.inbox.push(Input::Level(member, level));
    }

    /// Somebody asks to become a member, who understands what is of this level. Returns once the cluster has taken it on.
    pub async fn join(&self, member: Member, level: Level) -> Result<(), Error> {
        const STOPPED: Error = Error::Unavailable("the store is shut down");
        let (sender, answer) = oneshot::channel();
        if !self.inbox.push(Input::Join(member, level, sender)) {
            return Err(STOPPED);
        }
        answer.await.unwrap_or(Err(STOPPED)).map(|_| ())
    }

    /// Where checkpoints that come are to be put, under names that begin with `received-`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
