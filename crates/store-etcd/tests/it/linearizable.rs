//! Many clients at once of a store behind the etcd v3 API that is killed under them: what they saw has an order that
//! explains it.
//!
//! The stores: this project's engine in a process of its own, an etcd alone, and three etcds whose leader is killed, who
//! lose another member, or whose leader gives its office away. `kill -9` each time, in the middle of the history. Not here:
//! the search for the order (`store::suite::linearizable`); disks that fail (`store`), networks that part (`store-raft`).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use etcd::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd::wire::etcdserverpb::{MoveLeaderRequest, StatusRequest, StatusResponse};
use foundation::{CancellationToken, Randomness, SeededRandomness, SystemClock};
use store::Store;
use store::embedded::{Engine, Options};
use store::suite::linearizable::{History, client};
use tempfile::TempDir;
use testkit::etcd::{Etcd, ports};

use super::faults::soon;

const SEED: u64 = 20_261_122;
const KEYS: u64 = 3;
/// Clients that are done before the store is struck, and those that are in the middle of it; what each asks.
const BEFORE: (u64, u64) = (4, 3);
const MEANWHILE: (u64, u64) = (6, 14);

/// A store that can be struck, and is back when that returns.
trait Struck {
    /// Where it can be asked: each list is another client's.
    fn endpoints(&self) -> Vec<Vec<String>>;
    async fn strike(&mut self, round: u64);
}

async fn has_an_order(mut store: impl Struck, rounds: u64, what: &str) {
    let random = SeededRandomness::new(SEED);
    let history = Arc::new(History::default());
    let stores: Vec<_> = store.endpoints().into_iter().map(super::store).collect();
    for store in &stores {
        soon(store.revision()).await.unwrap();
    }
    for round in 0..rounds {
        let keys: Vec<String> = (0..KEYS).map(|key| format!("k/{round}/{key}")).collect();
        let ask = |(clients, each): (u64, u64)| -> Vec<_> {
            let one = |number: u64| {
                let store = Arc::new(stores[number as usize % stores.len()].clone());
                let random = SeededRandomness::new(random.u64());
                tokio::spawn(client(store, history.clone(), random, keys.clone(), each))
            };
            (0..clients).map(one).collect()
        };
        let (meanwhile, before) = (ask(MEANWHILE), ask(BEFORE));
        for asked in before {
            soon(asked).await.unwrap();
        }
        store.strike(round).await;
        for asked in meanwhile {
            soon(asked).await.unwrap();
        }
    }
    let (known, unknown) = history.counts();
    eprintln!("{what}: {known} operations, and {unknown} that nobody knows of");
    assert!(known as u64 > rounds * BEFORE.0 * BEFORE.1, "{known} operations, {unknown} unknown");
    history.judge(what);
}

const DIRECTORY: &str = "STORE_ETCD_VICTIM_DIRECTORY";
const ADDRESS: &str = "STORE_ETCD_VICTIM_ADDRESS";

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let (Ok(directory), Ok(address)) = (std::env::var(DIRECTORY), std::env::var(ADDRESS)) else { return };
    // Segments are used again and checkpoints written all the time.
    let options = Options {
        segment_bytes: 256 << 10,
        checkpoint_bytes: 4 << 10,
        history_bytes: 64 << 10,
        ..Options::default()
    };
    let engine = Engine::open(Path::new(&directory), options, SystemClock::shared()).unwrap();
    let server = etcd::Server::new(engine, etcd::Options::default(), SystemClock::shared());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    etcd::serve(server, listener, None, CancellationToken::new()).await;
}

/// The engine in a process of its own: this test binary, started again.
struct Own {
    directory: TempDir,
    address: String,
    child: Child,
}

impl Own {
    fn start() -> Self {
        let [port] = ports();
        let (directory, address) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{port}"));
        let child = Self::spawn(directory.path(), &address);
        Self { directory, address, child }
    }

    fn spawn(directory: &Path, address: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "it::linearizable::victim", "--test-threads=1"]);
        command.env(DIRECTORY, directory).env(ADDRESS, address).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Struck for Own {
    fn endpoints(&self) -> Vec<Vec<String>> {
        vec![vec![format!("http://{}", self.address)]; 3]
    }

    async fn strike(&mut self, _: u64) {
        self.kill();
        self.child = Self::spawn(self.directory.path(), &self.address);
    }
}

impl Struck for Etcd {
    fn endpoints(&self) -> Vec<Vec<String>> {
        vec![vec![self.url()]; 3]
    }

    async fn strike(&mut self, _: u64) {
        self.kill();
        self.start();
    }
}

/// Three etcds.
struct Three(Vec<Etcd>);

impl Three {
    fn start(version: &'static str) -> Self {
        let ports: [u16; 6] = ports();
        let names = ["a", "b", "c"];
        let peers = names.iter().zip(&ports[3..]);
        let cluster: Vec<_> = peers.map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
        let cluster = cluster.join(",");
        let member = |(n, name): (usize, &&str)| {
            Etcd::member(version, name, ports[n], ports[3 + n], &cluster).started()
        };
        Self(names.iter().enumerate().map(member).collect())
    }

    async fn status(&self, member: usize) -> StatusResponse {
        soon(super::store(vec![self.0[member].url()]).revision()).await.unwrap();
        let mut client = soon(MaintenanceClient::connect(self.0[member].url())).await.unwrap();
        soon(client.status(StatusRequest {})).await.unwrap().into_inner()
    }

    /// Which member leads, and the ids of all.
    async fn leader(&self) -> (usize, Vec<u64>) {
        let (mut ids, mut leader) = (Vec::new(), 0);
        for member in 0..self.0.len() {
            let status = self.status(member).await;
            leader = status.leader;
            ids.push(status.header.unwrap().member_id);
        }
        (ids.iter().position(|id| *id == leader).unwrap_or_default(), ids)
    }
}

impl Struck for Three {
    fn endpoints(&self) -> Vec<Vec<String>> {
        let urls: Vec<_> = self.0.iter().map(Etcd::url).collect();
        let from = |first: usize| (0..urls.len()).map(|n| urls[(first + n) % urls.len()].clone()).collect();
        (0..urls.len()).map(from).collect()
    }

    async fn strike(&mut self, round: u64) {
        let (leader, ids) = self.leader().await;
        let other = (leader + 1) % self.0.len();
        if round % 3 == 2 {
            let mut client = soon(MaintenanceClient::connect(self.0[leader].url())).await.unwrap();
            // It may have lost its office by now.
            let _ = soon(client.move_leader(MoveLeaderRequest { target_id: ids[other] })).await;
            return;
        }
        let victim = if round % 3 == 0 { leader } else { other };
        self.0[victim].kill();
        // What is written now is in the others' logs only.
        let rest = super::store(vec![self.0[(victim + 1) % self.0.len()].url()]);
        soon(rest.revision()).await.unwrap();
        self.0[victim].start();
        soon(super::store(vec![self.0[victim].url()]).revision()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_has_an_order_though_the_engines_process_is_killed() {
    has_an_order(Own::start(), 10, "the engine behind the etcd API").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_has_an_order_though_etcd_is_killed() {
    for version in testkit::etcd::VERSIONS {
        has_an_order(Etcd::new(version).started(), 4, &format!("etcd {version}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_has_an_order_though_etcds_lose_their_leader() {
    // Each way to lose it with both.
    for version in testkit::etcd::VERSIONS {
        has_an_order(Three::start(version), 3, &format!("three etcds {version}")).await;
    }
}
