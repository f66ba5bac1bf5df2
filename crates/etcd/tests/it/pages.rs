//! The pages beside the API: health, checks, metrics, version. What both have is asked of a real etcd 3.5 as well.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd::{Known, Members, Options, Server, Standing};
use foundation::{CancellationToken, SystemClock};
use store::embedded::disk::{Disk, File, HostDisk, Lock};
use store::embedded::{self, Engine};
use store::{Error, Op, Store, Txn};
use testkit::etcd::Etcd;
use testkit::wait;
use tokio::runtime::Runtime;
use tonic::async_trait;

use super::etcdctl::World;

/// A page: its status, its headers in lower case, its body.
struct Page {
    status: u16,
    head: String,
    body: String,
}

/// Asks by HTTP/1.0, whose answers are in one piece.
fn ask(address: &str, method: &str, path: &str) -> io::Result<Page> {
    let address = address.strip_prefix("http://").unwrap_or(address);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Page { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn get(address: &str, path: &str) -> (u16, String) {
    let page = ask(address, "GET", path).unwrap();
    (page.status, page.body)
}

#[test]
fn pages_are_those_of_etcd() {
    const WELL: &str = r#"{"health":"true","reason":""}"#;
    const TEXT: &str = "content-type: text/plain; charset=utf-8";
    const READY: &str =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    let world = World::new();
    let etcd = Etcd::new("3.5").started();
    wait::until("the etcd answers", || {
        let page = ask(&etcd.url(), "GET", "/health").map_err(|error| error.to_string())?;
        if page.status == 200 { Ok(()) } else { Err(page.body) }
    });
    // The etcd that is installed for tests is older than /livez and /readyz.
    for (both, method, path, status, header, body) in [
        (true, "GET", "/health", 200, TEXT, WELL),
        (true, "GET", "/health?serializable=true&exclude=NOSPACE", 200, TEXT, WELL),
        (true, "POST", "/health", 405, "allow: get", "Method Not Allowed\n"),
        (true, "GET", "/nothing", 404, "x-content-type-options: nosniff", "404 page not found\n"),
        (true, "GET", "/health/nothing", 404, TEXT, "404 page not found\n"),
        (true, "GET", "/version", 200, "content-type: application/json", r#"{"etcdserver":"3."#),
        (true, "DELETE", "/version", 405, "allow: get", "Method Not Allowed\n"),
        (true, "GET", "/metrics", 200, "content-type: text/plain; version=0.0.4; charset=utf-8", "# HELP "),
        (false, "GET", "/livez", 200, "x-content-type-options: nosniff", "ok\n"),
        (false, "GET", "/livez?verbose", 200, TEXT, "[+]serializable_read ok\nok\n"),
        (false, "GET", "/readyz", 200, TEXT, "ok\n"),
        (false, "GET", "/readyz?verbose", 200, TEXT, READY),
        (
            false,
            "GET",
            "/readyz?verbose&exclude=non_learner&exclude=x",
            200,
            TEXT,
            &READY.replace("[+]non_learner ok\n", ""),
        ),
        (false, "GET", "/readyz/linearizable_read?verbose=", 200, TEXT, "[+]linearizable_read ok\nok\n"),
        (false, "GET", "/readyz/nothing", 404, TEXT, "404 page not found\n"),
        (false, "PUT", "/readyz", 405, "allow: get", "Method Not Allowed\n"),
    ] {
        for address in [&world.url, &etcd.url()].into_iter().take(if both { 2 } else { 1 }) {
            let page = ask(address, method, path).unwrap();
            assert_eq!(page.status, status, "{method} {path} of {address}: {}", page.body);
            assert!(page.head.contains(header), "{method} {path} of {address}: {}", page.head);
            let whole = !matches!(path, "/version" | "/metrics");
            let matches = if whole { page.body == body } else { page.body.starts_with(body) };
            assert!(matches, "{method} {path} of {address}: {}", page.body);
        }
    }
}

/// The samples of a page of metrics, by name and labels.
fn samples(address: &str) -> HashMap<String, f64> {
    let (_, text) = get(address, "/metrics");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn metrics_are_what_has_happened() {
    let world = World::new();
    let call = |method: &str, code: &str| {
        let code = if code.is_empty() { String::new() } else { format!(",grpc_code=\"{code}\"") };
        let total = if code.is_empty() { "started" } else { "handled" };
        format!(
            "grpc_server_{total}_total{{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"{method}\"{code}}}"
        )
    };
    let before = samples(&world.url);
    for name in [
        "etcd_server_has_leader",
        "etcd_server_is_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_id{server_id=\"abc\"}",
    ] {
        assert_eq!(before[name], 1.0, "{name}");
    }
    assert_eq!((before[&call("Put", "")], before[&call("Put", "OK")]), (0.0, 0.0));
    for value in ["1", "2"] {
        world.ctl("3.5", &["put", "k", value]);
    }
    world.ctl("3.5", &["put", "l", &"x".repeat(10_000)]);
    world.ctl("3.5", &["get", "k"]);
    world.try_ctl("3.5", &["put", "k", "v", "--lease=77"], "").unwrap_err();
    world.try_ctl("3.5", &["get", "k", "--rev=99"], "").unwrap_err();
    // The last answer may be here before it is counted.
    let after = wait::until("all calls are counted", || {
        let after = samples(&world.url);
        let counted = after.get(&call("Range", "OutOfRange")) == Some(&1.0);
        if counted { Ok(after) } else { Err(format!("{after:?}")) }
    });
    for (name, expected) in [
        (call("Put", ""), 4.0),
        (call("Put", "OK"), 3.0),
        (call("Put", "NotFound"), 1.0),
        (call("Range", "OK"), 1.0),
        (call("Range", "OutOfRange"), 1.0),
        ("etcd_debugging_mvcc_keys_total".to_owned(), 2.0),
        ("etcd_debugging_mvcc_current_revision".to_owned(), 4.0),
        ("etcd_server_proposals_pending".to_owned(), 0.0),
        ("etcd_server_proposals_failed_total".to_owned(), 0.0),
        ("etcd_server_is_learner".to_owned(), 0.0),
    ] {
        assert_eq!(after[&name], expected, "{name}");
    }
    for name in ["etcd_network_client_grpc_received_bytes_total", "etcd_mvcc_db_total_size_in_use_in_bytes"] {
        assert!(after[name] - before[name] >= 10_000.0, "{name}");
    }
    assert!(after["etcd_mvcc_db_total_size_in_bytes"] > 10_000.0);
    assert!(after["etcd_network_client_grpc_sent_bytes_total"] > 0.0);
    let syncs = "etcd_disk_wal_fsync_duration_seconds_count";
    // Other tests of this process have disks as well.
    assert!(after[syncs] >= 3.0, "{}", after[syncs]);
    assert!(after["etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"}"] >= 3.0);
}

/// Members whose leader can be lost.
struct Others(AtomicU64);

#[async_trait]
impl Members for Others {
    fn standing(&self) -> Standing {
        let known =
            |id, is_learner| Known { id, name: format!("m{id}"), peer_url: String::new(), is_learner };
        let members = vec![known(1, true), known(2, false)];
        let leader = self.0.load(Ordering::SeqCst);
        Standing { id: 1, cluster: 9, leader, term: 3, indexes: (8, 7), members }
    }

    fn leader_changes(&self) -> u64 {
        5
    }

    async fn client_urls(&self) -> HashMap<u64, Vec<String>> {
        HashMap::new()
    }

    async fn move_leader(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    async fn remove(&self, _: u64) -> Result<(), etcd::NotRemoved> {
        Ok(())
    }

    async fn leaderless(&self) {
        std::future::pending().await
    }
}

/// A disk that refuses to write, while it is said so.
#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<Fault>>);

#[derive(Clone, Copy, Default)]
enum Fault {
    #[default]
    None,
    /// It has no room.
    Full,
    /// It is broken.
    Broken,
    /// Whoever writes panics.
    Panic,
}

struct FaultyFile(Box<dyn File>, Faulty);

impl Faulty {
    fn set(&self, fault: Fault) {
        *self.0.lock().unwrap() = fault;
    }

    fn wrap(&self, file: io::Result<Box<dyn File>>) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FaultyFile(file?, self.clone())))
    }
}

impl Disk for Faulty {
    fn lock(&self, directory: &Path) -> io::Result<Lock> {
        HostDisk.lock(directory)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.wrap(HostDisk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.wrap(HostDisk.open(path))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read(path)
    }
    fn reader(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
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

impl File for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = *self.1.0.lock().unwrap();
        match fault {
            Fault::None => self.0.write_at(bytes, offset),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
            Fault::Broken => Err(io::Error::from_raw_os_error(5)),
            Fault::Panic => panic!("as the test wants it"),
        }
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn what_ails_the_server_is_told() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (disk, others) = (Faulty::default(), Arc::new(Others(AtomicU64::new(2))));
    let settings = embedded::Options { disk: Arc::new(disk.clone()), ..Default::default() };
    let engine = Engine::open(folder.path(), settings, SystemClock::shared()).unwrap();
    let stop = CancellationToken::new();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let members: Arc<dyn Members> = others.clone();
    let options = Options { members: Some(members), id: 1, ..Default::default() };
    let server = Server::new(engine.clone(), options, SystemClock::shared());
    runtime.spawn(etcd::serve_pages(server, listener, None, stop.clone()));

    let figures = samples(&address);
    for (name, expected) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 0.0),
        ("etcd_server_is_learner", 1.0),
        ("etcd_server_leader_changes_seen_total", 5.0),
        ("etcd_server_proposals_committed_total", 8.0),
        ("etcd_server_proposals_applied_total", 7.0),
    ] {
        assert_eq!(figures[name], expected, "{name}");
    }
    let well = (200, r#"{"health":"true","reason":""}"#.to_owned());
    let ill = |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    assert_eq!(get(&address, "/health"), well);
    let (status, told) = get(&address, "/readyz");
    let learns = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
                  [-]non_learner failed: not supported for learner\n\n";
    assert_eq!((status, told.as_str()), (503, learns));
    assert_eq!(get(&address, "/livez"), (200, "ok\n".to_owned()));

    others.0.store(0, Ordering::SeqCst);
    assert_eq!(get(&address, "/health"), ill("RAFT NO LEADER"));
    assert_eq!(get(&address, "/health?serializable=true"), well);
    assert_eq!(samples(&address)["etcd_server_has_leader"], 0.0);
    others.0.store(2, Ordering::SeqCst);

    disk.set(Fault::Full);
    let refused = runtime.block_on(engine.txn(Txn::of(vec![Op::put("k", "v")]))).unwrap_err();
    assert!(matches!(refused, Error::NoSpace), "{refused}");
    for path in ["/health", "/health?serializable=true"] {
        assert_eq!(get(&address, path), ill("ALARM NOSPACE"));
    }
    assert_eq!(get(&address, "/health?exclude=NOSPACE"), well);
    // A full disk is none of the checks' business: etcd has an alarm of its own for it.
    for path in ["/livez", "/readyz/linearizable_read"] {
        assert_eq!(get(&address, path), (200, "ok\n".to_owned()), "{path}");
    }
    disk.set(Fault::None);
    runtime.block_on(engine.txn(Txn::of(vec![Op::put("k", "v")]))).unwrap();
    assert_eq!(get(&address, "/health"), well);
    let counted = samples(&address);
    assert_eq!((counted["etcd_server_health_success"], counted["etcd_server_health_failures"]), (4.0, 3.0));
    assert_eq!(counted["etcd_server_healthcheck{type=\"readyz\",name=\"non_learner\"}"], 0.0);

    // Where only the pages are, nobody reaches the store.
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    let refused = runtime.block_on(async {
        let mut client = etcd::wire::etcdserverpb::kv_client::KvClient::new(channel.connect_lazy());
        client.range(etcd::wire::etcdserverpb::RangeRequest { key: "k".into(), ..Default::default() }).await
    });
    refused.unwrap_err();

    // Writes that are refused for another reason, and then for good.
    let statuses = || {
        let paths =
            ["/livez", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/data_corruption"];
        let more = ["/health?serializable=true", "/health"];
        paths.into_iter().chain(more).map(|path| get(&address, path).0).collect::<Vec<_>>()
    };
    let write = || runtime.block_on(engine.txn(Txn::of(vec![Op::put("k", "v")])));
    assert_eq!(statuses(), [200; 6]);
    disk.set(Fault::Broken);
    write().unwrap_err();
    assert_eq!(statuses(), [200, 200, 503, 200, 200, 503]);
    disk.set(Fault::None);
    write().unwrap();
    assert_eq!(statuses(), [200; 6]);
    disk.set(Fault::Panic);
    write().unwrap_err();
    wait::until("the writer has failed", || match get(&address, "/livez") {
        (503, told) => Ok(assert!(told.contains("the writer has failed"), "{told}")),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(statuses(), [503, 503, 503, 200, 503, 503]);
    engine.shutdown();
    assert_eq!(statuses(), [503; 6]);
    stop.cancel();
}
