//! What the runtime makes of crashes, failures of its helpers, and clients that ask twice.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cri::v1;
use runtime::network::{Attachment, Network};

use crate::harness::{Nothing, Runtime, is_root, shell};
use crate::outliving::supervisor_of;

/// Counts disconnections, and fails the first ones.
#[derive(Default)]
struct Stubborn {
    failures: u32,
    teardowns: AtomicU32,
}

impl Network for Stubborn {
    fn setup(&self, pod: &Attachment) -> Result<Vec<IpAddr>, String> {
        Nothing.setup(pod)
    }
    fn teardown(&self, _: &Attachment) -> Result<(), String> {
        let number = self.teardowns.fetch_add(1, Ordering::Relaxed);
        if number < self.failures { Err("the plugin is out of order".into()) } else { Ok(()) }
    }
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_never_finished_is_removed_at_the_next_start() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("half");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let supervisor = supervisor_of(runtime.pid(&id).await);
    runtime.stop().await;
    // As a runtime leaves it that was killed before it had connected the pod.
    let record = runtime.options.root.join("sandboxes").join(&sandbox).join("record.json");
    edit(&record, |record| {
        record["making"] = true.into();
        record["ready"] = false.into();
    });
    let network = Arc::new(Stubborn::default());
    runtime.restart_with(network.clone()).await.unwrap();
    until("the supervisor is left", || !alive(supervisor)).await;
    assert_eq!(network.teardowns.load(Ordering::Relaxed), 1, "its address is given back");
    assert!(!record.exists() && !runtime.options.state.join("netns").join(&sandbox).exists());
    let list = runtime.cri.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_to_read_is_no_crash_of_the_writer() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("reading");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let pid = runtime.pid(&id).await;
    runtime.stop().await;
    let record = runtime.options.root.join("sandboxes").join(&sandbox).join("record.json");
    let aside = record.with_extension("aside");
    std::fs::rename(&record, &aside).unwrap();
    // Reading a directory is an error of the kernel's, as being out of descriptors is.
    std::fs::create_dir(&record).unwrap();
    let error = runtime.restart_with(Arc::new(Nothing)).await.unwrap_err();
    assert!(error.to_string().contains("record.json"), "{error}");
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&aside, &record).unwrap();
    runtime.restart_with(Arc::new(Nothing)).await.unwrap();
    assert_eq!(runtime.pid(&id).await, pid);
    assert_eq!(runtime.exec(&id, &["echo", "alive"]).await.unwrap().0, "alive\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_failed_can_be_tried_again() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    runtime.stop().await;
    runtime.restart_with(Arc::new(Stubborn { failures: 1, ..Stubborn::default() })).await.unwrap();
    let pod = runtime.sandbox_config("again");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let supervisor = supervisor_of(runtime.pid(&id).await);
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    let error = runtime.cri.runtime.stop_pod_sandbox(request.clone()).await.unwrap_err();
    assert!(error.message().ends_with("the plugin is out of order"), "{error}");
    runtime.cri.runtime.stop_pod_sandbox(request).await.unwrap();
    until("the supervisor is left", || !alive(supervisor)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_asked_for_twice_happens_once() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("twice");
    let sandbox = runtime.sandbox(&pod).await;
    for round in 0..5 {
        let id = runtime.create(&sandbox, &pod, shell(&format!("c{round}"), "sleep 1000")).await.unwrap();
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let (mut one, mut two) = (runtime.cri.runtime.clone(), runtime.cri.runtime.clone());
        let (first, second) =
            tokio::join!(one.start_container(request.clone()), two.start_container(request));
        let refusals: Vec<tonic::Status> = [first, second].into_iter().filter_map(Result::err).collect();
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(refusals[0].code(), tonic::Code::FailedPrecondition, "{refusals:?}");
        let status = runtime.status(&id).await;
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_command_hears_of_the_supervisors_death() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("waiting");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let supervisor = supervisor_of(runtime.pid(&id).await);
    let mut client = runtime.cri.runtime.clone();
    // Its output goes elsewhere, so that nothing but its end is waited for.
    let cmd = ["sh", "-c", "touch /begun; exec sleep 1000 >/dev/null 2>&1"].map(str::to_owned).to_vec();
    let request = v1::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 };
    let waiting = tokio::spawn(async move { client.exec_sync(request).await });
    let begun = format!("/proc/{}/root/begun", runtime.pid(&id).await);
    until("the command does not begin", || Path::new(&begun).exists()).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let error = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap_err();
    assert!(error.message().contains("supervisor"), "{error}");
}

/// Each end of a command is told to every client of the supervisor. One that does not read must hold up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stalls_no_supervisor() {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("deaf");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let info = runtime.cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let deaf = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(deaf.as_raw_fd(), &UnixAddr::new(info["supervisor"].as_str().unwrap()).unwrap()).unwrap();
    // More messages than a socket's buffer of 208 KiB takes.
    for _ in 0..600 {
        let done = tokio::time::timeout(Duration::from_secs(10), runtime.exec(&id, &["true"])).await;
        assert_eq!(done.expect("the supervisor answers no more").unwrap().2, 0);
    }
}
