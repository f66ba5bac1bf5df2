//! Speaks to a runtime that others wrote: Debian's containerd, a private instance. Needs root and
//! containerd; without them the test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that meets an error is to fail")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cri::v1;

struct Containerd {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Option<Containerd> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let config = format!(
        "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n[grpc]\n  address = \"{path}/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n  disable_tcp_service = true\n  restrict_oom_score_adj = true\n"
    );
    let file = directory.path().join("config.toml");
    std::fs::write(&file, config).unwrap();
    // Root's home is where it is installed to be found; an ordinary user cannot start it.
    if !Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n") {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("skipped: needs root");
        return None;
    }
    let child =
        Command::new("containerd").arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match child {
        Ok(child) => Some(Containerd { child, directory }),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none(), "no containerd: {e}");
            eprintln!("skipped: no containerd ({e})");
            None
        }
    }
}

#[tokio::test]
async fn containerd_understands_us() {
    let Some(containerd) = start() else { return };
    let socket = containerd.directory.path().join("containerd.sock");
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut clients = loop {
        // It listens before its plugins answer.
        if let Ok(mut clients) = cri::connect(&socket).await
            && clients.runtime.version(v1::VersionRequest::default()).await.is_ok()
        {
            break clients;
        }
        assert!(Instant::now() < deadline, "containerd does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let version = clients.runtime.version(v1::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("containerd", "v1"));
    let status = clients.runtime.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    let ready = conditions.iter().find(|c| c.r#type == "RuntimeReady").unwrap();
    assert!(ready.status && !status.info.is_empty());

    let list = clients.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().items, []);
    let images = clients.images.list_images(v1::ListImagesRequest::default()).await.unwrap();
    assert_eq!(images.into_inner().images, []);
    let usage = clients.images.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert!(usage.image_filesystems[0].timestamp > 0);
    let missing = v1::ContainerStatusRequest { container_id: "missing".into(), verbose: false };
    assert_eq!(clients.runtime.container_status(missing).await.unwrap_err().code(), tonic::Code::NotFound);
    // A request whose inner messages count: without metadata it is refused before anything is done.
    let config = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let error = clients.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("must include metadata"), "{error}");
}
