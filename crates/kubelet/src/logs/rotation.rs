//! Keeps logs small: a file over 10 MiB is renamed and the runtime opens a new one; five files are kept.
//!
//! Looks once a minute at the logs of running containers (one `stat` each) and sleeps while nothing runs.
//! Upstream: `pkg/kubelet/logs/container_log_manager.go`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use foundation::Tasks;

use crate::manager::Pods;
use crate::node::Node;
use crate::worker::state::Phase;

const MOST_BYTES: u64 = 10 * 1024 * 1024;
const MOST_FILES: usize = 5;
const RHYTHM: Duration = Duration::from_secs(60);

pub(crate) fn run(node: Arc<Node>, pods: Pods, tasks: &Tasks) {
    tasks.spawn_until_cancelled("kubelet", async move {
        loop {
            node.clock.sleep(RHYTHM).await;
            for snapshot in pods.snapshots() {
                for container in snapshot.runtime.containers.iter().filter(|c| c.phase == Phase::Running) {
                    if let Err(error) = look(&node, &container.id, Path::new(&container.log_path)).await {
                        tracing::warn!(path = container.log_path, %error, "a log was not rotated");
                    }
                }
            }
        }
    });
}

async fn look(node: &Node, id: &str, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.len() > MOST_BYTES => {}
        _ => return Ok(()),
    }
    let stamp = node.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
    for old in surplus(path)? {
        tokio::fs::remove_file(old).await?;
    }
    let rotated = PathBuf::from(format!("{}.{stamp}", path.display()));
    tokio::fs::rename(path, &rotated).await?;
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(status) = node.runtime.raw().reopen_container_log(request).await {
        // The runtime still writes to the old file: give it its name back.
        tokio::fs::rename(&rotated, path).await?;
        return Err(status.into());
    }
    Ok(())
}

/// The rotated files that must go so that, with one more, no more than the limit are kept: the oldest.
fn surplus(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    // The file in use and the one that is rotated now count too.
    rotated.truncate((rotated.len() + 2).saturating_sub(MOST_FILES));
    Ok(rotated)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4", "1.log.1"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(super::surplus(&path).unwrap(), [directory.path().join("0.log.1")]);
    }
}
