//! The kinds of volumes, and which of them a volume of a pod is.

mod config_map;
mod content;
mod downward_api;
mod empty_dir;
mod host_path;
mod image;
mod persistent_volume_claim;
mod projected;
mod secret;

use api::types::core::v1::Volume;

use crate::{Error, Kind};

/// The kind of `volume`, with its part of the spec.
pub fn of(volume: &Volume) -> Result<Box<dyn Kind>, Error> {
    let v = volume.clone();
    if let Some(source) = v.config_map {
        return Ok(Box::new(config_map::ConfigMapKind(source)));
    }
    if let Some(source) = v.secret {
        return Ok(Box::new(secret::SecretKind(source)));
    }
    if let Some(source) = v.projected {
        return Ok(Box::new(projected::ProjectedKind(source)));
    }
    if let Some(source) = v.downward_api {
        return Ok(Box::new(downward_api::DownwardApiKind(source)));
    }
    if let Some(source) = v.host_path {
        return Ok(Box::new(host_path::HostPathKind(source)));
    }
    if let Some(source) = v.persistent_volume_claim {
        return Ok(Box::new(persistent_volume_claim::ClaimKind(source)));
    }
    if let Some(source) = v.image {
        return Ok(Box::new(image::ImageKind(source)));
    }
    let unsupported = [
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("fc", v.fc.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("rbd", v.rbd.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
    ];
    if let Some((kind, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Error::Invalid(format!(
            "no volume plugin matched: volumes of kind {kind} are not supported by this node"
        )));
    }
    // Upstream: a volume that names no source is an emptyDir.
    Ok(Box::new(empty_dir::EmptyDirKind(v.empty_dir.unwrap_or_default())))
}

#[cfg(test)]
mod tests;
