//! A store of every earlier format opens, holds what it held, and goes on in the format of now.
//!
//! The fixtures were written by the versions of the program that wrote those formats; the zeros at the ends of their
//! segments are left out. To change the format, add a fixture of the one before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foundation::SystemClock;
use futures::StreamExt;
use store::embedded::{Engine, Options};
use store::{Error, Op, Range, Store, Txn, WatchRequest};
use tempfile::TempDir;

fn fixture(version: u32) -> TempDir {
    let directory = TempDir::new().unwrap();
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{version}"));
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    directory
}

fn open(directory: &Path) -> Result<Arc<Engine>, Error> {
    Engine::open(directory, Options::default(), SystemClock::shared())
}

fn version_of(path: &Path) -> u32 {
    u32::from_le_bytes(fs::read(path).unwrap()[8..12].try_into().unwrap())
}

#[tokio::test]
async fn format_1_is_read_and_left_behind() {
    let directory = fixture(1);
    let segment = |number: u64| directory.path().join(format!("{number:016x}.wal"));
    assert_eq!(version_of(&segment(1)), 1);
    // What format 1 left: a checkpoint as of revision 4, two transactions after it.
    let store = open(directory.path()).unwrap();
    let found = store.range(Range::prefix("")).await.unwrap();
    let keys: Vec<_> = found.kvs.iter().map(|kv| (&kv.key[..], &kv.value[..], kv.mod_revision)).collect();
    let expected: [(&[u8], &[u8], u64); 4] =
        [(b"a", b"2", 3), (b"c", b"5", 6), (b"d", b"5", 6), (b"leased", b"x", 2)];
    assert_eq!((keys.as_slice(), found.revision), (&expected[..], 6));
    assert_eq!(store.lease_time_to_live(7).await.unwrap().keys, ["leased"]);
    let mut watch = store.watch(WatchRequest::prefix("b", 4)).await.unwrap();
    let seen = watch.next().await.unwrap().unwrap();
    assert_eq!(seen.events.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>(), [4, 5]);
    let refused = store.range(Range::key("a").at(2)).await;
    assert!(matches!(refused, Err(Error::Compacted { revision: 3 })), "{refused:?}");

    // It goes on; segments of the new format follow, and both are read together.
    let size = 300_000;
    let written = store.txn(Txn::of(vec![Op::put("new", vec![b'n'; size])])).await.unwrap().revision;
    drop((watch, store));
    assert_eq!(version_of(&segment(2)), 2);
    let store = open(directory.path()).unwrap();
    let found = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((found.count, found.revision), (5, written));
    // The next checkpoint leaves nothing of the old format.
    store.defragment().await.unwrap();
    drop(store);
    assert!(!segment(1).exists());
    let store = open(directory.path()).unwrap();
    assert_eq!(store.range(Range::prefix("")).await.unwrap().kvs, found.kvs);
}

#[tokio::test]
async fn a_later_format_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()).unwrap());
    let path = directory.path().join("0000000000000001.wal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] += 1;
    fs::write(&path, bytes).unwrap();
    let Err(error) = open(directory.path()) else { panic!("it was opened") };
    assert!(matches!(&error, Error::Format { found, known, .. } if *found == known + 1), "{error}");
}
