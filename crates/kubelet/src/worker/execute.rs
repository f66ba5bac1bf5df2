//! Carries out one command of a worker: CRI calls, volumes, hooks.
//!
//! Every function here does what it is told and reports; none of them chooses.
//! Upstream: `pkg/kubelet/kuberuntime/kuberuntime_{sandbox,container}.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::types::core::v1::{Container, ImageVolumeSource, Pod};
use client::EventType;
use cri::v1;
use foundation::CancellationToken;
use jiff::Timestamp;
use volumes::{Content, MountedVolume, ObjectKey};

use super::lifecycle;
use super::state::{ContainerRecord, Phase, SandboxRecord, Waiting};
use crate::images;
use crate::node::Node;
use crate::pod::{self, environment, expansion, network, sandbox, security};
use crate::runtime::handlers;

/// Why a start failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What the status shows.
    pub waiting: Waiting,
    /// An image that could not be had backs off more and more; other failures are tried again soon.
    pub pull: bool,
}

fn failure(reason: &str, message: impl Into<String>) -> StartFailure {
    StartFailure { waiting: Waiting { reason: reason.to_owned(), message: message.into() }, pull: false }
}

fn root(node: &Node) -> String {
    node.options.root_dir.to_string_lossy().into_owned()
}

/// Makes and starts the pod's `attempt`-th sandbox.
pub async fn create_sandbox(node: &Node, pod: &Pod, attempt: u32) -> Result<SandboxRecord, String> {
    let root = root(node);
    let config = sandbox::config(pod, attempt, &node.sandbox_node(&root));
    tokio::fs::create_dir_all(&config.log_directory)
        .await
        .map_err(|error| format!("create pod log directory: {error}"))?;
    let runtime_handler = match handlers::of_pod(&node.client, pod).await {
        Ok(handler) => handler,
        Err(error) => {
            return refused(
                node,
                pod,
                format!("Failed to create sandbox for pod {:?}: {error}", pod::format(pod)),
            );
        }
    };
    if let Err(error) = handlers::user_namespace(pod, &runtime_handler) {
        let message = format!("Failed to generate sandbox config for pod {:?}: {error}", pod::format(pod));
        return refused(node, pod, message);
    }
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
    let id = match node.runtime.raw().run_pod_sandbox(request).await {
        Ok(answer) => answer.into_inner().pod_sandbox_id,
        Err(status) => return refused(node, pod, crate::runtime::Error::from(status).to_string()),
    };
    node.runtime.sandbox(&id).await.map_err(|error| error.to_string())
}

/// Tells that there is no sandbox.
fn refused<T>(node: &Node, pod: &Pod, message: String) -> Result<T, String> {
    let text = format!("Failed to create pod sandbox: {message}");
    node.recorder.event(pod, EventType::Warning, "FailedCreatePodSandBox", text);
    Err(message)
}

/// Stops a sandbox and everything in it.
pub async fn stop_sandbox(node: &Node, id: &str) -> Result<(), String> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    match node.runtime.raw().stop_pod_sandbox(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(crate::runtime::Error::from(status).to_string()),
    }
}

/// Removes all that the runtime has of a pod, and its logs.
pub async fn remove(node: &Node, pod: &Pod, sandboxes: &[String], containers: &[String]) {
    for id in containers {
        let request = v1::RemoveContainerRequest { container_id: id.clone() };
        if let Err(status) = node.runtime.raw().remove_container(request).await {
            tracing::debug!(id, %status, "a container was not removed");
        }
    }
    for id in sandboxes {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
        if let Err(status) = node.runtime.raw().remove_pod_sandbox(request).await {
            tracing::warn!(pod = pod::full_name(pod), id, %status, "a sandbox was not removed");
        }
    }
    let logs = node.options.pod_logs_dir.join(sandbox::log_directory(pod));
    if let Err(error) = tokio::fs::remove_dir_all(&logs).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %logs.display(), %error, "logs were not removed");
    }
}

