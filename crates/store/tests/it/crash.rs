//! `kill -9` in a write loop of 64 clients loses nothing acknowledged, twenty times.
//!
//! The victim is this test binary, started again with an environment variable; it reports each
//! acknowledgement on its standard output. It is killed after a seeded number of them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use foundation::{Randomness, SeededRandomness, SystemClock};
use store::embedded::{Engine, Options};
use store::{Op, Range, Store, Txn};

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const ROUND: &str = "STORE_CRASH_ROUND";
const CLIENTS: usize = 64;
const ROUNDS: usize = 20;
const SEED: u64 = 20_261_121;

fn options(round: usize) -> Options {
    match round % 2 {
        0 => Options::default(),
        // Segments are reused and checkpoints written all the time.
        _ => Options {
            segment_bytes: 256 << 10,
            checkpoint_bytes: 64 << 10,
            history_bytes: 64 << 10,
            ..Options::default()
        },
    }
}

fn open(directory: &Path, round: usize) -> Arc<Engine> {
    Engine::open(directory, options(round), SystemClock::shared()).unwrap()
}

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else { return };
    let round: usize = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&directory), round);
        let clients = (0..CLIENTS).map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                for count in 0.. {
                    // One key that is new and one that all rounds write.
                    let value = format!("{round}/{client}/{count}");
                    let ops = vec![
                        Op::put(format!("new/{value}"), value.clone()),
                        Op::put(format!("same/{client}"), value.clone()),
                    ];
                    let revision = store.txn(Txn::of(ops)).await.unwrap().revision;
                    let line = format!("ack {revision} {value}\n");
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            })
        });
        futures::future::join_all(clients).await;
    });
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let directory = tempfile::TempDir::new().unwrap();
    let random = SeededRandomness::new(SEED);
    let mut acknowledged = HashMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "it::crash::victim", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut left = 1 + random.below(1500);
        for line in output.split(b'\n') {
            let line = String::from_utf8(line.unwrap()).unwrap();
            // The harness prints on the same pipe; the kill may cut the last line short.
            let Some((_, ack)) = line.split_once("ack ") else { continue };
            let Some((revision, value)) = ack.split_once(' ') else { continue };
            if value.split('/').count() == 3 {
                acknowledged.insert(value.to_owned(), revision.parse::<u64>().unwrap());
            }
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        assert_eq!(left, 0, "seed {SEED}, round {round}: the victim ended by itself");
        child.wait().unwrap();
        check(directory.path(), round, &acknowledged).await;
    }
    assert!(acknowledged.len() > 1000);
}

async fn check(directory: &Path, round: usize, acknowledged: &HashMap<String, u64>) {
    let store = open(directory, round);
    let found = store.range(Range::prefix("new/")).await.unwrap();
    let stored: HashMap<_, _> = found.kvs.iter().map(|kv| (kv.value.as_ref(), kv.mod_revision)).collect();
    let mut lost = Vec::new();
    for (value, revision) in acknowledged {
        let exact = stored.get(value.as_bytes()) == Some(revision);
        // The kill may have cut the last line inside its number: then it is another's prefix.
        let cut = !exact && stored.keys().any(|stored| stored.starts_with(value.as_bytes()));
        if !exact && !cut {
            lost.push(value);
        }
    }
    assert!(lost.is_empty(), "seed {SEED}, round {round}: lost {lost:?}");
    // Each transaction is there in whole, and each revision is one transaction.
    let mut newest: HashMap<String, u64> = HashMap::new();
    for kv in &found.kvs {
        let value = String::from_utf8(kv.value.to_vec()).unwrap();
        let client = value.split('/').nth(1).unwrap().to_owned();
        let newest = newest.entry(client).or_default();
        *newest = kv.mod_revision.max(*newest);
    }
    for kv in store.range(Range::prefix("same/")).await.unwrap().kvs {
        let client = String::from_utf8(kv.key[5..].to_vec()).unwrap();
        assert_eq!(newest[&client], kv.mod_revision, "seed {SEED}, round {round}");
    }
    assert_eq!(found.count + 1, found.revision, "seed {SEED}, round {round}: revisions are missing");
}
