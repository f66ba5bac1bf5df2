//! Watching.

use super::*;
use crate::{Error, EventKind, WatchRequest};

pub async fn a_watch_delivers_every_change_once_in_order(factory: &dyn Factory) {
    let store = factory.create().await;
    let start = revision(&*store).await + 1;
    let writers = 4;
    let rounds = 200;
    let writing = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..rounds {
                put(&*store, &format!("k/{writer}"), &round.to_string()).await;
                put(&*store, &format!("other/{writer}"), "x").await;
            }
        })
    });
    let writing = tokio::spawn(futures::future::join_all(writing));
    // One from the beginning, some that join at any time.
    let mut watches = vec![store.watch(WatchRequest::prefix("k/", start)).await.unwrap()];
    for round in 0..rounds {
        if round % 50 == 0 {
            watches.push(store.watch(WatchRequest::prefix("k/", start)).await.unwrap());
        }
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    for watch in &mut watches {
        seen.push(lines(watch, writers * rounds).await);
    }
    for result in soon(writing).await.unwrap() {
        result.unwrap();
    }
    for others in &seen[1..] {
        assert_eq!(*others, seen[0]);
    }
    let mut last = 0;
    let mut next = vec![0; writers];
    for line in &seen[0] {
        let (revision, change) = line.split_once(' ').unwrap();
        let revision: Revision = revision.parse().unwrap();
        assert!(revision > last, "{line} after {last}");
        last = revision;
        let (writer, round) = change.strip_prefix("k/").unwrap().split_once('=').unwrap();
        let (writer, round): (usize, usize) = (writer.parse().unwrap(), round.parse().unwrap());
        assert_eq!(round, next[writer], "{line}");
        next[writer] += 1;
    }
    let mut one = store.watch(WatchRequest::prefix("k/", last)).await.unwrap();
    assert_eq!(lines(&mut one, 1).await, seen[0][writers * rounds - 1..]);
}

pub async fn a_watch_from_now_starts_after_the_present(factory: &dyn Factory) {
    let store = &*factory.create().await;
    put(store, "a", "old").await;
    let mut watch = store.watch(WatchRequest::prefix("a", 0)).await.unwrap();
    let written = put(store, "a", "new").await;
    assert_eq!(lines(&mut watch, 1).await, [format!("{written} a=new")]);
    // One from the future waits for it.
    let mut later = store.watch(WatchRequest::prefix("a", written + 2)).await.unwrap();
    put(store, "a", "too early").await;
    let written = put(store, "a", "right").await;
    assert_eq!(lines(&mut later, 1).await, [format!("{written} a=right")]);
}

pub async fn a_revision_is_never_split(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let many = 2000;
    let start = revision(store).await + 1;
    let mut live = store.watch(WatchRequest::prefix("k/", 0)).await.unwrap();
    for round in 0..3 {
        let ops = (0..many).map(|key| Op::put(format!("k/{key:05}"), round.to_string())).collect();
        commit(store, ops).await;
    }
    let mut late = store.watch(WatchRequest::prefix("k/", start)).await.unwrap();
    for watch in [&mut live, &mut late] {
        let mut seen = 0;
        while seen < 3 * many {
            let batch = batch(watch).await;
            for revision in batch.events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
                assert_eq!(revision.len(), many);
            }
            assert_eq!(batch.revision, batch.events.last().unwrap().kv.mod_revision);
            seen += batch.events.len();
        }
    }
}

pub async fn a_watch_tells_deletions_and_what_was_before(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let request = WatchRequest { prev_kv: true, ..WatchRequest::prefix("k/", 0) };
    let mut watch = store.watch(request).await.unwrap();
    let made = put(store, "k/a", "1").await;
    put(store, "k/a", "2").await;
    let gone = commit(store, vec![Op::Delete { start: "k/".into(), end: "k0".into() }]).await.revision;
    put(store, "k/a", "3").await;
    let events = events(&mut watch, 4).await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.prev.as_ref().map(|prev| text(&prev.value)).unwrap_or_default()))
        .collect();
    let expected =
        [(EventKind::Put, ""), (EventKind::Put, "1"), (EventKind::Delete, "2"), (EventKind::Put, "")];
    assert_eq!(seen, expected.map(|(kind, prev)| (kind, prev.to_owned())));
    assert_eq!((text(&events[2].kv.key), events[2].kv.mod_revision), ("k/a".into(), gone));
    let prev = events[2].prev.as_ref().unwrap();
    assert_eq!((prev.create_revision, prev.version), (made, 2));
    assert_eq!(events[3].kv.version, 1);
    let mut plain = store.watch(WatchRequest::prefix("k/", gone)).await.unwrap();
    assert_eq!(super::events(&mut plain, 1).await[0].prev, None);
}

pub async fn a_watch_says_how_far_it_has_come(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let request = WatchRequest { progress: true, ..WatchRequest::prefix("quiet", 0) };
    let mut watch = store.watch(request).await.unwrap();
    let mut latest = 0;
    for _ in 0..20 {
        latest = put(store, "loud", "x").await;
    }
    let mut reached = 0;
    while reached < latest {
        let batch = batch(&mut watch).await;
        assert!(batch.events.is_empty() && batch.revision > reached, "{batch:?}");
        reached = batch.revision;
    }
    assert_eq!(reached, latest);
    // Progress never overtakes an event.
    for round in 0..50 {
        let written = put(store, "quiet", &round.to_string()).await;
        put(store, "loud", "x").await;
        let mut told = 0;
        loop {
            let batch = batch(&mut watch).await;
            if let Some(event) = batch.events.first() {
                assert_eq!(event.kv.mod_revision, written);
                assert!(told < written, "progress to {told} before the event of {written}");
                break;
            }
            told = batch.revision;
        }
    }
}

pub async fn a_slow_watcher_holds_up_nobody(factory: &dyn Factory) {
    let store = &*factory.create().await;
    let mut slow = store.watch(WatchRequest::prefix("k", 0)).await.unwrap();
    let mut fast = store.watch(WatchRequest::prefix("k", 0)).await.unwrap();
    for round in 0..500 {
        let written = soon(put(store, "k", &round.to_string())).await;
        assert_eq!(lines(&mut fast, 1).await, [format!("{written} k={round}")]);
    }
    let all = lines(&mut slow, 500).await;
    assert!(all[0].ends_with("k=0") && all[499].ends_with("k=499"));
    // Left behind by a compaction it is told so.
    for round in 0..10 {
        put(store, "k", &round.to_string()).await;
    }
    let latest = revision(store).await;
    store.compact(latest).await.unwrap();
    // What is on its way to it may still arrive, in order; then it is told, once.
    let mut next = 0;
    loop {
        match soon(slow.next()).await.expect("it ended without a word") {
            Ok(batch) => {
                for event in batch.events {
                    assert!(line(&event).ends_with(&format!("k={next}")), "{event:?}");
                    next += 1;
                }
                if next == 10 {
                    return;
                }
            }
            Err(error) => {
                let told = matches!(error, Error::Compacted { revision } if revision == latest);
                assert!(told, "{error:?}");
                break;
            }
        }
    }
    assert!(soon(slow.next()).await.is_none());
}
