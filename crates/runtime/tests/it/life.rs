//! Pods and containers from beginning to end, and what a container finds inside.

use cri::v1;

use crate::harness::{IMAGE, Runtime, is_root, security, shell};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("logs");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("main", "echo out; echo err >&2; exit 3");
    config.log_path = "main/0.log".into();
    let id = runtime.run(&sandbox, &pod, config).await;
    let status = runtime.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<&str> = log.lines().map(|l| l.split_once(' ').unwrap().1).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"], "{log}");

    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    runtime.cri.runtime.remove_pod_sandbox(request.clone()).await.unwrap();
    runtime.cri.runtime.remove_pod_sandbox(request).await.expect("gone already is fine");
    let left = runtime.cri.runtime.list_containers(v1::ListContainersRequest::default()).await.unwrap();
    assert_eq!(left.into_inner().containers, []);
    let gone = runtime
        .cri
        .runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false })
        .await
        .unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    assert_eq!(gone.message(), format!("an error occurred when try to find sandbox {sandbox:?}: not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_finds_inside() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("inside");
    let sandbox = runtime.sandbox(&pod).await;

    let volume = runtime.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the host").unwrap();
    let mount = |target: &str, readonly| v1::Mount {
        container_path: target.into(),
        host_path: volume.display().to_string(),
        readonly,
        ..Default::default()
    };
    let mut plain = shell(
        "plain",
        "hostname 2>/dev/null || cat /etc/hostname; cat /etc/resolv.conf; id -u; echo $$; cat /data/file; echo; \
         echo x > /data/new && echo written; (echo x > /ro/new) 2>&1; readlink /dev/fd; \
         cat /proc/self/oom_score_adj; ls /dev/shm -d; grep -c . /proc/1/cgroup > /dev/null; \
         test -e /sys/fs/cgroup && echo cgroups; cat /proc/cpuinfo | wc -c; echo v > /proc/sys/kernel/domainname",
    );
    plain.mounts = vec![mount("/data", false), mount("/ro", true)];
    let context = security(&mut plain);
    context.masked_paths = vec!["/proc/cpuinfo".into(), "/proc/missing".into()];
    context.readonly_paths = vec!["/proc/sys".into()];
    plain.linux.as_mut().unwrap().resources =
        Some(v1::LinuxContainerResources { oom_score_adj: 985, ..Default::default() });
    let (text, code) = runtime.script(&sandbox, &pod, plain).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "inside",
            "nameserver 10.43.0.10",
            "0",
            "1",
            "from the host",
            "written",
            "/bin/sh: can't create /ro/new: Read-only file system",
            "/proc/self/fd",
            "985",
            "/dev/shm",
            "cgroups",
            "0",
            "/bin/sh: can't create /proc/sys/kernel/domainname: Read-only file system",
        ],
        "exit {code}"
    );

    let mut user = shell(
        "user",
        "id -u; id -g; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; echo x > /dev/stdout; (unshare -U true) 2>&1; echo x > /new",
    );
    let context = security(&mut user);
    context.run_as_user = Some(v1::Int64Value { value: 1000 });
    context.run_as_group = Some(v1::Int64Value { value: 1001 });
    context.supplemental_groups = vec![7];
    context.no_new_privs = true;
    context.readonly_rootfs = true;
    context.seccomp = Some(v1::SecurityProfile::default());
    context.capabilities =
        Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    let (text, _) = runtime.script(&sandbox, &pod, user).await;
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "1000",
            "1001",
            "1001 7",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "x",
            "unshare: unshare(0x10000000): Operation not permitted",
            "/bin/sh: can't create /new: Read-only file system",
        ]
    );

    let mut privileged = shell(
        "privileged",
        "grep CapEff /proc/self/status; test -w /proc/sys/kernel && echo rw; test -e /dev/kmsg && echo kmsg",
    );
    security(&mut privileged).privileged = true;
    let (text, _) = runtime.script(&sandbox, &pod, privileged).await;
    let host = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = host.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
    assert!(text.starts_with(&format!("CapEff:{all}\nrw")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("wrong");
    let sandbox = runtime.sandbox(&pod).await;
    for (command, expected) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/foo", "exec: \"/foo\": stat /foo: no such file or directory"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        let mut config = shell("wrong", "");
        config.command = vec![command.into()];
        let id = runtime.create(&sandbox, &pod, config).await.unwrap();
        let start = v1::StartContainerRequest { container_id: id.clone() };
        let error = runtime.cri.runtime.start_container(start).await.unwrap_err();
        let message = format!("failed to start container: unable to start container process: {expected}");
        assert_eq!(error.message(), message);
        let status = runtime.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str(), status.message), (128, "StartError", message));
    }
    let mut config = shell("wrong", "");
    config.image = Some(v1::ImageSpec { image: "missing".into(), ..Default::default() });
    let error = runtime.create(&sandbox, &pod, config).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
    let mut config = shell("wrong", "");
    security(&mut config).capabilities =
        Some(v1::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() });
    let error = runtime.create(&sandbox, &pod, config).await.unwrap_err();
    assert_eq!(error.message(), "unknown capability \"CAP_FLY\"");
    let mut config = shell("wrong", "");
    security(&mut config).apparmor = Some(v1::SecurityProfile { profile_type: 2, localhost_ref: "p".into() });
    let id = runtime.create(&sandbox, &pod, config).await.unwrap();
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let start = v1::StartContainerRequest { container_id: id };
        let error = runtime.cri.runtime.start_container(start).await.unwrap_err();
        assert!(error.message().contains("AppArmor is not enabled on this host"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_then_kills() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("stop");
    let sandbox = runtime.sandbox(&pod).await;
    let polite = runtime
        .run(&sandbox, &pod, shell("polite", "trap 'exit 7' TERM; while :; do sleep 0.05; done"))
        .await;
    let stubborn =
        runtime.run(&sandbox, &pod, shell("stubborn", "trap '' TERM; while :; do sleep 0.05; done")).await;
    // The trap is set when the shell has begun to sleep.
    for id in [&polite, &stubborn] {
        let pid = runtime.pid(id).await;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "the script does not begin");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    for (id, timeout, code) in [(&polite, 10, 7), (&stubborn, 1, 137)] {
        let request = v1::StopContainerRequest { container_id: id.clone(), timeout };
        runtime.cri.runtime.stop_container(request).await.unwrap();
        assert_eq!(runtime.status(id).await.exit_code, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_limits_kill() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("oom");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("oom", "exec dd if=/dev/zero of=/dev/null bs=200M");
    config.linux.as_mut().unwrap().resources =
        Some(v1::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() });
    let id = runtime.run(&sandbox, &pod, config).await;
    let status = runtime.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_process() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("exec");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("main", "sleep 1000");
    config.envs = vec![v1::KeyValue { key: "FROM".into(), value: "pod".into() }];
    let id = runtime.run(&sandbox, &pod, config).await;
    let done = runtime.exec(&id, &["sh", "-c", "echo $FROM $$; echo no >&2; exit 4"]).await.unwrap();
    assert_eq!((done.1.as_str(), done.2), ("no\n", 4));
    assert!(done.0.starts_with("pod ") && done.0 != "pod 1\n", "{}", done.0);
    let error = runtime.exec(&id, &["foo"]).await.unwrap_err();
    assert!(error.message().ends_with("exec: \"foo\": executable file not found in $PATH"), "{error}");
    let slow = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into(), "1000".into()],
        timeout: 1,
    };
    let error = runtime.cri.runtime.exec_sync(slow).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded, "{error}");
    // More than a pipe holds, on both streams.
    let done = runtime
        .exec(&id, &["sh", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"])
        .await
        .unwrap();
    assert_eq!((done.0.len(), done.1.len(), done.2), (300_000, 300_000, 0));
    let stats = runtime
        .cri
        .runtime
        .container_stats(v1::ContainerStatsRequest { container_id: id.clone() })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_can_share_their_processes() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let mut pod = runtime.sandbox_config("shared");
    let options = |mode| {
        let mut options = v1::NamespaceOption::default();
        options.set_pid(mode);
        Some(options)
    };
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options =
        options(v1::NamespaceMode::Pod);
    let sandbox = runtime.sandbox(&pod).await;
    // Not by a shell, which would be seen under its own name until it has become the other program.
    let sleep = |name: &str, seconds: &str| v1::ContainerConfig {
        command: vec!["/bin/sleep".into(), seconds.into()],
        ..shell(name, "")
    };
    let mut first = sleep("first", "1234");
    security(&mut first).namespace_options = options(v1::NamespaceMode::Pod);
    let first = runtime.run(&sandbox, &pod, first).await;
    let mut second = shell("second", "cat /proc/[0-9]*/cmdline");
    security(&mut second).namespace_options = options(v1::NamespaceMode::Pod);
    let (text, code) = runtime.script(&sandbox, &pod, second).await;
    assert!(text.contains("sleep\u{0}1234"), "{code}: {text:?}");
    // A debug container looks into one container only.
    let mut own = sleep("own", "4321");
    security(&mut own).namespace_options = options(v1::NamespaceMode::Container);
    let own = runtime.run(&sandbox, &pod, own).await;
    let mut debug = shell("debug", "cat /proc/1/cmdline");
    let target = v1::NamespaceOption { target_id: own, ..options(v1::NamespaceMode::Target).unwrap() };
    security(&mut debug).namespace_options = Some(target);
    let (text, _) = runtime.script(&sandbox, &pod, debug).await;
    assert!(text.contains("sleep\u{0}4321"), "{text:?}");
    // What is left in the shared namespace goes with its container.
    runtime
        .cri
        .runtime
        .stop_container(v1::StopContainerRequest { container_id: first.clone(), timeout: 0 })
        .await
        .unwrap();
    assert_eq!(runtime.status(&first).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_and_removed() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let images =
        runtime.cri.images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(images[0].repo_tags, ["docker.io/test/busybox:1"]);
    let spec = |image: &str| Some(v1::ImageSpec { image: image.into(), ..Default::default() });
    for (name, there) in [(IMAGE, true), (images[0].id.as_str(), true), ("other", false)] {
        let request = v1::ImageStatusRequest { image: spec(name), verbose: false };
        let found = runtime.cri.images.image_status(request).await.unwrap().into_inner().image;
        assert_eq!(found.is_some(), there, "{name}");
    }
    let pod = runtime.sandbox_config("images");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    runtime.cri.images.remove_image(v1::RemoveImageRequest { image: spec(IMAGE) }).await.unwrap();
    let (out, ..) = runtime.exec(&id, &["echo", "still here"]).await.unwrap();
    assert_eq!(out, "still here\n", "a running container keeps its layers");
    let request = v1::PullImageRequest { image: spec("localhost:1/x:1"), ..Default::default() };
    let error = runtime.cri.images.pull_image(request).await.unwrap_err();
    assert!(error.message().contains("failed to resolve reference \"localhost:1/x:1\""), "{error}");
    assert!(error.message().contains("connection refused"), "{error}");
}
