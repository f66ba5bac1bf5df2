//! `ironclad etcd` in the place of an etcd: the real `etcdctl` of two versions, health and metrics, the flags and variables of
//! others' manifests and units. Not here: what each call answers (`crates/etcd/tests`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::authority::Authority;
use testkit::etcd::{etcdctl, ports, program};
use testkit::{run, wait};

use crate::IRONCLAD;

/// A process that ends with its value, also where a test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, which ends with its value.
struct Server {
    child: Killed,
    client: u16,
    metrics: u16,
    /// What every `etcdctl` is told.
    reach: Vec<String>,
}

impl Server {
    /// Starts it with a data directory, on two ports, and waits until it serves.
    fn start(folder: &Path, flags: &[&str], variables: &[(&str, &str)], reach: &[&str]) -> Server {
        let [client, metrics] = ports();
        let scheme = if reach.is_empty() { "http" } else { "https" };
        let url = format!("{scheme}://127.0.0.1:{client}");
        let told = folder.join("told");
        let _ = std::fs::remove_file(&told);
        let heard = UnixDatagram::bind(&told).unwrap();
        heard.set_nonblocking(true).unwrap();
        let reach = ["--endpoints", &url].iter().chain(reach).map(|word| (*word).to_owned()).collect();
        let child = Command::new(IRONCLAD)
            .arg("etcd")
            .arg(format!("--data-dir={}", folder.join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"))
            .args(flags)
            .envs(variables.iter().copied())
            .env("NOTIFY_SOCKET", &told)
            .spawn()
            .unwrap();
        let mut server = Server { child: Killed(child), client, metrics, reach };
        let mut said = [0; 64];
        let size = wait::until("it says that it serves", || {
            if let Some(ended) = server.child.0.try_wait().unwrap() {
                panic!("it ended instead of serving: {ended}");
            }
            heard.recv(&mut said).map_err(|error| error.to_string())
        });
        assert!(said[..size].starts_with(b"READY=1"));
        server
    }

    fn try_ctl(&self, version: &str, arguments: &[&str]) -> Result<String, String> {
        let reach: Vec<_> = self.reach.iter().map(String::as_str).collect();
        let answer = etcdctl(version, &[&reach[..], arguments].concat());
        answer.map(|text| text.trim().replace('\n', " "))
    }

    fn ctl(&self, version: &str, arguments: &[&str]) -> String {
        self.try_ctl(version, arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// What a page says, on a port without TLS.
    fn page(&self, port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.split(' ').nth(1) == Some("200"), "{path}: {text}");
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Tells it to stop, and waits until it has.
    fn stop(mut self) {
        kill(Pid::from_raw(self.child.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let ended =
            wait::until("it stops", || self.child.0.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()));
        assert!(ended.success(), "{ended}");
    }
}

/// The value of a sample that a page of metrics has.
fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

/// What a watch prints next, so many lines of it.
fn watched(lines: &std::sync::mpsc::Receiver<String>, count: usize) -> String {
    let line = || lines.recv_timeout(wait::PATIENCE).expect("the watch says something");
    (0..count).map(|_| line()).collect::<Vec<_>>().join(" ")
}

/// Everything that somebody does with an etcd by its `etcdctl`.
fn is_an_etcd(server: &Server, version: &str, folder: &Path) {
    let ctl = |arguments: &[&str]| server.ctl(version, arguments);
    let revision = |at: &str| {
        let found = ctl(&["get", at, "-w", "json"]);
        let rest = found.split_once("\"revision\":").expect("the header has a revision").1;
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    assert_eq!(ctl(&["put", "k/a", "1"]), "OK");
    let first = revision("k/a");
    let watch = Command::new(program(version, "etcdctl"))
        .env("ETCDCTL_API", "3")
        .args(&server.reach)
        .args(["watch", "k/", "--prefix", "--rev", &first])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watch = Killed(watch);
    let printed = BufReader::new(watch.0.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let _ = printed.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
    });
    assert_eq!(watched(&lines, 3), "PUT k/a 1");
    let granted = ctl(&["lease", "grant", "300"]);
    let lease = granted.split(' ').nth(1).unwrap();
    ctl(&["put", "k/b", "2", "--lease", lease]);
    assert_eq!(watched(&lines, 3), "PUT k/b 2");
    let txn = "value(\"k/a\") = \"1\"\n\nput k/c 3\n\nput k/c 4\n\n";
    let mut command = Command::new(program(version, "etcdctl"));
    command.env("ETCDCTL_API", "3").args(&server.reach).arg("txn");
    let done = run(command, txn);
    assert!(done.success && done.stdout.starts_with("SUCCESS"), "{}{}", done.stdout, done.stderr);
    assert_eq!(watched(&lines, 3), "PUT k/c 3");
    ctl(&["lease", "revoke", lease]);
    assert_eq!(watched(&lines, 3).trim_end(), "DELETE k/b");
    drop(watch);
    reader.join().unwrap();

    assert_eq!(ctl(&["get", "k/", "--prefix"]), "k/a 1 k/c 3");
    assert_eq!(ctl(&["get", "k/", "--prefix", "--rev", &first]), "k/a 1");
    ctl(&["compaction", &revision("k/a")]);
    let gone = server.try_ctl(version, &["get", "k/", "--prefix", "--rev", &first]).unwrap_err();
    assert!(gone.contains("required revision has been compacted"), "{gone}");
    assert!(ctl(&["defrag"]).contains("Finished defragmenting"));
    let saved = folder.join(format!("saved-{version}.db")).display().to_string();
    ctl(&["snapshot", "save", &saved]);
    let status = etcdctl(version, &["snapshot", "status", "-w", "json", &saved]).unwrap();
    assert!(status.contains("\"totalKey\":"), "{status}");
    let mut command = Command::new(IRONCLAD);
    command.args(["store", "snapshot", "status", &saved]);
    let ours = run(command, "").stdout;
    let same = |line: &str| line.split_whitespace().eq(["revision", &revision("k/a")]);
    assert!(ours.lines().any(same), "{ours}");
    for command in
        [&["endpoint", "health"][..], &["endpoint", "status"], &["endpoint", "status", "--cluster"]]
    {
        ctl(command);
    }
    let members = ctl(&["member", "list", "-w", "json"]);
    assert!(members.contains(&format!("127.0.0.1:{}", server.client)), "{members}");
    ctl(&["del", "k/", "--prefix"]);
}

#[test]
fn it_stands_in_for_an_etcd() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(folder.path(), &["--name=one", "--snapshot-count=10000"], &[], &[]);
    for version in ["3.4", "3.5"] {
        is_an_etcd(&server, version, folder.path());
    }
    assert!(server.ctl("3.5", &["member", "list"]).contains(", started, one, "));
    for port in [server.client, server.metrics] {
        assert_eq!(server.page(port, "/health"), r#"{"health":"true","reason":""}"#);
        assert_eq!(server.page(port, "/livez"), "ok\n");
        let metrics = server.page(port, "/metrics");
        assert_eq!(sample(&metrics, "etcd_server_has_leader"), 1.0);
        assert_eq!(sample(&metrics, "etcd_debugging_mvcc_keys_total"), 0.0);
        assert!(sample(&metrics, "etcd_disk_wal_fsync_duration_seconds_count") >= 10.0);
        assert!(sample(&metrics, "process_resident_memory_bytes") > 1e6);
    }
    // A page is not the API: there, no store is reached.
    let metrics = format!("http://127.0.0.1:{}", server.metrics);
    let flags = ["--endpoints", &metrics, "--command-timeout=3s", "--dial-timeout=3s", "get", "k"];
    assert!(etcdctl("3.5", &flags).is_err());

    // Stopped and started again, it has what it had.
    server.ctl("3.4", &["put", "kept", "as it was"]);
    server.stop();
    let server = Server::start(folder.path(), &[], &[], &[]);
    assert_eq!(server.ctl("3.4", &["get", "kept"]), "kept as it was");
}

#[test]
fn a_manifest_of_kubeadm_starts_it_and_clients_show_certificates() {
    let folder = TempDir::new().unwrap();
    let (authority, successor) = (Authority::new(), Authority::new());
    let [certificate, key] = ["server.crt", "server.key"].map(|name| folder.path().join(name));
    let serve = |by: &Authority| {
        let (fresh, fresh_key) = by.issue("server", 1);
        std::fs::copy(fresh_key, &key).unwrap();
        std::fs::copy(fresh, &certificate).unwrap();
    };
    serve(&authority);
    let file = |path: &Path| path.display().to_string();
    let (client, client_key) = authority.issue("client", 2);
    let (ca, client, client_key) = (file(&authority.file()), file(&client), file(&client_key));
    let reach = ["--cacert", &ca, "--cert", &client, "--key", &client_key];
    let peers = ["cert", "key", "trusted-ca"].map(|what| format!("--peer-{what}-file=/nowhere/{what}"));
    let flags = [
        "--client-cert-auth=true",
        "--peer-client-cert-auth=true",
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=5s",
        "--initial-advertise-peer-urls=https://127.0.0.1:2380",
        "--initial-cluster=one=https://127.0.0.1:2380",
        "--listen-peer-urls=https://127.0.0.1:2380",
        "--snapshot-count=10000",
        &peers[0],
        &peers[1],
        &peers[2],
    ];
    // As a unit of Debian's gives settings.
    let variables = [
        ("ETCD_NAME", "one"),
        ("ETCD_CERT_FILE", &*file(&certificate)),
        ("ETCD_KEY_FILE", &file(&key)),
        ("ETCD_TRUSTED_CA_FILE", &ca),
        ("ETCD_HEARTBEAT_INTERVAL", "100"),
        // Empty ones are as if they were not there.
        ("ETCD_MAX_TXN_OPS", ""),
        ("ETCD_AUTO_COMPACTION_MODE", ""),
        ("ETCD_ENABLE_V2", ""),
        ("ETCD_AUTO_COMPACTION_RETENTION", "24"),
    ];
    let server = Server::start(folder.path(), &flags, &variables, &reach);
    for version in ["3.4", "3.5"] {
        is_an_etcd(&server, version, folder.path());
        let url = format!("https://127.0.0.1:{}", server.client);
        let stranger =
            ["--endpoints", &url, "--cacert", &ca, "--command-timeout=3s", "--dial-timeout=3s", "get", "k"];
        assert!(etcdctl(version, &stranger).is_err(), "without a certificate nobody is served");
    }
    // Whoever probes has no certificate; whoever has one may ask the other port as well.
    assert_eq!(server.page(server.metrics, "/readyz"), "ok\n");
    let ask = |authority: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        let url = format!("https://127.0.0.1:{}/health", server.client);
        command.args(["--silent", "--show-error", "--max-time", "30", "--cacert", authority, &url]);
        command.args(more);
        run(command, "")
    };
    let shown = ["--cert", &client, "--key", &client_key];
    for protocol in ["--http1.1", "--http2"] {
        let told = ask(&ca, &[&shown[..], &[protocol]].concat());
        assert_eq!(told.stdout, r#"{"health":"true","reason":""}"#, "{}", told.stderr);
    }
    assert!(!ask(&ca, &[]).success);

    // A new certificate is shown as soon as it is there.
    serve(&successor);
    let trusted = file(&successor.file());
    wait::until("the new certificate is shown", || {
        let told = ask(&trusted, &shown);
        if told.success { Ok(()) } else { Err(told.stderr) }
    });
    server.stop();
}

#[test]
fn what_it_cannot_be_it_does_not_pretend_to_be() {
    let folder = TempDir::new().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    for (flags, said) in [
        (&["--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2"][..], "a store of one member"),
        (&["--auto-compaction-mode=revision", "--auto-compaction-retention=1h"], "is not understood"),
        (&["--client-cert-auth"], "need --cert-file"),
        (&["--listen-client-urls=https://127.0.0.1:0"], "needs --cert-file"),
        (&["--listen-client-urls=unix:///run/etcd"], "is no URL"),
        (&["--enable-v2"], "there is no v2 API"),
    ] {
        let mut command = Command::new(IRONCLAD);
        command.args(["etcd", &data]).args(flags);
        let ended = run(command, "");
        assert!(!ended.success && ended.stderr.contains(said), "{flags:?}: {}", ended.stderr);
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "no store was made");
}

#[test]
fn the_files_of_an_etcd_are_not_passed_over() {
    for below in ["snap", "wal"] {
        let folder = TempDir::new().unwrap();
        let files = folder.path().join("member").join(below);
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("file"), "of an etcd").unwrap();
        let mut command = Command::new(IRONCLAD);
        command.args(["etcd", "--listen-client-urls=http://127.0.0.1:0"]);
        command.arg(format!("--data-dir={}", folder.path().display()));
        let ended = run(command, "");
        let told = ended.stderr.contains("is the data directory of an etcd")
            && ended.stderr.contains("ironclad store snapshot restore");
        assert!(!ended.success && told, "{}", ended.stderr);
        let names = |directory: &Path| {
            let entries = std::fs::read_dir(directory).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!((names(folder.path()), names(&files)), (vec!["member".into()], vec!["file".into()]));
    }
}
