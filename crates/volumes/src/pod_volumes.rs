//! The executor: makes the volumes of one pod what their plans say, and takes them away again.
//!
//! Writes below `<root>/pods/<uid>/volumes/<plugin>/<name>` (upstream's layout) and mounts tmpfs there. Disk work runs
//! on blocking threads. Not here: what a volume contains (the kinds), when to look again (the kubelet).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::meta::Quantity;
use api::types::core::v1::Pod;
use jiff::Timestamp;

use crate::ownership::{self, Policy};
use crate::{
    Content, Context, Error, Host, Medium, ObjectKey, Objects, PathCheck, Plan, References, atomic_writer,
    kinds,
};

/// A volume that containers can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Where it is on the node; `None` for an image, which the runtime mounts.
    pub path: Option<PathBuf>,
    /// Whether containers may not write to it whatever their mounts say.
    pub read_only: bool,
}

/// The volumes of one pod.
#[derive(Clone)]
pub struct PodVolumes {
    /// `<root>/pods/<uid>`.
    directory: PathBuf,
    objects: Arc<dyn Objects>,
    host: Arc<dyn Host>,
}

/// What is to be done on the disk for one volume.
struct Work {
    name: String,
    directory: PathBuf,
    plan: Plan,
    group: Option<u32>,
    policy: Policy,
    stamp: String,
}

impl PodVolumes {
    /// The volumes of the pod whose directory (`<root>/pods/<uid>`) is given.
    pub fn new(directory: PathBuf, objects: Arc<dyn Objects>, host: Arc<dyn Host>) -> PodVolumes {
        PodVolumes { directory, objects, host }
    }

    /// What the pod's volumes read from the API.
    pub fn references(pod: &Pod) -> References {
        let mut references = References::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if let Ok(kind) = kinds::of(volume) {
                references.extend(kind.references());
            }
        }
        references
    }

    /// Makes all volumes of the pod what they are to be now. It may be called again and again: directories stay as
    /// they are, files follow their sources.
    pub async fn setup(
        &self,
        pod: &Arc<Pod>,
        allocatable: &BTreeMap<String, Quantity>,
        now: Timestamp,
    ) -> Result<BTreeMap<String, MountedVolume>, Error> {
        let spec = pod.spec.clone().unwrap_or_default();
        let security = spec.security_context.unwrap_or_default();
        let group = security.fs_group.and_then(|group| u32::try_from(group).ok());
        let policy = match security.fs_group_change_policy.as_deref() {
            Some("OnRootMismatch") => Policy::OnRootMismatch,
            _ => Policy::Always,
        };
        let mut work = Vec::new();
        for volume in spec.volumes.unwrap_or_default() {
            let failed = |source| Error::SetUp { volume: volume.name.clone(), source: Box::new(source) };
            let kind = kinds::of(&volume).map_err(failed)?;
            let content = self.read(pod, &volume.name, &kind.references()).await.map_err(failed)?;
            let plan = kind.plan(&Context { pod, allocatable }, &content).map_err(failed)?;
            let directory =
                self.directory.join("volumes").join(kind.plugin().replace('/', "~")).join(&volume.name);
            let stamp = format!("{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
            work.push(Work { name: volume.name, directory, plan, group, policy, stamp });
        }
        let host = self.host.clone();
        blocking(move || {
            let mut mounted = BTreeMap::new();
            for work in work {
                let failed = |source| Error::SetUp { volume: work.name.clone(), source: Box::new(source) };
                let volume = apply(&*host, &work).map_err(failed)?;
                mounted.insert(work.name, volume);
            }
            Ok(mounted)
        })
        .await
    }

    /// A snapshot of what a volume reads.
    async fn read(&self, pod: &Pod, volume: &str, references: &References) -> Result<Content, Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut content = Content::default();
        for key in &references.objects {
            match key {
                ObjectKey::ConfigMap(name) => {
                    if let Some(object) = self.objects.config_map(namespace, name).await? {
                        content.config_maps.insert(name.clone(), object);
                    }
                }
                ObjectKey::Secret(name) => {
                    if let Some(object) = self.objects.secret(namespace, name).await? {
                        content.secrets.insert(name.clone(), object);
                    }
                }
                ObjectKey::ClusterTrustBundles => {
                    content.trust_bundles = self.objects.trust_bundles().await?;
                }
            }
        }
        for spec in &references.tokens {
            content.tokens.insert(spec.clone(), self.objects.token(pod, spec).await?);
        }
        for source in &references.certificates {
            content.certificates.insert(*source, self.objects.certificate(pod, volume, *source).await?);
        }
        if let Some(claim) = &references.claim {
            content.claim = self.objects.claim(namespace, claim).await?;
        }
        Ok(content)
    }

    /// Unmounts and removes everything below the pod's directory, and the directory.
    pub async fn teardown(&self) -> Result<(), Error> {
        let (directory, host) = (self.directory.clone(), self.host.clone());
        blocking(move || {
            if fs::symlink_metadata(&directory).is_err() {
                return Ok(());
            }
            let mounts = host.mounts_below(&directory).map_err(|e| Error::host("inspect", &directory, e))?;
            for mount in mounts.iter().rev() {
                host.unmount(mount).map_err(|e| Error::host("unmount", mount, e))?;
            }
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(Error::host("remove", &directory, error))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Invalid(format!("volume work did not finish: {error}"))),
    }
}

