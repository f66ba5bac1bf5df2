//! A running member: how it is made, opened, told of other members and stopped.
//!
//! Parts: `serving` (the store that callers use), `worker` (the thread that runs its part in the consensus), `disk` (the
//! threads that block on its disk), `inbox` (what waits for the worker), `health` (what people and metrics are told).
//! Not here: decisions (`core`).

mod disk;
mod health;
pub(crate) mod inbox;
mod serving;
mod worker;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use foundation::{SharedClock, SharedRandomness};
use parking_lot::Mutex;
use store::Error;
use store::embedded::Options as EngineOptions;
use store::embedded::replica::{Command, Outcome, Replica};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::Member;
use crate::core::{Change, Core, Reply, Request, Settings, Standing};
use crate::identity::Identity;
use crate::keeper::Keeper;
use crate::transport::{Inward, Transport};
use disk::DiskThreads;
use health::Health;
use inbox::{Inbox, Input};
use worker::Worker;

/// How long a caller waits before it is told that the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(7);
/// Shares of writes that may be on their way at a time; what is more waits for its turn, with its caller.
const QUEUED: usize = 4096;
/// Bytes that make a write take another share: 64 MiB on their way at the most.
const SHARE: usize = 16 << 10;
/// How long a stop waits for another member to take over the lead.
const HAND_OVER: Duration = Duration::from_secs(1);
/// How long a change of the members is tried again when its outcome is unknown: its doing twice is its doing once.
const CHANGING: Duration = Duration::from_secs(20);

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
    answers: Mutex<HashMap<Request, Waiter>>,
    next: AtomicU64,
    slots: Arc<Semaphore>,
    standing: watch::Sender<Standing>,
    /// The time of the replicated state, and when that was.
    time: Mutex<(Duration, Duration)>,
    health: Arc<Health>,
    ended: watch::Sender<Option<Ended>>,
    clock: SharedClock,
    randomness: SharedRandomness,
    max_txn_bytes: usize,
    log_bytes: store::embedded::log::Upkeep,
}

/// Who is to be told what came of a request.
struct Waiter {
    answer: oneshot::Sender<Result<Reply, Error>>,
    /// A write's: until it is answered, not only as long as its caller stays.
    _slots: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Says why the member has ended, unless that is known.
    fn end(&self, why: Ended) {
        self.ended.send_if_modified(|known| {
            let news = known.is_none();
            known.get_or_insert(why);
            news
        });
    }
}

/// Why a member does not serve any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It was told to stop.
    #[error("the store is shut down")]
    Stopped,
    /// The others have removed it. It may come back as a new member only, with an empty directory.
    #[error("this member has been removed from the cluster")]
    Removed,
    /// It cannot go on.
    #[error("{0}")]
    Failed(String),
}

const STOPPED: Error = Error::Unavailable("the store is shut down");
/// What watches end with.
const NO_LEADER: Error = Error::Unavailable(store::unavailable::LEADERLESS);

