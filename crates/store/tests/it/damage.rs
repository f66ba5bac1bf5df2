//! Damaged files: a torn tail is dropped, everything else is refused with what and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foundation::SystemClock;
use store::embedded::{Engine, Options};
use store::{Error, Op, Range, Store, Txn};
use tempfile::TempDir;

/// Where the records of a segment begin.
const START: usize = 4096;
const BATCHES: usize = 5;

fn options() -> Options {
    // No checkpoint by itself: the log is what is damaged.
    Options { checkpoint_bytes: u64::MAX, ..Options::default() }
}

fn open(directory: &Path) -> Result<Arc<Engine>, Error> {
    Engine::open(directory, options(), SystemClock::shared())
}

/// A store with a few batches, one key each; returns the log and where its records end.
async fn written(directory: &Path) -> (PathBuf, usize) {
    let store = open(directory).unwrap();
    for count in 0..BATCHES {
        put(&store, &format!("k/{count}")).await;
    }
    drop(store);
    let path = directory.join("0000000000000001.wal");
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (path, end)
}

async fn put(store: &Engine, key: &str) {
    store.txn(Txn::of(vec![Op::put(key.to_owned(), "value")])).await.unwrap();
}

async fn count(store: &Engine) -> usize {
    store.range(Range::prefix("k/")).await.unwrap().kvs.len()
}

