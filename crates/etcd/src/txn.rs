//! A transaction of the wire as one of the store.
//!
//! Pure. A put may keep the value or the lease that its key has, which the contract knows nothing of: the caller looks
//! at those keys, and the transaction is guarded by what it saw. Upstream: the checks of etcd's `api/v3rpc/key.go`.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::{Compare, KeyValue, LeaseId, Op, PutValue, Txn};
use tonic::Status;

use crate::wire::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op};
use crate::{convert, kv, refusal};

/// How deep transactions may stand in one another: what the messages themselves may, is less.
const DEPTH: usize = 24;

/// The lease of a put that is to keep what is not there: none has this name, since those of a store are positive.
pub(crate) const NOTHING_TO_KEEP: LeaseId = LeaseId::MIN;

/// A transaction on its way to the store.
pub(crate) struct Planned<'a> {
    request: &'a TxnRequest,
    /// The keys of which something is kept, and what they are.
    seen: BTreeMap<Bytes, Option<KeyValue>>,
}

impl<'a> Planned<'a> {
    /// Checks a transaction.
    pub fn new(request: &'a TxnRequest, max_ops: usize) -> Result<Self, Status> {
        let mut seen = BTreeMap::new();
        // Together no more than one level may have by itself: nesting is no way around the limit.
        let mut left = max_ops.saturating_mul(3);
        check(request, max_ops, &mut left, DEPTH, &mut seen)?;
        Ok(Self { request, seen })
    }

    /// The keys to look at first.
    pub fn kept(&self) -> Vec<Bytes> {
        self.seen.keys().cloned().collect()
    }

    /// What a key is now.
    pub fn fill(&mut self, key: &Bytes, found: Option<KeyValue>) {
        self.seen.insert(key.clone(), found);
    }

    /// The store's transaction, and whether it is guarded: then it stands in another one, which fails when a key is
    /// no longer what it was.
    pub fn finish(self) -> (Txn, bool) {
        let txn = to_txn(self.request, &self.seen);
        if self.seen.is_empty() {
            return (txn, false);
        }
        let guards = self.seen.iter().map(|(key, found)| {
            Compare::mod_revision(key.clone(), found.as_ref().map_or(0, |kv| kv.mod_revision))
        });
        (kv::guarded(guards.collect(), txn), true)
    }
}

fn check(
    request: &TxnRequest,
    max_ops: usize,
    left: &mut usize,
    depth: usize,
    seen: &mut BTreeMap<Bytes, Option<KeyValue>>,
) -> Result<(), Status> {
    let lengths = [request.compare.len(), request.success.len(), request.failure.len()];
    if depth == 0 || lengths.into_iter().any(|length| length > max_ops) {
        return Err(refusal::invalid(refusal::TOO_MANY_OPS));
    }
    let rest = left.checked_sub(lengths.iter().sum());
    *left = rest.ok_or_else(|| refusal::invalid(refusal::TOO_MANY_OPS))?;
    for compare in &request.compare {
        convert::compare_from_wire(compare)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(range)) => kv::check_range(range)?,
            Some(request_op::Request::RequestPut(put)) => check_put(put, seen)?,
            Some(request_op::Request::RequestDeleteRange(delete)) => drop(kv::to_delete(delete)?),
            Some(request_op::Request::RequestTxn(txn)) => check(txn, max_ops, left, depth - 1, seen)?,
            None => return Err(refusal::invalid(refusal::KEY_NOT_FOUND)),
        }
    }
    Ok(())
}

fn check_put(put: &PutRequest, seen: &mut BTreeMap<Bytes, Option<KeyValue>>) -> Result<(), Status> {
    if put.key.is_empty() {
        return Err(refusal::invalid(refusal::EMPTY_KEY));
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(refusal::invalid(refusal::VALUE_PROVIDED));
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(refusal::invalid(refusal::LEASE_PROVIDED));
    }
    if put.ignore_value || put.ignore_lease {
        seen.insert(put.key.clone(), None);
    }
    Ok(())
}

/// Of a checked request.
fn to_txn(request: &TxnRequest, seen: &BTreeMap<Bytes, Option<KeyValue>>) -> Txn {
    let ops = |ops: &[RequestOp]| ops.iter().filter_map(|op| to_op(op, seen)).collect();
    Txn {
        compare: request
            .compare
            .iter()
            .filter_map(|compare| convert::compare_from_wire(compare).ok())
            .collect(),
        success: ops(&request.success),
        failure: ops(&request.failure),
    }
}

