//! What happens to an etcd, and what a user of the store notices of it.

use std::time::Duration;

use foundation::SystemClock;
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use store::{Error, Op, Range, Store, Txn, WatchRequest, WatchStream};
use store_etcd::{EtcdStore, Options};

use super::program::{Etcd, ports, store};

async fn soon<T>(future: impl Future<Output = T>) -> T {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_restart() {
    let mut etcd = Etcd::new("3.5");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_endpoints_are_passed_over() {
    let mut etcd = Etcd::new("3.4");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_leader_loses_nothing() {
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
        .map(|(n, name)| Etcd::member("3.5", name, ports[n], ports[3 + n], &cluster))
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
        let back = super::program::store(vec![members[member].url()]);
        soon(back.revision()).await.unwrap();
    }
    let mut seen = until(&mut watch, written).await;
    seen.dedup();
    assert_eq!(seen, (1..=written).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_client_certificate() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    std::fs::write(path("ca.crt"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let (ca, server, server_key) = (path("ca.crt"), path("server.crt"), path("server.key"));
    let mut etcd = Etcd::new("3.4").with(
        "https",
        &[("--trusted-ca-file", &*ca), ("--cert-file", &*server), ("--key-file", &*server_key)],
    );
    etcd = etcd.with("https", &[("--client-cert-auth=true", std::path::Path::new("--pre-vote=true"))]);
    etcd.start();
    let open = |certificate: Option<(&str, &str)>, timeout: u64| {
        let (certificate, key) = certificate.map_or((None, None), |(a, b)| (Some(path(a)), Some(path(b))));
        let endpoint = format!("https://127.0.0.1:{}", etcd.client);
        let mut options = Options::new(vec![endpoint], SystemClock::shared());
        options.tls =
            Some(store_etcd::tls::client(Some(&ca), certificate.as_deref(), key.as_deref()).unwrap());
        options.timeout = Duration::from_secs(timeout);
        EtcdStore::new(options).unwrap()
    };
    put(&open(Some(("client.crt", "client.key")), 60), "k", 1).await;
    let stranger = soon(open(None, 2).range(Range::key("k"))).await;
    assert!(matches!(stranger, Err(Error::Unavailable(_))), "{stranger:?}");
}
