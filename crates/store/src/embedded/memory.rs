//! What readers and watchers share: the durable state, and who waits for changes of it.
//!
//! The [`Engine`](super::Engine) applies to it what its own log has made durable, a
//! [`Replica`](super::replica::Replica) what a log of several machines has. Not here: who writes.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use super::{State, mvcc, watch};
use crate::error::Error;
use crate::types::{Range, RangeResponse, Status};

/// Keys read under one lock.
const READ_STEPS: usize = 1024;

/// What readers are told meanwhile.
const REPLACING: Error = Error::Unavailable("the member is taking in a checkpoint of the others");

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

    /// The state, for somebody who answers from it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while another one takes its place.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, State>, Error> {
        let state = self.state.read();
        if state.gone { Err(REPLACING) } else { Ok(state) }
    }

    /// Gives up the state, so that there is room for another one; what is to be known of it until then stays.
    pub fn make_room(&self) {
        let old = {
            let mut state = self.state.write();
            let (batch, replicated) = (state.batch, state.replicated.clone());
            let empty = State { batch, replicated, gone: true, ..State::new() };
            std::mem::replace(&mut *state, empty)
        };
        // Not under the lock: a large one takes a while.
        drop(old);
        // Other threads are about to need it.
        sys::memory::give_back();
    }

    /// Where it stands, with the bytes that it takes on the disk.
    pub fn status(&self, db_size: u64) -> Result<Status, Error> {
        let state = self.read()?;
        Ok(Status {
            revision: state.mvcc.revision,
            compact_revision: state.mvcc.compact_revision,
            keys: state.mvcc.keys,
            leases: state.leases.len() as u64,
            live_bytes: state.mvcc.live_bytes,
            history_bytes: state.mvcc.history_bytes,
            db_size,
            alarm: None,
        })
    }

    /// Reads, a piece at a time.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.check_open()?;
        let mut cursor = mvcc::Cursor::new(range);
        // Only the step itself holds the lock.
        let step = |cursor: &mut _| self.read()?.mvcc.read(cursor, READ_STEPS);
        while !step(&mut cursor)? {
            tokio::task::yield_now().await;
        }
        Ok(cursor.response)
    }
}
