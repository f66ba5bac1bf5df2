//! How long a container takes to create, start and delete, beside crun and runc in the same run.
//!
//! `cargo run --release -p runtime --example launch_bench -- [ROUNDS]`, as root, with the supervisor built
//! (`cargo build --release -p runtime --bin runtime-supervisor`). Prints medians in milliseconds. The
//! runtime is asked over its gRPC socket, so its figures include the client; runc and crun are executed
//! with a bundle whose root is made once, so theirs lack the overlay mount and the pod.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool for developers")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1;
use runtime::images::{Build, build};
use runtime::network::{Attachment, Network};

struct Nothing;

impl Network for Nothing {
    fn setup(&self, _: &Attachment) -> Result<Vec<IpAddr>, String> {
        Ok(vec![IpAddr::from([10, 0, 0, 1])])
    }
    fn teardown(&self, _: &Attachment) -> Result<(), String> {
        Ok(())
    }
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50);
    let directory = Path::new("/tmp").join(format!("launch-bench-{}", std::process::id()));
    let program = std::env::current_exe().unwrap();
    let supervisor = program.parent().unwrap().parent().unwrap().join("runtime-supervisor");
    let options = runtime::Options {
        socket: directory.join("cri.sock"),
        root: directory.join("root"),
        state: directory.join("run"),
        supervisor: vec![supervisor.display().to_string()],
        cni_bin_dir: directory.join("none"),
        cni_conf_dir: directory.join("none"),
        registry_hosts_dir: directory.join("none"),
    };
    let files = [("/bin/busybox".into(), "/bin/busybox".into())].into();
    build(&options.root, &Build { name: "bench".into(), files, ..Default::default() }).unwrap();
    let tasks = foundation::Tasks::new("bench");
    let server = runtime::Server::open_with(options.clone(), Arc::new(Nothing), &tasks).await.unwrap();
    let server = tokio::spawn(server.serve(tasks.token()));
    let mut clients = cri::connect(&options.socket).await.unwrap();
    ours(&mut clients.runtime, rounds).await;
    tasks.token().cancel();
    server.await.unwrap().unwrap();
    runtime::uninstall(&options).unwrap();
    for engine in ["runc", "crun"] {
        theirs(engine, &directory, rounds);
    }
    let _ = std::fs::remove_dir_all(&directory);
}

async fn ours(client: &mut cri::RuntimeClient, rounds: usize) {
    let mut pids = v1::NamespaceOption::default();
    pids.set_pid(v1::NamespaceMode::Container);
    let (mut sandboxes, mut creates, mut starts, mut deletes, mut stops) =
        (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let pod = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata { name: format!("p{round}"), ..Default::default() }),
            hostname: "bench".into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/launch-bench/p{round}"),
                ..Default::default()
            }),
            ..Default::default()
        };
        let begin = Instant::now();
        let request = v1::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let sandbox = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        sandboxes.push(begin.elapsed());
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "bench".into(), ..Default::default() }),
            command: ["/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources { cpu_shares: 100, ..Default::default() }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(pids.clone()),
                    seccomp: Some(v1::SecurityProfile::default()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let begin = Instant::now();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod),
        };
        let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
        creates.push(begin.elapsed());
        let begin = Instant::now();
        client
            .start_container(v1::StartContainerRequest { container_id: container_id.clone() })
            .await
            .unwrap();
        starts.push(begin.elapsed());
        let begin = Instant::now();
        client.remove_container(v1::RemoveContainerRequest { container_id }).await.unwrap();
        deletes.push(begin.elapsed());
        let begin = Instant::now();
        client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
        stops.push(begin.elapsed());
    }
    println!(
        "ironclad: sandbox {:.1}, create {:.1}, start {:.1}, kill and delete {:.1}, remove sandbox {:.1} ms",
        median(sandboxes),
        median(creates),
        median(starts),
        median(deletes),
        median(stops)
    );
}

fn theirs(engine: &str, directory: &Path, rounds: usize) {
    let bundle = directory.join(engine);
    std::fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
    let run = |args: &[&str]| Command::new(engine).args(args).current_dir(&bundle).output();
    if !run(&["spec"]).is_ok_and(|o| o.status.success()) {
        println!("{engine}: not installed");
        return;
    }
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "1000"]);
    // Hosts without CAP_SYS_RESOURCE forbid what runc would set.
    spec["process"].as_object_mut().unwrap().remove("rlimits");
    std::fs::write(&path, spec.to_string()).unwrap();
    let (mut creates, mut starts, mut deletes) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let name = format!("bench-{}-{round}", std::process::id());
        let timed = |args: &[&str]| {
            let begin = Instant::now();
            let status = Command::new(engine)
                .args(args)
                .current_dir(&bundle)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status();
            status.is_ok_and(|s| s.success()).then(|| begin.elapsed())
        };
        let Some(create) = timed(&["create", &name]) else {
            println!("{engine}: cannot create a container on this host");
            return;
        };
        creates.push(create);
        starts.extend(timed(&["start", &name]));
        deletes.extend(timed(&["delete", "--force", &name]));
    }
    println!(
        "{engine}: create {:.1}, start {:.1}, kill and delete {:.1} ms",
        median(creates),
        median(starts),
        median(deletes)
    );
}