/// All that a start needs.
pub struct Start {
    /// The node.
    pub node: Arc<Node>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// How often it was restarted before.
    pub restarts: u32,
    /// The sandbox it goes into.
    pub sandbox: SandboxRecord,
    /// The pod's volumes.
    pub volumes: Arc<BTreeMap<String, MountedVolume>>,
    /// The container whose processes an ephemeral one is to see.
    pub target: Option<String>,
    /// Cancelled when the pod is to end: a pull or hook then stops.
    pub cancel: CancellationToken,
    /// Told as soon as the container runs, before its hook.
    pub running: Box<dyn Fn(ContainerRecord) + Send + Sync>,
}

impl Start {
    /// Image, configuration, container, start, hook.
    pub async fn run(self) -> Result<(), StartFailure> {
        let cancelled = || failure("ContainerCreating", "the pod is being deleted");
        let root = root(&self.node);
        let sandbox_config = sandbox::config(&self.pod, self.sandbox.attempt, &self.node.sandbox_node(&root));
        let ensured = images::ensure(&self.node, &self.pod, &self.container, &sandbox_config);
        let image = self.cancel.run_until_cancelled(ensured).await.ok_or_else(cancelled)?;
        let image = image.map_err(|error| self.image_failure(&self.container, error))?;
        for volume in self.image_volumes() {
            // The runtime mounts what is there by its name, whoever's it is.
            let ensured = images::ensure(&self.node, &self.pod, &volume, &sandbox_config);
            let ensured = self.cancel.run_until_cancelled(ensured).await.ok_or_else(cancelled)?;
            ensured.map_err(|error| self.image_failure(&volume, error))?;
        }
        let record = self.create(&image, &root, sandbox_config).await.inspect_err(|failure| {
            let message = format!("Error: {}", failure.waiting.message);
            self.event(EventType::Warning, "Failed", message);
        })?;
        (self.running)(record.clone());
        let Some(hook) =
            self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return Ok(());
        };
        let ip = self.ip();
        let limit = Duration::from_secs(3600);
        let hook = lifecycle::run(&self.node, hook, &self.container, &record.id, &ip, limit);
        match self.cancel.run_until_cancelled(hook).await {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                self.event(
                    EventType::Warning,
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {error}"),
                );
                self.event(EventType::Normal, "Killing", "FailedPostStartHook".to_owned());
                stop_container(&self.node, &record.id, decide_grace(&self.pod)).await;
                Err(failure("PostStartHookError", error))
            }
        }
    }

    /// What is to be pulled for the image volumes that the container mounts: as a container of the same name.
    fn image_volumes(&self) -> Vec<Container> {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mounts = self.container.volume_mounts.as_deref().unwrap_or_default();
        let mounted = volumes.filter(|volume| mounts.iter().any(|mount| mount.name == volume.name));
        let images = mounted.filter_map(|volume| volume.image.clone());
        let container = |image: ImageVolumeSource| Container {
            name: self.container.name.clone(),
            image: image.reference,
            image_pull_policy: image.pull_policy,
            ..Container::default()
        };
        images.map(container).collect()
    }

    fn ip(&self) -> String {
        self.sandbox.ips.first().or(self.node.ips.first()).cloned().unwrap_or_default()
    }

    fn event(&self, kind: EventType, reason: &str, message: String) {
        self.node.container_event(&self.pod, &self.container, kind, reason, message);
    }

    fn image_failure(&self, of: &Container, error: images::Error) -> StartFailure {
        let image = of.image.clone().unwrap_or_default();
        let (reason, message, told) = match error {
            images::Error::InvalidName(message) => ("InvalidImageName", message.clone(), message),
            images::Error::NeverPull(message) => ("ErrImageNeverPull", message.clone(), message),
            images::Error::Inspect(message) => ("ImageInspectError", message.clone(), message),
            images::Error::Pull(message) => {
                ("ErrImagePull", message.clone(), format!("Failed to pull image \"{image}\": {message}"))
            }
        };
        self.event(EventType::Warning, "Failed", told);
        self.event(EventType::Warning, "Failed", format!("Error: {reason}"));
        StartFailure { pull: true, ..failure(reason, message) }
    }

    async fn create(
        &self,
        image: &images::Image,
        root: &str,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<ContainerRecord, StartFailure> {
        let config_error = |message: String| failure("CreateContainerConfigError", message);
        let ips = if pod::host_network(&self.pod) { &self.node.ips } else { &self.sandbox.ips };
        let content = self.content().await.map_err(config_error)?;
        let services = self.services();
        let sources = environment::Sources {
            content: &content,
            services: &services,
            allocatable: &self.node.allocatable,
        };
        let environment = environment::make(&self.pod, &self.container, ips, &self.node.ips, &sources);
        let environment = environment.map_err(config_error)?;
        let user = Some((image.uid, image.username.as_str()))
            .filter(|(uid, name)| uid.is_some() || !name.is_empty());
        let security = security::of_container(&self.pod, &self.container, root, user, self.target.as_deref());
        let security = security.map_err(config_error)?;
        let mounts = self.mounts(&environment, ips).await.map_err(config_error)?;
        let config = pod::container::config(pod::container::Inputs {
            pod: &self.pod,
            container: &self.container,
            restarts: self.restarts,
            image_ref: image.reference.clone(),
            environment: &environment,
            mounts,
            security,
            memory_capacity: self.node.machine.memory,
        });
        let logs = Path::new(&sandbox_config.log_directory).join(&self.container.name);
        let made = tokio::fs::create_dir_all(&logs).await;
        made.map_err(|error| {
            failure("CreateContainerError", format!("create container log directory: {error}"))
        })?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut runtime = self.node.runtime.raw();
        let created = runtime.create_container(request).await;
        let id = created
            .map_err(|status| failure("CreateContainerError", status.message()))?
            .into_inner()
            .container_id;
        self.event(EventType::Normal, "Created", "Container created".to_owned());
        let started = runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await;
        started.map_err(|status| failure("RunContainerError", status.message()))?;
        self.event(EventType::Normal, "Started", "Container started".to_owned());
        let record = self.node.runtime.container(&id).await;
        record.map_err(|error| failure("RunContainerError", error.message()))
    }

    /// The ConfigMaps and Secrets that the environment names.
    async fn content(&self) -> Result<Content, String> {
        let namespace = pod::namespace(&self.pod);
        let mut content = Content::default();
        let failed = |error: volumes::Error| error.to_string();
        for key in environment::references(&self.pod) {
            match key {
                ObjectKey::ConfigMap(name) => {
                    if let Some(object) =
                        self.node.objects.config_map(namespace, &name).await.map_err(failed)?
                    {
                        content.config_maps.insert(name, object);
                    }
                }
                ObjectKey::Secret(name) => {
                    if let Some(object) = self.node.objects.secret(namespace, &name).await.map_err(failed)? {
                        content.secrets.insert(name, object);
                    }
                }
                // No variable is made of these.
                ObjectKey::ClusterTrustBundles => {}
            }
        }
        Ok(content)
    }

    fn services(&self) -> Vec<Arc<api::types::core::v1::Service>> {
        let mut services = self.node.services.list_namespace(pod::namespace(&self.pod));
        if pod::namespace(&self.pod) != "default" {
            services.extend(self.node.services.get(Some("default"), "kubernetes"));
        }
        services
    }

    /// Volumes, `/etc/hosts` and the file for last words.
    async fn mounts(
        &self,
        environment: &[(String, String)],
        ips: &[String],
    ) -> Result<Vec<v1::Mount>, String> {
        let lookup: BTreeMap<&str, &str> =
            environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let directory = self.node.pod_dir(pod::uid(&self.pod));
        let features = self.node.handlers.features(&self.sandbox.handler);
        let recursive_read_only = features.recursive_read_only_mounts;
        let mut mounts = Vec::new();
        for (index, mount) in self.container.volume_mounts.iter().flatten().enumerate() {
            let Some(volume) = self.volumes.get(&mount.name) else {
                return Err(format!(
                    "cannot find volume \"{}\" to mount into container \"{}\"",
                    mount.name, self.container.name
                ));
            };
            let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
                (_, Some(expression)) if !expression.is_empty() => {
                    Some(expansion::expand(expression, |name| lookup.get(name).copied()))
                }
                (Some(path), _) if !path.is_empty() => Some(path.to_owned()),
                _ => None,
            };
            let mount_path = if mount.mount_path.starts_with('/') {
                mount.mount_path.clone()
            } else {
                format!("/{}", mount.mount_path)
            };
            let Some(path) = &volume.path else {
                mounts.push(image_mount(&self.pod, &mount.name, mount_path, sub_path));
                continue;
            };
            let read_only = volume.read_only || mount.read_only == Some(true);
            let host_path: PathBuf = match sub_path {
                None => path.clone(),
                Some(sub_path) => {
                    let target = directory
                        .join("volume-subpaths")
                        .join(&mount.name)
                        .join(&self.container.name)
                        .join(index.to_string());
                    let (host, path) = (self.node.host.clone(), path.clone());
                    let work = move || volumes::subpath::prepare(&*host, &path, &sub_path, &target);
                    let prepared =
                        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
                    prepared.map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                            mount.name, self.container.name
                        )
                    })?
                }
            };
            let recursive = handlers::recursive_read_only(mount, recursive_read_only)
                .map_err(|error| format!("failed to resolve recursive read-only mode: {error}"))?;
            let propagation = mount.mount_propagation.as_deref();
            mounts.push(v1::Mount {
                recursive_read_only: recursive,
                ..pod::container::bind(&mount_path, &host_path, read_only, propagation)
            });
        }
        let taken = |path: &str| {
            self.container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
        };
        if !taken("/etc/hosts") {
            let node_hosts = match pod::host_network(&self.pod) {
                true => Some(tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default()),
                false => None,
            };
            let (name, domain) = (&self.node.options.node_name, &self.node.options.cluster_domain);
            let text = network::hosts(&self.pod, ips, name, domain, node_hosts.as_deref());
            let file = directory.join("etc-hosts");
            write(&file, text.as_bytes()).await?;
            mounts.push(pod::container::bind("/etc/hosts", &file, false, None));
        }
        let words = pod::container::termination_path(&self.container);
        let file = directory.join("containers").join(&self.container.name).join(self.restarts.to_string());
        write(&file, b"").await?;
        // Whatever user the container runs as may leave its last words.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        tokio::fs::set_permissions(&file, open).await.map_err(|error| error.to_string())?;
        mounts.push(pod::container::bind(words, &file, false, None));
        Ok(mounts)
    }
}

