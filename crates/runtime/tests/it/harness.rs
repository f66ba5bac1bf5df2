//! A runtime of the test's own: directories, a tiny image of busybox, CRI clients.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cri::v1;
use foundation::Tasks;
use runtime::Options;
use runtime::images::{Build, build};
use runtime::network::{Attachment, Network};

pub const IMAGE: &str = "test/busybox:1";

/// A pod network without one: the namespace stays empty but for what a test puts there.
pub struct Nothing;

impl Network for Nothing {
    fn setup(&self, _: &Attachment) -> Result<Vec<IpAddr>, String> {
        Ok(vec![IpAddr::from([10, 9, 8, 7])])
    }
    fn teardown(&self, _: &Attachment) -> Result<(), String> {
        Ok(())
    }
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

pub struct Runtime {
    pub directory: tempfile::TempDir,
    pub options: Options,
    pub cri: cri::Clients,
    tasks: Tasks,
    server: tokio::task::JoinHandle<Result<(), runtime::Error>>,
    cgroup: String,
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("skipped: needs root");
    }
    root
}

impl Runtime {
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::Builder::new().prefix("ict").tempdir().unwrap();
        let path = directory.path();
        let options = Options {
            socket: path.join("cri.sock"),
            root: path.join("root"),
            state: path.join("run"),
            supervisor: vec![env!("CARGO_BIN_EXE_runtime-supervisor").to_owned()],
            cni_bin_dir: path.join("cni"),
            cni_conf_dir: path.join("net.d"),
            registry_hosts_dir: path.join("hosts"),
        };
        let links = [
            "sh", "cat", "echo", "sleep", "id", "ls", "grep", "mount", "true", "false", "stat", "env", "wc",
            "head", "touch", "dd", "tty", "nc", "unshare", "readlink", "test",
        ];
        build(
            &options.root,
            &Build {
                name: IMAGE.into(),
                files: [(PathBuf::from("/bin/busybox"), PathBuf::from("/bin/busybox"))].into(),
                links: links.iter().map(|l| (format!("/bin/{l}").into(), "busybox".into())).collect(),
                ..Build::default()
            },
        )
        .unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/ironclad-test-{}-{number}", std::process::id());
        let (cri, tasks, server) = serve(&options, Arc::new(Nothing)).await.unwrap();
        Self { directory, options, cri, tasks, server, cgroup }
    }

    /// Stops serving, and serves again, as another process would.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.restart_stopped().await;
    }

    /// Serves again after [`Self::stop`].
    pub async fn restart_stopped(&mut self) {
        self.restart_with(Arc::new(Nothing)).await.unwrap();
    }

    /// As [`Self::restart_stopped`], with a network of the test's own.
    pub async fn restart_with(&mut self, network: Arc<dyn Network>) -> Result<(), runtime::Error> {
        (self.cri, self.tasks, self.server) = serve(&self.options, network).await?;
        Ok(())
    }

    pub async fn stop(&mut self) {
        self.tasks.token().cancel();
        (&mut self.server).await.unwrap().unwrap();
        assert_eq!(self.tasks.shutdown(Duration::from_secs(10)).await, Vec::<String>::new());
    }

    pub fn sandbox_config(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.directory.path().join("logs").join(name).display().to_string(),
            dns_config: Some(v1::DnsConfig { servers: vec!["10.43.0.10".into()], ..Default::default() }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn sandbox(&mut self, config: &v1::PodSandboxConfig) -> String {
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        self.cri.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(
        &mut self,
        sandbox: &str,
        sandbox_config: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config.clone()),
        };
        Ok(self.cri.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn run(
        &mut self,
        sandbox: &str,
        sandbox_config: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> String {
        let id = self.create(sandbox, sandbox_config, config).await.unwrap();
        let request = v1::StartContainerRequest { container_id: id.clone() };
        self.cri.runtime.start_container(request).await.unwrap();
        id
    }

    pub async fn status(&mut self, container: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn pid(&mut self, container: &str) -> i32 {
        let request = v1::ContainerStatusRequest { container_id: container.into(), verbose: true };
        let info = self.cri.runtime.container_status(request).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        info["pid"].as_i64().unwrap() as i32
    }

    /// Waits until the container has ended.
    pub async fn ended(&mut self, container: &str) -> v1::ContainerStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status(container).await;
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs a shell script to its end in a container of its own: its output, its exit code.
    pub async fn script(
        &mut self,
        sandbox: &str,
        sandbox_config: &v1::PodSandboxConfig,
        mut config: v1::ContainerConfig,
    ) -> (String, i32) {
        config.log_path = format!("{}.log", config.metadata.as_ref().unwrap().name);
        let log = PathBuf::from(&sandbox_config.log_directory).join(&config.log_path);
        let id = self.run(sandbox, sandbox_config, config).await;
        let code = self.ended(&id).await.exit_code;
        let text = std::fs::read_to_string(log).unwrap();
        let lines = text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default());
        (lines.collect::<Vec<_>>().join("\n"), code)
    }

    pub async fn exec(
        &mut self,
        container: &str,
        command: &[&str],
    ) -> Result<(String, String, i32), tonic::Status> {
        let request = v1::ExecSyncRequest {
            container_id: container.into(),
            cmd: command.iter().map(|s| (*s).to_owned()).collect(),
            timeout: 10,
        };
        let done = self.cri.runtime.exec_sync(request).await?.into_inner();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Ok((text(done.stdout), text(done.stderr), done.exit_code))
    }
}

type Serving = (cri::Clients, Tasks, tokio::task::JoinHandle<Result<(), runtime::Error>>);

async fn serve(options: &Options, network: Arc<dyn Network>) -> Result<Serving, runtime::Error> {
    let tasks = Tasks::new("test");
    let server = runtime::Server::open_with(options.clone(), network, &tasks).await?;
    let server = tokio::spawn(server.serve(tasks.token()));
    Ok((cri::connect(&options.socket).await.unwrap(), tasks, server))
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.tasks.token().cancel();
        let _ = runtime::uninstall(&self.options);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
        remove_groups(&PathBuf::from("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/')));
    }
}

fn remove_groups(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

pub fn own_pids() -> v1::NamespaceOption {
    let mut options = v1::NamespaceOption::default();
    options.set_pid(v1::NamespaceMode::Container);
    options
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        linux: Some(v1::LinuxContainerConfig {
            resources: None,
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(own_pids()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The security context of a config from [`shell`].
pub fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}
