//! What happens to an etcd, and what a user of the store notices of it.

use std::path::PathBuf;
use std::time::Duration;

use foundation::SystemClock;
use futures::StreamExt;
use store::{Error, Op, Range, Store, Txn, WatchRequest, WatchStream};
use store_etcd::{EtcdStore, Options};
use testkit::authority::Authority;
use testkit::etcd::{Etcd, VERSIONS, ports};

use super::store;

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), future).await.expect("nothing happened before the deadline")
}

/// Writes until it is acknowledged: a write whose fate is unknown is written again.
async fn put(store: &EtcdStore, key: &str, value: usize) {
    soon(async {
        while let Err(error) = store.txn(Txn::of(vec![Op::put(key.to_owned(), value.to_string())])).await {
            assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        }
    })
    .await;
}

/// The values of the next events until `last`, which come in order, each revision once.
async fn until(watch: &mut WatchStream, last: usize) -> Vec<usize> {
    let (mut seen, mut revision) = (Vec::new(), 0);
    while seen.last() != Some(&last) {
        for event in soon(watch.next()).await.unwrap().unwrap().events {
            assert!(event.kv.mod_revision > revision, "a change came twice, or late");
            revision = event.kv.mod_revision;
            seen.push(String::from_utf8_lossy(&event.kv.value).parse().unwrap());
        }
    }
    seen
}

async fn a_watch_goes_on_after_a_restart(version: &'static str) {
    let mut etcd = Etcd::new(version);
    etcd.start();
    let store = store(vec![etcd.url()]);
    put(&store, "k", 0).await;
    let mut watch = store.watch(WatchRequest::prefix("k", 0)).await.unwrap();
    put(&store, "k", 1).await;
    assert_eq!(until(&mut watch, 1).await, [1]);
    for round in 2..4 {
        etcd.kill();
        etcd.start();
        put(&store, "k", round).await;
        let seen = until(&mut watch, round).await;
        assert!(seen.iter().all(|value| *value == round), "{seen:?}");
    }
}

async fn dead_endpoints_are_passed_over(version: &'static str) {
    let mut etcd = Etcd::new(version);
    etcd.start();
    let [dead] = ports();
    let store = store(vec![format!("http://127.0.0.1:{dead}"), etcd.url()]);
    put(&store, "k", 1).await;
    assert_eq!(soon(store.range(Range::key("k"))).await.unwrap().count, 1);
}

#[tokio::test]
async fn nobody_at_home_is_said_in_time() {
    let [dead] = ports();
    let mut options = Options::new(vec![format!("http://127.0.0.1:{dead}")], SystemClock::shared());
    options.timeout = Duration::from_millis(200);
    let store = EtcdStore::new(options).unwrap();
    let result = soon(store.range(Range::key("k"))).await;
    assert!(matches!(result, Err(Error::Unavailable("no etcd endpoint answers"))), "{result:?}");
}

async fn the_loss_of_the_leader_loses_nothing(version: &'static str) {
    let ports: [u16; 6] = ports();
    let names = ["a", "b", "c"];
    let cluster: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("{name}=http://127.0.0.1:{}", ports[3 + n]))
        .collect();
    let cluster = cluster.join(",");
    let mut members: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| Etcd::member(version, name, ports[n], ports[3 + n], &cluster))
        .collect();
    members.iter_mut().for_each(Etcd::start);
    let store = store(members.iter().map(Etcd::url).collect());
    put(&store, "k", 0).await;
    let mut watch = store.watch(WatchRequest::prefix("k", 0)).await.unwrap();
    let mut written = 0;
    // Each in turn, so that the leader is among them, and the member that is connected.
    for member in 0..3 {
        for _ in 0..10 {
            written += 1;
            put(&store, "k", written).await;
        }
        members[member].kill();
        for _ in 0..10 {
            written += 1;
            put(&store, "k", written).await;
        }
        members[member].start();
        // A majority must know it again before the next one goes.
        let back = super::store(vec![members[member].url()]);
        soon(back.revision()).await.unwrap();
    }
    let mut seen = until(&mut watch, written).await;
    seen.dedup();
    assert_eq!(seen, (1..=written).collect::<Vec<_>>());
}

