//! Three members in one process, over a network in memory or over TLS on the loopback.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use foundation::{Clock, Randomness as _, SystemClock, SystemRandomness};
use parking_lot::Mutex;
use raft::eraftpb::Message;
use store_raft::core::Standing;
use store_raft::level;
use store_raft::transport::tls::{TlsTransport, ask_to_join};
use store_raft::transport::{Inward, Transport};
use store_raft::{Identity, Member, Options, RaftStore};
use tempfile::TempDir;
use tokio::net::TcpListener;

pub use super::authority::Authority;
use super::failover::soon;

/// A network in memory.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<Nodes>>);

#[derive(Default)]
struct Nodes {
    reached: HashMap<u64, Inward>,
    cut: HashSet<u64>,
    /// Pairs that do not reach each other, though others reach both.
    apart: HashSet<(u64, u64)>,
    /// How long a message may take at the most; they overtake each other.
    late: Duration,
    gone: HashSet<u64>,
}

impl Network {
    /// Nothing goes to or from a member any more.
    pub fn cut(&self, member: u64) {
        self.0.lock().cut.insert(member);
    }

    pub fn mend(&self, member: u64) {
        self.0.lock().cut.remove(&member);
    }

    /// Two members do not reach each other.
    pub fn part(&self, one: u64, other: u64) {
        self.0.lock().apart.extend([(one, other), (other, one)]);
    }

    /// Messages take up to so long.
    pub fn delay(&self, late: Duration) {
        self.0.lock().late = late;
    }

    /// Everybody reaches everybody at once again.
    pub fn heal(&self) {
        let mut nodes = self.0.lock();
        nodes.cut.clear();
        nodes.apart.clear();
        nodes.late = Duration::ZERO;
    }

    fn at(&self, from: u64, to: u64) -> Option<Inward> {
        let nodes = self.0.lock();
        let apart = nodes.cut.contains(&from) || nodes.cut.contains(&to) || nodes.apart.contains(&(from, to));
        nodes.reached.get(&to).filter(|_| !apart).cloned()
    }
}

struct Wire {
    network: Network,
    me: u64,
    runtime: tokio::runtime::Handle,
    randomness: SystemRandomness,
}

impl Transport for Wire {
    fn send(&self, message: Message) {
        {
            let nodes = self.network.0.lock();
            if nodes.gone.contains(&self.me)
                && let Some(inward) = nodes.reached.get(&self.me)
            {
                return inward.removed();
            }
        }
        let Some(inward) = self.network.at(self.me, message.to) else { return };
        let late = self.network.0.lock().late;
        if late.is_zero() {
            return inward.message(message);
        }
        let wait = Duration::from_millis(self.randomness.below(late.as_millis() as u64));
        self.runtime.spawn(async move {
            tokio::time::sleep(wait).await;
            inward.message(message);
        });
    }

    fn send_snapshot(&self, message: Message, mut checkpoint: Box<dyn Read + Send>) {
        let sender = self.network.0.lock().reached.get(&self.me).cloned().unwrap();
        let Some(inward) = self.network.at(self.me, message.to) else {
            return sender.snapshot_sent(message.to, false);
        };
        let index = message.get_snapshot().get_metadata().index;
        let path = inward.directory().join(format!("received-{index}-{:?}", std::time::Instant::now()));
        std::io::copy(&mut checkpoint, &mut std::fs::File::create(&path).unwrap()).unwrap();
        let to = message.to;
        inward.snapshot(message, path);
        sender.snapshot_sent(to, true);
    }

    fn members(&self, _: &[Member], gone: &[u64]) {
        self.network.0.lock().gone.extend(gone);
    }

    fn close(&self) {
        self.network.0.lock().reached.remove(&self.me);
    }
}

/// A clock that is ahead of the real one.
pub struct JumpingClock(pub Arc<AtomicU64>);

impl Clock for JumpingClock {
    fn now(&self) -> jiff::Timestamp {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, wait: Duration) -> futures::future::BoxFuture<'static, ()> {
        SystemClock.sleep(wait)
    }
}

/// What lies under the members.
pub enum Under {
    Memory(Network),
    Tls(Authority),
}

/// The members and what they need to be started again.
pub struct Cluster {
    pub under: Under,
    directories: Vec<TempDir>,
    identities: Vec<Identity>,
    addresses: Vec<String>,
    pub members: Vec<Option<Arc<RaftStore>>>,
    /// How far their clocks are ahead of the real one, in milliseconds.
    pub clocks: [Arc<AtomicU64>; 3],
    /// Whose certificate a member that is started shows, if not its own.
    pub certificate_of: Option<u64>,
}

