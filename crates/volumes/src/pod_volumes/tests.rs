//! A pod's volumes on a real directory, with mounts recorded instead of made.

use std::collections::BTreeSet;
use std::io;

use api::types::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::objects::Notify;
use crate::{Credential, TokenSpec, TrustBundles};

#[derive(Default)]
struct RecordingHost(Mutex<Vec<PathBuf>>);

impl Host for RecordingHost {
    fn mount_tmpfs(&self, target: &Path, _size: Option<u64>, _mode: u32) -> io::Result<()> {
        self.0.lock().push(target.to_owned());
        Ok(())
    }
    fn mount_bind(&self, _source: &Path, target: &Path) -> io::Result<()> {
        self.0.lock().push(target.to_owned());
        Ok(())
    }
    fn unmount(&self, target: &Path) -> io::Result<()> {
        self.0.lock().retain(|mount| mount != target);
        Ok(())
    }
    fn mounts_below(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.lock().iter().filter(|mount| mount.starts_with(directory)).cloned().collect())
    }
}

/// One ConfigMap that a test changes; nothing else exists.
#[derive(Default)]
struct Fixed(Mutex<Option<ConfigMap>>);

#[async_trait]
impl Objects for Fixed {
    fn register(&self, _: &Arc<Pod>, _: &BTreeSet<ObjectKey>, _: Notify) {}
    fn unregister(&self, _: &str) {}
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
        Ok(self.0.lock().clone().map(Arc::new))
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Arc<Secret>>, Error> {
        Ok(None)
    }
    async fn token(&self, _: &Pod, _: &TokenSpec) -> Result<String, Error> {
        Ok("token".into())
    }
    fn next_renewal(&self, _: &str) -> Option<Timestamp> {
        None
    }
    async fn trust_bundles(&self) -> Result<TrustBundles, Error> {
        Ok(TrustBundles::default())
    }
    async fn certificate(&self, _: &Pod, _: &str, _: usize) -> Result<Credential, Error> {
        Ok(Credential { key: "key".into(), chain: "chain".into() })
    }
    async fn claim(
        &self,
        _: &str,
        _: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, Error> {
        Ok(None)
    }
}

fn pod(volumes: serde_json::Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn config(value: &str) -> Option<ConfigMap> {
    Some(serde_json::from_value(json!({"metadata": {"name": "cfg"}, "data": {"k": value}})).unwrap())
}

#[tokio::test]
async fn volumes_come_follow_and_go() {
    let root = tempfile::tempdir().unwrap();
    let host = Arc::new(RecordingHost::default());
    let objects = Arc::new(Fixed::default());
    let volumes = PodVolumes::new(root.path().join("pods/u"), objects.clone(), host.clone());
    let pod = pod(json!([
        {"name": "cfg", "configMap": {"name": "cfg"}},
        {"name": "fast", "emptyDir": {"medium": "Memory"}},
        {"name": "logs", "hostPath": {"path": root.path().join("host"), "type": "DirectoryOrCreate"}}]));
    let time = |second| Timestamp::from_second(second).unwrap();

    let missing = volumes.setup(&pod, &BTreeMap::new(), time(1)).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cfg\" not found"
    );

    *objects.0.lock() = config("one");
    let mounted = volumes.setup(&pod, &BTreeMap::new(), time(2)).await.unwrap();
    let file = mounted["cfg"].path.clone().unwrap().join("k");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one");
    assert_eq!(host.0.lock().len(), 1);
    fs::write(mounted["fast"].path.clone().unwrap().join("kept"), "x").unwrap();

    *objects.0.lock() = config("two");
    let again = volumes.setup(&pod, &BTreeMap::new(), time(3)).await.unwrap();
    assert_eq!(again, mounted);
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    assert_eq!(host.0.lock().len(), 1, "nothing is mounted twice");
    assert!(again["fast"].path.clone().unwrap().join("kept").exists());

    volumes.teardown().await.unwrap();
    assert!(host.0.lock().is_empty());
    assert!(!root.path().join("pods/u").exists());
    assert!(root.path().join("host").is_dir(), "the host's own path stays");
}

#[tokio::test]
async fn host_paths_are_checked() {
    let root = tempfile::tempdir().unwrap();
    let volumes = PodVolumes::new(
        root.path().join("u"),
        Arc::new(Fixed::default()),
        Arc::new(RecordingHost::default()),
    );
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, kind, want) in [
        (file.clone(), "File", None),
        (file.clone(), "Directory", Some("is not a directory")),
        (root.path().join("none"), "Socket", Some("is not a socket file")),
        (root.path().join("made"), "FileOrCreate", None),
    ] {
        let pod = pod(json!([{"name": "v", "hostPath": {"path": path, "type": kind}}]));
        let result = volumes.setup(&pod, &BTreeMap::new(), Timestamp::UNIX_EPOCH).await;
        match want {
            None => assert!(result.is_ok(), "{kind}: {result:?}"),
            Some(want) => assert!(result.unwrap_err().to_string().ends_with(want)),
        }
    }
}
