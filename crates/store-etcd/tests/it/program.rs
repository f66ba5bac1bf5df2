//! Starts real etcds on loopback ports, with their data in temporary directories. `tests/tools.sh` installs them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use foundation::SystemClock;
use store_etcd::{EtcdStore, Options};
use tempfile::TempDir;

/// The program of a version.
pub fn program(version: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    let tools = std::env::var_os("IRONCLAD_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("ironclad/tools")
    });
    let path = tools.join(format!("etcd-{version}/etcd"));
    assert!(path.exists(), "{} is not there: run tests/tools.sh first", path.display());
    path
}

/// Some ports that nobody listens on.
pub fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}

/// One etcd.
pub struct Etcd {
    version: &'static str,
    directory: TempDir,
    pub client: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    pub fn new(version: &'static str) -> Self {
        let [client, peer] = ports();
        let cluster = format!("one=http://127.0.0.1:{peer}");
        Self::member(version, "one", client, peer, &cluster)
    }

    /// One member of a cluster: `name=http://127.0.0.1:peer,…`.
    pub fn member(version: &'static str, name: &str, client: u16, peer: u16, cluster: &str) -> Self {
        let url = |port| format!("http://127.0.0.1:{port}");
        let arguments = [
            ("--name", name.to_owned()),
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", cluster.to_owned()),
            ("--max-txn-ops", "10000".to_owned()),
            ("--log-level", "error".to_owned()),
        ];
        let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        Self { version, directory: TempDir::new().unwrap(), client, arguments, child: None }
    }

    /// Replaces the client URLs and adds arguments.
    pub fn with(mut self, scheme: &str, arguments: &[(&str, &std::path::Path)]) -> Self {
        for pair in self.arguments.chunks_mut(2).filter(|pair| pair[0].contains("client-urls")) {
            pair[1] = format!("{scheme}://127.0.0.1:{}", self.client);
        }
        for (flag, value) in arguments {
            self.arguments.extend([(*flag).to_owned(), value.display().to_string()]);
        }
        self
    }

    pub fn start(&mut self) {
        let mut command = Command::new(program(self.version));
        command.args(&self.arguments).arg("--data-dir").arg(self.directory.path().join("data"));
        // Debian's refuses architectures that it does not know.
        command
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A store over some endpoints, with the patience that a starting etcd takes.
pub fn store(endpoints: Vec<String>) -> EtcdStore {
    let mut options = Options::new(endpoints, SystemClock::shared());
    options.timeout = std::time::Duration::from_secs(60);
    EtcdStore::new(options).unwrap()
}
