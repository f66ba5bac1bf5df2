//! The life of a container: create, start, stop, remove, change its limits.
//!
//! Upstream: containerd internal/cri/server/container_*.go.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use sys::cgroup::Cgroup;
use sys::container::{Device, Root};
use tokio::sync::watch;

use super::{Container, ContainerRecord, Engine, Error, blocking, io_error, now, write_config};
use crate::images::Image;
use crate::spec::{self, Surroundings};
use crate::wire::{Reply, RunStatus, Verb, write_json};
use crate::{signals, users};

/// How long a killed container may take to be gone. The kernel may be busy freeing memory.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

impl Engine {
    /// Makes a container ready to start; its ID.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox_id(sandbox)?;
        let (sandbox_config, ready) = {
            let state = self.state.lock();
            let found = state.sandboxes.get(&sandbox);
            found.map(|s| (s.config.clone(), s.record.ready)).unwrap_or_default()
        };
        if !ready {
            return Err(Error::State(format!("sandbox container {sandbox:?} is not running")));
        }
        let id = self.id();
        let engine = self.clone();
        let config = Arc::new(config);
        // Until the container is known its layers are in use by nobody that the store could ask.
        let images = self.images.clone();
        let _layers = blocking(move || Ok(images.working()?)).await?;
        let (record, config) = {
            let (id, config) = (id.clone(), config.clone());
            blocking(move || {
                let made = engine.make_container(&id, &sandbox, &sandbox_config, &config);
                if made.is_err() {
                    let _ = std::fs::remove_dir_all(engine.options.container_root(&id));
                }
                Ok((made?, config))
            })
            .await?
        };
        let sandbox = record.sandbox.clone();
        let resources = config.linux.as_ref().and_then(|l| l.resources.clone());
        let (run, _) = watch::channel(RunStatus::default());
        self.state
            .lock()
            .containers
            .insert(id.clone(), Container { record, config, resources, run, starting: false });
        self.publish(&sandbox, &id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn make_container(
        &self,
        id: &str,
        sandbox: &str,
        sandbox_config: &v1::PodSandboxConfig,
        config: &v1::ContainerConfig,
    ) -> Result<ContainerRecord, Error> {
        let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let image =
            self.images.find(&name)?.ok_or_else(|| Error::NotFound { kind: "image", id: name.clone() })?;
        let user = self.user(config, &image)?;
        let security = spec::security(config);
        let directory = self.options.container_root(id);
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        for path in [&upper, &work] {
            std::fs::create_dir_all(path).map_err(io_error(format!("create {}", path.display())))?;
        }
        let log = (!config.log_path.is_empty() && !sandbox_config.log_directory.is_empty())
            .then(|| Path::new(&sandbox_config.log_directory).join(&config.log_path));
        let devices = self.devices(config)?;
        let parent = sandbox_config.linux.as_ref().map(|l| l.cgroup_parent.clone()).unwrap_or_default();
        let cgroup = format!("{}/{id}", parent.trim_end_matches('/'));
        // An image without layers has an empty root: overlayfs needs one lower directory.
        let mut layers: Vec<String> = image.layers.iter().rev().cloned().collect();
        if layers.is_empty() {
            let empty = self.options.layers().join("empty");
            std::fs::create_dir_all(&empty).map_err(io_error("create the empty layer"))?;
            layers.push("empty".into());
        }
        let capabilities = spec::capabilities(&security, self.capabilities, self.layout.filters_devices())
            .map_err(invalid)?;
        let built = spec::build(
            config,
            Surroundings {
                sandbox: sandbox_config,
                image: &image.config,
                user: user.clone(),
                root: Root {
                    layers_in: self.options.layers(),
                    layers: layers.clone(),
                    upper,
                    work,
                    staging: self.options.staging(),
                    readonly: false,
                    nodev: false,
                },
                cgroup: cgroup.clone(),
                shm: Some(self.options.shm_of(sandbox)),
                sandbox_files: self.options.sandbox_root(sandbox),
                available: self.capabilities,
                filtered: self.layout.filters_devices(),
                seccomp: seccomp(&security, capabilities.bounding)?,
                host_devices: if security.privileged { host_devices(Path::new("/dev")) } else { vec![] },
                devices: devices.clone(),
                log: log.clone(),
            },
        )
        .map_err(invalid)?;
        self.warn_unconfined(&security);
        for mount in &config.mounts {
            if mount.image.is_some() {
                return Err(Error::Invalid(format!(
                    "image mount of {} is not supported",
                    mount.container_path
                )));
            }
            // As Docker did and containerd does: a hostPath that is not there becomes a directory.
            let host = Path::new(&mount.host_path);
            if !host.exists() {
                std::fs::create_dir_all(host)
                    .map_err(io_error(format!("failed to mkdir {:?}", mount.host_path)))?;
            }
        }
        let image_ref = image.digests.first().cloned().unwrap_or_else(|| image.id.clone());
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            created_at: now(),
            image_id: image.id.clone(),
            image_ref,
            user,
            layers,
            cgroup: cgroup.clone(),
            log,
            stop_signal: image.config.stop_signal.clone(),
        };
        write_json(&directory.join("spec.json"), &built)
            .and_then(|()| write_config(&directory.join("config.pb"), config))
            .and_then(|()| write_json(&directory.join("record.json"), &record))
            .map_err(io_error("write the container's record"))?;
        let group = Cgroup::new(self.layout.clone(), cgroup);
        let resources = config.linux.as_ref().and_then(|l| l.resources.clone()).unwrap_or_default();
        let limited = (|| {
            group.create()?;
            group.allow_devices(&spec::device_rules(security.privileged, &devices))?;
            group.set(&spec::limits(&resources))
        })();
        match limited {
            Ok(missing) => self.warn_missing(&missing),
            Err(e) => {
                let _ = group.remove();
                return Err(cgroup_error(&e));
            }
        }
        Ok(record)
    }

