//! Reading.

use super::*;
use crate::Error;

pub async fn a_read_sees_every_acknowledged_write(factory: &dyn Factory) {
    let store = factory.create().await;
    let clients = (0..8).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..25 {
                let key = format!("client/{client}/{round}");
                let written = put(&*store, &key, "x").await;
                let response = store.range(Range::key(key)).await.unwrap();
                assert!(response.revision >= written);
                assert_eq!(response.kvs.len(), 1);
            }
        })
    });
    for client in soon(futures::future::join_all(clients)).await {
        client.unwrap();
    }
}

pub async fn ranges_are_ordered_limited_and_counted(factory: &dyn Factory) {
    let store = &*factory.create().await;
    for key in ["b/2", "a", "b/1", "c", "b/10", "b0"] {
        put(store, key, "v").await;
    }
    let keys = async |range: Range| {
        let found = store.range(range).await.unwrap();
        let keys: Vec<_> = found.kvs.iter().map(|kv| text(&kv.key)).collect();
        (keys.join(" "), found.more, found.count)
    };
    let from = |start: &'static str, end: &'static str| Range {
        start: start.into(),
        end: end.into(),
        ..Range::default()
    };
    for (range, expected) in [
        (Range::prefix("b/"), ("b/1 b/10 b/2", false, 3)),
        (Range::prefix("b/").limit(2), ("b/1 b/10", true, 3)),
        (Range::prefix("b/").limit(3), ("b/1 b/10 b/2", false, 3)),
        (Range { uncounted: true, ..Range::prefix("b/").limit(2) }, ("b/1 b/10", true, 2)),
        (Range { uncounted: true, ..Range::prefix("b/").limit(3) }, ("b/1 b/10 b/2", false, 3)),
        (Range { count_only: true, ..Range::prefix("b/") }, ("", false, 3)),
        (Range::key("b/1"), ("b/1", false, 1)),
        (Range::key("b"), ("", false, 0)),
        (from("b0", ""), ("b0 c", false, 2)),
        (from("", "b/1"), ("a", false, 1)),
        (from("", ""), ("a b/1 b/10 b/2 b0 c", false, 6)),
        (from("c", "a"), ("", false, 0)),
        (from("a", "a"), ("", false, 0)),
    ] {
        let name = format!("{range:?}");
        let (found, more, count) = keys(range).await;
        assert_eq!((found.as_str(), more, count), expected, "{name}");
    }
    let found = store.range(Range { keys_only: true, ..Range::key("a") }).await.unwrap();
    assert!(found.kvs[0].value.is_empty() && found.kvs[0].version == 1);
}

pub async fn the_past_can_be_read(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let first = put(store, "k/a", "1").await;
    put(store, "k/b", "1").await;
    put(store, "k/a", "2").await;
    delete(store, "k/b").await;
    put(store, "k/b", "3").await;
    let expected: [&[&str]; 5] =
        [&["k/a=1"], &["k/a=1", "k/b=1"], &["k/a=2", "k/b=1"], &["k/a=2"], &["k/a=2", "k/b=3"]];
    for (at, expected) in (first..).zip(expected) {
        let found = store.range(Range::prefix("k/").at(at)).await.unwrap();
        assert_eq!(pairs(&found.kvs), expected, "at {at}");
        assert_eq!((found.count, found.revision), (expected.len() as u64, first + 4));
    }
}

pub async fn the_future_cannot_be_read(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let latest = put(store, "a", "1").await;
    let result = store.range(Range::key("a").at(latest + 1)).await;
    assert!(matches!(result, Err(Error::FutureRevision { current }) if current == latest), "{result:?}");
}

pub async fn a_serializable_read_is_whole_and_never_goes_back(factory: &dyn Factory) {
    const WRITES: u64 = 60;
    let store = factory.create().await;
    let beside = tokio::spawn({
        let store = store.clone();
        async move {
            let mut seen = (0, 0);
            while seen.1 < WRITES {
                seen = known(&*store, seen).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let mut seen = (0, 0);
    for n in 1..=WRITES {
        let both = ["pair/a", "pair/b"].map(|key| Op::put(key, n.to_string()));
        let written = commit(&*store, both.into()).await.revision;
        seen = known(&*store, seen).await;
        assert_eq!(seen, (written, n), "what was acknowledged here");
    }
    soon(beside).await.unwrap();
}

/// The revision and the number that both keys of a pair have, of which the reader has `seen` some before.
async fn known(store: &dyn Store, seen: (Revision, u64)) -> (Revision, u64) {
    let found = store.range(Range::prefix("pair/").serializable()).await.unwrap();
    let numbers: Vec<u64> = found.kvs.iter().map(|kv| text(&kv.value).parse().unwrap()).collect();
    let number = match numbers[..] {
        [] => 0,
        [a, b] if a == b => a,
        _ => panic!("torn: {numbers:?} at {}", found.revision),
    };
    assert!(found.kvs.iter().all(|kv| kv.mod_revision <= found.revision), "{found:?}");
    assert!(found.revision >= seen.0 && number >= seen.1, "went back from {seen:?}: {found:?}");
    (found.revision, number)
}
