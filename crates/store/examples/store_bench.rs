//! Measures the embedded engine: durable puts of 256 bytes by one client and by 64, memory and recovery
//! with a million keys.
//!
//! `cargo run --release -p store --example store_bench [directory]`. Prints what the disk takes for a
//! bare 4 KiB write and sync beside it, since an absolute time says little on a shared machine.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures stops where it fails")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foundation::SystemClock;
use store::embedded::{Engine, Options};
use store::{Op, Range, Store, Txn};

const VALUE: usize = 256;
const KEYS: usize = 1_000_000;

fn main() {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let directory = Path::new(&base).join(format!("store-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(&directory));
    fs::remove_dir_all(&directory).unwrap();
}

fn open(directory: &Path) -> Arc<Engine> {
    Engine::open(directory, Options::default(), SystemClock::shared()).unwrap()
}

async fn measure(directory: &Path) {
    report("bare 4 KiB write + fdatasync", bare(directory, 2000));
    let path = directory.join("store");
    let started = Instant::now();
    let store = open(&path);
    println!("{:<34} {:?}", "open an empty store", started.elapsed());
    for (clients, count) in [(1, 4000), (64, 3000)] {
        report(&format!("durable puts, {clients} client(s)"), puts(&store, clients, count).await);
    }
    drop(store);

    let path = directory.join("million");
    let store = open(&path);
    let before = resident();
    let started = Instant::now();
    for chunk in 0..KEYS / 1000 {
        let ops = (0..1000).map(|key| {
            let key = chunk * 1000 + key;
            Op::put(format!("/registry/core/pods/namespace-{}/pod-{key:09}", key % 100), vec![b'x'; VALUE])
        });
        store.txn(Txn::of(ops.collect())).await.unwrap();
    }
    println!("{:<34} {:?}", "write 1 M keys, 1000 a transaction", started.elapsed());
    println!(
        "{:<34} {} bytes above the value",
        "memory per key",
        (resident() - before) / KEYS as u64 - VALUE as u64
    );
    let started = Instant::now();
    let count = store.range(Range::prefix("/registry/")).await.unwrap().kvs.len();
    println!("{:<34} {:?} ({count} keys)", "list all", started.elapsed());
    println!("{:<34} {} MiB", "disk", store.status().await.unwrap().db_size >> 20);
    drop(store);
    let started = Instant::now();
    let store = open(&path);
    println!("{:<34} {:?}", "recover 1 M keys", started.elapsed());
    assert_eq!(store.status().await.unwrap().keys, KEYS as u64);
}

fn bare(directory: &Path, count: usize) -> (Duration, Vec<Duration>) {
    let file = fs::File::create(directory.join("bare")).unwrap();
    file.write_all_at(&vec![0; 4096 * count], 0).unwrap();
    file.sync_all().unwrap();
    let started = Instant::now();
    let times = (0..count)
        .map(|block| {
            let started = Instant::now();
            file.write_all_at(&[1; 4096], 4096 * block as u64).unwrap();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    (started.elapsed(), times)
}

async fn puts(store: &Arc<Engine>, clients: usize, count: usize) -> (Duration, Vec<Duration>) {
    let started = Instant::now();
    let running: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(count);
                for round in 0..count {
                    let op = Op::put(format!("/bench/{client}/{}", round % 100), vec![b'x'; VALUE]);
                    let started = Instant::now();
                    store.txn(Txn::of(vec![op])).await.unwrap();
                    times.push(started.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await.unwrap());
    }
    (started.elapsed(), times)
}

fn report(name: &str, (took, mut times): (Duration, Vec<Duration>)) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let rate = times.len() as f64 / took.as_secs_f64();
    println!("{name:<34} {rate:>8.0}/s  p50 {:?}  p99 {:?}  max {:?}", at(0.5), at(0.99), at(1.0));
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
