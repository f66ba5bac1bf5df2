//! What readers and watchers share: the durable state, and who waits for changes of it.
//!
//! The [`Engine`](super::Engine) applies to it what its own log has made durable, a
//! [`Replica`](super::replica::Replica) what a log of several machines has. Not here: who writes.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{State, mvcc, watch};
use crate::error::Error;
use crate::types::{Range, RangeResponse, Status};

/// Keys read under one lock.
const READ_STEPS: usize = 1024;

/// The state with its watchers.
pub(super) struct Memory {
    pub state: RwLock<State>,
    pub watchers: watch::Watchers,
    closed: AtomicBool,
}

impl Memory {
    pub fn new(state: State) -> Self {
        Self {
            state: RwLock::new(state),
            watchers: watch::Watchers::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses what is asked from now on. What waits is ended by [`watch::Watchers::close`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn check_open(&self) -> Result<(), Error> {
        if self.is_closed() { Err(Error::Unavailable("the store is shut down")) } else { Ok(()) }
    }

    /// Where it stands, with the bytes that it takes on the disk.
    pub fn status(&self, db_size: u64) -> Status {
        let state = self.state.read();
        Status {
            revision: state.mvcc.revision,
            compact_revision: state.mvcc.compact_revision,
            keys: state.mvcc.keys,
            leases: state.leases.len() as u64,
            live_bytes: state.mvcc.live_bytes,
            history_bytes: state.mvcc.history_bytes,
            db_size,
            alarm: None,
        }
    }

    /// Reads, a piece at a time.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.check_open()?;
        let mut cursor = mvcc::Cursor::new(range);
        // Only the step itself holds the lock.
        let step = |cursor: &mut _| self.state.read().mvcc.read(cursor, READ_STEPS);
        while !step(&mut cursor)? {
            tokio::task::yield_now().await;
        }
        Ok(cursor.response)
    }
}
