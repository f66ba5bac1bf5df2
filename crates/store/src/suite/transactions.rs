//! Revisions and transactions.

use futures::future::join_all;

use super::*;
use crate::{Compare, Error, PutValue, Relation, Target};

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
    let compare = vec![Compare::equal("b", Target::Version(7))];
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
        (Compare::equal(key(), Target::CreateRevision(made)), true),
        (Compare::equal(key(), Target::CreateRevision(0)), false),
        (Compare::equal(none(), Target::CreateRevision(0)), true),
        (Compare::equal(key(), Target::ModRevision(written)), true),
        (Compare::equal(key(), Target::ModRevision(made)), false),
        (Compare::equal(none(), Target::ModRevision(0)), true),
        (Compare::equal(key(), Target::Version(2)), true),
        (Compare::equal(key(), Target::Version(1)), false),
        (Compare::equal(key(), Target::Value("2".into())), true),
        (Compare::equal(key(), Target::Value("1".into())), false),
        (Compare::equal(none(), Target::Value("".into())), false),
        (Compare::equal(key(), Target::Lease(lease)), true),
        (Compare::equal(key(), Target::Lease(0)), false),
        (Compare::equal(none(), Target::Lease(0)), true),
    ] {
        let name = format!("{compare:?}");
        let always = Compare::equal(none(), Target::Version(0));
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
    let compare = vec![Compare::equal("new", Target::Version(0))];
    let txn = Txn { compare, success: vec![Op::put("new", "1")], failure: vec![] };
    assert!(store.txn(txn).await.unwrap().succeeded);
}

pub async fn comparisons_know_order_and_ranges(factory: &dyn Factory) {
    let store = &*factory.create().await;
    for key in ["k/a", "k/b", "k/b", "k/c"] {
        put(store, key, key).await;
    }
    let (equal, unlike) = (Relation::Equal, Relation::NotEqual);
    let (more, less) = (Relation::Greater, Relation::Less);
    for (start, end, relation, target, holds) in [
        ("k/b", None, more, Target::Version(1), true),
        ("k/b", None, more, Target::Version(2), false),
        ("k/b", None, less, Target::Version(3), true),
        ("k/b", None, unlike, Target::Version(2), false),
        ("k/b", None, less, Target::Value("k/c".into()), true),
        ("k/b", None, more, Target::Value("k/b".into()), false),
        ("k/", Some("k0"), more, Target::Version(0), true),
        ("k/", Some("k0"), equal, Target::Version(1), false),
        ("k/b", Some(""), more, Target::Value("k/a".into()), true),
        ("k/", Some("k0"), unlike, Target::Value("k/c".into()), false),
        // No key is there: as one that does not exist.
        ("x", Some("y"), equal, Target::CreateRevision(0), true),
        ("x", Some("y"), more, Target::CreateRevision(0), false),
        ("x", Some("y"), unlike, Target::Value("x".into()), false),
        ("z", Some("a"), equal, Target::Lease(0), true),
    ] {
        let compare = Compare { start: start.into(), end: end.map(Bytes::from), relation, target };
        let name = format!("{compare:?}");
        let txn = Txn { compare: vec![compare], ..Txn::default() };
        assert_eq!(store.txn(txn).await.unwrap().succeeded, holds, "{name}");
    }
}

pub async fn transactions_nest(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let before = put(store, "a", "old").await;
    let value = |value: &'static str| vec![Compare::equal("a", Target::Value(value.into()))];
    // The inner comparison sees what was before the outer transaction began to write.
    let inner = Txn {
        compare: value("old"),
        success: vec![Op::put("b", "then"), Op::Range(Range::prefix(""))],
        failure: vec![Op::put("b", "else")],
    };
    let other = Txn {
        compare: value("new"),
        success: vec![Op::put("c", "then")],
        failure: vec![Op::put("c", "else")],
    };
    let ops = vec![Op::put("a", "new"), Op::Txn(inner), Op::Txn(other)];
    let response = store.txn(Txn { compare: value("old"), success: ops, failure: vec![] }).await.unwrap();
    assert_eq!(response.revision, before + 1);
    let OpResult::Txn { succeeded: true, results } = &response.results[1] else { panic!("{response:?}") };
    let OpResult::Range(found) = &results[1] else { panic!("{results:?}") };
    assert_eq!(pairs(&found.kvs), ["a=new", "b=then"]);
    let OpResult::Txn { succeeded: false, results } = &response.results[2] else { panic!("{response:?}") };
    assert_eq!(text(&put_of(&results[0]).0.value), "else");
    let all = store.range(Range::prefix("")).await.unwrap();
    assert_eq!(pairs(&all.kvs), ["a=new", "b=then", "c=else"]);
    assert!(all.kvs.iter().all(|kv| kv.mod_revision == before + 1));
    // Inner branches count as if they stood outside: a key is written once, but by either branch.
    let inner = |success, failure| Op::Txn(Txn { compare: vec![], success, failure });
    for (ops, allowed) in [
        (vec![inner(vec![Op::put("k", "1")], vec![Op::put("k", "2")])], true),
        (vec![inner(vec![Op::put("k", "1")], vec![]), Op::put("k", "2")], false),
        (vec![inner(vec![], vec![Op::put("k", "1")]), Op::put("k", "2")], false),
        (vec![inner(vec![Op::put("k", "1")], vec![]), inner(vec![Op::put("k", "2")], vec![])], false),
        (vec![inner(vec![Op::delete("k")], vec![]), Op::put("k", "2")], false),
        (vec![Op::delete("k"), inner(vec![Op::put("k", "1")], vec![])], false),
        (vec![Op::delete("k"), inner(vec![Op::delete("k")], vec![])], true),
    ] {
        let name = format!("{ops:?}");
        let result = store.txn(Txn::of(ops)).await;
        assert_eq!(!matches!(result, Err(Error::Invalid(_))), allowed, "{name}: {result:?}");
    }
}

pub async fn a_refused_transaction_changes_nothing(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let before = put(store, "a", "1").await;
    let leased = Op::Put { key: "b".into(), value: PutValue::Plain("1".into()), lease: 42 };
    for ops in [
        vec![Op::put("a", "2"), leased.clone()],
        vec![Op::delete("a"), Op::Range(Range::key("a").at(before + 7))],
        vec![Op::put("a", "2"), Op::Txn(Txn::of(vec![leased]))],
    ] {
        let name = format!("{ops:?}");
        let result = store.txn(Txn::of(ops)).await;
        let refused = matches!(result, Err(Error::LeaseNotFound { id: 42 } | Error::FutureRevision { .. }));
        assert!(refused, "{name}: {result:?}");
        let kv = get(store, "a").await.unwrap();
        assert_eq!((text(&kv.value), revision(store).await), ("1".into(), before), "{name}");
    }
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
                let compare = vec![Compare::absent(key.clone())];
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