/// The 3.5 of `tests/tools.sh` is older than 3.5.8: it speaks TLS 1.2 and nothing later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_client_certificate() {
    let authority = Authority::new();
    let ((server, server_key), own) = (authority.issue("server", 1), authority.issue("client", 2));
    for version in VERSIONS {
        let etcd = Etcd::new(version).tls(&authority.file(), &server, &server_key).started();
        let open = |shown: Option<&(PathBuf, PathBuf)>, timeout: u64| {
            let (certificate, key) = shown.map(|(certificate, key)| (&**certificate, &**key)).unzip();
            let mut options = Options::new(vec![etcd.url()], SystemClock::shared());
            options.tls = Some(store_etcd::tls::client(Some(&authority.file()), certificate, key).unwrap());
            options.timeout = Duration::from_secs(timeout);
            EtcdStore::new(options).unwrap()
        };
        put(&open(Some(&own), 60), "k", 1).await;
        let stranger = soon(open(None, 2).range(Range::key("k"))).await;
        assert!(matches!(stranger, Err(Error::Unavailable(_))), "{version}: {stranger:?}");
    }
}

/// An address that takes connections from the kernel and never says a word.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_holds_nobody_up_and_all_wait_once() {
    let clock = foundation::ManualClock::default();
    let (listener, endpoint) = silent();
    let mut options = Options::new(vec![endpoint], std::sync::Arc::new(clock.clone()));
    options.timeout = Duration::from_secs(1);
    let config = foundation::tls::client().with_root_certificates(rustls::RootCertStore::empty());
    options.tls = Some(std::sync::Arc::new(config.with_no_client_auth()));
    let store = EtcdStore::new(options).unwrap();
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                match n % 2 {
                    0 => store.range(Range::key("k")).await.map(drop),
                    _ => store.txn(Txn::of(vec![Op::put("k", "v")])).await.map(drop),
                }
            })
        })
        .collect();
    // One attempt, and what each call has left.
    clock.wait_for_sleepers(21).await;
    clock.advance(Duration::from_millis(999));
    assert!(calls.iter().all(|call| !call.is_finished()));
    clock.advance(Duration::from_millis(1));
    for call in calls {
        let result = soon(call).await.unwrap();
        assert!(matches!(result, Err(Error::Unavailable("no etcd endpoint answers"))), "{result:?}");
    }
    listener.accept().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "twenty calls share one connection");
}

async fn a_long_range_is_as_of_one_revision(version: &'static str) {
    let etcd = Etcd::new(version).started();
    let store = store(vec![etcd.url()]);
    let all = |store: EtcdStore| async move { soon(store.range(Range::prefix("k/"))).await.unwrap() };
    for chunk in 0..15 {
        let ops = (0..100).map(|n| Op::put(format!("k/{:04}", chunk * 100 + n), vec![b'x'; 1000]));
        soon(store.txn(Txn::of(ops.collect()))).await.unwrap();
    }
    let before = all(store.clone()).await;
    assert_eq!((before.kvs.len(), before.count, before.more), (1500, 1500, false));
    assert!(before.kvs.is_sorted_by(|a, b| a.key < b.key));
    // Each write changes the first key and the last one: pages of different revisions would differ in them.
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                let ops = ["k/0000", "k/1499"].map(|key| Op::put(key, n.to_string()));
                soon(store.txn(Txn::of(ops.into()))).await.unwrap();
            }
        }
    });
    while !writing.is_finished() {
        let found = all(store.clone()).await;
        let (first, last) = (&found.kvs[0], &found.kvs[1499]);
        assert!(first.value == last.value && first.mod_revision <= found.revision, "{first:?} {last:?}");
    }
    writing.await.unwrap();
}

macro_rules! over {
    ($module:ident $version:literal: $($name:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($version).await;
                }
            )+
        }
    };
}

macro_rules! both {
    ($($name:ident)+) => {
        over! { etcd_3_4 "3.4": $($name)+ }
        over! { etcd_3_5 "3.5": $($name)+ }
    };
}

both! {
    a_watch_goes_on_after_a_restart
    dead_endpoints_are_passed_over
    a_long_range_is_as_of_one_revision
}

// A quarter of a minute each: clusters of both lose their leader in the histories (`linearizable`).
over! { three_etcds_3_5 "3.5": the_loss_of_the_leader_loses_nothing }
