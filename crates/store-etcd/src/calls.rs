//! The contract's calls as calls of etcd.
//!
//! Every read is linearizable. Upstream: etcd's `client/v3`.

use std::collections::HashSet;

use async_trait::async_trait;
use bytes::Bytes;
use etcd::wire::etcdserverpb::kv_client::KvClient;
use etcd::wire::etcdserverpb::lease_client::LeaseClient;
use etcd::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd::wire::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, LeaseGrantRequest,
    LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RangeResponse as WireRange, RequestOp, ResponseOp, StatusRequest, TxnRequest, request_op,
    response_op,
};
use etcd::{convert, refusal, stamp};
use store::{
    Error, KeyValue, LeaseId, LeaseInfo, Op, OpResult, PutValue, Range, RangeResponse, Revision, Status,
    Store, Txn, TxnResponse, WatchRequest, WatchStream,
};
use tonic::transport::Channel;

use crate::endpoints::{Failure, Kind};
use crate::pages::Pages;
use crate::{EtcdStore, feed};

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// What etcd answers where nothing else fits the question.
const UNLIKE: Error = Error::Unavailable("etcd answered with something else");

fn range_request(range: &Range) -> RangeRequest {
    let (key, range_end) = convert::range_to_wire(range.start.clone(), range.end.clone());
    RangeRequest {
        key,
        range_end,
        limit: i64::try_from(range.limit).unwrap_or(i64::MAX),
        revision: i64::try_from(range.revision).unwrap_or(i64::MAX),
        keys_only: range.keys_only,
        count_only: range.count_only,
        serializable: range.serializable,
        ..RangeRequest::default()
    }
}

fn range_response(uncounted: bool, found: WireRange) -> RangeResponse {
    let count = if uncounted { found.kvs.len() as u64 } else { found.count as u64 };
    RangeResponse {
        revision: found.header.map_or(0, |header| header.revision as u64),
        kvs: found.kvs.into_iter().map(|kv| stamp::opened(convert::from_wire(kv))).collect(),
        more: found.more,
        count,
    }
}

fn txn_request(txn: Txn) -> TxnRequest {
    let ops = |ops: Vec<Op>| ops.into_iter().map(request_op).collect();
    TxnRequest {
        compare: txn.compare.into_iter().map(convert::compare_to_wire).collect(),
        success: ops(txn.success),
        failure: ops(txn.failure),
    }
}

fn request_op(op: Op) -> RequestOp {
    let request = match op {
        Op::Put { key, value, lease } => request_op::Request::RequestPut(PutRequest {
            key,
            value: stamp::encode(value),
            lease,
            prev_kv: true,
            ..PutRequest::default()
        }),
        Op::Delete { start, end } => {
            let (key, range_end) = convert::range_to_wire(start, end);
            request_op::Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: true })
        }
        Op::Range(range) => request_op::Request::RequestRange(range_request(&range)),
        Op::Txn(txn) => request_op::Request::RequestTxn(txn_request(txn)),
    };
    RequestOp { request: Some(request) }
}

/// What the operations of a branch did, which etcd tells without what was put.
fn results(ops: Vec<Op>, responses: Vec<ResponseOp>, revision: Revision) -> Result<Vec<OpResult>, Error> {
    let result = |(op, response): (Op, ResponseOp)| match (op, response.response) {
        (Op::Put { key, value, lease }, Some(response_op::Response::ResponsePut(done))) => {
            let prev = done.prev_kv.map(|prev| stamp::opened(convert::from_wire(prev)));
            let value = stamp::decode(stamp::encode(value), revision);
            let create_revision = prev.as_ref().map_or(revision, |prev| prev.create_revision);
            let version = prev.as_ref().map_or(0, |prev| prev.version) + 1;
            let kv = KeyValue { key, value, create_revision, mod_revision: revision, version, lease };
            Ok(OpResult::Put { kv, prev })
        }
        (Op::Delete { .. }, Some(response_op::Response::ResponseDeleteRange(done))) => {
            let prev = done.prev_kvs.into_iter().map(|kv| stamp::opened(convert::from_wire(kv)));
            Ok(OpResult::Delete { prev: prev.collect() })
        }
        (Op::Range(range), Some(response_op::Response::ResponseRange(found))) => {
            let found = RangeResponse { revision, ..range_response(range.uncounted, found) };
            Ok(OpResult::Range(found))
        }
        (Op::Txn(txn), Some(response_op::Response::ResponseTxn(done))) => {
            let ops = if done.succeeded { txn.success } else { txn.failure };
            let results = results(ops, done.responses, revision)?;
            Ok(OpResult::Txn { succeeded: done.succeeded, results })
        }
        _ => Err(UNLIKE),
    };
    if ops.len() != responses.len() {
        return Err(UNLIKE);
    }
    ops.into_iter().zip(responses).map(result).collect()
}

