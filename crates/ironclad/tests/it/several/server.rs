//! One of several `ironclad server` processes on addresses of the loopback, killed with its value.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{HttpsTransport, Transport, kubeconfig};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use testkit::wait;

use crate::IRONCLAD;

/// How long one request may take: more than any deadline of a server.
const REQUEST: Duration = Duration::from_secs(100);

/// A server, which runs or not.
pub struct Server {
    pub name: String,
    ip: String,
    port: u16,
    peer: String,
    /// Where it may serve the etcd v3 API: `address:port`.
    pub etcd: String,
    process: Option<Child>,
    folder: TempDir,
}

impl Server {
    /// One that has never been started. Each has an address of its own, so that no port is anybody else's.
    pub fn new(number: u8) -> Server {
        let ip = format!("127.88.{}.{number}", std::process::id() % 250 + 1);
        let free = || TcpListener::bind((ip.as_str(), 0)).and_then(|l| l.local_addr()).unwrap().port();
        let (port, peer, etcd) = (free(), format!("{ip}:{}", free()), format!("{ip}:{}", free()));
        let folder = tempfile::Builder::new().prefix("ironclad-").tempdir().unwrap();
        Server { name: format!("server-{number}"), ip, port, peer, etcd, process: None, folder }
    }

    pub fn url(&self) -> String {
        format!("https://{}:{}", self.ip, self.port)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The command that starts it.
    pub fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(IRONCLAD);
        command.arg("server").arg("--data-dir").arg(self.data_dir());
        for (flag, value) in [
            ("node-name", &self.name),
            ("node-ip", &self.ip),
            ("bind-address", &self.ip),
            ("https-listen-port", &self.port.to_string()),
            ("peer-listen", &self.peer),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        command.arg("--disable=kubelet,runtime,network,proxy,dns").args(flags).stdin(Stdio::null());
        command
    }

    /// Starts it, and does not wait.
    pub fn launch(&mut self, flags: &[&str]) {
        assert!(self.process.is_none(), "it runs");
        let log = fs::File::create(self.log_path()).unwrap();
        let mut command = self.command(flags);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.process = Some(child);
    }

    /// Waits until it serves.
    pub fn ready(&mut self) {
        let process = self.process.as_mut().expect("it was launched");
        let log = self.folder.path().join("log");
        wait::until("a server is ready", || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {said}");
            if said.contains("Ready in ") { Ok(()) } else { Err(said) }
        });
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self, flags: &[&str]) {
        self.launch(flags);
        self.ready();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        sys::process::kill(process.id().cast_signed(), 15).unwrap();
        process.wait().unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Another command of the program on its data directory; what it prints, or says against it.
    pub fn ironclad(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(IRONCLAD);
        command.env_remove("KUBECONFIG").args(arguments).arg("--data-dir").arg(self.data_dir());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A way to it as the administrator.
    pub fn transport(&self) -> Arc<dyn Transport> {
        let config = kubeconfig::load(&self.data_dir().join("kubeconfig.yaml")).unwrap();
        Arc::new(HttpsTransport::new(&config).unwrap())
    }

    /// One request as the administrator: the code and the answer. 0: nobody answered.
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (code, text) = exchange(self.transport(), method, path, body);
        (code, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    /// What it says on a page of text.
    pub fn page(&self, path: &str) -> (u16, String) {
        let (code, text) = exchange(self.transport(), "GET", path, "");
        (code, String::from_utf8_lossy(&text).into_owned())
    }
}

/// One request over a transport of somebody's.
pub fn exchange(transport: Arc<dyn Transport>, method: &str, path: &str, body: &str) -> (u16, Bytes) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let work = async {
            let Ok(response) = transport.send(request).await else { return (0, Bytes::new()) };
            let code = response.status().as_u16();
            match response.into_body().collect().await {
                Ok(body) => (code, body.to_bytes()),
                Err(_) => (0, Bytes::new()),
            }
        };
        tokio::time::timeout(REQUEST, work).await.expect("a request is answered, whatever the answer is")
    })
}

/// Removes what a server has of the store that it kept with others.
pub fn forget_member(data_dir: &Path) {
    fs::remove_dir_all(data_dir.join("raft")).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.log());
        }
    }
}
