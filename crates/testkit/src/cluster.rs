//! A running server and everything a test does with it.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use client::{HttpsTransport, Transport, kubeconfig};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Kubectl, Output, Space, containerd::Containerd, image, kubectl, space, tools, wait};

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    program: PathBuf,
    flags: Vec<String>,
    kind: Kind,
    /// Bytes of the store's own file system, if it has one.
    store_room: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Embedded,
    Containerd,
    Hollow,
}

impl Options {
    /// One node that runs containers with the embedded runtime. `program` is `env!("CARGO_BIN_EXE_ironclad")`.
    pub fn node(program: &str) -> Options {
        Options {
            program: program.into(),
            flags: vec!["--node-name=node-1".to_owned()],
            kind: Kind::Embedded,
            store_room: None,
        }
    }

    /// One node that runs containers with a containerd of its own.
    pub fn containerd(program: &str) -> Options {
        Options { kind: Kind::Containerd, ..Options::node(program) }
    }

    /// Simulated nodes, which run pods in name only. Needs no root and no namespaces.
    pub fn hollow(program: &str, nodes: usize) -> Options {
        let flags = vec![format!("--hollow-nodes={nodes}"), "--bind-address=127.0.0.1".to_owned()];
        Options { program: program.into(), flags, kind: Kind::Hollow, store_room: None }
    }

    /// A server without a node: needs no root and no namespaces either, but a node somewhere to be ready.
    pub fn control_plane(program: &str) -> Options {
        let flags = ["--disable=kubelet,runtime,network,proxy,dns", "--bind-address=127.0.0.1"];
        Options {
            program: program.into(),
            flags: flags.map(str::to_owned).into(),
            kind: Kind::Hollow,
            store_room: None,
        }
    }

    /// A file system of its own for the store, with room for so many bytes; of clusters with namespaces.
    pub fn store_room(self, bytes: u64) -> Options {
        Options { store_room: Some(bytes), ..self }
    }

    /// One more flag of `ironclad server`.
    pub fn flag(mut self, flag: &str) -> Options {
        self.flags.push(flag.to_owned());
        self
    }
}

/// An HTTP answer of the API server.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// The body, null when it is no JSON.
    pub body: Value,
}

