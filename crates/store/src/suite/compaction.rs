//! Compaction.

use super::*;
use crate::{Error, WatchRequest};

pub async fn compaction_forgets_the_past_only(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let first = put(store, "k/a", "1").await;
    put(store, "k/b", "1").await;
    put(store, "k/a", "2").await;
    delete(store, "k/b").await;
    let compacted = put(store, "k/c", "5").await;
    delete(store, "k/c").await;
    let last = put(store, "k/b", "7").await;
    let before = async |at| pairs(&store.range(Range::prefix("k/").at(at)).await.unwrap().kvs);
    let mut expected = Vec::new();
    for at in compacted..=last {
        expected.push(before(at).await);
    }
    store.compact(compacted).await.unwrap();
    for at in first..compacted {
        let result = store.range(Range::prefix("k/").at(at)).await;
        assert!(matches!(result, Err(Error::Compacted { revision }) if revision == compacted), "{result:?}");
    }
    for (at, expected) in (compacted..=last).zip(&expected) {
        assert_eq!(before(at).await, *expected, "at {at}");
    }
    assert_eq!(get(store, "k/a").await.unwrap().version, 2);
    assert_eq!(store.status().await.unwrap().compact_revision, compacted);
    // And again, when what was kept then is to go.
    store.compact(last).await.unwrap();
    assert_eq!(before(last).await, ["k/a=2", "k/b=7"]);
}

pub async fn a_watch_before_the_compaction_is_refused(factory: &dyn Factory) {
    let store = &*factory.create().await;
    put(store, "a", "1").await;
    put(store, "a", "2").await;
    delete(store, "a").await;
    let compacted = put(store, "a", "3").await;
    let last = put(store, "a", "4").await;
    store.compact(compacted).await.unwrap();
    // Refused at once or as the first thing the stream says.
    let result = match store.watch(WatchRequest::prefix("a", compacted - 1)).await {
        Err(error) => Err(error),
        Ok(mut watch) => soon(watch.next()).await.unwrap(),
    };
    assert!(matches!(result, Err(Error::Compacted { revision }) if revision == compacted), "{result:?}");
    let mut watch = store.watch(WatchRequest::prefix("a", compacted)).await.unwrap();
    assert_eq!(lines(&mut watch, 2).await, [format!("{compacted} a=3"), format!("{last} a=4")]);
}

pub async fn compaction_moves_forward_only(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let first = put(store, "a", "1").await;
    let latest = put(store, "a", "2").await;
    store.compact(first).await.unwrap();
    for at in [first, first - 1] {
        let result = store.compact(at).await;
        assert!(matches!(result, Err(Error::Compacted { revision }) if revision == first), "{result:?}");
    }
    let result = store.compact(latest + 1).await;
    assert!(matches!(result, Err(Error::FutureRevision { current }) if current == latest), "{result:?}");
    store.compact(latest).await.unwrap();
}
