//! Revisions and transactions.

use futures::future::join_all;

use super::*;
use crate::{Compare, Error, PutValue};

pub async fn revisions_count_writing_transactions(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let start = revision(store).await;
    assert_eq!(put(store, "a", "1").await, start + 1);
    let response = commit(store, vec![Op::put("b", "1"), Op::put("c", "1"), Op::delete("a")]).await;
    assert_eq!(response.revision, start + 2);
    for key in ["b", "c"] {
        assert_eq!(get(store, key).await.unwrap().mod_revision, start + 2);
    }
    for idle in [vec![], vec![Op::delete("a")], vec![Op::Range(Range::key("b"))]] {
        assert_eq!(commit(store, idle).await.revision, start + 2);
    }
    let compare = vec![Compare::Version { key: "b".into(), equals: 7 }];
    let refused = Txn { compare, success: vec![Op::put("b", "2")], failure: vec![] };
    assert_eq!(store.txn(refused).await.unwrap().revision, start + 2);
    assert_eq!(revision(store).await, start + 2);
}

pub async fn keys_carry_their_own_revisions(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let made = put(store, "a", "1").await;
    let written = put(store, "a", "2").await;
    let kv = get(store, "a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (made, written, 2));
    delete(store, "a").await;
    assert_eq!(get(store, "a").await, None);
    let again = put(store, "a", "3").await;
    let kv = get(store, "a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

pub async fn comparisons_decide_a_transaction(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let lease = store.lease_grant(3600, 0).await.unwrap().id;
    let made = put(store, "a", "1").await;
    let ops = vec![Op::Put { key: "a".into(), value: PutValue::Plain("2".into()), lease }];
    let written = commit(store, ops).await.revision;
    let key = || Bytes::from("a");
    let none = || Bytes::from("none");
    for (compare, holds) in [
        (Compare::CreateRevision { key: key(), equals: made }, true),
        (Compare::CreateRevision { key: key(), equals: 0 }, false),
        (Compare::CreateRevision { key: none(), equals: 0 }, true),
        (Compare::ModRevision { key: key(), equals: written }, true),
        (Compare::ModRevision { key: key(), equals: made }, false),
        (Compare::ModRevision { key: none(), equals: 0 }, true),
        (Compare::Version { key: key(), equals: 2 }, true),
        (Compare::Version { key: key(), equals: 1 }, false),
        (Compare::Value { key: key(), equals: "2".into() }, true),
        (Compare::Value { key: key(), equals: "1".into() }, false),
        (Compare::Value { key: none(), equals: "".into() }, false),
        (Compare::Lease { key: key(), equals: lease }, true),
        (Compare::Lease { key: key(), equals: 0 }, false),
        (Compare::Lease { key: none(), equals: 0 }, true),
    ] {
        let name = format!("{compare:?}");
        let always = Compare::Version { key: none(), equals: 0 };
        let txn = Txn {
            compare: vec![always, compare],
            success: vec![Op::put("branch", "success")],
            failure: vec![Op::put("branch", "failure")],
        };
        assert_eq!(store.txn(txn).await.unwrap().succeeded, holds, "{name}");
        let branch = text(&get(store, "branch").await.unwrap().value);
        assert_eq!(branch, if holds { "success" } else { "failure" }, "{name}");
    }
    // The transaction's own writes do not count.
    let compare = vec![Compare::Version { key: "new".into(), equals: 0 }];
    let txn = Txn { compare, success: vec![Op::put("new", "1")], failure: vec![] };
    assert!(store.txn(txn).await.unwrap().succeeded);
}

pub async fn operations_see_the_ones_before(factory: &dyn Factory) {
    let store = &*factory.create().await;
    put(store, "k/a", "old").await;
    put(store, "k/b", "old").await;
    let ops = vec![
        Op::put("k/a", "new"),
        Op::Range(Range::prefix("k/")),
        Op::delete("k/b"),
        Op::put("k/c", "new"),
        Op::Range(Range::prefix("k/")),
        Op::delete("k/b"),
    ];
    let results = commit(store, ops).await.results;
    let (kv, prev) = put_of(&results[0]);
    assert_eq!((text(&kv.value), text(&prev.unwrap().value)), ("new".into(), "old".into()));
    for (index, expected) in [(1, vec!["k/a=new", "k/b=old"]), (4, vec!["k/a=new", "k/c=new"])] {
        let OpResult::Range(found) = &results[index] else { panic!("not a range") };
        assert_eq!(pairs(&found.kvs), expected);
    }
    for (index, expected) in [(2, vec!["k/b=old"]), (5, vec![])] {
        let OpResult::Delete { prev } = &results[index] else { panic!("not a deletion") };
        assert_eq!(pairs(prev), expected);
    }
    // No reader ever sees one key of a pair without the other.
    let (writer, reader) = tokio::join!(
        async {
            for round in 0..50 {
                let value = round.to_string();
                commit(store, vec![Op::put("p/a", value.clone()), Op::put("p/b", value)]).await;
            }
        },
        async {
            for _ in 0..50 {
                let pair = store.range(Range::prefix("p/")).await.unwrap().kvs;
                assert!(pair.is_empty() || pair[0].value == pair[1].value, "{pair:?}");
            }
        }
    );
    let ((), ()) = (writer, reader);
}

pub async fn a_key_is_written_once_per_transaction(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let before = put(store, "a", "1").await;
    for ops in [
        vec![Op::put("a", "2"), Op::put("b", "2"), Op::put("a", "3")],
        vec![Op::put("b", "2"), Op::delete("b")],
        vec![Op::Delete { start: "a".into(), end: "".into() }, Op::put("z", "2")],
        vec![Op::put("b", "2"), Op::put("", "2")],
    ] {
        let name = format!("{ops:?}");
        let result = store.txn(Txn::of(ops)).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{name}: {result:?}");
    }
    assert_eq!(revision(store).await, before);
    assert_eq!(store.range(Range::prefix("")).await.unwrap().count, 1);
}

pub async fn one_of_many_racing_writers_wins(factory: &dyn Factory) {
    let store = factory.create().await;
    for round in 0..20 {
        let key = Bytes::from(format!("race/{round}"));
        let writers = (0..16).map(|writer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                let compare = vec![Compare::CreateRevision { key: key.clone(), equals: 0 }];
                let success = vec![Op::put(key, writer.to_string())];
                let response = store.txn(Txn { compare, success, failure: vec![] }).await.unwrap();
                response.succeeded.then(|| writer.to_string())
            })
        });
        let winners: Vec<_> = soon(join_all(writers)).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let kv = get(&*store, &text(&key)).await.unwrap();
        assert_eq!((text(&kv.value), kv.version), (winners[0].clone(), 1));
    }
}

pub async fn a_stamped_value_carries_its_revision(factory: &dyn Factory) {
    let store = &*factory.create().await;
    for _ in 0..12 {
        let value = PutValue::Stamped { head: "{\"v\":\"".into(), tail: "\"}".into() };
        let ops = vec![Op::Put { key: "a".into(), value, lease: 0 }];
        let response = commit(store, ops).await;
        let expected = format!("{{\"v\":\"{}\"}}", response.revision);
        assert_eq!(text(&put_of(&response.results[0]).0.value), expected);
        assert_eq!(text(&get(store, "a").await.unwrap().value), expected);
    }
}
