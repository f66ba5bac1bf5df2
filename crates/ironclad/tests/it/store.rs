//! What an operator does with a store, and what its disk does to it: `ironclad store` on a running server and on a stopped
//! one, damage, a full disk. Not here: backups, and an etcd as the store (`datastore`).

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};
use testkit::etcd::ports;
use testkit::{Cluster, Kubectl, Options, Output, wait};

use crate::IRONCLAD;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}})
        .to_string()
}

fn make(cluster: &Cluster, name: &str, value: &str) -> testkit::Answer {
    cluster.send("POST", MAPS, "application/json", map(name, value))
}

/// A figure of what `stats` or `snapshot status` printed.
fn figure(printed: &str, name: &str) -> u64 {
    let line = printed.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with("  ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {printed}"));
    line.trim().parse().unwrap()
}

/// `ironclad` as somebody runs it who has nothing to do with a cluster.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(IRONCLAD);
    command.args(arguments);
    testkit::run(command, "")
}

/// `ironclad store`, with a way to reach a running store or none.
struct Operator<'a> {
    cluster: &'a Cluster,
    endpoint: Option<String>,
}

impl Operator<'_> {
    fn try_run(&self, arguments: &[&str]) -> Output {
        let endpoint = self.endpoint.as_ref().map(|endpoint| format!("--endpoints={endpoint}"));
        let arguments: Vec<&str> =
            ["store"].iter().chain(arguments).copied().chain(endpoint.as_deref()).collect();
        self.cluster.ironclad(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.success, "ironclad store {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// All of it, on a store in which ConfigMap `kept` was written over, and which forgets that.
    fn does_everything(&self) {
        let sound = self.run(&["verify"]);
        let counted = sound.lines().find(|line| line.contains(" keys with ") && line.ends_with("all sound"));
        let counted = counted.unwrap_or_else(|| panic!("{sound}"));
        let keys: u64 = counted.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(
            sound.contains("were not read"),
            self.endpoint.is_some(),
            "what was not done is said: {sound}"
        );

        let dumped = self.run(&["dump", "--prefix=/registry/core/configmaps/default/"]);
        let line = dumped.lines().find(|line| line.contains("/kept ")).expect("the key is dumped");
        let words: Vec<&str> = line.split(' ').collect();
        let ["made", made, "written", written, "version", "2", "lease", "0", "bytes", _] = words[1..] else {
            panic!("{line}")
        };
        let (made, written): (u64, u64) = (made.parse().unwrap(), written.parse().unwrap());
        assert!(made < written, "{line}");
        let with_values = self.run(&["dump", "--values", "--prefix=/registry/core/configmaps/default/kept"]);
        assert!(with_values.contains(r#""v":"second""#), "{with_values}");
        assert_eq!(self.run(&["dump", "--prefix=/nothing/"]), "");
        let all = self.run(&["dump"]);
        assert!(all.lines().count() as u64 >= keys, "everything is dumped without a prefix");

        let before = self.run(&["stats"]);
        assert!(figure(&before, "revision") >= written && figure(&before, "keys") >= keys, "{before}");
        assert!(before.contains("alarm             none"), "{before}");
        let compacted = self.run(&["compact"]);
        assert!(compacted.starts_with("compacted at revision "), "{compacted}");
        let after = self.run(&["stats"]);
        assert!(figure(&after, "compact revision") >= figure(&before, "revision"), "{after}");
        assert!(figure(&after, "keys") >= keys, "what is there now stays");

        let file = self.cluster.folder().join("saved").display().to_string();
        let saved = self.run(&["snapshot", "save", &file]);
        let status = run(&["store", "snapshot", "status", &file]).stdout;
        let (revision, keys) = (figure(&status, "revision"), figure(&status, "keys"));
        assert!(saved.starts_with(&format!("saved revision {revision} with {keys} keys to ")), "{saved}");
    }
}

/// Turns over a bit in the middle of the checkpoint, or turns it back.
fn turn_a_bit(cluster: &Cluster) {
    let checkpoint = cluster.data_dir().join("store/checkpoint");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, &bytes).unwrap();
}

#[test]
fn operators_look_after_a_running_store_and_a_stopped_one() {
    let [port] = ports();
    let options = Options::hollow(IRONCLAD, 1).flag(&format!("--etcd-listen=127.0.0.1:{port}"));
    let mut cluster = Cluster::start(options);
    for value in ["first", "second"] {
        let answer = match value {
            "first" => make(&cluster, "kept", value),
            _ => cluster.send("PUT", &format!("{MAPS}/kept"), "application/json", map("kept", value)),
        };
        assert!(answer.code < 300, "{}", answer.body);
    }
    let held = Operator { cluster: &cluster, endpoint: None }.try_run(&["stats"]);
    assert!(!held.success && held.stderr.contains("in use by another process"), "{}", held.stderr);
    assert!(held.stderr.contains("--endpoints"), "it is said what helps: {}", held.stderr);
    let endpoint = Some(format!("https://127.0.0.1:{port}"));
    Operator { cluster: &cluster, endpoint }.does_everything();
    let sound = Operator { cluster: &cluster, endpoint: None }.run(&["verify"]);
    assert!(
        sound.contains(": sound") && sound.contains("has it open"),
        "the files of a running one: {sound}"
    );
    turn_a_bit(&cluster);
    let refused = Operator { cluster: &cluster, endpoint: None }.try_run(&["verify"]);
    assert!(!refused.success && refused.stderr.contains("store is corrupt"), "{}", refused.stderr);
    turn_a_bit(&cluster);

    cluster.stop_server();
    Operator { cluster: &cluster, endpoint: None }.does_everything();

    // Nothing of it has harmed anything.
    cluster.start_server();
    assert_eq!(cluster.field(&["configmap", "kept"], "{.data.v}"), "second");

    // A turned bit in what is durable is found, by file and offset, and nothing is opened.
    cluster.stop_server();
    turn_a_bit(&cluster);
    for command in ["verify", "stats", "compact", "dump"] {
        let refused = Operator { cluster: &cluster, endpoint: None }.try_run(&[command]);
        let said = &refused.stderr;
        assert!(!refused.success && said.contains("store is corrupt") && said.contains("offset"), "{said}");
        assert!(said.contains("checkpoint"), "{said}");
    }
    turn_a_bit(&cluster);
    Operator { cluster: &cluster, endpoint: None }.run(&["verify"]);

    let nowhere = cluster.folder().join("nowhere").display().to_string();
    let refused = run(&["store", "stats", "--data-dir", &nowhere]);
    assert!(!refused.success && refused.stderr.contains("there is no store in"), "{}", refused.stderr);
    assert!(!PathBuf::from(nowhere).exists(), "looking makes nothing");
}

/// What `kubectl get configmaps --watch` tells, line by line.
fn watch(cluster: &Cluster) -> (Child, mpsc::Receiver<String>) {
    let mut command =
        cluster.kubectl_command(Kubectl::V1_37, &["get", "configmaps", "--watch", "--output=name"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, receiver) = mpsc::channel();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    (child, receiver)
}

/// Takes lines until one is this.
fn told(lines: &mpsc::Receiver<String>, wanted: &str) {
    while lines.recv_timeout(wait::PATIENCE).expect("the watch goes on") != wanted {}
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_watches_and_recovers_by_itself() {
    let mut cluster = Cluster::start(Options::node(IRONCLAD).store_room(12 << 20));
    let value = "x".repeat(100_000);
    let filler = cluster.data_dir().join("store/filler").display().to_string();
    // As large as there is room for.
    let fill =
        || cluster.space().output("sh", &["-c", &format!("cat /dev/zero >> {filler} 2>/dev/null || true")]);
    let (mut watching, lines) = watch(&cluster);
    assert_eq!(make(&cluster, "m000", &value).code, 201);
    told(&lines, "configmap/m000");

    // Until it is refused twice in a row: what the store gives up after the first time makes room for some more.
    let (mut acknowledged, mut refused) = (1, 0);
    fill();
    while refused < 2 {
        let answer = make(&cluster, &format!("m{acknowledged:03}"), &value);
        if answer.code == 201 {
            (acknowledged, refused) = (acknowledged + 1, 0);
            assert!(acknowledged < 1000, "the disk never filled up");
            continue;
        }
        assert_eq!(answer.code, 500, "{}", answer.body);
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(message.contains("no space left on the store's disk"), "{message}");
        refused += 1;
        fill();
    }
    // It says so where people look.
    let health = cluster.kubectl(&["get", "--raw", "/readyz?verbose"]);
    assert!(health.contains("warn: etcd: writes are refused: no space left on the store's disk"), "{health}");
    assert!(health.ends_with("readyz check passed\n"), "{health}");
    let components = cluster.send("GET", "/api/v1/componentstatuses", "application/json", "").body;
    let condition = &components["items"][0]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["type"]),
        (&json!("False"), &json!("Healthy")),
        "{components}"
    );
    // Reads go on, and show what was acknowledged, and nothing else.
    let list = cluster.send("GET", MAPS, "application/json", "").body;
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().filter_map(name_of).collect();
    let expected: Vec<String> = (0..acknowledged).map(|n| format!("m{n:03}")).collect();
    assert_eq!(names, expected);

    // As soon as there is room it writes again, without anybody's help.
    cluster.space().output("rm", &[&filler]);
    let made = wait::until("it writes again", || {
        let answer = make(&cluster, "again", "v");
        if answer.code == 201 { Ok(answer.body) } else { Err(answer.body.to_string()) }
    });
    told(&lines, "configmap/again");
    let health = cluster.kubectl(&["get", "--raw", "/readyz?verbose"]);
    assert!(!health.contains("warn:"), "{health}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    // The same process all the time; and what it told is durable.
    assert_eq!(cluster.log().matches("Ready in ").count(), 1, "{}", cluster.log());
    cluster.kill_server();
    cluster.start_server();
    let list = cluster.send("GET", MAPS, "application/json", "").body;
    let found = list["items"].as_array().unwrap().iter();
    assert_eq!(found.clone().filter_map(name_of).count(), acknowledged + 1);
    let again = found.clone().find(|item| name_of(item) == Some("again")).unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

/// Names of the test's own: every namespace has a ConfigMap with the cluster's authority.
fn name_of(map: &Value) -> Option<&str> {
    map["metadata"]["name"].as_str().filter(|name| *name != "kube-root-ca.crt")
}
