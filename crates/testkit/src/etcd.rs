//! Real etcds: alone or as members of one cluster, on loopback ports, with their data in temporary directories.
//!
//! `tests/tools.sh` installs the programs. Not here: stores over them (`crates/store-etcd/tests`), servers over them
//! (`crates/ironclad/tests`).

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::tools;

/// The versions that are tested with.
pub const VERSIONS: [&str; 2] = ["3.4", "3.5"];

/// A program of a version: `etcd`, `etcdctl`, and from 3.5 on `etcdutl`.
pub fn program(version: &str, name: &str) -> PathBuf {
    tools::path(&format!("etcd-{version}/{name}"))
}

/// Some ports of the loopback address that nobody listens on.
pub fn ports<const N: usize>() -> [u16; N] {
    // All held at once, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    std::array::from_fn(|index| listeners[index].local_addr().expect("a listener has an address").port())
}

/// Runs `etcdctl`: what it prints, or what it has against the command.
pub fn etcdctl(version: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program(version, "etcdctl"));
    let output = command.env("ETCDCTL_API", "3").args(arguments).output().expect("etcdctl can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// One etcd, which ends with its value.
#[derive(Debug)]
pub struct Etcd {
    version: &'static str,
    directory: TempDir,
    scheme: &'static str,
    client: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// One that is alone, with etcd's defaults; not started yet.
    pub fn new(version: &'static str) -> Etcd {
        let [client, peer] = ports();
        Etcd::member(version, "one", client, peer, &format!("one=http://127.0.0.1:{peer}"))
    }

    /// One member of a cluster (`name=http://127.0.0.1:peer,…`), not started yet.
    pub fn member(version: &'static str, name: &str, client: u16, peer: u16, cluster: &str) -> Etcd {
        let peer = format!("http://127.0.0.1:{peer}");
        let arguments = [
            ["--name", name],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", cluster],
            ["--log-level", "error"],
        ];
        let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
        let directory = TempDir::new().expect("/tmp can be written");
        Etcd { version, directory, scheme: "http", client, arguments, child: None }
    }

    /// One that is alone, of what `etcdctl snapshot save` has saved; not started yet.
    pub fn restored(version: &'static str, file: &Path) -> Etcd {
        let etcd = Etcd::new(version);
        let (data, file) = (etcd.data().display().to_string(), file.display().to_string());
        let restored = etcdctl(version, &["snapshot", "restore", "--data-dir", &data, &file]);
        restored.expect("the save can be restored");
        etcd
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One more argument, such as `--max-txn-ops=10000`.
    pub fn argument(mut self, argument: &str) -> Etcd {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Serves clients by TLS, and only those with a certificate of the authority.
    pub fn tls(mut self, authority: &Path, certificate: &Path, key: &Path) -> Etcd {
        self.scheme = "https";
        for (flag, file) in [("trusted-ca-file", authority), ("cert-file", certificate), ("key-file", key)] {
            self.arguments.push(format!("--{flag}={}", file.display()));
        }
        self.argument("--client-cert-auth=true")
    }

    /// Starts it, again if it was killed; whoever uses it has the patience to wait until it answers.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the etcd runs");
        let mut command = Command::new(program(self.version, "etcd"));
        command.arg("--data-dir").arg(self.data()).args(&self.arguments);
        for flag in ["--listen-client-urls", "--advertise-client-urls"] {
            command.args([flag, &self.url()]);
        }
        // Debian's refuses architectures that it does not know.
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("etcd can be started"));
    }

    /// The same, started.
    pub fn started(mut self) -> Etcd {
        self.start();
        self
    }

    /// `kill -9`, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where its clients reach it.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client)
    }

    /// Runs its own `etcdctl` against it.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        etcdctl(self.version, &[&["--endpoints", &self.url()], arguments].concat())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
