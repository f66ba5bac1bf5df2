//! Where the runtime keeps things and whom it talks to.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Settings of the runtime.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CRI socket.
    pub socket: PathBuf,
    /// Persistent files: images, records of pods and containers, writable layers. One filesystem that
    /// overlayfs can write to.
    pub root: PathBuf,
    /// Files that must vanish at a reboot: sockets, pinned namespaces. Short: a unix socket's path has at
    /// most 107 bytes.
    pub state: PathBuf,
    /// Program and first arguments of a pod supervisor; the program calls
    /// [`supervisor::main`](crate::supervisor::main).
    pub supervisor: Vec<String>,
    /// Directory of CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Directory of CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Directory of `<registry>/hosts.toml` files with mirrors, as containerd's.
    pub registry_hosts_dir: PathBuf,
}

impl Options {
    /// The usual places below a data directory, with this program as the supervisor
    /// (`<program> runtime-supervisor …`).
    pub fn for_data_dir(data_dir: &Path) -> std::io::Result<Self> {
        let program = std::env::current_exe()?.to_string_lossy().into_owned();
        let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let hash: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
        Ok(Self {
            socket: data_dir.join("run/runtime.sock"),
            root: data_dir.join("runtime"),
            state: Path::new("/run/ironclad").join(hash),
            supervisor: vec![program, "runtime-supervisor".to_owned()],
            cni_bin_dir: data_dir.join("cni/bin"),
            cni_conf_dir: data_dir.join("cni/net.d"),
            registry_hosts_dir: data_dir.join("registries"),
        })
    }

    pub(crate) fn sandbox_root(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    pub(crate) fn container_root(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// Short, for the socket within.
    pub(crate) fn sandbox_state(&self, id: &str) -> PathBuf {
        self.state.join("s").join(&id[..id.len().min(24)])
    }

    pub(crate) fn socket_of(&self, id: &str) -> PathBuf {
        self.sandbox_state(id).join("sock")
    }

    pub(crate) fn netns_of(&self, id: &str) -> PathBuf {
        self.state.join("netns").join(id)
    }

    pub(crate) fn shm_of(&self, id: &str) -> PathBuf {
        self.sandbox_state(id).join("shm")
    }

    /// Where containers' roots are mounted, each in its own mount namespace.
    pub(crate) fn staging(&self) -> PathBuf {
        self.state.join("rootfs")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("images").join("layers")
    }
}