/// The leases that a transaction may attach keys to.
fn leases_of(txn: &Txn, found: &mut Vec<LeaseId>) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put { lease, .. } if *lease != 0 => found.push(*lease),
            Op::Txn(txn) => leases_of(txn, found),
            _ => {}
        }
    }
}

/// Bytes that a transaction writes, about.
fn size_of(ops: &[Op]) -> usize {
    let of = |op: &Op| match op {
        Op::Put { key, value: PutValue::Plain(value), .. } => key.len() + value.len(),
        Op::Put { key, value: PutValue::Stamped { head, tail }, .. } => key.len() + head.len() + tail.len(),
        Op::Txn(txn) => size_of(&txn.success).max(size_of(&txn.failure)),
        Op::Delete { .. } | Op::Range(_) => 0,
    };
    ops.iter().map(of).sum()
}

impl EtcdStore {
    /// One request for a range.
    async fn page(&self, range: Range) -> Result<RangeResponse, Error> {
        let request = range_request(&range);
        let call = |channel| {
            let request = request.clone();
            async move { kv(channel).range(request).await }
        };
        match self.endpoints.call(Kind::Read, call).await {
            Ok(found) => Ok(range_response(range.uncounted, found)),
            Err(failure) => Err(self.error(failure, 0).await),
        }
    }