    /// Tells once of confinement that was asked for and that this runtime does not give.
    fn warn_unconfined(&self, security: &v1::LinuxContainerSecurityContext) {
        use v1::security_profile::ProfileType;
        if security.selinux_options.is_some() {
            self.warn_once("SELinux options of containers are not applied");
        }
        let default = |p: &v1::SecurityProfile| p.profile_type() == ProfileType::RuntimeDefault;
        if security.apparmor.as_ref().is_some_and(default) {
            self.warn_once("AppArmor's default profile for containers is not applied");
        }
    }

    fn warn_missing(&self, missing: &[&'static str]) {
        for controller in missing {
            self.warn_once(&format!("the host has no control group controller {controller:?}"));
        }
    }

    fn user(&self, config: &v1::ContainerConfig, image: &Image) -> Result<sys::container::User, Error> {
        let security = spec::security(config);
        let narrow =
            |value: i64| u32::try_from(value).map_err(|_| Error::Invalid(format!("invalid ID {value}")));
        if security.run_as_group.is_some()
            && security.run_as_user.is_none()
            && security.run_as_username.is_empty()
        {
            return Err(Error::Invalid("user group is specified without user".into()));
        }
        let wanted = users::Wanted {
            uid: security.run_as_user.map(|v| narrow(v.value)).transpose()?,
            gid: security.run_as_group.map(|v| narrow(v.value)).transpose()?,
            name: security.run_as_username.clone(),
            groups: security.supplemental_groups.iter().map(|g| narrow(*g)).collect::<Result<_, _>>()?,
            strict: security.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict,
        };
        let passwd = self.images.text_of(image, "etc/passwd");
        let group = self.images.text_of(image, "etc/group");
        users::resolve(&wanted, &image.config.user, &passwd, &group).map_err(invalid)
    }

    fn devices(&self, config: &v1::ContainerConfig) -> Result<Vec<(Device, String)>, Error> {
        let mut all = Vec::new();
        for wanted in &config.devices {
            let path = Path::new(&wanted.host_path);
            let found = device(path, Path::new(&wanted.container_path))
                .map_err(io_error(format!("failed to get device {:?}", wanted.host_path)))?;
            all.push((found, wanted.permissions.clone()));
        }
        Ok(all)
    }

    /// Starts a created container.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let id = self.container_id(id)?;
        let (sandbox, link) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let Some(container) = state.containers.get_mut(&id) else { return Err(gone(&id)) };
            let refuse = |why: &str| {
                Err(Error::State(format!("failed to set starting state for container {id:?}: {why}")))
            };
            if container.run.borrow().started_at != 0 || container.run.borrow().exited() {
                return refuse("container is not in created state");
            }
            // A client that asks twice must not be told of the refusal as if it were the container's end.
            if container.starting {
                return refuse("container is already in starting state");
            }
            let sandbox = container.record.sandbox.clone();
            let link = state.sandboxes.get(&sandbox).and_then(|s| s.link.clone());
            let link = link.ok_or_else(|| Error::State(format!("sandbox {sandbox} is not ready")))?;
            container.starting = true;
            (sandbox, link)
        };
        let directory = self.options.container_root(&id);
        let verb = Verb::Start { container: id.clone(), directory: directory.clone() };
        let started = link.call(verb, &[]).await;
        let run = match &started {
            Ok((Reply::Started { pid }, _)) => {
                RunStatus { pid: *pid, started_at: now(), ..RunStatus::default() }
            }
            Ok(_) => {
                if let Some(container) = self.state.lock().containers.get_mut(&id) {
                    container.starting = false;
                }
                return Err(Error::Failed("the supervisor answered something else".into()));
            }
            Err(error) => {
                if matches!(error, crate::link::Error::Silent) {
                    self.forestall(&id).await;
                }
                // containerd's code and reason for a container that never ran.
                let run = RunStatus {
                    finished_at: now(),
                    exit_code: 128,
                    reason: "StartError".into(),
                    message: start_error(error),
                    ..RunStatus::default()
                };
                let _ = write_json(&directory.join("status.json"), &run);
                run
            }
        };
        let message = run.message.clone();
        {
            let mut state = self.state.lock();
            if let Some(container) = state.containers.get_mut(&id) {
                container.starting = false;
                // A very short run may have ended already.
                container.run.send_if_modified(|current| {
                    let news = !current.exited();
                    if news {
                        *current = run;
                    }
                    news
                });
            }
        }
        match started {
            Ok(_) => {
                self.publish(&sandbox, &id, v1::ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(_) => {
                self.publish(&sandbox, &id, v1::ContainerEventType::ContainerStoppedEvent);
                Err(Error::Failed(message))
            }
        }
    }

    /// What a supervisor that says nothing may have started, or may start yet, must not run beside the container's next
    /// attempt: its processes are killed, and without its control group a later start fails.
    async fn forestall(self: &Arc<Self>, id: &str) {
        let cgroup = self.state.lock().containers.get(id).map(|container| container.record.cgroup.clone());
        let Some(cgroup) = cgroup else { return };
        let group = Cgroup::new(self.layout.clone(), cgroup);
        let killed = blocking(move || {
            remove_group(&group);
            Ok(())
        });
        if let Err(error) = killed.await {
            tracing::warn!(container = id, %error, "a start without an answer was not forestalled");
        }
    }

    /// Stops a container: its stop signal, `timeout` seconds later SIGKILL.
    pub(crate) async fn stop_container(self: &Arc<Self>, id: &str, timeout: i64) -> Result<(), Error> {
        let id = match self.container_id(id) {
            Ok(id) => id,
            Err(_) => return Ok(()),
        };
        let (mut run, sandbox, signal, cgroup) = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(&id) else { return Ok(()) };
            let signal = signals::of_container(&container.config, &container.record.stop_signal);
            (
                container.run.subscribe(),
                container.record.sandbox.clone(),
                signal,
                container.record.cgroup.clone(),
            )
        };
        if !run.borrow().running() {
            return Ok(());
        }
        let ended = |run: &RunStatus| !run.running();
        if timeout > 0 {
            self.signal(&sandbox, &id, signal).await;
            let grace = Duration::from_secs(timeout.unsigned_abs());
            if tokio::time::timeout(grace, run.wait_for(ended)).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(&sandbox, &id, nix::libc::SIGKILL).await;
        Cgroup::new(self.layout.clone(), cgroup).kill();
        match tokio::time::timeout(KILL_DEADLINE, run.wait_for(ended)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Error::Timeout(format!("container {id:?} is not gone {KILL_DEADLINE:?} after SIGKILL")))
            }
        }
    }

    async fn signal(&self, sandbox: &str, container: &str, signal: i32) {
        if let Ok(link) = self.link(sandbox) {
            // A supervisor that is gone is noticed elsewhere.
            let _ = link.call(Verb::Signal { container: container.to_owned(), signal }, &[]).await;
        }
    }

    /// Removes a container; kills it first if it runs.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(id) = self.container_id(id) else { return Ok(()) };
        self.stop_container(&id, 0).await?;
        let (sandbox, cgroup) = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(&id) else { return Ok(()) };
            if container.starting {
                let why = "container is in starting state, can't be removed";
                return Err(Error::State(format!(
                    "failed to set removing state for container {id:?}: {why}"
                )));
            }
            (container.record.sandbox.clone(), container.record.cgroup.clone())
        };
        if let Ok(link) = self.link(&sandbox) {
            let _ = link.call(Verb::Forget { container: id.clone() }, &[]).await;
        }
        let group = Cgroup::new(self.layout.clone(), cgroup);
        let directory = self.options.container_root(&id);
        blocking(move || {
            remove_group(&group);
            match std::fs::remove_dir_all(&directory) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(io_error("remove the container's files")(e))
                }
                _ => Ok(()),
            }
        })
        .await?;
        self.state.lock().containers.remove(&id);
        self.layers.forget(&id);
        self.publish(&sandbox, &id, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Changes the limits of a container.
    pub(crate) async fn update_resources(
        self: &Arc<Self>,
        id: &str,
        change: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        let id = self.container_id(id)?;
        let (cgroup, mut resources) = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(&id) else { return Err(gone(&id)) };
            (container.record.cgroup.clone(), container.resources.clone().unwrap_or_default())
        };
        merge(&mut resources, change.clone());
        let group = Cgroup::new(self.layout.clone(), cgroup);
        blocking(move || group.set(&spec::limits(&change)).map_err(|e| cgroup_error(&e))).await?;
        if let Some(container) = self.state.lock().containers.get_mut(&id) {
            container.resources = Some(resources);
        }
        Ok(())
    }

    /// Has a container's log file opened anew.
    pub(crate) async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let id = self.container_id(id)?;
        let sandbox = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(&id) else { return Err(gone(&id)) };
            if !container.run.borrow().running() {
                return Err(Error::State("container is not running".into()));
            }
            container.record.sandbox.clone()
        };
        self.link(&sandbox)?.call(Verb::ReopenLog { container: id }, &[]).await?;
        Ok(())
    }
}

