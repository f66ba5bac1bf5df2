//! What a replica keeps in checkpoints, takes in from others, and gives to nobody else.

use std::io;
use std::sync::OnceLock;

use super::*;
use crate::embedded::disk::{self, HostDisk};
use crate::types::{Op, PutValue};

fn step(index: u64, seconds: u64, command: Command) -> Step {
    Step { index, term: 7, time: Duration::from_secs(seconds), command: Some(command) }
}

fn put(key: &'static str, lease: LeaseId) -> Command {
    let value = PutValue::Plain("x".into());
    Command::Txn(Txn::of(vec![Op::Put { key: key.into(), value, lease }]))
}

#[tokio::test]
async fn a_checkpoint_holds_what_every_member_must_agree_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default();
    let first = Replica::open(directory.path(), &options).unwrap();
    assert_eq!(first.position(), Position::default());
    let time = Duration::from_millis(1_234);
    let grant = Command::Grant { id: 5, ttl: 10 };
    let outcomes = first.apply(vec![
        Step { index: 1, term: 7, time, command: Some(grant) },
        step(2, 1, put("leased", 5)),
        step(3, 1, put("free", 0)),
        Step { index: 4, term: 8, time: Duration::from_secs(2), command: None },
    ]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    first.attach(Bytes::from_static(b"members"));
    let position = first.checkpoint().unwrap();
    assert_eq!(position, Position { index: 4, term: 8, attachment: Bytes::from_static(b"members") });

    let other = tempfile::tempdir().unwrap();
    let received = other.path().join("received");
    let (_, mut file) = first.read_checkpoint().unwrap().unwrap();
    std::io::copy(&mut file, &mut std::fs::File::create(&received).unwrap()).unwrap();
    let second = Replica::open(other.path(), &options).unwrap();
    let mut watch = second.watch(WatchRequest::prefix("leased", 2)).unwrap();
    assert_eq!(second.install(&received).unwrap(), position);
    let refused = Replica::open(other.path(), &options).err();
    assert!(matches!(refused, Some(Error::Locked { .. })), "somebody has it: {refused:?}");
    // What is open goes on reading; only the directory is free.
    drop(second.lock.lock().take());
    let reopened = Replica::open(other.path(), &options).unwrap();
    for replica in [&first, &second, &reopened] {
        assert_eq!(replica.position(), position);
        // To the millisecond: not at 11.233, at 11.234.
        assert_eq!(replica.next_expiry(), Some(Duration::from_millis(11_234)));
        assert_eq!(replica.time(), Duration::from_secs(2));
        let before = Step { time: Duration::from_millis(11_233), ..step(5, 0, Command::Expire) };
        replica.apply(vec![before]);
        assert_eq!(replica.range(Range::prefix("")).await.unwrap().count, 2);
        let at = Step { time: Duration::from_millis(11_234), ..step(6, 0, Command::Expire) };
        replica.apply(vec![at]);
        assert_eq!(replica.range(Range::prefix("")).await.unwrap().kvs[0].key, "free");
    }
    use futures::StreamExt;
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 2, "the key and its end, over the replacement: {batch:?}");
}

/// What is called before a file is read.
type Hook = Box<dyn Fn(&Path) + Send + Sync>;

/// The host's disk.
#[derive(Default)]
struct Hooked(OnceLock<Hook>);

