//! The store as a member serves it: writes go through the log, reads wait until this member has all that was acknowledged,
//! unless what it knows is all that is asked for. Watches are of what is applied here, and end when nobody has led for a
//! while: this member may have been cut off, and whoever watches should ask another.
//!
//! Not here: how either comes about (`core`), who the members are (`member`).

use std::time::Duration;

use async_trait::async_trait;
use store::embedded::replica::{Command, Outcome};
use store::{
    Error, LeaseId, LeaseInfo, Op, PutValue, Range, RangeResponse, Revision, Status, Store, Txn, TxnResponse,
    WatchRequest, WatchStream,
};

use super::inbox::Input;
use super::{NO_LEADER, RaftStore, STOPPED};

/// Bytes that the larger branches of a transaction ask to write.
fn size_of(txn: &Txn) -> usize {
    let size = |op: &Op| match op {
        Op::Put { key, value: PutValue::Plain(value), .. } => key.len() + value.len(),
        Op::Put { key, value: PutValue::Stamped { head, tail }, .. } => key.len() + head.len() + tail.len(),
        Op::Delete { .. } | Op::Range(_) => 0,
        Op::Txn(txn) => size_of(txn),
    };
    let branch = |ops: &[Op]| ops.iter().map(size).sum::<usize>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn writes(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put { .. } | Op::Delete { .. } => true,
        Op::Range(_) => false,
        Op::Txn(txn) => writes(txn),
    })
}

/// Whether a transaction only looks, and all of that at what is known here.
fn is_serializable(txn: &Txn) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(op, Op::Range(range) if range.serializable))
}

#[async_trait]
impl Store for RaftStore {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        if !range.serializable {
            self.caught_up().await?;
        }
        self.shared.replica.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        // Nothing that everybody would refuse is worth a place in the log.
        txn.check()?;
        let (bytes, limit) = (size_of(&txn), self.shared.max_txn_bytes);
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        if !writes(&txn) {
            if !is_serializable(&txn) {
                self.caught_up().await?;
            }
            return self.shared.replica.read_txn(txn);
        }
        match self.command(Command::Txn(txn), bytes).await? {
            Outcome::Txn(response) => Ok(response),
            Outcome::Lease(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        // From now on means after what was acknowledged anywhere.
        if request.start_revision == 0 {
            self.caught_up().await?;
        }
        let stream = self.shared.replica.watch(request)?;
        // Looked at after it is registered: either the member's thread finds it, or this does.
        match self.shared.health.without_leader(self.shared.clock.monotonic()) {
            Some(_) => Err(NO_LEADER),
            None => Ok(stream),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.command(Command::Compact { revision }, 0).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        if ttl < 1 || id < 0 {
            return Err(Error::Invalid("a lease has a positive ttl and id"));
        }
        let id = match id {
            0 => (self.shared.randomness.u64() >> 1).max(1) as LeaseId,
            id => id,
        };
        lease(self.command(Command::Grant { id, ttl }, 0).await?)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.command(Command::Revoke { id }, 0).await.map(|_| ())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        lease(self.command(Command::KeepAlive { id }, 0).await?)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.caught_up().await?;
        self.shared.replica.lease(id, self.replicated_time())
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.caught_up().await?;
        self.shared.replica.leases()
    }

    async fn leases_known(&self) -> Result<Vec<LeaseInfo>, Error> {
        let now = self.replicated_time();
        let ids = self.shared.replica.leases()?.into_iter();
        let known = ids.map(|id| self.shared.replica.lease(id, now));
        known.filter(|lease| !matches!(lease, Err(Error::LeaseNotFound { .. }))).collect()
    }

    async fn defragment(&self) -> Result<(), Error> {
        let replica = self.shared.replica.clone();
        let written = tokio::task::spawn_blocking(move || {
            replica.drop_compacted();
            replica.checkpoint()
        });
        let position = written.await.map_err(|_| STOPPED)??;
        self.shared.inbox.push(Input::UpkeepDone(Some(position)));
        Ok(())
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        let now = self.shared.clock.monotonic();
        Ok(self.shared.health.warnings(&self.shared.standing.borrow(), now))
    }

    async fn status(&self) -> Result<Status, Error> {
        let mut status = self.shared.replica.status()?;
        status.db_size += self.shared.log_bytes.bytes();
        status.alarm = self.shared.health.alarm(self.shared.clock.monotonic());
        Ok(status)
    }
}

impl RaftStore {
    /// The time of the replicated state, as far as this member knows it.
    fn replicated_time(&self) -> Duration {
        let (time, seen) = *self.shared.time.lock();
        time + self.shared.clock.monotonic().saturating_sub(seen)
    }
}

fn lease(outcome: Outcome) -> Result<LeaseInfo, Error> {
    match outcome {
        Outcome::Lease(info) => Ok(info),
        Outcome::Txn(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
    }
}