/// Processes that were just killed may still be in the group for a moment.
fn remove_group(group: &Cgroup) {
    let mut wait = Duration::from_micros(500);
    for _ in 0..10 {
        if group.remove().is_ok() {
            return;
        }
        group.kill();
        std::thread::sleep(wait);
        wait *= 2;
    }
    tracing::warn!(group = group.path(), "a control group with processes that do not end is left behind");
}

fn gone(id: &str) -> Error {
    Error::NotFound { kind: "container", id: id.to_owned() }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}

fn cgroup_error(error: &sys::cgroup::Error) -> Error {
    let source = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    Error::Failed(format!("{error}{source}"))
}

fn start_error(error: &crate::link::Error) -> String {
    format!("failed to start container: unable to start container process: {error}")
}

fn merge(into: &mut v1::LinuxContainerResources, change: v1::LinuxContainerResources) {
    let number = |slot: &mut i64, value: i64| {
        if value != 0 {
            *slot = value;
        }
    };
    number(&mut into.cpu_period, change.cpu_period);
    number(&mut into.cpu_quota, change.cpu_quota);
    number(&mut into.cpu_shares, change.cpu_shares);
    number(&mut into.memory_limit_in_bytes, change.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes);
    number(&mut into.oom_score_adj, change.oom_score_adj);
    if !change.cpuset_cpus.is_empty() {
        into.cpuset_cpus = change.cpuset_cpus;
    }
    if !change.cpuset_mems.is_empty() {
        into.cpuset_mems = change.cpuset_mems;
    }
    into.unified.extend::<HashMap<String, String>>(change.unified);
}

