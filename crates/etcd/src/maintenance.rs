//! The service Maintenance: where the store stands, its hash, its snapshot.
//!
//! Reads the store. A snapshot is written to a temporary file first, so that neither a large store nor a slow client keeps
//! much in memory; one that the disk has no room for is refused before.
//! Hashes are of this server's own making: they compare one of its stores with another, never with etcd's.
//! Upstream: etcd's `server/etcdserver/api/v3rpc/maintenance.go`.

use std::io::{Read, Seek};

use bytes::Bytes;
use store::{Range, Revision};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::wire::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
    maintenance_server::Maintenance,
};
use crate::{Known, Server, VERSION, refusal, snapshot};

/// Bytes of a snapshot in one message.
const CHUNK: usize = 256 << 10;
/// Keys read at once.
const PAGE: usize = 4096;

#[async_trait]
impl Maintenance for Server {
    /// The alarm goes by itself when there is room again: asking for its end changes nothing.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        use crate::wire::etcdserverpb::alarm_request::AlarmAction;
        if request.into_inner().action() == AlarmAction::Activate {
            return Err(Status::unimplemented("etcdserver: alarms are raised by the store alone"));
        }
        let status = self.store.status().await.map_err(refusal::status)?;
        // What else a store may have to say is no alarm of etcd's, which has one for a full disk and no other here:
        // whoever sees that one deletes data.
        let alarm = AlarmMember { member_id: self.options.id, alarm: AlarmType::Nospace.into() };
        let alarms = if status.is_full() { vec![alarm] } else { Vec::new() };
        Ok(Response::new(AlarmResponse { header: self.header(status.revision), alarms }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = self.store.status().await.map_err(refusal::status)?;
        // Among them why writes are refused, if they are.
        let errors = self.store.warnings().await.map_err(refusal::status)?;
        let standing = self.options.members.as_ref().map(|members| members.standing());
        let (leader, raft_term, indexes, is_learner) = match standing {
            None => (self.options.id, 1, (status.revision, status.revision), false),
            Some(standing) => (standing.leader, standing.term, standing.indexes, standing.is_learner()),
        };
        Ok(Response::new(StatusResponse {
            header: self.header(status.revision),
            version: VERSION.to_owned(),
            db_size: status.db_size as i64,
            leader,
            raft_index: indexes.0,
            raft_term,
            raft_applied_index: indexes.1,
            errors,
            db_size_in_use: (status.live_bytes + status.history_bytes) as i64,
            is_learner,
        }))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(refusal::status)?;
        Ok(Response::new(DefragmentResponse { header: self.header_known().await? }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (revision, hash) = self.hash_at(0).await?;
        Ok(Response::new(HashResponse { header: self.header(revision), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let asked = u64::try_from(request.into_inner().revision).unwrap_or(0);
        let (revision, hash) = self.hash_at(asked).await?;
        let status = self.store.status().await.map_err(refusal::status)?;
        Ok(Response::new(HashKvResponse {
            header: self.header(status.revision),
            hash,
            compact_revision: status.compact_revision as i64,
            hash_revision: revision as i64,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let failed = refusal::of_snapshot;
        // Refused and not queued: what a slow client takes may last for ever.
        let Ok(slot) = self.snapshots.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("etcdserver: too many requests"));
        };
        let scratch = self.options.scratch.clone();
        let status = self.store.status().await.map_err(refusal::status)?;
        snapshot::check_room(scratch.as_deref(), &status).map_err(failed)?;
        let gathered = snapshot::gather(&*self.store, scratch.as_deref()).await.map_err(failed)?;
        let header = self.header(gathered.revision());
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let send = |item| sender.blocking_send(item).is_ok();
            let file = scratch.map_or_else(tempfile::tempfile, tempfile::tempfile_in);
            let written = file.map_err(snapshot::Error::from).and_then(|mut file| {
                let size = gathered.write(&mut file)?;
                file.rewind()?;
                Ok((file, size))
            });
            // Its room is not for as long as a slow client takes.
            drop(gathered);
            let (mut file, mut left) = match written {
                Ok(written) => written,
                Err(error) => {
                    send(Err(failed(error)));
                    return;
                }
            };
            let mut chunk = vec![0; CHUNK];
            while left > 0 {
                let size = left.min(CHUNK as u64) as usize;
                if let Err(error) = file.read_exact(&mut chunk[..size]) {
                    send(Err(failed(error.into())));
                    return;
                }
                left -= size as u64;
                let blob = Bytes::copy_from_slice(&chunk[..size]);
                let version = VERSION.to_owned();
                if !send(Ok(SnapshotResponse { header, remaining_bytes: left, blob, version })) {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        let refused = |text| Err(Status::new(Code::FailedPrecondition, text));
        match &self.options.members {
            None if target == self.options.id => {}
            None => return refused(refusal::BAD_TRANSFEREE),
            Some(members) => {
                let standing = members.standing();
                if standing.leader != standing.id {
                    return refused(refusal::NOT_LEADER);
                }
                let votes = |known: &Known| known.id == target && !known.is_learner;
                if !standing.members.iter().any(votes) {
                    return refused(refusal::BAD_TRANSFEREE);
                }
                let moved = members.move_leader(target).await;
                moved.map_err(|error| match error {
                    store::Error::Unavailable(store::unavailable::UNDECIDED) => {
                        Status::new(Code::Unavailable, refusal::TRANSFER_TIMEOUT)
                    }
                    error => refusal::status(error),
                })?;
            }
        }
        Ok(Response::new(MoveLeaderResponse { header: self.header_known().await? }))
    }

    async fn downgrade(&self, _: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        Err(Status::unimplemented("etcdserver: there is no older format to go down to"))
    }
}

impl Server {
    /// The hash of all keys as of a revision (0: the latest), and that revision.
    async fn hash_at(&self, asked: Revision) -> Result<(Revision, u32), Status> {
        let mut revision = asked;
        let mut hasher = crc32fast::Hasher::new();
        let mut start = Bytes::new();
        loop {
            let range = Range { start, revision, limit: PAGE, uncounted: true, ..Range::default() };
            let found = self.store.range(range.serializable()).await.map_err(refusal::status)?;
            if revision == 0 {
                revision = found.revision;
                // The rest is read as of the same revision; so must be what was read already.
                if found.more {
                    start = Bytes::new();
                    continue;
                }
            }
            for kv in &found.kvs {
                for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease as u64] {
                    hasher.update(&number.to_le_bytes());
                }
                for bytes in [&kv.key, &kv.value] {
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                }
            }
            match found.kvs.last().filter(|_| found.more) {
                Some(last) => start = crate::convert::range_end(&last.key, &Bytes::new()),
                None => return Ok((revision, hasher.finalize())),
            }
        }
    }
}
