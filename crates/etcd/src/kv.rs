//! The service KV: reads, writes, transactions, compaction.
//!
//! Reads and writes the store; every write is one transaction of it. Upstream: etcd's
//! `server/etcdserver/{v3_server,txn}` and `api/v3rpc/key.go`.

use bytes::Bytes;
use store::{Op, OpResult, PutValue, Range, RangeResponse as Found, Txn};
use tonic::{Request, Response, Status, async_trait};

use crate::txn::{NOTHING_TO_KEEP, Planned};
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    kv_server::Kv, request_op, response_op,
};
use crate::{Server, convert, refusal};

#[async_trait]
impl Kv for Server {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        check_range(&request)?;
        let found = self.store.range(to_range(&request)).await.map_err(refusal::status)?;
        let mut response = finish_range(&request, found);
        response.header = self.header(response.header.map_or(0, |header| header.revision as u64));
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.write_put(request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.write_delete(request.into_inner()).await.map(Response::new)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(self.transaction(request.into_inner()).await?))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let revision = u64::try_from(request.into_inner().revision).unwrap_or_default();
        self.store.compact(revision).await.map_err(refusal::status)?;
        Ok(Response::new(CompactionResponse { header: self.header_now().await? }))
    }
}

fn unlike() -> Status {
    Status::internal("the store answered an operation with something else")
}

impl Server {
    /// Writes one key.
    pub(crate) async fn write_put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        if request.key.is_empty() || request.ignore_value || request.ignore_lease {
            return match self.single(request_op::Request::RequestPut(request)).await? {
                response_op::Response::ResponsePut(response) => Ok(response),
                _ => Err(unlike()),
            };
        }
        // Nothing to check and nothing to keep: the store's transaction as it is.
        let value = PutValue::Plain(request.value);
        let op = Op::Put { key: request.key, value, lease: request.lease };
        let done = self.store.txn(Txn::of(vec![op])).await.map_err(refusal::status)?;
        match done.results.into_iter().next() {
            Some(OpResult::Put { prev, .. }) => {
                let prev_kv = prev.filter(|_| request.prev_kv).map(convert::to_wire);
                Ok(PutResponse { header: self.header(done.revision), prev_kv })
            }
            _ => Err(unlike()),
        }
    }

    /// Deletes a range of keys.
    pub(crate) async fn write_delete(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        match self.single(request_op::Request::RequestDeleteRange(request)).await? {
            response_op::Response::ResponseDeleteRange(response) => Ok(response),
            _ => Err(unlike()),
        }
    }

    /// A transaction of one operation.
    async fn single(&self, request: request_op::Request) -> Result<response_op::Response, Status> {
        let success = vec![RequestOp { request: Some(request) }];
        let response = self.transaction(TxnRequest { success, ..TxnRequest::default() }).await?;
        let header = response.header;
        let mut response = response.responses.into_iter().next().and_then(|op| op.response);
        match &mut response {
            Some(response_op::Response::ResponsePut(response)) => response.header = header,
            Some(response_op::Response::ResponseDeleteRange(response)) => response.header = header,
            _ => {}
        }
        response.ok_or_else(unlike)
    }

    /// A transaction. One that keeps values or leases is tried until nobody else writes between the look and the act.
    pub(crate) async fn transaction(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        loop {
            let mut planned = Planned::new(&request, self.options.max_txn_ops)?;
            for kept in planned.kept() {
                let found = self.store.range(Range::key(kept.clone())).await.map_err(refusal::status)?;
                planned.fill(&kept, found.kvs.into_iter().next());
            }
            let (txn, guarded) = planned.finish();
            let response = self.store.txn(txn).await.map_err(|error| match error {
                // Only what `Planned` puts in the place of a put that has nothing to keep asks for it.
                store::Error::LeaseNotFound { id: NOTHING_TO_KEEP } => {
                    refusal::invalid(refusal::KEY_NOT_FOUND)
                }
                error => refusal::status(error),
            })?;
            let (succeeded, results) = match guarded {
                false => (response.succeeded, response.results),
                true if !response.succeeded => continue,
                true => match response.results.into_iter().next() {
                    Some(OpResult::Txn { succeeded, results }) => (succeeded, results),
                    _ => return Err(unlike()),
                },
            };
            let ops = if succeeded { &request.success } else { &request.failure };
            let responses = responses(ops, results, response.revision);
            return Ok(TxnResponse { header: self.header(response.revision), succeeded, responses });
        }
    }
}