impl RaftStore {
    /// Makes the first member of a new cluster in a directory that has none, with what the embedded store in `from`
    /// holds (which must not be open), if anything.
    pub fn found(directory: &Path, options: &Options, from: Option<&Path>) -> Result<Identity, Error> {
        make_directory(directory)?;
        if Identity::load(directory)?.is_some() {
            return Err(Error::Invalid("there is a member in the directory already"));
        }
        refuse_another_store(directory)?;
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
            None => {
                refuse_another_store(directory)?;
                identity.save(directory)
            }
            Some(known) if known == identity => Ok(()),
            Some(_) => Err(Error::Invalid("there is another member in the directory already")),
        }
    }

    /// Whether a member can be made in a directory: to be asked before a cluster is, which would go on counting on one
    /// that cannot come.
    pub fn can_join(directory: &Path) -> Result<(), Error> {
        make_directory(directory)?;
        refuse_another_store(directory)
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
            level: crate::level::LATEST,
        };
        let replica = recovered.replica.clone();
        let core =
            Core::new(settings, replica.clone(), recovered.hard, recovered.entries, clock.monotonic())?;
        let inbox = Arc::new(Inbox::default());
        let health = Arc::new(Health::default());
        let transport = transport(identity, Inward { inbox: inbox.clone(), directory: directory.to_owned() });
        let shared = Arc::new(Shared {
            identity,
            inbox: inbox.clone(),
            replica: replica.clone(),
            answers: Mutex::default(),
            // 0 is nobody.
            next: AtomicU64::new(1),
            slots: Arc::new(Semaphore::new(QUEUED)),
            standing: watch::Sender::new(core.standing(clock.monotonic())),
            time: Mutex::new((replica.time(), clock.monotonic())),
            health: health.clone(),
            ended: watch::Sender::new(None),
            clock: clock.clone(),
            randomness: options.engine.randomness.clone(),
            max_txn_bytes: options.engine.max_txn_bytes,
            log_bytes: recovered.keeper.upkeep(),
        });
        let started = |error| Error::Io {
            context: "starting the member's threads".to_owned(),
            source: Arc::new(error),
        };
        let disk = DiskThreads::start(recovered.keeper, replica, inbox, health, clock);
        let disk = disk.map_err(started)?;
        let me = member(identity.member, &options);
        let worker = Worker {
            core,
            disk,
            transport,
            shared: shared.clone(),
            me,
            said: None,
            moved: HashMap::new(),
            removed: None,
            watched: true,
            arrived: Vec::new(),
            wanted: 0,
        };
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

    /// Has another voter lead in the place of this one, which leads. Returns once it does; [`Error::Unavailable`] if it has
    /// not taken over in the time that a request may take.
    pub async fn move_leader(&self, to: u64) -> Result<(), Error> {
        let mut standing = self.standing();
        self.shared.inbox.push(Input::MoveLeader(to));
        let taken = standing.wait_for(|standing| standing.leader == to);
        tokio::select! {
            taken = taken => taken.map(drop).map_err(|_| STOPPED),
            () = self.shared.clock.sleep(PATIENCE) => Err(Error::Unavailable(store::unavailable::UNDECIDED)),
            ended = self.ended() => Err(unavailable(&ended)),
        }
    }

    /// How often somebody else led than before, as this process has seen.
    pub fn leader_changes(&self) -> u64 {
        self.shared.health.leader_changes()
    }

    /// Waits until this member votes and has all that was acknowledged so far: from then on the cluster can count on it.
    /// Fails when it ends before.
    pub async fn joined(&self) -> Result<(), Error> {
        let me = self.shared.identity.member;
        let mut standing = self.standing();
        let votes = standing.wait_for(|standing| standing.leader != 0 && standing.voters.contains(&me));
        tokio::select! {
            _ = votes => {}
            ended = self.ended() => return Err(unavailable(&ended)),
        }
        loop {
            let Err(error) = self.caught_up().await else { return Ok(()) };
            // Each attempt has the patience of a read; between two leaders one is not enough.
            if !self.goes_on() || !matches!(error, Error::Unavailable(_)) {
                return Err(error);
            }
        }
    }

    /// Waits until the member does not serve any more, and says why. One that was removed, or cannot go on, does not come
    /// back by itself: whoever runs it should stop.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| ended.clone()).unwrap_or(Ended::Stopped)
    }

    /// Adds a member, which then has to be started, or says where one is now. Returns once the others know it.
    pub async fn add_member(&self, member: Member) -> Result<(), Error> {
        self.change(Change::Add(member)).await
    }

    /// Removes a member, for good: its id is not taken again. Whichever member is asked, also for itself. Refused by
    /// [`UNHEARD`](store::unavailable::UNHEARD) where who leads does not hear of most of those that would be left.
    pub async fn remove_member(&self, id: u64) -> Result<(), Error> {
        self.change(Change::Remove(id)).await
    }

    /// Hands over the lead, if it has it, stops, and gives the directory free. Calls after it fail with
    /// [`Error::Unavailable`]. Blocks, for a second at most if the disk does not.
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
        self.shared.end(Ended::Stopped);
        self.shared.inbox.close();
        // A panic in it has been logged.
        let _ = thread.join();
    }

    async fn change(&self, change: Change) -> Result<(), Error> {
        let end = self.shared.clock.monotonic() + CHANGING;
        loop {
            match self.ask(None, |request| Input::Change(request, change.clone())).await {
                Err(refused @ Error::Unavailable(store::unavailable::UNHEARD)) => return Err(refused),
                // It may have happened or not. Then it is done at once when it is asked for again.
                Err(Error::Unavailable(_)) if self.goes_on() && self.shared.clock.monotonic() < end => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Whether there is anything to be hoped for from asking again.
    fn goes_on(&self) -> bool {
        self.shared.ended.borrow().is_none() && !self.shared.standing.borrow().removed
    }

    async fn ask(
        &self,
        slots: Option<OwnedSemaphorePermit>,
        input: impl FnOnce(Request) -> Input,
    ) -> Result<Reply, Error> {
        let request = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.answers.lock().insert(request, Waiter { answer: sender, _slots: slots });
        if !self.shared.inbox.push(input(request)) {
            self.shared.answers.lock().remove(&request);
            return Err(STOPPED);
        }
        answer.await.unwrap_or(Err(STOPPED))
    }

    /// Writes something of about so many bytes.
    async fn command(&self, command: Command, bytes: usize) -> Result<Outcome, Error> {
        let shares = (1 + bytes / SHARE).min(QUEUED) as u32;
        let slots = self.shared.slots.clone().acquire_many_owned(shares).await.map_err(|_| STOPPED)?;
        match self.ask(Some(slots), |request| Input::Propose(request, command)).await? {
            Reply::Outcome(outcome) => Ok(outcome),
            Reply::Readable | Reply::Changed => Err(Error::Unavailable("the member gave another's answer")),
        }
    }

    /// Waits until everything that was acknowledged anywhere before can be read here.
    async fn caught_up(&self) -> Result<(), Error> {
        self.ask(None, Input::Read).await.map(|_| ())
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn unavailable(ended: &Ended) -> Error {
    Error::Unavailable(match ended {
        Ended::Stopped => "the store is shut down",
        Ended::Removed => "this member has been removed from the cluster",
        Ended::Failed(_) => "the member has failed",
    })
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

/// A log without a member beside it is an embedded store's. A checkpoint alone is what a founding that was cut short has
/// left, which must not become part of another cluster.
fn refuse_another_store(directory: &Path) -> Result<(), Error> {
    let failed =
        |source| Error::Io { context: format!("reading {}", directory.display()), source: Arc::new(source) };
    let mut checkpoint = None;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".wal") {
            return Err(Error::Invalid("the directory holds a store that is no member's"));
        }
        if name == "checkpoint" {
            checkpoint = Some(entry.path());
        }
    }
    checkpoint.map_or(Ok(()), |path| std::fs::remove_file(path).map_err(failed))
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

/// The files of a member that stand in for one that was lost.
pub(crate) fn received_path(directory: &Path, index: u64, unique: u64) -> PathBuf {
    directory.join(format!("received-{index}-{unique}"))
}

#[cfg(test)]
mod tests;