fn image_mount(pod: &Pod, volume: &str, container_path: String, sub_path: Option<String>) -> v1::Mount {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let source = volumes.filter(|v| v.name == volume).find_map(|v| v.image.as_ref());
    let image = source.and_then(|image| image.reference.clone()).unwrap_or_default();
    v1::Mount {
        container_path,
        readonly: true,
        image: Some(v1::ImageSpec { image, ..v1::ImageSpec::default() }),
        image_sub_path: sub_path.unwrap_or_default(),
        ..v1::Mount::default()
    }
}

async fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("write {}: {error}", path.display());
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
    }
    tokio::fs::write(path, bytes).await.map_err(failed)
}

fn decide_grace(pod: &Pod) -> i64 {
    super::decide::grace(pod)
}

/// Stops a container; the runtime kills it after `seconds`.
async fn stop_container(node: &Node, id: &str, seconds: i64) {
    let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: seconds.max(0) };
    if let Err(status) = node.runtime.raw().stop_container(request).await
        && status.code() != tonic::Code::NotFound
    {
        tracing::warn!(id, %status, "a container was not stopped");
        // Whoever asked sees that it still runs and asks again; not at once.
        node.clock.sleep(STOP_AGAIN).await;
    }
}

/// How long to wait after the runtime could not stop a container.
const STOP_AGAIN: Duration = Duration::from_secs(2);

