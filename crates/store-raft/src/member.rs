//! A running member: the store that callers use, and the thread that runs its part in the consensus.
//!
//! The thread owns the [`Core`]: it takes what has come in, lets time tick, and carries out what the core wants done: to
//! the disk's threads (`disk`), to the transport, to whoever waits for an answer. Not here: decisions (`core`).

mod disk;
pub(crate) mod inbox;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use foundation::{SharedClock, SharedRandomness};
use parking_lot::Mutex;
use raft::eraftpb::MessageType;
use store::embedded::Options as EngineOptions;
use store::embedded::replica::{Command, Outcome, Replica};
use store::{
    Error, LeaseId, LeaseInfo, Op, PutValue, Range, RangeResponse, Revision, Status, Store, Txn, TxnResponse,
    WatchRequest, WatchStream,
};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::Member;
use crate::core::{Change, Core, Output, Reply, Request, Settings, Standing, describe};
use crate::identity::Identity;
use crate::keeper::Keeper;
use crate::transport::{Inward, Transport};
use disk::{DiskThreads, Job};
use inbox::{Inbox, Input};

/// The length of a tick; a new leader stands after 10 to 15 of them and two rounds between members.
const TICK: Duration = Duration::from_millis(100);
/// How long a caller waits before it is told that the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(7);
/// Writes that may wait at a time; more wait for their turn to be proposed.
const QUEUED: usize = 4096;
/// How long a stop waits for another member to take over the lead.
const HAND_OVER: Duration = Duration::from_secs(1);
/// The pause before a member says again where it is now.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// How a member is to run.
#[derive(Clone)]
pub struct Options {
    /// What people call it.
    pub name: String,
    /// Where the other members reach it.
    pub address: String,
    /// The engine's: sizes, the disk, randomness.
    pub engine: EngineOptions,
    /// Bytes of the log to keep for members that are a little behind.
    pub keep_bytes: u64,
}

impl Options {
    /// The usual ones.
    pub fn new(name: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            engine: EngineOptions::default(),
            keep_bytes: 4 << 20,
        }
    }
}

/// The store, as one member of a cluster serves it. Dropping it stops the member.
pub struct RaftStore {
    shared: Arc<Shared>,
    threads: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    identity: Identity,
    inbox: Arc<Inbox>,
    replica: Arc<Replica>,
    answers: Mutex<HashMap<Request, oneshot::Sender<Result<Reply, Error>>>>,
    next: AtomicU64,
    slots: Semaphore,
    standing: watch::Sender<Standing>,
    /// The time of the replicated state, and when that was.
    time: Mutex<(Duration, Duration)>,
    alarm: Arc<Mutex<Option<String>>>,
    clock: SharedClock,
    randomness: SharedRandomness,
    max_txn_bytes: usize,
    log_bytes: store::embedded::log::Upkeep,
}

const STOPPED: Error = Error::Unavailable("the store is shut down");

impl RaftStore {
    /// Makes the first member of a new cluster in a directory that has none, with what the embedded store in `from`
    /// holds (which must not be open), if anything.
    pub fn found(directory: &Path, options: &Options, from: Option<&Path>) -> Result<Identity, Error> {
        make_directory(directory)?;
        if Identity::load(directory)?.is_some() {
            return Err(Error::Invalid("there is a member in the directory already"));
        }
        let random = || options.engine.randomness.u64().max(1);
        let identity = Identity { cluster: random(), member: random() };
        let member = member(identity.member, options);
        crate::found(directory, &options.engine, member, from)?;
        // Last: before it, there is no member.
        identity.save(directory)?;
        Ok(identity)
    }

    /// Makes a directory for a member that joins a cluster. Once that cluster knows it, it is given all it lacks.
    pub fn join(directory: &Path, identity: Identity) -> Result<(), Error> {
        make_directory(directory)?;
        match Identity::load(directory)? {
            None => identity.save(directory),
            Some(known) if known == identity => Ok(()),
            Some(_) => Err(Error::Invalid("there is another member in the directory already")),
        }
    }