/// The system call filter that the security context asks for.
fn seccomp(
    security: &v1::LinuxContainerSecurityContext,
    bounding: sys::container::capabilities::Set,
) -> Result<Option<sys::seccomp::Program>, Error> {
    use v1::security_profile::ProfileType;
    let Some(wanted) = security.seccomp.as_ref().filter(|_| !security.privileged) else { return Ok(None) };
    let profile = match wanted.profile_type() {
        ProfileType::Unconfined => return Ok(None),
        ProfileType::RuntimeDefault => sys::seccomp::runtime_default(bounding),
        ProfileType::Localhost => {
            let json = std::fs::read(&wanted.localhost_ref)
                .map_err(io_error(format!("cannot load seccomp profile {:?}", wanted.localhost_ref)))?;
            sys::seccomp::parse(&json).map_err(invalid)?
        }
    };
    sys::seccomp::compile(&profile).map(Some).map_err(invalid)
}

fn device(host: &Path, target: &Path) -> std::io::Result<Device> {
    let meta = std::fs::metadata(host)?;
    let kind = meta.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(std::io::Error::other("not a device node"));
    }
    Ok(Device {
        path: target.to_owned(),
        block: kind.is_block_device(),
        major: nix::sys::stat::major(meta.rdev()) as u32,
        minor: nix::sys::stat::minor(meta.rdev()) as u32,
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// All device nodes of the host but terminals and what a container has of its own.
fn host_devices(directory: &Path) -> Vec<Device> {
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", ".udev"];
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        if kind.is_dir() {
            all.extend(host_devices(&path));
        } else if kind.is_block_device() || kind.is_char_device() {
            all.extend(device(&path, &path));
        }
    }
    all
}