impl Disk for Hooked {
    fn lock(&self, directory: &Path) -> io::Result<Lock> {
        HostDisk.lock(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn disk::File>> {
        HostDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn disk::File>> {
        HostDisk.open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read(path)
    }

    fn reader(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        if let Some(hook) = self.0.get() {
            hook(path);
        }
        HostDisk.reader(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        HostDisk.list(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        HostDisk.sync_directory(directory)
    }
}

#[tokio::test]
async fn a_checkpoint_that_comes_finds_room() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
    let ahead = Replica::open(&from, &Options::default()).unwrap();
    ahead.apply((1..=9).map(|index| step(index, 1, put("key", 0))).collect());
    ahead.checkpoint().unwrap();
    let received = to.join("received");

    let disk = Arc::new(Hooked::default());
    let options = Options { disk: disk.clone(), ..Options::default() };
    let behind = Arc::new(Replica::open(&to, &options).unwrap());
    behind.apply(vec![step(1, 1, put("old", 0))]);
    let mut watch = behind.watch(WatchRequest::prefix("", 2)).unwrap();
    use futures::{FutureExt as _, StreamExt as _};
    drop(watch.next().await.unwrap().unwrap());

    // How many keys are in memory when the file is read, and whether readers are refused then.
    let seen: Arc<Mutex<Vec<(u64, bool)>>> = Arc::default();
    let (looker, noted) = (Arc::downgrade(&behind), seen.clone());
    let hook = move |path: &Path| {
        if path.file_name().is_some_and(|name| name == "received") {
            let replica = looker.upgrade().unwrap();
            let range = replica.range(Range::prefix("")).now_or_never().unwrap();
            let refused = [
                matches!(range, Err(Error::Unavailable(_))),
                matches!(replica.status(), Err(Error::Unavailable(_))),
                matches!(replica.read_txn(Txn::default()), Err(Error::Unavailable(_))),
                replica.watch(WatchRequest::prefix("", 0)).is_err(),
            ];
            assert!(refused.iter().all(|one| *one == refused[0]), "{refused:?}");
            noted.lock().push((replica.memory.state.read().mvcc.keys, refused[0]));
            if refused[0] && noted.lock().len() == 2 {
                std::fs::write(path, "lost between the two").unwrap();
            }
        }
    };
    assert!(disk.0.set(Box::new(hook)).is_ok());
    // What is damaged changes nothing.
    std::fs::write(&received, "no checkpoint").unwrap();
    assert!(behind.install(&received).is_err());
    assert_eq!(behind.range(Range::key("old")).await.unwrap().count, 1);
    assert_eq!(std::mem::take(&mut *seen.lock()), [(1, false)]);

    let copy = || assert!(std::fs::copy(checkpoint::path(&from), &received).unwrap() > 0);
    copy();
    assert!(behind.install(&received).is_err());
    assert_eq!(std::mem::take(&mut *seen.lock()), [(1, false), (0, true)], "read when there is room");
    let empty = behind.checkpoint();
    assert!(matches!(empty, Err(Error::Unavailable(_))), "nothing is not what is kept: {empty:?}");
    assert_eq!(behind.position().index, 1, "it is to be tried again");
    copy();
    seen.lock().extend([(0, true); 2]);
    assert_eq!(behind.install(&received).unwrap().index, 9);
    let found = behind.range(Range::prefix("")).await.unwrap();
    assert_eq!((found.kvs.len(), found.kvs[0].version), (1, 9));
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events[0].kv.key, "key", "whoever watches goes on: {batch:?}");
}

#[test]
fn a_directory_is_one_members() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default();
    let position = Position { index: 1, term: 1, ..Position::default() };
    let open = Replica::open(directory.path(), &options).unwrap();
    let found = Replica::found(directory.path(), &options, &position, None);
    assert!(matches!(found, Err(Error::Locked { .. })), "{found:?}");
    let fresh = tempfile::tempdir().unwrap();
    let found = Replica::found(fresh.path(), &options, &position, Some(directory.path()));
    assert!(matches!(found, Err(Error::Locked { .. })), "nor is it read meanwhile: {found:?}");
    open.close();
    assert!(matches!(open.checkpoint(), Err(Error::Unavailable(_))), "it is not its own any more");
    Replica::found(directory.path(), &options, &position, None).unwrap();
    assert_eq!(Replica::open(directory.path(), &options).unwrap().position(), position);
}

#[test]
fn time_does_not_go_back() {
    let directory = tempfile::tempdir().unwrap();
    let replica = Replica::open(directory.path(), &Options::default()).unwrap();
    replica.apply(vec![step(1, 100, Command::Grant { id: 1, ttl: 10 })]);
    replica.apply(vec![step(2, 50, Command::KeepAlive { id: 1 })]);
    assert_eq!(replica.next_expiry(), Some(Duration::from_secs(110)));
}

/// A line of `/proc/self/status`, in MiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() >> 10
}

#[test]
#[ignore = "a figure: run it alone, with --nocapture"]
fn memory_while_a_checkpoint_is_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
    let fill = |replica: &Replica| {
        for index in 1..=1000 {
            let put = |n: u64| Op::put(format!("key/{index}/{n}"), vec![b'x'; 1000]);
            replica.apply(vec![step(index, 1, Command::Txn(Txn::of((0..200).map(put).collect())))]);
        }
    };
    let ahead = Replica::open(&from, &Options::default()).unwrap();
    fill(&ahead);
    ahead.apply(vec![step(1001, 1, put("last", 0))]);
    ahead.checkpoint().unwrap();
    let behind = Replica::open(&to, &Options::default()).unwrap();
    drop(ahead);
    fill(&behind);
    let received = to.join("received");
    std::fs::copy(checkpoint::path(&from), &received).unwrap();
    let before = memory("VmRSS:");
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    behind.install(&received).unwrap();
    eprintln!("{before} MiB before, {} MiB at most, {} MiB after", memory("VmHWM:"), memory("VmRSS:"));
}
