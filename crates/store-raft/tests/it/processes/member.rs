//! One member's process, and how the test's process talks to it: a line asked, a line answered, over a socket in the file
//! system.
//!
//! The answers: `ok` with what was asked for; `unknown`, if nobody knows what became of it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use store::{
    Compare, Error, KeyValue, LeaseId, LeaseInfo, Op, PutValue, Range, RangeResponse, Revision, Status,
    Store, Target, Txn, TxnResponse, WatchRequest, WatchStream,
};
use store_raft::transport::tls::{TlsTransport, ask_to_join};
use store_raft::{Identity, Member, Options, RaftStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::it::authority::Leaf;
use crate::it::cluster::JumpingClock;

pub const FOLDER: &str = "IRONCLAD_TEST_FOLDER";
pub const INDEX: &str = "IRONCLAD_TEST_INDEX";
pub const ADDRESS: &str = "IRONCLAD_TEST_ADDRESS";
pub const FIRST: &str = "IRONCLAD_TEST_FIRST";

pub fn run() {
    let of = |name: &str| std::env::var(name).expect("the test says who this is");
    // Nobody is to be left when the test's process is gone.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(Path::new(&of(FOLDER)), &of(INDEX), &of(ADDRESS), &of(FIRST)));
}

async fn serve(folder: &Path, index: &str, address: &str, first: &str) {
    let file = |name: &str| folder.join(format!("{index}.{name}"));
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    let id = String::from_utf8(read("id")).unwrap().parse().unwrap();
    let leaf = Leaf { authority: read("ca"), certificate: read("certificate"), key: read("key") };
    let directory = folder.join(index);
    let options = Options::new(format!("m{index}"), address);
    if Identity::load(&directory).unwrap().is_none() {
        let member = Member { id, name: options.name.clone(), address: options.address.clone() };
        let identity = loop {
            match ask_to_join(&leaf.security(), first, &member).await {
                Ok(identity) => break identity,
                // Of an unknown outcome: asking again is allowed.
                Err(error) => eprintln!("member {index}: {error}"),
            }
        };
        RaftStore::join(&directory, identity).unwrap();
    }
    let ahead = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(address).await.unwrap();
    let clock = Arc::new(JumpingClock(ahead.clone()));
    let store = RaftStore::open(&directory, options, clock, |identity, inward| {
        TlsTransport::start(identity, address.to_owned(), listener, leaf.security(), inward)
    });
    let store = store.unwrap();
    let socket = file("sock");
    // Of the process that was killed.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                drop(tokio::spawn(answer(accepted.unwrap().0, store.clone(), ahead.clone())));
            }
            ended = store.ended() => panic!("member {index}: {ended}"),
        }
    }
}

async fn answer(stream: UnixStream, store: Arc<RaftStore>, ahead: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // A caller that has been killed, or has given up, does not want to know.
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    let put = |key: &str, value: &str| Op::put(key.to_owned(), value.to_owned());
    let said = match line.trim().split(' ').collect::<Vec<_>>()[..] {
        ["stand"] => {
            let standing = store.standing().borrow().clone();
            Ok(format!("{} {}", standing.leader, standing.voters.len()))
        }
        ["jump", by] => {
            ahead.fetch_add(by.parse().unwrap(), Ordering::Relaxed);
            Ok(String::new())
        }
        ["read", key] => store.range(Range::key(key.to_owned())).await.map(|found| {
            found.kvs.first().map_or("0".to_owned(), |kv| String::from_utf8_lossy(&kv.value).into_owned())
        }),
        ["put", key, value] => store.txn(Txn::of(vec![put(key, value)])).await.map(|_| "1".to_owned()),
        ["delete", key] => store.txn(Txn::of(vec![Op::delete(key.to_owned())])).await.map(|_| "1".to_owned()),
        ["swap", key, expected, value] => {
            let compare = match expected {
                "0" => Compare::absent(key.to_owned()),
                held => Compare::equal(key.to_owned(), Target::Value(held.to_owned().into())),
            };
            let txn = Txn { compare: vec![compare], success: vec![put(key, value)], failure: vec![] };
            store.txn(txn).await.map(|done| u8::from(done.succeeded).to_string())
        }
        _ => panic!("{line:?} is nothing that can be asked"),
    };
    let said = match said {
        Ok(said) => format!("ok {said}\n"),
        Err(Error::Unavailable(_)) => "unknown\n".to_owned(),
        Err(error) => panic!("{line:?}: {error}"),
    };
    let _ = stream.get_mut().write_all(said.as_bytes()).await;
}