impl Cluster {
    /// One member, and two that join it and have caught up.
    pub async fn start(under: Under) -> Self {
        let mut cluster = Self {
            under,
            directories: (0..3).map(|_| TempDir::new().unwrap()).collect(),
            identities: Vec::new(),
            addresses: vec![String::new(); 3],
            members: vec![None, None, None],
            clocks: Default::default(),
            certificate_of: None,
        };
        let listener = cluster.listener(0).await;
        let first = RaftStore::found(cluster.directories[0].path(), &cluster.options(0), None).unwrap();
        cluster.identities.push(first);
        cluster.open(0, listener);
        cluster.identities.extend([first; 2]);
        // Both before either has caught up: they are brought on at the same time.
        for joiner in 1..3 {
            cluster.join(joiner, 0, first.member.wrapping_add(joiner as u64).max(1)).await;
        }
        cluster.settled().await;
        cluster
    }

    /// Makes a member in an empty directory that joins the cluster of a running one.
    async fn join(&mut self, joiner: usize, running: usize, id: u64) {
        let cluster = self;
        let listener = cluster.listener(joiner).await;
        let member = Member { id, name: format!("m{joiner}"), address: cluster.addresses[joiner].clone() };
        let identity = match &cluster.under {
            Under::Tls(authority) => {
                let mut attempts = 0;
                loop {
                    let security = authority.security(member.id);
                    let asked = soon(ask_to_join(&security, &cluster.addresses[running], &member)).await;
                    match asked {
                        Ok(identity) => break identity,
                        // Of an unknown outcome, on a slow machine: asking again is allowed.
                        Err(error) => {
                            attempts += 1;
                            assert!(attempts < 5, "{error}: {:#?}", cluster.stand());
                        }
                    }
                }
            }
            Under::Memory(_) => {
                soon(cluster.member(running).add_member(member.clone())).await.unwrap();
                Identity { member: member.id, ..cluster.member(running).identity() }
            }
        };
        RaftStore::join(cluster.directories[joiner].path(), identity).unwrap();
        cluster.identities[joiner] = identity;
        cluster.open(joiner, listener);
    }

    /// As [`Cluster::join`], in the place of a member that is no more. Gives the directory that it had.
    pub async fn join_anew(&mut self, index: usize, running: usize) -> TempDir {
        let before = std::mem::replace(&mut self.directories[index], TempDir::new().unwrap());
        let id = self.id(index).wrapping_add(3).max(1);
        self.join(index, running, id).await;
        before
    }

    /// Takes a directory for a member's own.
    pub fn put_back(&mut self, index: usize, directory: TempDir) -> TempDir {
        self.identities[index] = Identity::load(directory.path()).unwrap().unwrap();
        std::mem::replace(&mut self.directories[index], directory)
    }

    fn options(&self, index: usize) -> Options {
        Options::new(format!("m{index}"), self.addresses[index].clone())
    }

    async fn listener(&mut self, index: usize) -> Option<TcpListener> {
        match &self.under {
            Under::Memory(_) => {
                self.addresses[index] = format!("m{index}");
                None
            }
            Under::Tls(_) => {
                // An address of its own: no connection that another test makes meanwhile takes the port.
                static CLUSTERS: AtomicU8 = AtomicU8::new(1);
                let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
                let address = format!("127.77.{cluster}.{}:0", index + 1);
                let listener = TcpListener::bind(address).await.unwrap();
                self.addresses[index] = listener.local_addr().unwrap().to_string();
                Some(listener)
            }
        }
    }

    fn open(&mut self, index: usize, listener: Option<TcpListener>) {
        let options = self.options(index);
        let address = options.address.clone();
        let transport = |identity: Identity, inward: Inward| -> Arc<dyn Transport> {
            match (&self.under, listener) {
                (Under::Tls(authority), Some(listener)) => {
                    let security = authority.security(self.certificate_of.unwrap_or(identity.member));
                    TlsTransport::start(identity, address, listener, security, inward)
                }
                (Under::Memory(network), _) => {
                    let mut nodes = network.0.lock();
                    for (other, reached) in &nodes.reached {
                        reached.level(identity.member, level::LATEST);
                        inward.level(*other, level::LATEST);
                    }
                    nodes.reached.insert(identity.member, inward);
                    drop(nodes);
                    Arc::new(Wire {
                        network: network.clone(),
                        me: identity.member,
                        runtime: tokio::runtime::Handle::current(),
                        randomness: SystemRandomness,
                    })
                }
                _ => unreachable!("TLS needs a listener"),
            }
        };
        let directory = self.directories[index].path();
        let clock = Arc::new(JumpingClock(self.clocks[index].clone()));
        let member = RaftStore::open(directory, options, clock, transport).unwrap();
        self.members[index] = Some(member);
    }