/// What a branch's operations are answered with. Each carries the transaction's revision, which clients look for: upstream's
/// kube-apiserver in that of a deletion.
fn responses(ops: &[RequestOp], results: Vec<OpResult>, at: store::Revision) -> Vec<ResponseOp> {
    let respond = |(op, result): (&RequestOp, OpResult)| {
        use request_op::Request as Asked;
        use response_op::Response as Answer;
        let response = match (&op.request, result) {
            (Some(Asked::RequestRange(request)), OpResult::Range(found)) => {
                Some(Answer::ResponseRange(finish_range(request, found)))
            }
            (Some(Asked::RequestPut(request)), OpResult::Put { kv, prev }) => {
                let prev_kv = prev.filter(|_| request.prev_kv).map(convert::to_wire);
                Some(Answer::ResponsePut(PutResponse { header: revision(kv.mod_revision), prev_kv }))
            }
            (Some(Asked::RequestDeleteRange(request)), OpResult::Delete { prev }) => {
                let deleted = prev.len() as i64;
                let prev_kvs = if request.prev_kv { prev } else { Vec::new() };
                let prev_kvs = prev_kvs.into_iter().map(convert::to_wire).collect();
                Some(Answer::ResponseDeleteRange(DeleteRangeResponse {
                    header: revision(at),
                    deleted,
                    prev_kvs,
                }))
            }
            (Some(Asked::RequestTxn(request)), OpResult::Txn { succeeded, results }) => {
                let ops = if succeeded { &request.success } else { &request.failure };
                let responses = responses(ops, results, at);
                // etcd's is there and says nothing.
                let header = Some(ResponseHeader::default());
                Some(Answer::ResponseTxn(TxnResponse { header, succeeded, responses }))
            }
            _ => None,
        };
        ResponseOp { response }
    };
    ops.iter().zip(results).map(respond).collect()
}

/// The header inside a transaction's answer: it says the revision only.
fn revision(revision: store::Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision as i64, ..Default::default() })
}

/// Refuses a range that makes no sense.
pub(crate) fn check_range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(refusal::invalid(refusal::EMPTY_KEY));
    }
    let known =
        SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(refusal::invalid(refusal::INVALID_SORT)) }
}

/// Whether all keys must be seen before it is known which are answered.
fn is_sifted(request: &RangeRequest) -> bool {
    request.sort_order() != SortOrder::None
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// The read that the store is asked for.
pub(crate) fn to_range(request: &RangeRequest) -> Range {
    let limit = match usize::try_from(request.limit).unwrap_or(0) {
        // etcd reads one more than the limit, to know whether there is more, and sorts those where no order is asked for.
        limit if limit > 0 && request.sort_target() != SortTarget::Key => limit.saturating_add(1),
        limit => limit,
    };
    let limit = if is_sifted(request) { 0 } else { limit };
    Range {
        start: request.key.clone(),
        end: convert::range_end(&request.key, &request.range_end),
        revision: u64::try_from(request.revision).unwrap_or(0),
        limit,
        count_only: request.count_only,
        // Values may decide the order.
        keys_only: request.keys_only && request.sort_target() != SortTarget::Value,
        uncounted: false,
        serializable: request.serializable,
    }
}

/// The answer, of what the store has found: what is out of bounds left out, sorted, and cut at the limit.
fn finish_range(request: &RangeRequest, found: Found) -> RangeResponse {
    let Found { revision: at, mut kvs, mut more, count } = found;
    let within = |number: u64, (min, max): (i64, i64)| {
        let number = number as i64;
        (min == 0 || number >= min) && (max == 0 || number <= max)
    };
    let modified = (request.min_mod_revision, request.max_mod_revision);
    let created = (request.min_create_revision, request.max_create_revision);
    if modified != (0, 0) || created != (0, 0) {
        kvs.retain(|kv| within(kv.mod_revision, modified) && within(kv.create_revision, created));
    }
    let target = request.sort_target();
    // As upstream: a target other than the key sorts even where no order is asked for.
    if request.sort_order() != SortOrder::None || target != SortTarget::Key {
        kvs.sort_by(|a, b| {
            let order = match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if request.sort_order() == SortOrder::Descend { order.reverse() } else { order }
        });
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && kvs.len() > limit {
        kvs.truncate(limit);
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let kvs = kvs.into_iter().map(convert::to_wire).collect();
    RangeResponse { header: revision(at), kvs, more, count: count as i64 }
}

/// Deletes what a request names.
pub(crate) fn to_delete(request: &DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(refusal::invalid(refusal::EMPTY_KEY));
    }
    let end = convert::range_end(&request.key, &request.range_end);
    Ok(Op::Delete { start: request.key.clone(), end })
}

/// A transaction that carries out another if every key is still as it was when it was looked at.
pub(crate) fn guarded(compare: Vec<store::Compare>, txn: Txn) -> Txn {
    Txn { compare, success: vec![Op::Txn(txn)], failure: Vec::new() }
}
