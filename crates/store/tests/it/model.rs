//! Random histories against a model that keeps a copy of everything at every revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use foundation::ManualClock;
use futures::StreamExt;
use proptest::prelude::*;
use store::embedded::{Engine, Options};
use store::{Compare, Error, EventKind, KeyValue, Op, Range, Revision, Store, Target, Txn, WatchRequest};
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    PutTwo(u8, u8),
    Delete(u8, u8),
    /// Puts if the key has this version.
    PutIf(u8, u8),
    Compact(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12u8;
    prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key.clone(), key.clone()).prop_map(|(a, b)| Step::PutTwo(a, b)),
        3 => (key.clone(), key.clone()).prop_map(|(a, b)| Step::Delete(a, b)),
        3 => (key, 0..3u8).prop_map(|(key, version)| Step::PutIf(key, version)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

fn name(key: u8) -> String {
    format!("k/{key:02}")
}

#[derive(Default)]
struct Model {
    now: BTreeMap<String, KeyValue>,
    /// What was there at each revision.
    past: BTreeMap<Revision, BTreeMap<String, KeyValue>>,
    /// Revision, key, and the value unless deleted.
    events: Vec<(Revision, String, Option<String>)>,
    revision: Revision,
    compacted: Revision,
}

impl Model {
    fn put(&mut self, keys: &[(String, String)]) {
        self.revision += 1;
        for (key, value) in keys {
            let before = self.now.get(key);
            let kv = KeyValue {
                key: key.clone().into(),
                value: value.clone().into(),
                create_revision: before.map_or(self.revision, |before| before.create_revision),
                mod_revision: self.revision,
                version: before.map_or(0, |before| before.version) + 1,
                lease: 0,
            };
            self.now.insert(key.clone(), kv);
            self.events.push((self.revision, key.clone(), Some(value.clone())));
        }
        self.past.insert(self.revision, self.now.clone());
    }

    fn delete(&mut self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        self.revision += 1;
        for key in keys {
            self.now.remove(&key);
            self.events.push((self.revision, key, None));
        }
        self.past.insert(self.revision, self.now.clone());
    }
}

async fn run(steps: Vec<Step>, options: Options) {
    let directory = TempDir::new().unwrap();
    let open = || {
        let clock = Arc::new(ManualClock::default());
        Engine::open(directory.path(), options.clone(), clock).unwrap()
    };
    let mut store = open();
    let mut model = Model { revision: 1, ..Model::default() };
    model.past.insert(1, BTreeMap::new());
    for step in steps {
        let described = format!("{step:?}");
        let txn = match step {
            Step::Put(key, value) => {
                let pair = (name(key), value.to_string());
                model.put(std::slice::from_ref(&pair));
                Txn::of(vec![Op::put(pair.0, pair.1)])
            }
            Step::PutTwo(a, b) if a != b => {
                let pairs = [(name(a), "two".to_owned()), (name(b), "two".to_owned())];
                model.put(&pairs);
                Txn::of(pairs.into_iter().map(|(key, value)| Op::put(key, value)).collect())
            }
            Step::PutTwo(..) => continue,
            Step::Delete(a, b) => {
                let (start, end) = (name(a), name(b));
                let range = if start < end {
                    model.now.range(start.clone()..end.clone())
                } else {
                    model.now.range(..String::new())
                };
                let gone = range.map(|(key, _)| key.clone()).collect();
                model.delete(gone);
                Txn::of(vec![Op::Delete { start: start.into(), end: end.into() }])
            }
            Step::PutIf(key, version) => {
                let key = name(key);
                let holds = model.now.get(&key).map_or(0, |kv| kv.version) == u64::from(version);
                if holds {
                    model.put(&[(key.clone(), "if".to_owned())]);
                }
                let compare = vec![Compare::equal(key.clone(), Target::Version(version.into()))];
                Txn { compare, success: vec![Op::put(key, "if")], failure: vec![] }
            }
            Step::Compact(back) => {
                let at = model.revision.saturating_sub(u64::from(back) % 20);
                if at > model.compacted && at <= model.revision {
                    store.compact(at).await.unwrap();
                    model.compacted = at;
                }
                continue;
            }
            Step::Reopen => {
                drop(store);
                store = open();
                continue;
            }
        };
        assert_eq!(store.txn(txn).await.unwrap().revision, model.revision, "{described}");
    }
    check(&store, &model).await;
}

async fn check(store: &Engine, model: &Model) {
    for (at, then) in &model.past {
        let found = store.range(Range::prefix("k/").at(*at)).await;
        if *at < model.compacted {
            assert!(matches!(found, Err(Error::Compacted { revision }) if revision == model.compacted));
            continue;
        }
        let expected: Vec<_> = then.values().cloned().collect();
        assert_eq!(found.unwrap().kvs, expected, "at {at}");
    }
    let start = model.compacted.max(2);
    let expected: Vec<_> = model.events.iter().filter(|event| event.0 >= start).cloned().collect();
    let mut watch = store.watch(WatchRequest::prefix("k/", start)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        for event in watch.next().await.unwrap().unwrap().events {
            let key = String::from_utf8(event.kv.key.to_vec()).unwrap();
            let value =
                (event.kind == EventKind::Put).then(|| String::from_utf8(event.kv.value.to_vec()).unwrap());
            seen.push((event.kv.mod_revision, key, value));
        }
    }
    // Deletions of a range come in the order of the keys, as in the model.
    assert_eq!(seen, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_match_the_model(steps in prop::collection::vec(step(), 1..80), small in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = if small { 1 } else { 16 << 20 };
        let options = Options { segment_bytes: bytes, checkpoint_bytes: bytes, ..Options::default() };
        runtime.block_on(run(steps, options));
    }
}