/// A member in another process, as a store that can do what the checker's clients ask for.
pub struct Remote(pub PathBuf);

const UNKNOWN: Error = Error::Unavailable("the process has gone, or does not know");
const NO_MORE: Error = Error::Invalid("the checker's clients do not ask for it");

impl Remote {
    /// What is answered. `None`: nobody knows what came of it.
    pub async fn ask(&self, line: &str) -> Option<String> {
        let ask = async {
            let mut stream = BufReader::new(UnixStream::connect(&self.0).await.ok()?);
            stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.ok()?;
            let mut said = String::new();
            stream.read_line(&mut said).await.ok()?;
            said.strip_suffix('\n')?.strip_prefix("ok ").map(str::to_owned)
        };
        // Longer than a member's own patience; one that is stopped has none.
        tokio::time::timeout(Duration::from_secs(20), ask).await.ok()?
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[async_trait]
impl Store for Remote {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        let key = range.start.clone();
        let value = self.ask(&format!("read {}", text(&key))).await.ok_or(UNKNOWN)?;
        let kv = KeyValue {
            key,
            value: value.clone().into(),
            create_revision: 0,
            mod_revision: 0,
            version: 0,
            lease: 0,
        };
        let kvs = if value == "0" { Vec::new() } else { vec![kv] };
        Ok(RangeResponse { revision: 0, count: kvs.len() as u64, kvs, more: false })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        let line = match (&txn.compare[..], &txn.success[..]) {
            ([], [Op::Put { key, value: PutValue::Plain(value), .. }]) => {
                format!("put {} {}", text(key), text(value))
            }
            ([], [Op::Delete { start, .. }]) => format!("delete {}", text(start)),
            ([compare], [Op::Put { key, value: PutValue::Plain(value), .. }]) => {
                let expected = match &compare.target {
                    Target::Value(expected) => text(expected),
                    _ => "0".to_owned(),
                };
                format!("swap {} {expected} {}", text(key), text(value))
            }
            _ => return Err(NO_MORE),
        };
        let said = self.ask(&line).await.ok_or(UNKNOWN)?;
        Ok(TxnResponse { revision: 0, succeeded: said == "1", results: Vec::new() })
    }

    async fn watch(&self, _: WatchRequest) -> Result<WatchStream, Error> {
        Err(NO_MORE)
    }

    async fn compact(&self, _: Revision) -> Result<(), Error> {
        Err(NO_MORE)
    }

    async fn lease_grant(&self, _: i64, _: LeaseId) -> Result<LeaseInfo, Error> {
        Err(NO_MORE)
    }

    async fn lease_revoke(&self, _: LeaseId) -> Result<(), Error> {
        Err(NO_MORE)
    }

    async fn lease_keep_alive(&self, _: LeaseId) -> Result<LeaseInfo, Error> {
        Err(NO_MORE)
    }

    async fn lease_time_to_live(&self, _: LeaseId) -> Result<LeaseInfo, Error> {
        Err(NO_MORE)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Err(NO_MORE)
    }

    async fn defragment(&self) -> Result<(), Error> {
        Err(NO_MORE)
    }

    async fn status(&self) -> Result<Status, Error> {
        Err(NO_MORE)
    }
}
