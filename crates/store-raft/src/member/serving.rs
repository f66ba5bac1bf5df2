//! The store as a member serves it: writes go through the log, reads wait until this member has all that was acknowledged.
//!
//! Not here: how either comes about (`core`), who the members are (`member`).

use async_trait::async_trait;
use store::embedded::replica::{Command, Outcome};
use store::{
    Error, LeaseId, LeaseInfo, Op, PutValue, Range, RangeResponse, Revision, Status, Store, Txn, TxnResponse,
    WatchRequest, WatchStream,
};

use super::inbox::Input;
use super::{RaftStore, STOPPED};

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

#[async_trait]
impl Store for RaftStore {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.caught_up().await?;
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
            self.caught_up().await?;
            return self.shared.replica.read_txn(txn);
        }
        match self.command(Command::Txn(txn)).await? {
            Outcome::Txn(response) => Ok(response),
            Outcome::Lease(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        // From now on means after what was acknowledged anywhere.
        if request.start_revision == 0 {
            self.caught_up().await?;
        }
        self.shared.replica.watch(request)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.command(Command::Compact { revision }).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        if ttl < 1 || id < 0 {
            return Err(Error::Invalid("a lease has a positive ttl and id"));
        }
        let id = match id {
            0 => (self.shared.randomness.u64() >> 1).max(1) as LeaseId,
            id => id,
        };
        lease(self.command(Command::Grant { id, ttl }).await?)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.command(Command::Revoke { id }).await.map(|_| ())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        lease(self.command(Command::KeepAlive { id }).await?)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.caught_up().await?;
        let (time, seen) = *self.shared.time.lock();
        let now = time + self.shared.clock.monotonic().saturating_sub(seen);
        self.shared.replica.lease(id, now)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.caught_up().await?;
        self.shared.replica.leases()
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

fn lease(outcome: Outcome) -> Result<LeaseInfo, Error> {
    match outcome {
        Outcome::Lease(info) => Ok(info),
        Outcome::Txn(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
    }
}