    /// A lease; with the names of its keys, of which there may be many, only if they are asked for.
    async fn look_at_lease(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, Error> {
        let request = LeaseTimeToLiveRequest { id, keys };
        let call = |channel| async move {
            let mut client = LeaseClient::new(channel).max_decoding_message_size(usize::MAX);
            client.lease_time_to_live(request).await
        };
        match self.endpoints.call(Kind::Read, call).await {
            Ok(answer) if answer.ttl >= 0 => {
                let mut keys = answer.keys;
                keys.sort_unstable();
                Ok(LeaseInfo { id, granted_ttl: answer.granted_ttl, ttl: answer.ttl, keys })
            }
            Ok(_) => Err(Error::LeaseNotFound { id }),
            Err(failure) => Err(self.error(failure, id).await),
        }
    }

    /// The lease that a refused transaction did not find, which etcd does not say.
    async fn missing_lease(&self, txn: &Txn) -> LeaseId {
        let mut leases = Vec::new();
        leases_of(txn, &mut leases);
        // Many keys with one lease are one question.
        let mut seen = HashSet::new();
        leases.retain(|lease| seen.insert(*lease));
        let last = leases.pop().unwrap_or(0);
        for lease in leases {
            if matches!(self.look_at_lease(lease, false).await, Err(Error::LeaseNotFound { .. })) {
                return lease;
            }
        }
        last
    }

    /// What a failure means in the contract's words; some of it must be asked for.
    async fn error(&self, failure: Failure, lease: LeaseId) -> Error {
        let status = match failure {
            Failure::Unsent(error) => return error,
            Failure::Lost(status) if status.message() == refusal::NO_LEADER => {
                return Error::Unavailable("etcd has no leader");
            }
            Failure::Lost(_) => return Error::Unavailable("etcd does not answer"),
            Failure::Refused(status) => status,
        };
        match status.message() {
            refusal::COMPACTED => match feed::compact_revision(&self.endpoints).await {
                Ok(revision) => Error::Compacted { revision },
                Err(error) => error,
            },
            refusal::FUTURE_REVISION => match self.revision().await {
                Ok(current) => Error::FutureRevision { current },
                Err(error) => error,
            },
            refusal::LEASE_NOT_FOUND => Error::LeaseNotFound { id: lease },
            refusal::LEASE_EXISTS => Error::LeaseExists { id: lease },
            refusal::EMPTY_KEY => Error::Invalid("key is empty"),
            refusal::DUPLICATE_KEY => Error::Invalid("duplicate key given in txn request"),
            refusal::TOO_MANY_OPS => Error::Invalid("too many operations in txn request"),
            // etcd's default limit of a request, or whatever else it was started with: it does not say.
            refusal::REQUEST_TOO_LARGE => Error::TooLarge { bytes: 0, limit: 1536 << 10 },
            refusal::NO_SPACE => Error::NoSpace,
            _ => {
                tracing::warn!(%status, "etcd refused a request");
                Error::Unavailable("etcd refused the request")
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        let mut pages = Pages::new(range);
        loop {
            let page = match self.page(pages.next()).await {
                Ok(page) => page,
                Err(error) if pages.begin_again(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Some(whole) = pages.take(page) {
                return Ok(whole);
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        // etcd overlooks a put under a deletion that has no end.
        txn.check()?;
        let request = txn_request(txn.clone());
        let call = |channel| {
            let request = request.clone();
            async move { kv(channel).txn(request).await }
        };
        let done = match self.endpoints.call(Kind::Write, call).await {
            Ok(done) => done,
            Err(failure) => {
                let bytes = size_of(&txn.success).max(size_of(&txn.failure));
                return Err(match self.error(failure, 0).await {
                    Error::TooLarge { limit, .. } => Error::TooLarge { bytes, limit },
                    Error::LeaseNotFound { .. } => {
                        Error::LeaseNotFound { id: self.missing_lease(&txn).await }
                    }
                    error => error,
                });
            }
        };
        let revision = done.header.map_or(0, |header| header.revision as u64);
        let ops = if done.succeeded { txn.success } else { txn.failure };
        let results = results(ops, done.responses, revision)?;
        Ok(TxnResponse { revision, succeeded: done.succeeded, results })
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        let now = self.revision().await?;
        Ok(self.feed.watch(request, now))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let request = CompactionRequest { revision: revision as i64, physical: false };
        // Done twice, it is refused as done.
        match self
            .endpoints
            .call(Kind::Write, |channel| async move { kv(channel).compact(request).await })
            .await
        {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.error(failure, 0).await),
        }
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        if ttl < 1 || id < 0 {
            return Err(Error::Invalid("a lease has a positive ttl and id"));
        }
        let call = |channel| async move {
            LeaseClient::new(channel).lease_grant(LeaseGrantRequest { ttl, id }).await
        };
        match self.endpoints.call(Kind::Write, call).await {
            Ok(granted) => {
                Ok(LeaseInfo { id: granted.id, granted_ttl: granted.ttl, ttl: granted.ttl, keys: Vec::new() })
            }
            Err(failure) => Err(self.error(failure, id).await),
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        let call =
            |channel| async move { LeaseClient::new(channel).lease_revoke(LeaseRevokeRequest { id }).await };
        match self.endpoints.call(Kind::Write, call).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.error(failure, id).await),
        }
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        let call = |channel| async move {
            // A stream of one request and one answer: the store's callers renew one lease now and then.
            let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
            let mut answers = LeaseClient::new(channel).lease_keep_alive(requests).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("the stream ended"))
        };
        // Done twice, it renews twice.
        match self.endpoints.call(Kind::Read, call).await {
            Ok(answer) if answer.ttl > 0 => {
                Ok(LeaseInfo { id, granted_ttl: answer.ttl, ttl: answer.ttl, keys: Vec::new() })
            }
            Ok(_) => Err(Error::LeaseNotFound { id }),
            Err(failure) => Err(self.error(failure, id).await),
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.look_at_lease(id, true).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let call =
            |channel| async move { LeaseClient::new(channel).lease_leases(LeaseLeasesRequest {}).await };
        match self.endpoints.call(Kind::Read, call).await {
            Ok(answer) => {
                let mut leases: Vec<_> = answer.leases.into_iter().map(|lease| lease.id).collect();
                leases.sort_unstable();
                Ok(leases)
            }
            Err(failure) => Err(self.error(failure, 0).await),
        }
    }

    /// Of the member that is connected: it answers nobody meanwhile.
    async fn defragment(&self) -> Result<(), Error> {
        let call =
            |channel| async move { MaintenanceClient::new(channel).defragment(DefragmentRequest {}).await };
        match self.endpoints.call(Kind::Write, call).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.error(failure, 0).await),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let all = self.range(Range { count_only: true, ..Range::prefix(Bytes::new()) }).await?;
        let leases = self.leases().await?.len() as u64;
        let call = |channel| async move { MaintenanceClient::new(channel).status(StatusRequest {}).await };
        let member = match self.endpoints.call(Kind::Read, call).await {
            Ok(member) => member,
            Err(failure) => return Err(self.error(failure, 0).await),
        };
        let call =
            |channel| async move { MaintenanceClient::new(channel).alarm(AlarmRequest::default()).await };
        let alarms = match self.endpoints.call(Kind::Read, call).await {
            Ok(answer) => answer.alarms,
            Err(failure) => return Err(self.error(failure, 0).await),
        };
        // Whether anything is compacted is cheap to know; up to where is not.
        let first = self.range(Range { count_only: true, ..Range::key(&b"\0"[..]) }.at(1)).await;
        let compact_revision = match first {
            Ok(_) => 0,
            Err(Error::Compacted { revision }) => revision,
            Err(error) => return Err(error),
        };
        Ok(Status {
            revision: all.revision,
            compact_revision,
            keys: all.count,
            leases,
            live_bytes: member.db_size_in_use as u64,
            history_bytes: 0,
            db_size: member.db_size as u64,
            alarm: alarms
                .first()
                .map(|alarm| format!("etcd raises the alarm {}", alarm.alarm().as_str_name())),
        })
    }
}
