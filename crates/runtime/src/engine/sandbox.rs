//! The life of a pod's sandbox: run, stop, remove.
//!
//! Upstream: containerd internal/cri/server/sandbox_run.go, sandbox_stop.go, sandbox_remove.go.

use std::path::PathBuf;
use std::sync::Arc;

use cri::v1;
use sys::cgroup::Layout;
use sys::mount;

use super::{Engine, Error, Sandbox, SandboxRecord, blocking, io_error, now, write_config};
use crate::network::{Attachment, HostPort};
use crate::spec;
use crate::sysctl::{self, Own};
use crate::wire::{SandboxSpec, Verb, write_json};

/// Bytes of a pod's shared memory: containerd's default.
const SHM_SIZE: &str = "65536k";

fn options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    security.and_then(|s| s.namespace_options.clone()).unwrap_or_default()
}

fn attachment(record: &SandboxRecord, config: &v1::PodSandboxConfig) -> Attachment {
    let metadata = config.metadata.clone().unwrap_or_default();
    let port = |p: &v1::PortMapping| {
        let host = u16::try_from(p.host_port).ok().filter(|p| *p != 0)?;
        let protocol = match p.protocol() {
            v1::Protocol::Tcp => "tcp",
            v1::Protocol::Udp => "udp",
            v1::Protocol::Sctp => "sctp",
        };
        Some(HostPort {
            host,
            container: u16::try_from(p.container_port).ok()?,
            protocol,
            address: p.host_ip.clone(),
        })
    };
    Attachment {
        sandbox: record.id.clone(),
        netns: record.netns.clone().unwrap_or_default(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        ports: config.port_mappings.iter().filter_map(port).collect(),
    }
}

impl Engine {
    /// Makes a sandbox; its ID.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, Error> {
        if !handler.is_empty() {
            return Err(Error::Invalid(format!("no runtime for {handler:?} is configured")));
        }
        if config.metadata.is_none() {
            return Err(Error::Invalid("sandbox config must include metadata".into()));
        }
        let options = options(&config);
        if options.userns_options.as_ref().is_some_and(|u| u.mode() == v1::NamespaceMode::Pod) {
            return Err(Error::Invalid("user namespaces are not supported".into()));
        }
        let id = self.id();
        let host_network = options.network() == v1::NamespaceMode::Node;
        let own =
            Own { network: !host_network, ipc: options.ipc() != v1::NamespaceMode::Node, uts: !host_network };
        for name in config.linux.iter().flat_map(|linux| linux.sysctls.keys()) {
            sysctl::file(name, own).map_err(Error::Invalid)?;
        }
        let record = SandboxRecord {
            id: id.clone(),
            handler,
            created_at: now(),
            ready: false,
            making: true,
            addresses: Vec::new(),
            netns: (!host_network).then(|| self.options.netns_of(&id)),
        };
        let mut sandbox = Sandbox { record, config: Arc::new(config), link: None };
        match self.make_sandbox(&mut sandbox).await {
            Ok(()) => {
                let link = sandbox.link.clone();
                self.state.lock().sandboxes.insert(id.clone(), sandbox);
                self.publish(&id, &id, v1::ContainerEventType::ContainerCreatedEvent);
                self.publish(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
                if link.is_some_and(|link| link.is_closed()) {
                    // That was told before anybody knew the sandbox.
                    self.link_lost(&id).await;
                }
                Ok(id)
            }
            Err(error) => {
                // Nobody knows its ID yet, so nobody else would clean up.
                self.discard(sandbox).await;
                Err(error)
            }
        }
    }

    async fn make_sandbox(self: &Arc<Self>, sandbox: &mut Sandbox) -> Result<(), Error> {
        let spec = {
            let engine = self.clone();
            let (record, config) = (sandbox.record.clone(), sandbox.config.clone());
            blocking(move || engine.prepare_sandbox(&record, &config)).await?
        };
        self.nursery.supervise(&spec).await?;
        let link = self.connect(&sandbox.record.id).map_err(io_error("connect to the pod's supervisor"))?;
        sandbox.link = Some(Arc::new(link));
        if sandbox.record.netns.is_some() {
            let engine = self.clone();
            let attachment = attachment(&sandbox.record, &sandbox.config);
            let addresses = blocking(move || {
                engine.network.setup(&attachment).map_err(|e| {
                    Error::Failed(format!(
                        "failed to setup network for sandbox {:?}: {e}",
                        attachment.sandbox
                    ))
                })
            })
            .await?;
            sandbox.record.addresses = addresses.iter().map(ToString::to_string).collect();
        }
        (sandbox.record.making, sandbox.record.ready) = (false, true);
        self.write_sandbox(&sandbox.record).map_err(io_error("write the sandbox's record"))
    }

    /// Removes what there is of a sandbox that was never finished. What cannot be removed now is kept as a sandbox that
    /// is not ready, for the kubelet to remove, and for the next start.
    pub(super) async fn discard(self: &Arc<Self>, mut sandbox: Sandbox) {
        let id = sandbox.record.id.clone();
        (sandbox.record.making, sandbox.record.ready) = (true, false);
        if sandbox.link.is_none() {
            sandbox.link = match self.connect(&id) {
                Ok(link) => Some(Arc::new(link)),
                Err(_) => None,
            };
        }
        let mut failures = Vec::new();
        if let Err(error) = self.shut_down(&sandbox).await {
            failures.push(error.to_string());
        }
        let engine = self.clone();
        let (record, config) = (sandbox.record.clone(), sandbox.config.clone());
        let cleared = blocking(move || {
            if record.netns.is_some() {
                engine.network.teardown(&attachment(&record, &config)).map_err(Error::Failed)?;
            }
            engine.clear_sandbox(&record.id);
            Ok(())
        })
        .await;
        failures.extend(cleared.err().map(|error| error.to_string()));
        if failures.is_empty() {
            let _ = std::fs::remove_dir_all(self.options.sandbox_root(&id));
        } else {
            tracing::warn!(sandbox = id, ?failures, "a pod that could not be made is not gone");
            self.save_sandbox(&sandbox.record);
            self.state.lock().sandboxes.insert(id, sandbox);
        }
    }

    /// Ends a sandbox's supervisor, and with it everything in the sandbox. One that is gone already is fine.
    async fn shut_down(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let Some(link) = &sandbox.link else { return Ok(()) };
        match link.call(Verb::Shutdown, &[]).await {
            Ok(_) | Err(crate::link::Error::Gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything on disk that the supervisor and the containers need.
    fn prepare_sandbox(
        &self,
        record: &SandboxRecord,
        config: &v1::PodSandboxConfig,
    ) -> Result<PathBuf, Error> {
        let options = options(config);
        let id = &record.id;
        let (root, state) = (self.options.sandbox_root(id), self.options.sandbox_state(id));
        let files = || {
            std::fs::create_dir_all(&root)?;
            std::fs::create_dir_all(&state)?;
            write_config(&root.join("config.pb"), config)?;
            // Before anything else of the sandbox exists: whatever happens from here on, the next start finds it.
            self.write_sandbox(record)?;
            let hostname = if config.hostname.is_empty() {
                nix::unistd::gethostname()?.to_string_lossy().into_owned()
            } else {
                config.hostname.clone()
            };
            std::fs::write(root.join("hostname"), format!("{hostname}\n"))?;
            std::fs::write(root.join("hosts"), std::fs::read("/etc/hosts").unwrap_or_default())?;
            let resolv = match spec::resolv_conf(&config.dns_config.clone().unwrap_or_default()) {
                Some(text) => text.into_bytes(),
                None => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
            };
            std::fs::write(root.join("resolv.conf"), resolv)
        };
        files().map_err(io_error("write the sandbox's files"))?;
        let host_ipc = options.ipc() == v1::NamespaceMode::Node;
        if !host_ipc {
            let shm = self.options.shm_of(id);
            std::fs::create_dir_all(&shm).map_err(io_error("create the shared memory"))?;
            let flags = mount::Flags::MS_NOSUID | mount::Flags::MS_NODEV | mount::Flags::MS_NOEXEC;
            mount::mount("tmpfs", "shm", &shm, flags, &format!("mode=1777,size={SHM_SIZE}"))
                .map_err(|e| Error::Failed(format!("{e}: {}", e.source)))?;
        }
        let host_network = record.netns.is_none();
        let spec = SandboxSpec {
            id: id.clone(),
            socket: self.options.socket_of(id),
            network_namespace: record.netns.clone(),
            ipc_namespace: !host_ipc,
            // A pod on the host's network has the host's name.
            uts_namespace: !host_network,
            hostname: config.hostname.clone(),
            sysctls: config.linux.iter().flat_map(|l| l.sysctls.clone()).collect(),
            shared_pids: options.pid() == v1::NamespaceMode::Pod,
        };
        let path = root.join("sandbox.json");
        write_json(&path, &spec).map_err(io_error("write the sandbox's spec"))?;
        Ok(path)
    }

    /// Stops everything in a sandbox and gives its network back. What is stopped stays stopped.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(id) = self.sandbox_id(id) else { return Ok(()) };
        let containers: Vec<String> = {
            let state = self.state.lock();
            let own = state.containers.values().filter(|c| c.record.sandbox == id);
            own.map(|c| c.record.id.clone()).collect()
        };
        for container in containers {
            self.stop_container(&container, 0).await?;
        }
        let sandbox = {
            let state = self.state.lock();
            let Some(sandbox) = state.sandboxes.get(&id) else { return Ok(()) };
            let (record, config) = (sandbox.record.clone(), sandbox.config.clone());
            // Kept until the supervisor is gone: should a step fail, the next try needs it.
            Sandbox { record, config, link: sandbox.link.clone() }
        };
        if sandbox.record.netns.is_some() {
            let engine = self.clone();
            let attachment = attachment(&sandbox.record, &sandbox.config);
            blocking(move || {
                engine.network.teardown(&attachment).map_err(|e| {
                    Error::Failed(format!(
                        "failed to destroy network for sandbox {:?}: {e}",
                        attachment.sandbox
                    ))
                })
            })
            .await?;
        }
        self.shut_down(&sandbox).await?;
        let engine = self.clone();
        let cleared = id.clone();
        blocking(move || {
            engine.clear_sandbox(&cleared);
            Ok(())
        })
        .await?;
        let was_ready = {
            let mut state = self.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(&id) else { return Ok(()) };
            let was_ready = sandbox.record.ready;
            sandbox.record.ready = false;
            sandbox.link = None;
            self.save_sandbox(&sandbox.record);
            was_ready
        };
        if was_ready {
            self.publish(&id, &id, v1::ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Removes what the sandbox has outside its records: namespace, shared memory, socket.
    fn clear_sandbox(&self, id: &str) {
        if let Err(error) = sys::namespace::unpin(&self.options.netns_of(id)) {
            tracing::warn!(%error, sandbox = id, "remove the network namespace");
        }
        let _ = mount::detach(&self.options.shm_of(id));
        let _ = std::fs::remove_dir_all(self.options.sandbox_state(id));
    }

    /// Removes a sandbox with all its containers.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(id) = self.sandbox_id(id) else { return Ok(()) };
        self.stop_sandbox(&id).await?;
        let containers: Vec<String> = {
            let state = self.state.lock();
            let own = state.containers.values().filter(|c| c.record.sandbox == id);
            own.map(|c| c.record.id.clone()).collect()
        };
        for container in containers {
            self.remove_container(&container).await?;
        }
        let directory = self.options.sandbox_root(&id);
        let parent = {
            let state = self.state.lock();
            let linux = state.sandboxes.get(&id).and_then(|sandbox| sandbox.config.linux.as_ref());
            linux.map(|linux| linux.cgroup_parent.clone()).unwrap_or_default()
        };
        let layout = self.layout.clone();
        blocking(move || {
            remove_empty_group(&layout, &parent);
            match std::fs::remove_dir_all(&directory) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(io_error("remove the sandbox's files")(e))
                }
                _ => Ok(()),
            }
        })
        .await?;
        self.state.lock().sandboxes.remove(&id);
        self.publish(&id, &id, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }
}

/// Removes a control group that containers were given as their parent, unless something is still in it: another
/// sandbox of the same pod, say.
pub(crate) fn remove_empty_group(layout: &Layout, path: &str) {
    if !path.trim_matches('/').is_empty() {
        for directory in layout.directories(path) {
            // The kernel refuses while there are processes or groups inside.
            let _ = std::fs::remove_dir(directory);
        }
    }
}
