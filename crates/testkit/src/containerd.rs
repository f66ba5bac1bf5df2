//! A containerd of the test's own, as a runtime in place of the embedded one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::{Space, image, wait};

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts it inside the space with all its files below `directory`, and imports the images of `archive`.
    pub fn start(
        space: &Space,
        directory: &Path,
        cni_bin: &Path,
        cni_conf: &Path,
        archive: &Path,
    ) -> Containerd {
        let socket = directory.join("containerd.sock");
        let config = directory.join("containerd.toml");
        let text = format!(
            r#"version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Hosts without CAP_SYS_RESOURCE may not lower it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
"#,
            directory.display(),
            socket = socket.display(),
            pause = image::PAUSE,
            bin = cni_bin.display(),
            conf = cni_conf.display(),
        );
        fs::create_dir_all(directory).expect("the test's folder can be written");
        fs::write(&config, text).expect("the test's folder can be written");
        let log =
            fs::File::create(directory.join("containerd.log")).expect("the test's folder can be written");
        let process = space
            .command("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("containerd is there; tests/tools.sh installs it");
        let containerd = Containerd { process, socket };
        wait::until("containerd answers", || containerd.ctr(space, &["version"]));
        let archive = archive.to_str().expect("the test's folder has a plain name");
        containerd
            .ctr(space, &["--namespace", "k8s.io", "images", "import", archive])
            .expect("the images can be imported");
        containerd
    }

    /// The CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn ctr(&self, space: &Space, arguments: &[&str]) -> Result<String, String> {
        let output = space
            .command("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // nsenter, which waits for containerd; containerd itself ends with the space.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