/// Runs the preStop hook and stops the container, all within the time until `deadline`.
pub async fn kill(
    node: &Node,
    pod: &Pod,
    record: &ContainerRecord,
    ip: &str,
    message: &str,
    deadline: Timestamp,
    run_hook: bool,
) {
    let reference = crate::node::container_reference(pod, &record.name);
    node.recorder.event_about(reference.clone(), EventType::Normal, "Killing", message);
    let left = |node: &Node| deadline.duration_since(node.clock.now()).as_secs();
    let containers = pod::containers(pod);
    let container = containers.iter().map(|(_, container)| container).find(|c| c.name == record.name);
    let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    if let Some((container, hook)) =
        hook.filter(|_| run_hook && record.phase == Phase::Running && left(node) > 0)
    {
        let limit = Duration::from_secs(left(node).max(1) as u64);
        let run = lifecycle::run(node, hook, container, &record.id, ip, limit);
        let result = tokio::select! {
            result = run => result,
            () = node.clock.sleep(limit) => Err("PreStopHook did not end within the grace period".to_owned()),
        };
        if let Err(error) = result {
            let message = format!("PreStopHook failed: {error}");
            node.recorder.event_about(reference, EventType::Warning, "FailedPreStopHook", message);
        }
    }
    // Upstream: whoever is stopped softly has at least two seconds for it, even after a long hook.
    let seconds = if run_hook { left(node).max(2) } else { left(node).max(0) };
    let total = deadline <= node.clock.now() && !run_hook;
    stop_container(node, &record.id, if total { 0 } else { seconds }).await;
}