fn to_op(op: &RequestOp, seen: &BTreeMap<Bytes, Option<KeyValue>>) -> Option<Op> {
    Some(match op.request.as_ref()? {
        request_op::Request::RequestRange(range) => Op::Range(kv::to_range(range)),
        request_op::Request::RequestPut(put) => to_put(put, seen),
        request_op::Request::RequestDeleteRange(delete) => kv::to_delete(delete).ok()?,
        request_op::Request::RequestTxn(txn) => Op::Txn(to_txn(txn, seen)),
    })
}

fn to_put(put: &PutRequest, seen: &BTreeMap<Bytes, Option<KeyValue>>) -> Op {
    let (mut value, mut lease) = (put.value.clone(), put.lease);
    if put.ignore_value || put.ignore_lease {
        let Some(Some(kv)) = seen.get(&put.key) else {
            // There is nothing to keep. It only matters if this branch is taken: then the transaction is refused, for a
            // lease that there never is.
            let value = PutValue::Plain(Bytes::new());
            return Op::Put { key: put.key.clone(), value, lease: NOTHING_TO_KEEP };
        };
        if put.ignore_value {
            value = kv.value.clone();
        }
        if put.ignore_lease {
            lease = kv.lease;
        }
    }
    Op::Put { key: put.key.clone(), value: PutValue::Plain(value), lease }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::etcdserverpb::{DeleteRangeRequest, RangeRequest};

    fn op(request: request_op::Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put(put: PutRequest) -> RequestOp {
        op(request_op::Request::RequestPut(put))
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_upstreams_words() {
        let key = || Bytes::from("k");
        let kept = PutRequest { key: key(), ignore_value: true, ..Default::default() };
        for (ops, text) in [
            (vec![put(PutRequest::default())], refusal::EMPTY_KEY),
            (vec![op(request_op::Request::RequestRange(RangeRequest::default()))], refusal::EMPTY_KEY),
            (
                vec![op(request_op::Request::RequestDeleteRange(DeleteRangeRequest::default()))],
                refusal::EMPTY_KEY,
            ),
            (vec![put(PutRequest { value: key(), ..kept.clone() })], refusal::VALUE_PROVIDED),
            (vec![put(PutRequest { ignore_lease: true, lease: 7, ..kept.clone() })], refusal::LEASE_PROVIDED),
            (vec![put(kept.clone()); 3], refusal::TOO_MANY_OPS),
            (vec![RequestOp { request: None }], refusal::KEY_NOT_FOUND),
            (
                vec![op(request_op::Request::RequestRange(RangeRequest {
                    key: key(),
                    sort_order: 9,
                    ..Default::default()
                }))],
                refusal::INVALID_SORT,
            ),
        ] {
            let request = TxnRequest { success: ops, ..Default::default() };
            let refused = Planned::new(&request, 2).map(|_| ()).unwrap_err();
            assert_eq!(refused.message(), text);
        }
    }

    #[test]
    fn operations_are_counted_over_all_levels() {
        let get =
            || op(request_op::Request::RequestRange(RangeRequest { key: "k".into(), ..Default::default() }));
        let mut request = TxnRequest { success: vec![get()], ..Default::default() };
        for levels in 1..=8 {
            let inner = op(request_op::Request::RequestTxn(request));
            request = TxnRequest { success: vec![get(), inner], ..Default::default() };
            let refused = Planned::new(&request, 4).map(|_| ()).err();
            // Two a level, and one in the innermost: twelve are allowed.
            assert_eq!(refused.is_some(), 2 * levels + 1 > 12, "{levels} levels");
        }
    }

    #[test]
    fn what_is_kept_is_guarded() {
        let kept = PutRequest { key: "k".into(), ignore_value: true, lease: 3, ..Default::default() };
        let request = TxnRequest { failure: vec![put(kept)], ..Default::default() };
        let mut planned = Planned::new(&request, 2).unwrap();
        assert_eq!(planned.kept(), ["k"]);
        let kv = KeyValue { key: "k".into(), value: "v".into(), mod_revision: 5, ..Default::default() };
        planned.fill(&"k".into(), Some(kv));
        let (txn, guarded) = planned.finish();
        assert!(guarded);
        assert_eq!(txn.compare, [Compare::mod_revision("k", 5)]);
        let Op::Txn(inner) = &txn.success[0] else { panic!("{txn:?}") };
        let value = PutValue::Plain("v".into());
        assert_eq!(inner.failure, [Op::Put { key: "k".into(), value, lease: 3 }]);
    }
}
