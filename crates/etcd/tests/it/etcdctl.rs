//! `etcdctl` 3.4 and 3.5 against this server over the embedded engine. `tests/tools.sh` installs them.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use etcd::{Options, Server, snapshot};
use foundation::{CancellationToken, SystemClock};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use store::embedded::Engine;
use store::{Op, Range, Store, Txn};
use tempfile::TempDir;
use testkit::authority::Authority;
use testkit::{etcd as real, wait};
use tokio::runtime::Runtime;

/// A server over a store in a temporary directory.
pub struct World {
    directory: TempDir,
    engine: Arc<Engine>,
    pub url: String,
    stop: CancellationToken,
    pub runtime: Runtime,
}

impl World {
    pub fn new() -> Self {
        Self::serving(None, None)
    }

    /// One that is reached by TLS, by those who show a certificate of the authority.
    fn over_tls(authority: &Authority) -> Self {
        let certificates = |path: &Path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&authority.file()));
        let (certificate, key) = authority.issue("server", 1);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), foundation::tls::provider());
        let mut config = foundation::tls::server_for_others()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                certificates(&certificate).collect(),
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::serving(Some(Arc::new(config)), None)
    }

    /// `scratch`: where saves are built.
    fn serving(tls: Option<Arc<rustls::ServerConfig>>, scratch: Option<PathBuf>) -> Self {
        let directory = TempDir::new().unwrap();
        let clock = SystemClock::shared();
        let engine = Engine::open(directory.path().join("store"), Default::default(), clock.clone()).unwrap();
        let runtime = Runtime::new().unwrap();
        let stop = CancellationToken::new();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let options = Options { client_urls: vec![url.clone()], id: 0xabc, scratch, ..Options::default() };
        let server = Server::new(engine.clone(), options, clock);
        runtime.spawn(etcd::serve(server, listener, tls, stop.clone()));
        Self { directory, engine, url, stop, runtime }
    }

    fn command(&self, version: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(real::program(version, "etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url]).args(arguments);
        command
    }

    /// What a command prints; its errors when it fails.
    pub fn try_ctl(&self, version: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command(version, arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', " ");
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub fn ctl(&self, version: &str, arguments: &[&str]) -> String {
        self.try_ctl(version, arguments, "").unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    fn revision(&self) -> u64 {
        self.runtime.block_on(self.engine.revision()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A command that goes on, and its lines.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reads_and_writes(version: &str) {
    let world = World::new();
    let ctl = |arguments: &[&str]| world.ctl(version, arguments);
    assert_eq!(ctl(&["put", "k/a", "1"]), "OK");
    let first = world.revision().to_string();
    assert_eq!(ctl(&["put", "k/b", "2", "--prev-kv"]), "OK");
    assert_eq!(ctl(&["put", "k/a", "3", "--prev-kv"]), "OK k/a 1");
    assert_eq!(ctl(&["put", "k/b", "--ignore-value"]), "OK");
    let missing = world.try_ctl(version, &["put", "none", "--ignore-value"], "").unwrap_err();
    assert!(missing.contains("etcdserver: key not found"), "{missing}");
    assert_eq!(ctl(&["get", "k/", "--prefix"]), "k/a 3 k/b 2");
    assert_eq!(ctl(&["get", "k/", "--prefix", "--rev", &first]), "k/a 1");
    assert_eq!(ctl(&["get", "k/", "--prefix", "--keys-only"]), "k/a  k/b");
    assert_eq!(ctl(&["get", "k/", "--prefix", "--sort-by=VALUE", "--order=DESCEND", "--limit=1"]), "k/a 3");
    assert_eq!(ctl(&["get", "k/", "--prefix", "--sort-by=MODIFY"]), "k/a 3 k/b 2");
    assert_eq!(ctl(&["get", "k/b", "--from-key", "--print-value-only"]), "2");
    let future = world.try_ctl(version, &["get", "k/a", "--rev", "99"], "").unwrap_err();
    assert!(future.contains("etcdserver: mvcc: required revision is a future revision"), "{future}");
    let txn = "value(\"k/a\") = \"3\"\nmod(\"none\") = \"0\"\n\nput k/c 4\nget k/ --prefix\n\nput k/d 5\n\n";
    assert_eq!(world.try_ctl(version, &["txn"], txn).unwrap(), "SUCCESS  OK  k/a 3 k/b 2 k/c 4");
    let txn = "ver(\"k/a\") > \"9\"\n\nput k/c 6\n\ndel k/c\n\n";
    assert_eq!(world.try_ctl(version, &["txn"], txn).unwrap(), "FAILURE  1");
    assert_eq!(ctl(&["del", "k/", "--prefix", "--prev-kv"]), "2 k/a 3 k/b 2");
    let now = world.revision().to_string();
    assert_eq!(ctl(&["compaction", &now]), format!("compacted revision {now}"));
    let gone = world.try_ctl(version, &["get", "k/a", "--rev", &first], "").unwrap_err();
    assert!(gone.contains("etcdserver: mvcc: required revision has been compacted"), "{gone}");
    let user = world.try_ctl(version, &["user", "list"], "").unwrap_err();
    assert!(user.contains("users and roles are not supported"), "{user}");
}

fn watches(version: &str) {
    let world = World::new();
    world.ctl(version, &["put", "k/a", "old"]);
    let first = world.revision().to_string();
    let mut child = world
        .command(version, &["watch", "k/", "--prefix", "--rev", &first, "--prev-kv"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let _child = Following(child);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let line =
        || lines.recv_timeout(std::time::Duration::from_secs(60)).expect("nothing was printed in time");
    let next = |count: usize| (0..count).map(|_| line()).collect::<Vec<_>>().join(" ");
    // Nothing was before: only the key and its value.
    assert_eq!(next(3), "PUT k/a old");
    world.ctl(version, &["put", "k/a", "new"]);
    assert_eq!(next(5), "PUT k/a old k/a new");
    world.ctl(version, &["del", "k/a"]);
    assert_eq!(next(5).trim_end(), "DELETE k/a new k/a");
    // One that starts before the compaction is told.
    world.ctl(version, &["put", "k/a", "newer"]);
    world.ctl(version, &["compaction", &world.revision().to_string()]);
    let gone = world.try_ctl(version, &["watch", "k/", "--prefix", "--rev", &first], "");
    let gone = gone.unwrap_or_else(|error| error);
    assert!(gone.contains("required revision has been compacted"), "{gone}");
}

fn leases(version: &str) {
    let world = World::new();
    let granted = world.ctl(version, &["lease", "grant", "300"]);
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    world.ctl(version, &["put", "k", "v", "--lease", &id]);
    assert!(world.ctl(version, &["lease", "list"]).contains(&id));
    let left = world.ctl(version, &["lease", "timetolive", &id, "--keys"]);
    assert!(left.contains("granted with TTL(300s)") && left.contains("[k]"), "{left}");
    let kept = world.ctl(version, &["lease", "keep-alive", "--once", &id]);
    assert!(kept.contains("keepalived with TTL(300)"), "{kept}");
    assert!(world.ctl(version, &["lease", "revoke", &id]).ends_with("revoked"));
    assert_eq!(world.ctl(version, &["get", "k"]), "");
    let gone = world.ctl(version, &["lease", "timetolive", &id]);
    assert!(gone.contains("already expired"), "{gone}");
    let unknown = world.try_ctl(version, &["put", "k", "v", "--lease", "1234"], "").unwrap_err();
    assert!(unknown.contains("etcdserver: requested lease not found"), "{unknown}");
}

fn upkeep(version: &str) {
    let world = World::new();
    world.ctl(version, &["put", "k", "v"]);
    let members = world.ctl(version, &["member", "list"]);
    assert!(members.starts_with("abc, started, default") && members.contains(&world.url), "{members}");
    world.ctl(version, &["endpoint", "health"]);
    // That of 3.4 calls the server by its URL here, which is no name that HTTP/2 has for it.
    for cluster in [&["endpoint", "status"][..], &["endpoint", "status", "--cluster"]] {
        let status = world.ctl(version, cluster);
        let told = status.contains(&world.url) && status.contains(", abc, ") && status.contains("true");
        assert!(told, "{status}");
    }
    assert!(world.ctl(version, &["endpoint", "hashkv"]).starts_with(&world.url));
    assert!(world.ctl(version, &["defrag"]).contains("Finished defragmenting"));
    let alone = world.try_ctl(version, &["move-leader", "abd"], "").unwrap_err();
    assert!(alone.contains("etcdserver: bad leader transferee"), "{alone}");
    world.ctl(version, &["move-leader", "abc"]);
    assert_eq!(world.ctl(version, &["alarm", "list"]), "");
}

/// By TLS everything works as it is written, also with the 3.5 of `tests/tools.sh`, which is older than 3.5.8: it speaks TLS 1.2
/// and nothing later.
fn over_tls(version: &str) {
    let authority = Authority::new();
    let world = World::over_tls(&authority);
    let (certificate, key) = authority.issue("client", 2);
    let [ca, certificate, key] = [authority.file(), certificate, key].map(|path| path.display().to_string());
    let own = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    let ctl = |arguments: &[&str]| world.ctl(version, &[&own[..], arguments].concat());
    assert_eq!(ctl(&["put", "k", "v"]), "OK");
    assert_eq!(ctl(&["get", "k"]), "k v");
    for command in [["endpoint", "status"], ["endpoint", "hashkv"]] {
        assert!(ctl(&command).starts_with(&world.url));
    }
    let cluster = ctl(&["endpoint", "status", "--cluster"]);
    assert!(cluster.starts_with(&world.url), "{cluster}");
    assert!(ctl(&["defrag"]).contains("Finished defragmenting"));
    let file = world.directory.path().join("saved.db");
    ctl(&["snapshot", "save", file.to_str().unwrap()]);
    assert_eq!(snapshot::read(&mut std::fs::File::open(&file).unwrap()).unwrap().keys().len(), 1);
    // Whoever shows no certificate is refused.
    let stranger = ["--cacert", &ca, "--command-timeout=3s", "--dial-timeout=3s", "get", "k"];
    assert!(world.try_ctl(version, &stranger, "").is_err());
}

/// A snapshot of ours: etcd's tools can read and restore it, and so can we.
fn snapshots(version: &'static str) {
    let world = World::new();
    for n in 0..500 {
        let ops = vec![Op::put(format!("k/{n}"), vec![b'x'; n * 7]), Op::put(format!("l/{n}"), "y")];
        world.runtime.block_on(world.engine.txn(Txn::of(ops))).unwrap();
    }
    world.runtime.block_on(world.engine.txn(Txn::of(vec![Op::delete("k/7")]))).unwrap();
    let file = world.directory.path().join("saved.db");
    world.ctl(version, &["snapshot", "save", file.to_str().unwrap()]);
    let status =
        real::etcdctl(version, &["snapshot", "status", "-w", "json", file.to_str().unwrap()]).unwrap();
    assert!(status.contains("\"totalKey\":") && status.contains("\"revision\":501"), "{status}");

    let contents = snapshot::read(&mut std::fs::File::open(&file).unwrap()).unwrap();
    assert_eq!((contents.revision(), contents.keys().len()), (world.revision(), 999));
    let all = world.runtime.block_on(world.engine.range(Range::prefix(""))).unwrap();
    let mut keys = contents.into_keys();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(keys, all.kvs);

    // Into an etcd.
    let etcd = real::Etcd::restored(version, &file).started();
    let keys =
        wait::until("the restored etcd answers", || etcd.etcdctl(&["get", "", "--prefix", "--keys-only"]));
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 999);

    // And back: what an etcd saves is read as well.
    let saved = world.directory.path().join("etcd.db");
    etcd.etcdctl(&["snapshot", "save", saved.to_str().unwrap()]).unwrap();
    let contents = snapshot::read(&mut std::fs::File::open(&saved).unwrap()).unwrap();
    let mut keys = contents.into_keys();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(keys, all.kvs);
}

/// A file system in memory that nobody else sees and that goes with the file. `None`: only root can make one.
fn small_disk(mib: u64) -> Option<(std::fs::File, PathBuf)> {
    let place = TempDir::new().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).arg(place.path()).status().unwrap().success()
    };
    if !run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]) {
        assert!(std::env::var_os("CI").is_none(), "a tmpfs cannot be mounted");
        println!("skipped: a tmpfs cannot be mounted");
        return None;
    }
    let disk = std::fs::File::open(place.path());
    assert!(run("umount", &["--lazy"]));
    let disk = disk.unwrap();
    let path = format!("/proc/self/fd/{}", disk.as_raw_fd()).into();
    Some((disk, path))
}

/// A save that would fill the disk is refused before, and in its middle, and takes nothing from the store.
fn no_room(version: &str) {
    let Some((_disk, path)) = small_disk(16) else { return };
    let world = World::serving(None, Some(path.clone()));
    let run = |ops: Vec<Op>| world.runtime.block_on(world.engine.txn(Txn::of(ops))).unwrap();
    for n in 0..24 {
        run(vec![Op::put(format!("k/{n}"), vec![b'x'; 512 << 10])]);
    }
    let file = world.directory.path().join("saved.db");
    let save = || world.try_ctl(version, &["snapshot", "save", file.to_str().unwrap()], "");
    let refused = save().unwrap_err();
    let expected = "ResourceExhausted desc = etcdserver: there is no room for a snapshot on the disk";
    assert!(refused.contains(expected), "{refused}");
    assert_eq!(world.ctl(version, &["alarm", "list"]), "", "the store's own disk is as it was");
    // Whoever does not know before what there is finds out in time: once it has been read.
    let gathered = world.runtime.block_on(snapshot::gather(&*world.engine, Some(&path))).unwrap();
    let written = gathered.write(&mut tempfile::tempfile_in(&path).unwrap());
    assert!(matches!(written, Err(snapshot::Error::NoRoom { .. })), "{written:?}");
    drop(gathered);
    run((0..20).map(|n| Op::delete(format!("k/{n}"))).collect());
    save().unwrap();
    let contents = snapshot::read(&mut std::fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(contents.keys().len(), 4);
}

macro_rules! both {
    ($($name:ident)+) => {
        mod etcdctl_3_4 { $(#[test] fn $name() { super::$name("3.4"); })+ }
        mod etcdctl_3_5 { $(#[test] fn $name() { super::$name("3.5"); })+ }
    };
}

both! { reads_and_writes watches leases upkeep over_tls snapshots no_room }