    /// Opens the member in a directory and starts it. Blocks while it reads its files. Needs a runtime for its
    /// transport.
    pub fn open(
        directory: &Path,
        options: Options,
        clock: SharedClock,
        transport: impl FnOnce(Identity, Inward) -> Arc<dyn Transport>,
    ) -> Result<Arc<Self>, Error> {
        let identity =
            Identity::load(directory)?.ok_or(Error::Invalid("there is no member in the directory"))?;
        remove_received(directory);
        let recovered = Keeper::open(directory, &options.engine)?;
        let settings = Settings {
            id: identity.member,
            incarnation: options.engine.randomness.u64(),
            patience: PATIENCE,
            checkpoint_bytes: options.engine.checkpoint_bytes,
            keep_bytes: options.keep_bytes,
        };
        let replica = recovered.replica.clone();
        let core =
            Core::new(settings, replica.clone(), recovered.hard, recovered.entries, clock.monotonic())?;
        let inbox = Arc::new(Inbox::default());
        let transport = transport(identity, Inward { inbox: inbox.clone(), directory: directory.to_owned() });
        let shared = Arc::new(Shared {
            identity,
            inbox: inbox.clone(),
            replica: replica.clone(),
            answers: Mutex::default(),
            // 0 is nobody.
            next: AtomicU64::new(1),
            slots: Semaphore::new(QUEUED),
            standing: watch::Sender::new(core.standing()),
            time: Mutex::new((replica.time(), clock.monotonic())),
            alarm: Arc::default(),
            clock,
            randomness: options.engine.randomness.clone(),
            max_txn_bytes: options.engine.max_txn_bytes,
            log_bytes: recovered.keeper.upkeep(),
        });
        let started = |error| Error::Io {
            context: "starting the member's threads".to_owned(),
            source: Arc::new(error),
        };
        let disk = DiskThreads::start(recovered.keeper, replica, inbox, shared.alarm.clone());
        let disk = disk.map_err(started)?;
        let me = member(identity.member, &options);
        let worker = Worker { core, disk, transport, shared: shared.clone(), me, said: None };
        let run = move || worker.run();
        let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(run).map_err(started)?;
        Ok(Arc::new(Self { shared, threads: Mutex::new(Some(thread)) }))
    }

    /// Which member of which cluster it is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Where this member stands, and how that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Adds a member, which then has to be started, or says where one is now. Returns once the others know it.
    pub async fn add_member(&self, member: Member) -> Result<(), Error> {
        self.change(Change::Add(member)).await
    }

    /// Removes a member, for good.
    pub async fn remove_member(&self, id: u64) -> Result<(), Error> {
        self.change(Change::Remove(id)).await
    }

