//! What waits for a member's thread.
//!
//! A queue with a condition variable: the thread sleeps until something comes or its next tick is due.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Message;
use store::Error;
use store::embedded::replica::{Command, Position};
use tokio::sync::oneshot;

use crate::Member;
use crate::core::{Change, Reply, Request};
use crate::level::Level;

/// Messages that may wait; what is more is lost, as on a network.
const MESSAGES: usize = 8192;

/// What a member's thread is told.
pub(crate) enum Input {
    Propose(Request, Command),
    Read(Request),
    Change(Request, Change),
    /// Somebody asks to become a member, through the transport.
    Join(Member, Level, oneshot::Sender<Result<Reply, Error>>),
    /// What another member understands.
    Level(u64, Level),
    Message(Message),
    Snapshot(Message, PathBuf),
    Unreachable(u64),
    /// Another member says that this one has been removed.
    Removed,
    SnapshotSent(u64, bool),
    Persisted(u64, Option<Position>),
    UpkeepDone(Option<Position>),
    UpkeepFailed,
    HandOver,
    /// This voter is to lead.
    MoveLeader(u64),
    /// A member is somewhere else than is recorded.
    Moved {
        member: u64,
        address: String,
    },
}

#[derive(Default)]
struct State {
    inputs: VecDeque<Input>,
    closed: bool,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Inbox {
    /// Hands something in. Says whether anybody will look at it.
    pub fn push(&self, input: Input) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.inputs.push_back(input);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// As [`Inbox::push`], unless too much waits already.
    pub fn offer(&self, input: Input) {
        if self.state.lock().inputs.len() < MESSAGES {
            self.push(input);
        }
    }

    /// Refuses everything from now on, and wakes the thread.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Everything that waits; waits for it for at most so long. `None` once it is closed.
    pub fn take(&self, wait: Duration) -> Option<VecDeque<Input>> {
        let end = Instant::now() + wait;
        let mut state = self.state.lock();
        while state.inputs.is_empty() && !state.closed {
            if self.arrived.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
        if state.closed { None } else { Some(std::mem::take(&mut state.inputs)) }
    }
}
