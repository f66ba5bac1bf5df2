//! The cache by itself: what is in it, what is watched, and who is cut off.

use super::*;

fn cache() -> Cache {
    let cache = Cache::new(Arc::new(Extractor::new([("/spec/nodeName", "")])), b"");
    let objects = [object("a/x", "n1", 5), object("a/y", "n2", 6), object("b/x", "n1", 7)];
    cache.fill(10, cache.read(objects.into_iter()).0);
    cache
}

fn object(key: &str, node: &str, revision: u64) -> (Bytes, Bytes, u64) {
    let name = key.rsplit('/').next().unwrap();
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","resourceVersion":"{revision}"}},"spec":{{"nodeName":"{node}"}}}}"#
    );
    (key.to_owned().into(), json.into(), revision)
}

fn put(cache: &Cache, key: &str, node: &str, revision: u64) {
    let (key, value, _) = object(key, node, revision);
    cache.apply(revision, [(key, Some(value))].into_iter());
}

fn keys(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.objects.iter().map(|o| std::str::from_utf8(&o.key).unwrap()).collect()
}

fn all(cache: &Cache, interest: &Interest) -> Vec<String> {
    let found = cache.snapshot(interest, &Wanted::default(), 0, None, Limit::default(), |_| true);
    keys(&found).into_iter().map(str::to_owned).collect()
}

#[test]
fn every_interest_finds_its_objects() {
    let cache = cache();
    let on = |value: &str| Interest::Field { field: 0, value: value.into() };
    assert_eq!(all(&cache, &Interest::All), ["a/x", "a/y", "b/x"]);
    assert_eq!(all(&cache, &Interest::Namespace("a".into())), ["a/x", "a/y"]);
    assert_eq!(all(&cache, &Interest::Key("b/x".into())), ["b/x"]);
    assert_eq!(all(&cache, &on("n1")), ["a/x", "b/x"]);
    // The index, made by the first use, follows changes.
    put(&cache, "a/x", "n2", 11);
    cache.apply(12, [("b/x".into(), None)].into_iter());
    assert_eq!(all(&cache, &on("n1")), Vec::<String>::new());
    assert_eq!(all(&cache, &on("n2")), ["a/x", "a/y"]);
}

#[test]
fn a_limited_list_says_how_much_is_left() {
    let cache = cache();
    let list = |after: Option<&[u8]>, count_rest| {
        cache.snapshot(&Interest::All, &Wanted::default(), 0, after, Limit { objects: 1, count_rest }, |_| {
            true
        })
    };
    let first = list(None, true);
    assert_eq!((keys(&first), first.rest), (vec!["a/x"], 2));
    assert_eq!(list(None, false).rest, 1);
    let last = list(Some(b"a/y"), true);
    assert_eq!((keys(&last), last.rest), (vec!["b/x"], 0));
}

#[test]
fn a_watch_sees_what_moves_in_and_out_of_its_selection() {
    let cache = cache();
    let interest = Interest::Field { field: 0, value: "n1".into() };
    let selected = |object: &Cached| &*object.facts.fields[0] == "n1";
    let (initial, mut watch) = cache.watch(interest, &Wanted::default(), None, 10, selected).unwrap();
    assert_eq!(keys(&initial), ["a/x", "b/x"]);
    put(&cache, "c/new", "n2", 11);
    put(&cache, "a/y", "n1", 12);
    put(&cache, "a/y", "n1", 13);
    put(&cache, "a/x", "n3", 14);
    cache.apply(15, [("b/x".into(), None)].into_iter());
    let mut seen = Vec::new();
    while let Some(change) = watch.receiver.take() {
        seen.push((change.revision, change.seen_by(selected).unwrap()));
    }
    use EventType::{Added, Deleted, Modified};
    assert_eq!(seen, [(12, Added), (13, Modified), (14, Deleted), (15, Deleted)]);
}

#[test]
fn the_deleted_event_carries_the_last_state_at_the_revision_of_the_change() {
    let cache = cache();
    let (_, mut watch) = cache.watch(Interest::All, &Wanted::default(), Some(10), 10, |_| true).unwrap();
    cache.apply(11, [("a/x".into(), None)].into_iter());
    let frame = watch.receiver.take().unwrap().frame(EventType::Deleted);
    let event: serde_json::Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], "11");
    assert_eq!(event["object"]["spec"]["nodeName"], "n1");
}

#[test]
fn a_watch_resumes_from_any_revision_in_the_ring_and_from_none_before() {
    let cache = cache();
    for revision in 11..=13 {
        put(&cache, "a/x", "n1", revision);
    }
    let (_, watch) = cache.watch(Interest::All, &Wanted::default(), Some(11), 13, |_| true).unwrap();
    assert_eq!(watch.missed.map(|change| change.revision).collect::<Vec<_>>(), [12, 13]);
    let refused = cache.watch(Interest::All, &Wanted::default(), Some(9), 13, |_| true).unwrap_err();
    assert_eq!(refused.to_string(), "too old resource version: 9 (10)");
    let end = 13 + RING as u64;
    for revision in 14..=end + 3 {
        put(&cache, "a/x", "n1", revision);
    }
    assert!(cache.watch(Interest::All, &Wanted::default(), Some(13), end, |_| true).is_err());
    assert!(cache.watch(Interest::All, &Wanted::default(), Some(end), end, |_| true).is_ok());
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let cache = cache();
    let (_, mut slow) = cache.watch(Interest::All, &Wanted::default(), Some(10), 10, |_| true).unwrap();
    let (_, mut good) = cache.watch(Interest::All, &Wanted::default(), Some(10), 10, |_| true).unwrap();
    let mut last = 10;
    for revision in 11..=10_010 {
        put(&cache, "a/x", "n1", revision);
        last = good.receiver.take().unwrap().revision;
    }
    assert_eq!(last, 10_010);
    assert!(slow.receiver.take().is_none() && slow.receiver.has_ended(), "the slow watcher was not cut off");
    assert!(!good.receiver.has_ended());
}