/// A container's last words: from its file, or from the end of its log.
pub async fn last_words(record: &mut ContainerRecord) {
    const MOST: u64 = 4096;
    const FROM_LOG: usize = 2048;
    let path = record.annotations.get(pod::container::TERMINATION_PATH).cloned().unwrap_or_default();
    let fallback = record.annotations.get(pod::container::TERMINATION_POLICY).map(String::as_str)
        == Some("FallbackToLogsOnError");
    let file = record.mounts.iter().find(|(inside, _)| *inside == path).map(|(_, outside)| outside.clone());
    if let Some(file) = file
        && let Ok(bytes) = end_of(&file, MOST).await
        && !bytes.is_empty()
    {
        record.message = String::from_utf8_lossy(&bytes).into_owned();
        return;
    }
    if fallback && record.exit_code != 0 {
        let lines = crate::logs::tail(Path::new(&record.log_path), 80).await.unwrap_or_default();
        let text: Vec<u8> = lines.into_iter().flatten().collect();
        let start = text.len().saturating_sub(FROM_LOG);
        record.message = String::from_utf8_lossy(&text[start..]).into_owned();
    }
}

/// The last `most` bytes of a file. The container owns it, and may have made it larger than memory.
async fn end_of(path: &str, most: u64) -> std::io::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(most))).await?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_a_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words");
        let path = path.to_str().unwrap();
        for (content, want) in [("", ""), ("abc", "abc"), ("0123456789", "6789")] {
            std::fs::write(path, content).unwrap();
            assert_eq!(end_of(path, 4).await.unwrap(), want.as_bytes());
        }
        // Sparse: reading all of it would take four gigabytes.
        std::fs::File::options().write(true).open(path).unwrap().set_len(4 << 30).unwrap();
        assert_eq!(end_of(path, 4096).await.unwrap().len(), 4096);
    }
}
