//! Leases.

use super::*;
use crate::{Compare, Error, LeaseId, PutValue, Relation, Target, WatchRequest};

async fn put_with(store: &dyn Store, key: &'static str, lease: LeaseId) -> Result<TxnResponse, Error> {
    let value = PutValue::Plain("x".into());
    store.txn(Txn::of(vec![Op::Put { key: key.into(), value, lease }])).await
}

pub async fn revoking_a_lease_deletes_its_keys(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let lease = store.lease_grant(3600, 0).await.unwrap().id;
    let other = store.lease_grant(3600, 77).await.unwrap().id;
    assert_eq!(other, 77);
    for key in ["k/a", "k/b", "k/moved", "k/freed"] {
        put_with(store, key, lease).await.unwrap();
    }
    put_with(store, "k/moved", other).await.unwrap();
    put(store, "k/freed", "x").await;
    let info = store.lease_time_to_live(lease).await.unwrap();
    assert_eq!((info.granted_ttl, info.keys), (3600, vec![Bytes::from("k/a"), Bytes::from("k/b")]));
    assert_eq!(get(store, "k/a").await.unwrap().lease, lease);
    let mut watch = store.watch(WatchRequest::prefix("k/", 0)).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    let events = events(&mut watch, 2).await;
    assert_eq!(events[0].kv.mod_revision, events[1].kv.mod_revision);
    let left = store.range(Range::prefix("k/")).await.unwrap();
    assert_eq!(pairs(&left.kvs), ["k/freed=x", "k/moved=x"]);
    // A lease without keys leaves the revision as it is.
    let empty = store.lease_grant(3600, 0).await.unwrap().id;
    store.lease_revoke(empty).await.unwrap();
    assert_eq!(revision(store).await, left.revision);
}

pub async fn a_lease_must_exist(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let before = revision(store).await;
    let missing = |error| matches!(error, Error::LeaseNotFound { id: 42 });
    assert!(missing(put_with(store, "a", 42).await.unwrap_err()));
    assert!(missing(store.lease_keep_alive(42).await.unwrap_err()));
    assert!(missing(store.lease_revoke(42).await.unwrap_err()));
    assert!(missing(store.lease_time_to_live(42).await.unwrap_err()));
    // Wherever in a transaction it is named, and whatever stands before it.
    let leased = || Op::Put { key: "b".into(), value: PutValue::Plain("x".into()), lease: 42 };
    let never =
        || Compare { start: "b".into(), end: None, relation: Relation::Equal, target: Target::Version(9) };
    for txn in [
        Txn::of(vec![Op::put("c", "x"), leased()]),
        Txn::of(vec![Op::delete("a"), Op::Txn(Txn::of(vec![leased()]))]),
        Txn { compare: vec![never()], success: Vec::new(), failure: vec![leased()] },
    ] {
        let refused = store.txn(txn.clone()).await;
        assert!(matches!(refused, Err(Error::LeaseNotFound { id: 42 })), "{txn:?}: {refused:?}");
    }
    assert_eq!(revision(store).await, before);
    // What is not done needs none.
    let other = Txn { compare: vec![never()], success: vec![leased()], failure: vec![Op::put("c", "x")] };
    assert!(!store.txn(other).await.unwrap().succeeded);
    store.lease_grant(3600, 42).await.unwrap();
    assert!(matches!(store.lease_grant(3600, 42).await, Err(Error::LeaseExists { id: 42 })));
    put_with(store, "a", 42).await.unwrap();
    store.lease_revoke(42).await.unwrap();
    assert!(missing(store.lease_keep_alive(42).await.unwrap_err()));
}

pub async fn leases_are_listed(factory: &dyn Factory) {
    let store = &*factory.create().await;
    assert!(store.leases().await.unwrap().is_empty());
    let chosen = store.lease_grant(3600, 0).await.unwrap().id;
    store.lease_grant(3600, 7).await.unwrap();
    let mut expected = vec![7, chosen];
    expected.sort_unstable();
    assert_eq!(store.leases().await.unwrap(), expected);
    assert_eq!(store.status().await.unwrap().leases, 2);
    store.lease_revoke(chosen).await.unwrap();
    assert_eq!(store.leases().await.unwrap(), [7]);
}

pub async fn an_expired_lease_deletes_its_keys(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let kept = store.lease_grant(6, 0).await.unwrap().id;
    let left = store.lease_grant(6, 0).await.unwrap().id;
    put_with(store, "k/kept", kept).await.unwrap();
    put_with(store, "k/left", left).await.unwrap();
    let mut watch = store.watch(WatchRequest::prefix("k/", 0)).await.unwrap();
    factory.pass(4).await;
    assert!(store.lease_time_to_live(left).await.unwrap().ttl <= 2);
    assert_eq!(store.lease_keep_alive(kept).await.unwrap().ttl, 6);
    factory.pass(3).await;
    assert!(lines(&mut watch, 1).await[0].ends_with("k/left deleted"));
    assert!(matches!(store.lease_time_to_live(left).await, Err(Error::LeaseNotFound { .. })));
    assert!(get(store, "k/kept").await.is_some());
    factory.pass(4).await;
    assert!(lines(&mut watch, 1).await[0].ends_with("k/kept deleted"));
}