#[test]
fn large_changes_fill_a_queue_before_their_number_does_and_are_let_go() {
    let cache = cache();
    let (_, mut slow) =
        cache.watch(Interest::Key("a/x".into()), &Wanted::default(), Some(10), 10, |_| true).unwrap();
    let (_, mut good) = cache.watch(Interest::All, &Wanted::default(), Some(10), 10, |_| true).unwrap();
    let large = "n".repeat(1 << 20);
    let mut kept = Vec::new();
    for revision in 11..=50 {
        put(&cache, "a/x", &large, revision);
        kept.push(Arc::downgrade(&good.receiver.take().unwrap()));
    }
    assert!(slow.receiver.take().is_none() && slow.receiver.has_ended(), "the slow watcher was not cut off");
    let alive = kept.iter().filter(|change| change.upgrade().is_some()).count();
    // Those in the ring, which has a bound of its own.
    assert!(alive * (2 << 20) <= RING_BYTES, "{alive} changes are kept alive");
    put(&cache, "a/x", "n1", 51);
    assert_eq!(good.receiver.take().unwrap().revision, 51);
}

#[test]
fn changes_of_one_revision_are_seen_together() {
    let cache = cache();
    let (a, b) = (object("a/x", "n9", 11), object("b/x", "n9", 11));
    cache.apply(11, [(a.0, Some(a.1)), (b.0, Some(b.1))].into_iter());
    let (_, watch) = cache.watch(Interest::All, &Wanted::default(), Some(10), 11, |_| true).unwrap();
    assert_eq!(watch.missed.len(), 2);
    // What was part of the fill is not applied again.
    put(&cache, "a/x", "old", 9);
    assert_eq!(&*cache.get("a/x").unwrap().facts.fields[0], "n9");
}

#[test]
fn large_objects_have_a_shorter_history() {
    let cache = cache();
    let padding = "x".repeat(1 << 20);
    let count = (RING_BYTES >> 20) as u64;
    for revision in 11..11 + count {
        let value = format!(r#"{{"metadata":{{"name":"x"}},"data":"{padding}"}}"#);
        cache.apply(revision, [(Bytes::from_static(b"a/x"), Some(value.into()))].into_iter());
    }
    assert!(cache.state.read().ring_bytes <= RING_BYTES);
    let watch = |from| cache.watch(Interest::All, &Wanted::default(), Some(from), 0, |_| true);
    let TooOld { oldest, .. } = watch(11).unwrap_err();
    assert_eq!(watch(oldest).unwrap().1.missed.len() as u64, 10 + count - oldest, "the rest is all there");
}

#[test]
fn a_closed_cache_says_so_to_whoever_derives_from_it() {
    let cache = cache();
    let changes = cache.changes();
    assert_eq!(changes.has_changed().ok(), Some(false));
    cache.close();
    assert!(changes.has_changed().is_err() && cache.changes().has_changed().is_err());
}

#[test]
fn lists_by_labels_are_what_looking_at_every_object_gives() {
    let cache = Cache::new(Arc::new(Extractor::new([("/spec/nodeName", "")])), b"");
    let object = |n: u64, revision: u64| {
        let (namespace, app) = (if n.is_multiple_of(3) { "a" } else { "b" }, n % 40);
        let json = format!(
            r#"{{"metadata":{{"name":"x{n}","labels":{{"app":"a{app}","tier":"t{}"}}}},"spec":{{"nodeName":"n{}"}}}}"#,
            n % 7,
            n % 5
        );
        (Bytes::from(format!("{namespace}/x{n}")), Bytes::from(json), revision)
    };
    cache.fill(10, cache.read((0..9_000).map(|n| object(n, 5))).0);
    for n in 0..200 {
        let (key, value, _) = object(9_000 + n, 0);
        cache.apply(11 + n, [(key, Some(value))].into_iter());
        cache.apply(11 + n, [(object(n * 31, 0).0, None)].into_iter());
    }
    let on = Interest::Field { field: 0, value: "n2".into() };
    let interests = [Interest::All, Interest::Namespace("a".into()), Interest::Namespace("b".into()), on];
    for text in ["app=a3", "app in (a3,a5),tier!=t1", "app=a3,tier=t2", "app=nobody", "!app", "app", "tier"] {
        let selector = api::selector::labels::Selector::parse(text).unwrap();
        let matches = |object: &Cached| selector.matches_with(|key| object.facts.label(key));
        for interest in &interests {
            for (objects, count_rest, after) in [
                (0, false, None),
                (10, true, None),
                (10, false, Some(&b"b/x2"[..])),
                (1, true, Some(&b"a/x9"[..])),
            ] {
                let list = |wanted: &Wanted| {
                    let limit = Limit { objects, count_rest };
                    let found = cache.snapshot(interest, wanted, 0, after, limit, matches);
                    let keys: Vec<Bytes> = found.objects.iter().map(|object| object.key.clone()).collect();
                    (keys, found.rest)
                };
                let case = format!("{text} {interest:?} {objects} {after:?}");
                assert_eq!(list(&Wanted::of(&selector)), list(&Wanted::default()), "{case}");
            }
        }
    }
}
