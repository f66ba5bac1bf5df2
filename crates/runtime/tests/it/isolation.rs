//! What a pod may not do to the host.

use cri::v1;

use crate::harness::{Runtime, is_root, shell};

#[tokio::test(flavor = "multi_thread")]
async fn kernel_parameters_of_the_host_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut pod = runtime.sandbox_config("sysctl");
    for name in ["kernel.core_pattern", "kernel/core_pattern", "net.//.kernel.core_pattern"] {
        let mut bad = pod.clone();
        bad.linux.as_mut().unwrap().sysctls = [(name.to_owned(), "core-of-a-test".to_owned())].into();
        let request = v1::RunPodSandboxRequest { config: Some(bad), ..Default::default() };
        let error = runtime.cri.runtime.run_pod_sandbox(request).await.unwrap_err();
        assert!(error.message().ends_with("is not in a separate kernel namespace"), "{error}");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    }
    pod.linux.as_mut().unwrap().sysctls = [("net.ipv4.ip_unprivileged_port_start".into(), "7".into())].into();
    let sandbox = runtime.sandbox(&pod).await;
    let own = shell("own", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(runtime.script(&sandbox, &pod, own).await, ("7".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_runtime_does_not_have_is_refused() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let mut pod = runtime.sandbox_config("class");
    let request = v1::RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: "kata".into() };
    let error = runtime.cri.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.message(), "no runtime for \"kata\" is configured");
    let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    let options = security.namespace_options.as_mut().unwrap();
    let mut users = v1::UserNamespace::default();
    users.set_mode(v1::NamespaceMode::Pod);
    options.userns_options = Some(users);
    let request = v1::RunPodSandboxRequest { config: Some(pod), ..Default::default() };
    let error = runtime.cri.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.message(), "user namespaces are not supported");
}

/// A volume in the place of /proc would tell the launcher what the container's rights are.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_mounted_over_the_process_filesystem() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("proc");
    let sandbox = runtime.sandbox(&pod).await;
    let volume = runtime.directory.path().join("volume");
    std::fs::create_dir_all(volume.join("self")).unwrap();
    std::fs::write(volume.join("self/status"), "CapBnd: 0\n").unwrap();
    std::os::unix::fs::symlink("/proc/self", volume.join("bent")).unwrap();
    let mount = |target: &str, source: std::path::PathBuf| v1::Mount {
        container_path: target.into(),
        host_path: source.display().to_string(),
        ..Default::default()
    };
    for (mounts, expected) in [
        (vec![mount("/proc", volume.clone())], "\"/proc\" cannot be mounted because it is not of type proc"),
        (vec![mount("//proc", volume.clone())], "cannot be mounted because it is inside /proc"),
        (
            vec![mount("/proc/self/attr", volume.clone())],
            "\"/proc/self/attr\" cannot be mounted because it is inside /proc",
        ),
        (
            vec![mount("/v", volume.clone()), mount("/v/bent/attr", volume.clone())],
            "cannot be mounted because it is inside /proc",
        ),
    ] {
        let mut config = shell("proc", "echo never");
        config.mounts = mounts;
        let id = runtime.create(&sandbox, &pod, config).await.unwrap();
        let start = v1::StartContainerRequest { container_id: id };
        let error = runtime.cri.runtime.start_container(start).await.unwrap_err();
        assert!(error.message().ends_with(expected), "{error}");
    }
    let mut real = shell("real", "cat /proc/meminfo; test -d /proc/1 && echo processes");
    real.mounts = vec![mount("/proc", "/proc".into()), mount("/proc/meminfo", volume.join("self/status"))];
    let (text, code) = runtime.script(&sandbox, &pod, real).await;
    assert_eq!((text.as_str(), code), ("CapBnd: 0\nprocesses", 0));
}

/// Paths are masked with the null device itself, not with what a shared volume shows under its name.
#[tokio::test(flavor = "multi_thread")]
async fn paths_are_masked_with_the_null_device_only() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("mask");
    let sandbox = runtime.sandbox(&pod).await;
    let volume = runtime.directory.path().join("dev");
    std::fs::create_dir(&volume).unwrap();
    // What the container sees as /dev/null is a link to what it must not see.
    std::os::unix::fs::symlink("/proc/cpuinfo", volume.join("null")).unwrap();
    let mut config = shell("mask", "cat /proc/meminfo");
    config.mounts = vec![v1::Mount {
        container_path: "/dev".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    }];
    crate::harness::security(&mut config).masked_paths = vec!["/proc/meminfo".into()];
    let id = runtime.create(&sandbox, &pod, config).await.unwrap();
    let start = v1::StartContainerRequest { container_id: id };
    let error = runtime.cri.runtime.start_container(start).await.unwrap_err();
    assert!(error.message().contains("/dev/null is not the null device"), "{error}");
}