fn apply(host: &dyn Host, work: &Work) -> Result<MountedVolume, Error> {
    match &work.plan {
        Plan::Image => Ok(MountedVolume { path: None, read_only: true }),
        Plan::HostPath { path, check, own, read_only } => {
            self::check(path, *check)?;
            if let Some(group) = work.group.filter(|_| *own) {
                ownership::apply(path, group, *read_only, work.policy)?;
            }
            Ok(MountedVolume { path: Some(path.clone()), read_only: *read_only })
        }
        Plan::Directory { medium, mode } => {
            let fresh = prepare(host, &work.directory, medium, *mode)?;
            if let Some(group) = work.group.filter(|_| fresh) {
                ownership::apply(&work.directory, group, false, work.policy)?;
            }
            Ok(MountedVolume { path: Some(work.directory.clone()), read_only: false })
        }
        Plan::Files { payload, medium } => {
            let fresh = prepare(host, &work.directory, medium, 0o777)?;
            atomic_writer::write(&work.directory, payload, &work.stamp, |version| match work.group {
                Some(group) => ownership::apply(version, group, true, Policy::Always),
                None => Ok(()),
            })?;
            if let Some(group) = work.group.filter(|_| fresh) {
                ownership::apply(&work.directory, group, true, Policy::Always)?;
            }
            // Never writable: the next version follows links that a container could have bent.
            Ok(MountedVolume { path: Some(work.directory.clone()), read_only: true })
        }
    }
}

/// Makes a volume's directory on its medium. Returns whether it was not there before.
fn prepare(host: &dyn Host, directory: &Path, medium: &Medium, mode: u32) -> Result<bool, Error> {
    let parent = directory.parent().unwrap_or(directory);
    fs::create_dir_all(parent).map_err(|e| Error::host("create", parent, e))?;
    let fresh = match fs::create_dir(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(Error::host("create", directory, error)),
    };
    let mut mounted = false;
    if let Medium::Memory { size } = medium
        // The table of mounts is read only for a directory that an earlier run may have mounted.
        && (fresh || !host.is_mount_point(directory).map_err(|e| Error::host("inspect", directory, e))?)
    {
        host.mount_tmpfs(directory, *size, mode).map_err(|e| Error::host("mount", directory, e))?;
        mounted = true;
    }
    if fresh || mounted {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode))
            .map_err(|e| Error::host("chmod", directory, e))?;
    }
    Ok(fresh || mounted)
}

/// Checks that `path` is what a pod expects it to be, making it where that was asked for.
fn check(path: &Path, check: PathCheck) -> Result<(), Error> {
    let wrong = |what: &str| {
        Err(Error::Invalid(format!("hostPath type check failed: {} is not {what}", path.display())))
    };
    let kind = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    match (check, kind) {
        (PathCheck::None, _) => Ok(()),
        (PathCheck::DirectoryOrCreate, None) => {
            fs::create_dir_all(path).map_err(|e| Error::host("create", path, e))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .map_err(|e| Error::host("chmod", path, e))
        }
        (PathCheck::FileOrCreate, None) => {
            let mut options = fs::OpenOptions::new();
            options.create_new(true).write(true).mode(0o644);
            options.open(path).map(drop).map_err(|e| Error::host("create", path, e))
        }
        (PathCheck::DirectoryOrCreate | PathCheck::Directory, Some(kind)) if kind.is_dir() => Ok(()),
        (PathCheck::FileOrCreate | PathCheck::File, Some(kind)) if kind.is_file() => Ok(()),
        (PathCheck::Socket, Some(kind)) if kind.is_socket() => Ok(()),
        (PathCheck::CharDevice, Some(kind)) if kind.is_char_device() => Ok(()),
        (PathCheck::BlockDevice, Some(kind)) if kind.is_block_device() => Ok(()),
        (PathCheck::DirectoryOrCreate | PathCheck::Directory, _) => wrong("a directory"),
        (PathCheck::FileOrCreate | PathCheck::File, _) => wrong("a file"),
        (PathCheck::Socket, _) => wrong("a socket file"),
        (PathCheck::CharDevice, _) => wrong("a character device"),
        (PathCheck::BlockDevice, _) => wrong("a block device"),
    }
}

#[cfg(test)]
mod tests;
