//! Between the messages of the wire and the words of the store's contract.
//!
//! Pure. On the wire a range without an end is one key and one that ends in a zero byte has no end; in the contract it
//! is the other way round.

use bytes::Bytes;
use store::{Compare, Event, EventKind, KeyValue, Relation, Target};
use tonic::Status;

use crate::refusal;
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::{etcdserverpb, mvccpb};

/// A key as the wire carries it.
pub fn to_wire(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision as i64,
        mod_revision: kv.mod_revision as i64,
        version: kv.version as i64,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A key as the contract has it.
pub fn from_wire(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision as u64,
        mod_revision: kv.mod_revision as u64,
        version: kv.version as u64,
        lease: kv.lease,
    }
}

/// A change as the wire carries it.
pub fn event_to_wire(event: Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event { r#type: kind.into(), kv: Some(to_wire(event.kv)), prev_kv: event.prev.map(to_wire) }
}

/// A change as the contract has it.
pub fn event_from_wire(event: mvccpb::Event) -> Event {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Event { kind, kv: event.kv.map(from_wire).unwrap_or_default(), prev: event.prev_kv.map(from_wire) }
}

/// Where a range of the contract ends (exclusive; empty: nowhere), of the wire's key and end.
pub fn range_end(key: &Bytes, end: &Bytes) -> Bytes {
    match &**end {
        [] => {
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(key);
            next.push(0);
            next.into()
        }
        [0] => Bytes::new(),
        _ => end.clone(),
    }
}

/// The wire's key and end of a range of the contract.
pub fn range_to_wire(start: Bytes, end: Bytes) -> (Bytes, Bytes) {
    // An empty key is refused there; the first key of all is the one zero byte.
    let start = if start.is_empty() { Bytes::from_static(&[0]) } else { start };
    if end.is_empty() {
        return (start, Bytes::from_static(&[0]));
    }
    // One key is asked for as one key: answered from the index without a scan.
    if end.len() == start.len() + 1 && end.starts_with(&start) && end.ends_with(&[0]) {
        return (start, Bytes::new());
    }
    // [start, "\0") holds at most the empty key, which does not exist; but there it would mean: no end.
    let end = if *end == [0] { start.clone() } else { end };
    (start, end)
}

/// A comparison as the contract has it.
pub fn compare_from_wire(compare: &etcdserverpb::Compare) -> Result<Compare, Status> {
    if compare.key.is_empty() {
        return Err(refusal::invalid(refusal::EMPTY_KEY));
    }
    let relation = match compare.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::NotEqual => Relation::NotEqual,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
    };
    let union = compare.target_union.clone();
    // A target whose value is left out compares with zero, as in Go.
    let (target, negative) = match compare.target() {
        CompareTarget::Version => match union {
            Some(TargetUnion::Version(version)) => (Target::Version(version as u64), version < 0),
            _ => (Target::Version(0), false),
        },
        CompareTarget::Create => match union {
            Some(TargetUnion::CreateRevision(revision)) => {
                (Target::CreateRevision(revision as u64), revision < 0)
            }
            _ => (Target::CreateRevision(0), false),
        },
        CompareTarget::Mod => match union {
            Some(TargetUnion::ModRevision(revision)) => (Target::ModRevision(revision as u64), revision < 0),
            _ => (Target::ModRevision(0), false),
        },
        CompareTarget::Value => match union {
            Some(TargetUnion::Value(value)) => (Target::Value(value), false),
            _ => (Target::Value(Bytes::new()), false),
        },
        CompareTarget::Lease => match union {
            Some(TargetUnion::Lease(lease)) => (Target::Lease(lease), false),
            _ => (Target::Lease(0), false),
        },
    };
    // The contract has no negative numbers, and all there are, are greater: that holds always, as does that a version is less
    // than what none reaches.
    let (relation, target) = match (negative, relation) {
        (false, relation) => (relation, target),
        (true, Relation::Greater | Relation::NotEqual) => (Relation::Less, Target::Version(i64::MAX as u64)),
        (true, Relation::Less | Relation::Equal) => (Relation::Greater, Target::Version(i64::MAX as u64)),
    };
    let end = (!compare.range_end.is_empty()).then(|| range_end(&compare.key, &compare.range_end));
    Ok(Compare { start: compare.key.clone(), end, relation, target })
}

/// A comparison as the wire carries it.
pub fn compare_to_wire(compare: Compare) -> etcdserverpb::Compare {
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    let (target, union) = match compare.target {
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(version as i64)),
        Target::CreateRevision(revision) => {
            (CompareTarget::Create, TargetUnion::CreateRevision(revision as i64))
        }
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision as i64)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value)),
        Target::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(lease)),
    };
    let (key, range_end) = match compare.end {
        None => (compare.start, Bytes::new()),
        Some(end) => range_to_wire(compare.start, end),
    };
    etcdserverpb::Compare {
        result: result.into(),
        target: target.into(),
        key,
        target_union: Some(union),
        range_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_greater_than_a_negative_one() {
        for (asked, relation) in [
            (CompareResult::Greater, Relation::Less),
            (CompareResult::NotEqual, Relation::Less),
            (CompareResult::Less, Relation::Greater),
            (CompareResult::Equal, Relation::Greater),
        ] {
            let compare = etcdserverpb::Compare {
                key: "k".into(),
                result: asked.into(),
                target: CompareTarget::Mod.into(),
                target_union: Some(TargetUnion::ModRevision(-1)),
                ..Default::default()
            };
            let converted = compare_from_wire(&compare).unwrap();
            assert_eq!((converted.relation, converted.target), (relation, Target::Version(i64::MAX as u64)));
        }
    }

    #[test]
    fn ranges_mean_the_same_on_both_sides() {
        for (key, end, store_end) in [("a", "", "a\0"), ("a", "\0", ""), ("a", "b", "b"), ("\0", "\0", "")] {
            let (key, end) = (Bytes::from(key), Bytes::from(end));
            let converted = range_end(&key, &end);
            assert_eq!(converted, store_end);
            assert_eq!(range_to_wire(key.clone(), converted), (key, end));
        }
        assert_eq!(range_to_wire(Bytes::new(), Bytes::new()), (Bytes::from("\0"), Bytes::from("\0")));
    }
}
