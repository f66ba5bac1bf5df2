//! Durability.

use super::*;
use crate::{Error, PutValue, WatchRequest};

pub async fn what_was_acknowledged_survives(factory: &dyn Factory) {
    let store = factory.create().await;
    let lease = store.lease_grant(3600, 0).await.unwrap().id;
    let forgotten = put(&*store, "k/a", "1").await;
    let compacted = put(&*store, "k/a", "2").await;
    let value = PutValue::Plain("x".into());
    commit(&*store, vec![Op::Put { key: "k/leased".into(), value, lease }]).await;
    store.compact(compacted).await.unwrap();
    put(&*store, "k/b", "1").await;
    delete(&*store, "k/b").await;
    let last = put(&*store, "k/b", "3").await;
    let mut before = Vec::new();
    for at in compacted..=last {
        before.push(store.range(Range::prefix("").at(at)).await.unwrap());
    }
    let Some(store) = factory.reopen(store).await else { return };
    for (at, before) in (compacted..).zip(before) {
        assert_eq!(store.range(Range::prefix("").at(at)).await.unwrap(), before, "at {at}");
    }
    let result = store.range(Range::prefix("").at(forgotten)).await;
    assert!(matches!(result, Err(Error::Compacted { revision }) if revision == compacted), "{result:?}");
    let info = store.lease_time_to_live(lease).await.unwrap();
    assert_eq!((info.granted_ttl, info.keys), (3600, vec![Bytes::from("k/leased")]));
    assert_eq!(put(&*store, "k/c", "1").await, last + 1);
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(get(&*store, "k/leased").await, None);
}

pub async fn a_watch_resumes_after_a_restart(factory: &dyn Factory) {
    let store = factory.create().await;
    let start = put(&*store, "k/a", "1").await;
    commit(&*store, vec![Op::put("k/a", "2"), Op::put("k/b", "2")]).await;
    put(&*store, "other", "3").await;
    delete(&*store, "k/a").await;
    let request = WatchRequest { prev_kv: true, ..WatchRequest::prefix("k/", start) };
    let before = events(&mut store.watch(request.clone()).await.unwrap(), 4).await;
    let Some(store) = factory.reopen(store).await else { return };
    let mut watch = store.watch(request).await.unwrap();
    assert_eq!(events(&mut watch, 4).await, before);
    let written = put(&*store, "k/a", "5").await;
    assert_eq!(lines(&mut watch, 1).await, [format!("{written} k/a=5")]);
}