    /// Starts a member again, where it was.
    pub async fn restart(&mut self, index: usize) {
        let listener = match &self.under {
            Under::Memory(_) => None,
            Under::Tls(_) => Some(listen_again(&self.addresses[index]).await),
        };
        self.open(index, listener);
    }

    /// Starts a member again at another address.
    pub async fn restart_elsewhere(&mut self, index: usize) {
        let listener = self.listener(index).await;
        self.open(index, listener);
    }

    /// Where the running members stand.
    fn stand(&self) -> Vec<Standing> {
        self.members.iter().flatten().map(|member| member.standing().borrow().clone()).collect()
    }

    pub fn member(&self, index: usize) -> Arc<RaftStore> {
        self.members[index].clone().unwrap()
    }

    pub fn id(&self, index: usize) -> u64 {
        self.identities[index].member
    }

    /// Waits until every running member knows three that vote, where they are, and who leads.
    pub async fn settled(&self) {
        for member in self.members.iter().flatten() {
            let mut standing = member.standing();
            let settled = standing.wait_for(|standing| {
                let mut known: Vec<_> =
                    standing.members.iter().map(|member| member.address.clone()).collect();
                let mut addresses = self.addresses.clone();
                known.sort();
                addresses.sort();
                let led = standing.leader != 0 && standing.level == level::LATEST;
                standing.voters.len() == 3 && led && known == addresses
            });
            if tokio::time::timeout(Duration::from_secs(60), settled).await.is_err() {
                panic!("the members have not settled: {:#?}", self.stand());
            }
        }
    }

    /// Waits for an answer that a member gives once its patience has ended, by its clock, which runs ahead meanwhile.
    pub async fn patience_ends<T>(&self, index: usize, asked: impl Future<Output = T>) -> T {
        let ahead = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.clocks[index].fetch_add(500, Ordering::Relaxed);
            }
        };
        tokio::select! {
            answer = soon(asked) => answer,
            () = ahead => unreachable!("it goes on for ever"),
        }
    }

    /// The member that leads, as a running one knows it.
    pub fn leader(&self) -> usize {
        let standing = self.members.iter().flatten().next().unwrap().standing();
        let leader = standing.borrow().leader;
        self.identities.iter().position(|identity| identity.member == leader).unwrap()
    }

    /// Stops a member without a word to the others: as if it had been killed.
    pub async fn kill(&mut self, index: usize) {
        if let Under::Memory(network) = &self.under {
            network.cut(self.id(index));
        }
        let member = self.members[index].take().unwrap();
        soon(tokio::task::spawn_blocking(move || member.shutdown())).await.unwrap();
    }

    /// Stops all members.
    pub async fn stop(&mut self) {
        for index in 0..3 {
            if let Some(member) = self.members[index].take() {
                soon(tokio::task::spawn_blocking(move || member.shutdown())).await.unwrap();
            }
        }
    }
}

/// Listens where a member that was just stopped did: its socket is closed a moment after.
async fn listen_again(address: &str) -> TcpListener {
    let listening = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), listening).await.expect("the address stays in use")
}

impl Cluster {
    pub fn identity(&self, index: usize) -> Identity {
        self.identities[index]
    }

    /// Where a member is reached.
    pub fn directory(&self, index: usize) -> &Path {
        self.directories[index].path()
    }

    pub fn address(&self, index: usize) -> &str {
        &self.addresses[index]
    }

    /// The member that leads, as one knows it.
    pub fn leader_seen_by(&self, index: usize) -> usize {
        let leader = self.member(index).standing().borrow().leader;
        self.identities.iter().position(|identity| identity.member == leader).unwrap()
    }

    /// Makes a stopped member the only one.
    pub fn reset(&self, index: usize) -> Identity {
        self.reset_of(index).unwrap()
    }

    pub fn reset_of(&self, index: usize) -> Result<Identity, store::Error> {
        store_raft::reset(self.directories[index].path(), &self.options(index))
    }
}