    /// Hands over the lead, if it has it, and stops. Calls after it fail with [`Error::Unavailable`].
    pub fn shutdown(&self) {
        let Some(thread) = self.threads.lock().take() else { return };
        let standing = self.shared.standing.subscribe();
        let leads = || standing.borrow().leader == self.shared.identity.member;
        if leads() && standing.borrow().voters.len() > 1 {
            self.shared.inbox.push(Input::HandOver);
            let end = std::time::Instant::now() + HAND_OVER;
            while leads() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.shared.inbox.close();
        // A panic in it has been logged.
        let _ = thread.join();
    }

    async fn change(&self, change: Change) -> Result<(), Error> {
        self.ask(|request| Input::Change(request, change)).await.map(|_| ())
    }

    async fn ask(&self, input: impl FnOnce(Request) -> Input) -> Result<Reply, Error> {
        let request = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.answers.lock().insert(request, sender);
        if !self.shared.inbox.push(input(request)) {
            self.shared.answers.lock().remove(&request);
            return Err(STOPPED);
        }
        answer.await.unwrap_or(Err(STOPPED))
    }

    async fn command(&self, command: Command) -> Result<Outcome, Error> {
        let _slot = self.shared.slots.acquire().await.map_err(|_| STOPPED)?;
        match self.ask(|request| Input::Propose(request, command)).await? {
            Reply::Outcome(outcome) => Ok(outcome),
            Reply::Readable | Reply::Changed => Err(Error::Unavailable("the member gave another's answer")),
        }
    }

    /// Waits until everything that was acknowledged anywhere before can be read here.
    async fn caught_up(&self) -> Result<(), Error> {
        self.ask(Input::Read).await.map(|_| ())
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn member(id: u64, options: &Options) -> Member {
    Member { id, name: options.name.clone(), address: options.address.clone() }
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(|source| Error::Io {
        context: format!("making {}", directory.display()),
        source: Arc::new(source),
    })
}

/// What was on its way when the member stopped comes again.
fn remove_received(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("received-") {
            // It would only take up room.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Bytes that the larger branches of a transaction ask to write.
fn size_of(txn: &Txn) -> usize {
    let size = |op: &Op| match op {
        Op::Put { key, value: PutValue::Plain(value), .. } => key.len() + value.len(),
        Op::Put { key, value: PutValue::Stamped { head, tail }, .. } => key.len() + head.len() + tail.len(),
        Op::Delete { .. } | Op::Range(_) => 0,
        Op::Txn(txn) => size_of(txn),
    };
    let branch = |ops: &[Op]| ops.iter().map(size).sum::<usize>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn writes(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put { .. } | Op::Delete { .. } => true,
        Op::Range(_) => false,
        Op::Txn(txn) => writes(txn),
    })
}

#[async_trait]
impl Store for RaftStore {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.caught_up().await?;
        self.shared.replica.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        // Nothing that everybody would refuse is worth a place in the log.
        txn.check()?;
        let (bytes, limit) = (size_of(&txn), self.shared.max_txn_bytes);
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        if !writes(&txn) {
            self.caught_up().await?;
            return self.shared.replica.read_txn(txn);
        }
        match self.command(Command::Txn(txn)).await? {
            Outcome::Txn(response) => Ok(response),
            Outcome::Lease(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        // From now on means after what was acknowledged anywhere.
        if request.start_revision == 0 {
            self.caught_up().await?;
        }
        self.shared.replica.watch(request)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.command(Command::Compact { revision }).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        if ttl < 1 || id < 0 {
            return Err(Error::Invalid("a lease has a positive ttl and id"));
        }
        let id = match id {
            0 => (self.shared.randomness.u64() >> 1).max(1) as LeaseId,
            id => id,
        };
        lease(self.command(Command::Grant { id, ttl }).await?)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.command(Command::Revoke { id }).await.map(|_| ())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        lease(self.command(Command::KeepAlive { id }).await?)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.caught_up().await?;
        let (time, seen) = *self.shared.time.lock();
        let now = time + self.shared.clock.monotonic().saturating_sub(seen);
        self.shared.replica.lease(id, now)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.caught_up().await?;
        self.shared.replica.leases()
    }

    async fn defragment(&self) -> Result<(), Error> {
        let replica = self.shared.replica.clone();
        let written = tokio::task::spawn_blocking(move || {
            replica.drop_compacted();
            replica.checkpoint()
        });
        let position = written.await.map_err(|_| STOPPED)??;
        self.shared.inbox.push(Input::UpkeepDone(Some(position)));
        Ok(())
    }

    async fn status(&self) -> Result<Status, Error> {
        let mut status = self.shared.replica.status()?;
        status.db_size += self.shared.log_bytes.bytes();
        status.alarm = self.shared.alarm.lock().clone();
        Ok(status)
    }
}

fn lease(outcome: Outcome) -> Result<LeaseInfo, Error> {
    match outcome {
        Outcome::Lease(info) => Ok(info),
        Outcome::Txn(_) | Outcome::Done => Err(Error::Unavailable("the member gave another's answer")),
    }
}

/// What runs on the member's thread.
struct Worker {
    core: Core,
    disk: DiskThreads,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    me: Member,
    /// When it last said where it is now.
    said: Option<Duration>,
}

impl Worker {
    fn run(mut self) {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work()));
        if ended.is_err() {
            tracing::error!("the member's part in the consensus panicked: the store is shut down");
            *self.shared.alarm.lock() = Some("the member has failed".to_owned());
        }
        self.shared.inbox.close();
        self.disk.stop();
        self.transport.close();
        self.shared.slots.close();
        self.shared.answers.lock().clear();
        self.shared.replica.close();
    }

    fn work(&mut self) {
        let clock = self.shared.clock.clone();
        let mut tick = clock.monotonic() + TICK;
        self.carry_out(clock.monotonic());
        while let Some(inputs) = self.shared.inbox.take(tick.saturating_sub(clock.monotonic())) {
            let now = clock.monotonic();
            for input in inputs {
                self.take(input, now);
            }
            if now >= tick {
                self.core.tick(now);
                tick = now + TICK;
                self.say_where(now);
            }
            self.carry_out(now);
        }
    }

    fn take(&mut self, input: Input, now: Duration) {
        match input {
            Input::Propose(request, command) => self.core.propose(request, command, now),
            Input::Read(request) => self.core.read(request, now),
            Input::Change(request, change) => self.core.change(request, change, now),
            Input::Join(member, sender) => {
                let request = self.shared.next.fetch_add(1, Ordering::Relaxed);
                self.shared.answers.lock().insert(request, sender);
                self.core.change(request, Change::Add(member), now);
            }
            Input::Message(message) => self.core.step(message, now),
            Input::Snapshot(message, file) => {
                let index = message.get_snapshot().get_metadata().index;
                self.disk.received.lock().insert(index, file);
                self.core.step(message, now);
            }
            Input::Unreachable(member) => self.core.unreachable(member),
            Input::SnapshotSent(member, arrived) => self.core.snapshot_sent(member, arrived),
            Input::Persisted(number, installed) => {
                self.core.persisted(number);
                if let Some(position) = installed {
                    self.core.installed(&position, now);
                }
            }
            Input::UpkeepDone(position) => self.core.upkeep_done(position),
            Input::HandOver => self.core.hand_over(),
        }
    }

    fn carry_out(&mut self, now: Duration) {
        for output in self.core.poll(now) {
            match output {
                Output::Send(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                    self.send_snapshot(message);
                }
                Output::Send(message) => self.transport.send(message),
                Output::Persist(persist) => self.disk.job(Job::Persist(persist)),
                Output::Release(index) => self.disk.job(Job::Release(index)),
                Output::Upkeep { checkpoint } => self.disk.upkeep(checkpoint),
                Output::Members(members) => self.transport.members(&members),
                Output::Answer(request, result) => {
                    if let Some(answer) = self.shared.answers.lock().remove(&request) {
                        // A caller that has gone away does not want to know.
                        let _ = answer.send(result);
                    }
                }
            }
        }
        *self.shared.time.lock() = (self.core.time(now), now);
        let standing = self.core.standing();
        self.shared.standing.send_if_modified(|known| {
            // How far the log has come is looked at, not waited for.
            let news = (known.leader, known.term) != (standing.leader, standing.term)
                || known.members != standing.members
                || known.voters != standing.voters;
            *known = standing;
            news
        });
    }

    fn send_snapshot(&mut self, mut message: raft::eraftpb::Message) {
        match self.shared.replica.read_checkpoint() {
            Ok(Some((position, checkpoint))) => {
                describe(&mut message, &position);
                self.transport.send_snapshot(message, checkpoint);
            }
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "the checkpoint cannot be sent");
                }
                self.core.snapshot_sent(message.to, false);
            }
        }
    }

    /// Has the others know where this member is now, if that is not what they know.
    fn say_where(&mut self, now: Duration) {
        let standing = self.shared.standing.borrow();
        let known = standing.members.iter().find(|member| member.id == self.me.id);
        let moved = known.is_some_and(|known| *known != self.me) && standing.leader != 0;
        drop(standing);
        if moved && self.said.is_none_or(|said| now >= said + SAY_AGAIN) {
            self.said = Some(now);
            self.core.change(0, Change::Update(self.me.clone()), now);
        }
    }
}

/// The files of a member that stand in for one that was lost.
pub(crate) fn received_path(directory: &Path, index: u64, unique: u64) -> PathBuf {
    directory.join(format!("received-{index}-{unique}"))
}
