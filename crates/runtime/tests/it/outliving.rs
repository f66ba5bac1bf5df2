//! What survives what: the runtime's restart, its supervisors' death.

use std::time::{Duration, Instant};

use cri::v1;
use tokio_stream::StreamExt;

use crate::harness::{Runtime, is_root, shell};

pub fn supervisor_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("outlive");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("main", "while test ! -e /go; do sleep 0.02; done; exit 9");
    config.log_path = "main.log".into();
    let stays = runtime.run(&sandbox, &pod, shell("stays", "sleep 1000")).await;
    let goes = runtime.run(&sandbox, &pod, config).await;
    let pid = runtime.pid(&stays).await;
    let goes_pid = runtime.pid(&goes).await;

    runtime.stop().await;
    // Ends while nobody watches.
    std::fs::write(format!("/proc/{goes_pid}/root/go"), "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&format!("/proc/{goes_pid}")).exists() {
        assert!(Instant::now() < deadline, "the container does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    runtime.restart_stopped().await;

    assert_eq!(runtime.pid(&stays).await, pid, "the same process");
    assert_eq!(runtime.status(&stays).await.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(runtime.ended(&goes).await.exit_code, 9);
    assert_eq!(runtime.exec(&stays, &["echo", "hello"]).await.unwrap().0, "hello\n");
    let status = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = runtime.cri.runtime.pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.network.unwrap().ip, "10.9.8.7");
    runtime.restart().await;
    assert_eq!(runtime.pid(&stays).await, pid, "twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_die_with_their_supervisor_and_that_is_told() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("killed");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let pid = runtime.pid(&id).await;
    let mut events =
        runtime.cri.runtime.get_container_events(v1::GetEventsRequest::default()).await.unwrap().into_inner();
    let supervisor = supervisor_of(pid);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (event.container_id.as_str(), event.container_event_type()),
        (id.as_str(), v1::ContainerEventType::ContainerStoppedEvent)
    );
    let status = runtime.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the container outlives its supervisor");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = runtime.cri.runtime.pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    runtime
        .cri
        .runtime
        .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("traces");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let pid = runtime.pid(&id).await;
    let supervisor = supervisor_of(pid);
    runtime.stop().await;
    runtime::uninstall(&runtime.options).unwrap();
    for path in [&runtime.options.root, &runtime.options.state] {
        assert!(!path.exists(), "{}", path.display());
        assert_eq!(sys::mount::below(path).unwrap(), Vec::<std::path::PathBuf>::new());
    }
    let alive =
        |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(pid) || alive(supervisor) {
        assert!(Instant::now() < deadline, "a process is left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    runtime.restart_stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_opened_anew() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("rotate");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("main", "echo one; while test ! -e /go; do sleep 0.02; done; echo two");
    config.log_path = "main.log".into();
    let id = runtime.run(&sandbox, &pod, config).await;
    let log = runtime.status(&id).await.log_path;
    let moved = format!("{log}.1");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&log).unwrap().contains("one") {
        assert!(Instant::now() < deadline, "no log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::rename(&log, &moved).unwrap();
    runtime
        .cri
        .runtime
        .reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() })
        .await
        .unwrap();
    runtime.exec(&id, &["sh", "-c", "> /go"]).await.unwrap();
    runtime.ended(&id).await;
    assert!(std::fs::read_to_string(&moved).unwrap().ends_with("stdout F one\n"));
    assert!(std::fs::read_to_string(&log).unwrap().ends_with("stdout F two\n"));
}