/// A cluster, which ends with its value.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    server: Option<Child>,
    containerd: Option<Containerd>,
    port: u16,
    // Dropped before the folder: what runs inside has files open there.
    space: Option<Space>,
    folder: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes are Ready.
    pub fn start(options: Options) -> Cluster {
        Cluster::start_on(options, |_| {})
    }

    /// The same on a data directory that `prepare` has put something into.
    pub fn start_on(options: Options, prepare: impl FnOnce(&Path)) -> Cluster {
        let folder = tempfile::Builder::new().prefix("ironclad-").tempdir().expect("/tmp can be written");
        let hollow = options.kind == Kind::Hollow;
        let space = (!hollow).then(Space::new);
        // Free now; whoever takes it before the server does makes the start fail with a clear sentence.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = if hollow { free().expect("there is a free port").port() } else { 6443 };
        let mut cluster = Cluster { options, server: None, containerd: None, port, space, folder };
        if let Some(bytes) = cluster.options.store_room {
            let store = cluster.data_dir().join("store");
            fs::create_dir_all(&store).expect("the test's folder can be written");
            let (options, place) = (format!("size={bytes}"), store.display().to_string());
            // Inside, so that it goes with the namespaces.
            cluster.space().output("mount", &["-t", "tmpfs", "-o", &options, "store", &place]);
        }
        prepare(&cluster.data_dir());
        let archive = cluster.folder.path().join("images.tar");
        match cluster.options.kind {
            Kind::Hollow => {}
            Kind::Embedded => {
                image::archive(&archive);
                let archive = archive.to_str().expect("the folder has a plain name").to_owned();
                let imported = cluster.ironclad(&["images", "import", &archive]);
                assert!(imported.success, "the images cannot be imported: {}", imported.stderr);
            }
            Kind::Containerd => {
                image::archive(&archive);
                let path = cluster.folder.path();
                let (bin, conf) = (path.join("cni/bin"), path.join("cni/net.d"));
                let containerd =
                    Containerd::start(cluster.space(), &path.join("containerd"), &bin, &conf, &archive);
                let flags = [
                    format!("--container-runtime-endpoint=unix://{}", containerd.socket().display()),
                    format!("--cni-bin-dir={}", bin.display()),
                    format!("--cni-conf-dir={}", conf.display()),
                ];
                cluster.options.flags.extend(flags);
                cluster.containerd = Some(containerd);
            }
        }
        cluster.start_server();
        cluster
    }

    /// Starts the server (again) and waits until its nodes are Ready.
    pub fn start_server(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        let log = fs::File::create(self.log_path()).expect("the test's folder can be written");
        let mut command = self.inside();
        let server = command
            .arg("server")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg(format!("--https-listen-port={}", self.port))
            .args(&self.options.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        self.server = Some(server);
        wait::until("the server says that it is ready", || {
            let said = self.log();
            let ended = self.server.as_ref().is_some_and(|server| has_ended(server.id()));
            assert!(!ended, "the server ended:\n{said}");
            if said.contains("Ready in ") { Ok(()) } else { Err(said) }
        });
        let ready = self.try_kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]);
        assert!(ready.success, "the nodes do not get ready: {}\n{}", ready.stderr, self.log());
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        self.end_server(9);
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop_server(&mut self) {
        self.end_server(15);
    }

    /// Sends a signal to the server, which goes on for the test.
    pub fn signal_server(&self, signal: i32) {
        let server = self.server.as_ref().expect("the server runs");
        sys::process::kill(self.host_pid(server).cast_signed(), signal).expect("we may signal our child");
    }

    /// Waits for a server that somebody else has ended.
    pub fn forget_server(&mut self) {
        self.server.take().expect("the server was started").wait().expect("the server can be waited for");
    }

    fn end_server(&mut self, signal: i32) {
        self.signal_server(signal);
        let mut server = self.server.take().expect("the server runs");
        server.wait().expect("the server can be waited for");
    }

    /// Inside a space our child is `nsenter`, and its only child the server.
    fn host_pid(&self, server: &Child) -> u32 {
        match &self.space {
            Some(_) => space::only_child(server.id()).expect("the server runs"),
            None => server.id(),
        }
    }

    /// Runs kubectl v1.37, which must succeed, and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_of(Kubectl::V1_37, arguments)
    }

    /// Runs a version of kubectl, which must succeed, and returns what it printed.
    pub fn kubectl_of(&self, version: Kubectl, arguments: &[&str]) -> String {
        let output = kubectl::run(self.kubectl_command(version, arguments), "");
        assert!(output.success, "kubectl {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs kubectl v1.37, which may fail.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        kubectl::run(self.kubectl_command(Kubectl::V1_37, arguments), "")
    }

    /// `kubectl apply -f -` of a manifest, which must succeed.
    pub fn apply(&self, version: Kubectl, manifest: &str) -> String {
        let output = kubectl::run(self.kubectl_command(version, &["apply", "-f", "-"]), manifest);
        assert!(output.success, "kubectl apply: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// One value of an object by a JSONPath such as `{.status.phase}`; empty when there is none.
    pub fn field(&self, object: &[&str], path: &str) -> String {
        let path = format!("jsonpath={path}");
        let arguments: Vec<&str> = ["get"].iter().chain(object).copied().chain(["-o", &path]).collect();
        self.try_kubectl(&arguments).stdout
    }

    /// A kubectl to start by hand, for one that goes on (`logs -f`).
    pub fn kubectl_command(&self, version: Kubectl, arguments: &[&str]) -> Command {
        let mut command = self.user_command(&version.path());
        command.args(arguments);
        command
    }

    /// Any program, as an administrator runs it beside the cluster: `KUBECONFIG` leads to it.
    fn user_command(&self, program: &Path) -> Command {
        let mut command = match &self.space {
            Some(space) => space.network_command(&program.to_string_lossy()),
            None => Command::new(program),
        };
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path());
        command
    }

    /// As [`Cluster::kubectl_command`] for any client program; one that hangs is killed after three minutes.
    pub fn client_command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.user_command(Path::new("timeout"));
        command.args(["--kill-after=5", "180"]).arg(program).args(arguments);
        command
    }

    /// Runs helm, which must succeed, and returns what it printed.
    pub fn helm(&self, arguments: &[&str]) -> String {
        let output = self.try_helm(arguments);
        assert!(output.success, "helm {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs helm, which may fail.
    pub fn try_helm(&self, arguments: &[&str]) -> Output {
        kubectl::run(self.client_command(&tools::path("helm"), arguments), "")
    }

    /// Runs a Python script with the official client and kopf at hand; it must succeed. Returns what it printed.
    pub fn python(&self, script: &Path, arguments: &[&str]) -> String {
        let script = script.to_str().expect("the script has a plain name");
        let mut command = self.client_command(Path::new("python3"), &[&["-u", script], arguments].concat());
        command.env("PYTHONPATH", tools::python_packages());
        succeeded(script, kubectl::run(command, ""))
    }

    /// Runs a script for Node.js with the official JavaScript client at hand; it must succeed. Returns what it printed.
    pub fn javascript(&self, script: &Path, arguments: &[&str]) -> String {
        let script = script.to_str().expect("the script has a plain name");
        let (node, modules) = tools::node();
        let mut command = self.client_command(&node, &[&[script], arguments].concat());
        command.env("NODE_PATH", modules);
        succeeded(script, kubectl::run(command, ""))
    }

    /// Sends one request as the administrator, with any body.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send_as(None, method, path, content_type, body)
    }

    /// As [`Cluster::send`], by somebody else.
    pub fn send_as(
        &self,
        identity: Option<client::Identity>,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut config = kubeconfig::load(&self.kubeconfig()).expect("the kubeconfig can be read");
        if let Some(identity) = identity {
            config.identity = identity;
        }
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Bytes::from(body.into()))
            .expect("the test's request is sound");
        let exchange = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("an event loop can be made").block_on(async {
                let transport: Arc<dyn Transport> =
                    Arc::new(HttpsTransport::new(&config).expect("the kubeconfig is sound"));
                let response = transport.send(request).await.expect("the API server answers");
                let code = response.status().as_u16();
                let body = response.into_body().collect().await.expect("the answer arrives").to_bytes();
                Answer { code, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
            })
        };
        match &self.space {
            Some(space) => space.within(exchange),
            None => exchange(),
        }
    }

    /// Runs another command of the program on this cluster's data directory.
    pub fn ironclad(&self, arguments: &[&str]) -> Output {
        let mut command = self.inside();
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        kubectl::run(command, "")
    }

    fn inside(&self) -> Command {
        match &self.space {
            Some(space) => space.command(&self.options.program.to_string_lossy()),
            None => Command::new(&self.options.program),
        }
    }

    /// The namespaces; hollow clusters have none.
    pub fn space(&self) -> &Space {
        self.space.as_ref().expect("a hollow cluster has no namespaces of its own")
    }

    /// The state of the cluster.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// What the server said since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The restart count of every container by pod and name, for one namespace.
    pub fn restarts(&self, namespace: &str) -> BTreeMap<String, u64> {
        let text = self.kubectl(&["get", "pods", "-n", namespace, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let mut restarts = BTreeMap::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
                let name = format!("{}/{}", pod["metadata"]["uid"], status["containerID"]);
                restarts.insert(name, status["restartCount"].as_u64().unwrap_or_default());
            }
        }
        restarts
    }

    fn tell_what_happened(&self) {
        eprintln!("--- the server said:\n{}", self.log());
        for arguments in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["describe", "nodes"],
        ] {
            let output = kubectl::run(
                {
                    let mut command = self.kubectl_command(Kubectl::V1_37, arguments);
                    command.arg("--request-timeout=5s");
                    command
                },
                "",
            );
            eprintln!("--- kubectl {}:\n{}{}", arguments.join(" "), output.stdout, output.stderr);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && self.kubeconfig().exists() {
            self.tell_what_happened();
        }
        if let Some(mut server) = self.server.take() {
            let pid = if self.space.is_some() { space::only_child(server.id()) } else { Some(server.id()) };
            if let Some(pid) = pid {
                let _ = sys::process::kill(pid.cast_signed(), 9);
            }
            let _ = server.wait();
        }
        if self.options.kind != Kind::Hollow {
            // Control groups are the one thing that would outlive the namespaces.
            let _ = kubectl::run(
                {
                    let mut command = self.inside();
                    command.arg("uninstall").arg("--data-dir").arg(self.data_dir());
                    command
                },
                "",
            );
        }
    }
}

fn succeeded(script: &str, output: Output) -> String {
    assert!(output.success, "{script}: {}{}", output.stdout, output.stderr);
    output.stdout
}

/// Whether a child has ended: it is a zombie until it is waited for.
fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}