fn record_starts(bytes: &[u8], end: usize) -> Vec<usize> {
    let magic = &bytes[START..START + 4];
    (START..end).step_by(8).filter(|at| bytes[*at..].starts_with(magic)).collect()
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_written_over() {
    let directory = TempDir::new().unwrap();
    let (path, end) = written(directory.path()).await;
    let whole = fs::read(&path).unwrap();
    let last = *record_starts(&whole, end).last().unwrap();
    for cut in last..end {
        for fill in [0, 0xa5] {
            let mut torn = whole.clone();
            torn[cut..end].fill(fill);
            if torn == whole {
                continue;
            }
            fs::write(&path, &torn).unwrap();
            let store = open(directory.path()).unwrap();
            assert_eq!(count(&store).await, BATCHES - 1, "cut at {cut}");
            put(&store, "k/again").await;
            drop(store);
            let store = open(directory.path()).unwrap();
            assert_eq!(count(&store).await, BATCHES, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let directory = TempDir::new().unwrap();
    let (path, end) = written(directory.path()).await;
    let whole = fs::read(&path).unwrap();
    let last = *record_starts(&whole, end).last().unwrap();
    let header = 0..32;
    for at in header.chain(START..end) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        match open(directory.path()) {
            // The last batch cannot be told from a torn write, and padding holds nothing.
            Ok(store) => {
                let found = count(&store).await;
                let padding = found == BATCHES;
                assert!(at >= last || padding, "byte {at}: opened with {found}");
                for kv in store.range(Range::prefix("k/")).await.unwrap().kvs {
                    assert_eq!(kv.value, "value", "byte {at}");
                }
            }
            Err(Error::Corrupt { path: named, offset, detail }) => {
                assert_eq!(named, path);
                assert!(offset <= at as u64 && !detail.is_empty(), "byte {at}: {offset}, {detail}");
            }
            // The version is part of the header.
            Err(Error::Format { .. }) if (8..12).contains(&at) => {}
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_missing_segment_or_a_damaged_checkpoint_is_refused() {
    let directory = TempDir::new().unwrap();
    let options = Options { segment_bytes: 256 << 10, checkpoint_bytes: 1 << 20, ..options() };
    let open = || Engine::open(directory.path(), options.clone(), SystemClock::shared());
    let store = open().unwrap();
    let files = |suffix: &str| {
        let mut files: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(suffix))
            .collect();
        files.sort();
        files
    };
    let mut round = 0;
    while files("checkpoint").is_empty() {
        let ops = vec![Op::put(format!("k/{}", round % 20), vec![b'x'; 50_000])];
        store.txn(Txn::of(ops)).await.unwrap();
        round += 1;
        assert!(round < 2000, "no checkpoint");
    }
    drop(store);
    // Without further checkpoints: a segment that one covers may be missing, the last ones here may not.
    let options_without = Options { checkpoint_bytes: 1 << 40, ..options.clone() };
    let store = Engine::open(directory.path(), options_without, SystemClock::shared()).unwrap();
    for round in 0..4 {
        store.txn(Txn::of(vec![Op::put(format!("k/{round}"), vec![b'y'; 50_000])])).await.unwrap();
    }
    drop(store);
    drop(open().unwrap());

    let segments = files(".wal");
    let middle = &segments[segments.len() - 2];
    let bytes = fs::read(middle).unwrap();
    fs::remove_file(middle).unwrap();
    let Err(error) = open() else { panic!("opened without {}", middle.display()) };
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("missing"), "{error}");
    fs::write(middle, bytes).unwrap();

    let checkpoint = &files("checkpoint")[0];
    let bytes = fs::read(checkpoint).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(checkpoint, &damaged).unwrap();
        let Err(error) = open() else { panic!("opened with byte {at} damaged") };
        assert!(matches!(&error, Error::Corrupt { path, .. } if path == checkpoint), "byte {at}: {error}");
    }
    fs::write(checkpoint, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(open(), Err(Error::Corrupt { .. })));
    fs::remove_file(checkpoint).unwrap();
    assert!(matches!(open(), Err(Error::Corrupt { .. })));
    fs::write(checkpoint, bytes).unwrap();
    assert_eq!(count(&open().unwrap()).await, 20);
}

/// Everything that a reader can see of a store: what is there now, and what has happened since the compact revision.
async fn everything(store: &Engine) -> (Vec<store::KeyValue>, Vec<store::Event>, store::Status) {
    let now = store.range(Range::prefix("")).await.unwrap();
    let status = store.status().await.unwrap();
    let mut watch = store.watch(store::WatchRequest::prefix("", status.compact_revision)).await.unwrap();
    let mut events: Vec<store::Event> = Vec::new();
    while events.last().is_none_or(|event| event.kv.mod_revision < now.revision) {
        events.extend(futures::StreamExt::next(&mut watch).await.unwrap().unwrap().events);
    }
    (now.kvs, events, status)
}

/// Long enough that a thread of its own reads it: of a checkpoint with a history, and of a log behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_store_comes_back_as_it_was_and_damage_at_its_end_is_found() {
    let directory = TempDir::new().unwrap();
    let segments = Options { segment_bytes: 256 << 10, ..options() };
    let open = || Engine::open(directory.path(), segments.clone(), SystemClock::shared());
    let store = open().unwrap();
    let write = async |round: usize| {
        for chunk in 0..100 {
            let name = |n| format!("k/{:06}", chunk * 37 + n);
            let mut ops: Vec<_> = (0..37).map(|n| Op::put(name(n), vec![b'a' + round as u8; 1000])).collect();
            ops.truncate(37 - round);
            store.txn(Txn::of(ops)).await.unwrap();
            store.txn(Txn::of(vec![Op::delete(name(round))])).await.unwrap();
        }
    };
    write(0).await;
    let middle = store.status().await.unwrap().revision;
    write(1).await;
    store.compact(middle).await.unwrap();
    // Writes a checkpoint.
    store.defragment().await.unwrap();
    write(2).await;
    let (kvs, events, before) = everything(&store).await;
    drop(store);

    let store = open().unwrap();
    let recovery = store.recovery().clone();
    assert!(recovery.checkpoint_bytes > 4 << 20 && recovery.segments > 10, "{recovery}");
    let (kvs_after, events_after, after) = everything(&store).await;
    assert_eq!((after.keys, after.live_bytes), (before.keys, before.live_bytes));
    assert!(kvs_after == kvs && events_after == events, "what is read is what was written");
    drop(store);

    let checkpoint = directory.path().join("checkpoint");
    let sound = fs::read(&checkpoint).unwrap();
    let mut damaged = sound.clone();
    let at = sound.len() - 100_000;
    damaged[at] ^= 1;
    fs::write(&checkpoint, &damaged).unwrap();
    let refused = open().map(drop);
    let Err(Error::Corrupt { path, offset, .. }) = &refused else { panic!("{refused:?}") };
    assert!(*path == checkpoint && (*offset as usize) < at && *offset > 2 << 20, "{offset} of {at}");
    fs::write(&checkpoint, &damaged[..at]).unwrap();
    assert!(matches!(open().map(drop), Err(Error::Corrupt { .. })));
    fs::write(&checkpoint, &sound).unwrap();
    open().unwrap();
}
