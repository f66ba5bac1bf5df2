//! The audiences of tokens that the volumes of a pod ask for: its projected tokens', and those that CSI drivers want.
//! Reads PersistentVolumeClaims, PersistentVolumes, CSIDrivers.
//! Upstream: plugin/pkg/admission/noderestriction (podReferencesAudience), csi-translation-lib (names of drivers).

use api::Status;
use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};
use api::types::storage::v1::CSIDriver;

use crate::admission::json::find;
use crate::cluster::ClusterState;

/// Whether a volume of the pod is given tokens for `audience` (empty: the server's own).
pub(super) async fn of(pod: &Pod, audience: &str, cluster: &dyn ClusterState) -> Result<bool, Status> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let mut tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        if tokens.any(|token| token.audience.as_deref().unwrap_or_default() == audience) {
            return Ok(true);
        }
        let Some(driver) = driver(pod, volume, cluster).await? else { continue };
        let found: Option<CSIDriver> = find(cluster, "storage.k8s.io", "csidrivers", "", &driver).await?;
        let requests = found.into_iter().flat_map(|driver| driver.spec.token_requests.unwrap_or_default());
        if requests.into_iter().any(|request| request.audience == audience) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The CSI driver that serves a volume, if one does.
async fn driver(pod: &Pod, volume: &Volume, cluster: &dyn ClusterState) -> Result<Option<String>, Status> {
    let claim = match (&volume.ephemeral, &volume.persistent_volume_claim) {
        (Some(_), _) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            format!("{pod}-{}", volume.name)
        }
        (None, Some(claim)) => claim.claim_name.clone(),
        (None, None) => return Ok(inline(volume).map(str::to_owned)),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claim: Option<PersistentVolumeClaim> =
        find(cluster, "", "persistentvolumeclaims", namespace, &claim).await?;
    let name = claim.and_then(|claim| claim.spec?.volume_name).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let volume: Option<PersistentVolume> = find(cluster, "", "persistentvolumes", "", &name).await?;
    Ok(volume.and_then(|volume| persistent(&volume.spec?)))
}

/// The drivers that took over what the kubelet once served itself.
const SUCCESSORS: [&str; 7] = [
    "ebs.csi.aws.com",
    "disk.csi.azure.com",
    "file.csi.azure.com",
    "cinder.csi.openstack.org",
    "pd.csi.storage.gke.io",
    "pxd.portworx.com",
    "csi.vsphere.vmware.com",
];

fn successor(present: [bool; SUCCESSORS.len()]) -> Option<&'static str> {
    present.into_iter().zip(SUCCESSORS).find_map(|(present, driver)| present.then_some(driver))
}

fn inline(volume: &Volume) -> Option<&str> {
    let moved = [
        volume.aws_elastic_block_store.is_some(),
        volume.azure_disk.is_some(),
        volume.azure_file.is_some(),
        volume.cinder.is_some(),
        volume.gce_persistent_disk.is_some(),
        volume.portworx_volume.is_some(),
        volume.vsphere_volume.is_some(),
    ];
    volume.csi.as_ref().map(|csi| csi.driver.as_str()).or_else(|| successor(moved))
}

fn persistent(volume: &PersistentVolumeSpec) -> Option<String> {
    let moved = [
        volume.aws_elastic_block_store.is_some(),
        volume.azure_disk.is_some(),
        volume.azure_file.is_some(),
        volume.cinder.is_some(),
        volume.gce_persistent_disk.is_some(),
        volume.portworx_volume.is_some(),
        volume.vsphere_volume.is_some(),
    ];
    let driver = volume.csi.as_ref().map(|csi| csi.driver.clone());
    driver.or_else(|| successor(moved).map(str::to_owned))
}
