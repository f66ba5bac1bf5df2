//! persistentVolumeClaim: a bound claim whose volume is a path of this node (`hostPath` or `local`).
//!
//! Not here: binding, attaching, and volumes that a CSI driver serves.
//! Upstream: `pkg/kubelet/volumemanager/populator`, `pkg/volume/local`.

use api::types::core::v1::PersistentVolumeClaimVolumeSource;

use super::host_path;
use crate::{Content, Context, Error, Kind, PathCheck, Plan, References};

pub(super) struct ClaimKind(pub(super) PersistentVolumeClaimVolumeSource);

impl Kind for ClaimKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/local-volume"
    }

    fn references(&self) -> References {
        References { claim: Some(self.0.claim_name.clone()), ..References::default() }
    }

    fn plan(&self, _context: &Context<'_>, content: &Content) -> Result<Plan, Error> {
        let name = &self.0.claim_name;
        let Some((claim, volume)) = &content.claim else {
            return Err(Error::Invalid(format!("persistentvolumeclaim \"{name}\" not found")));
        };
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let Some(volume) = volume.as_ref().filter(|_| bound) else {
            return Err(Error::Invalid(format!("PVC {name} is not bound")));
        };
        let spec = volume.spec.clone().unwrap_or_default();
        let read_only = self.0.read_only == Some(true);
        if let Some(local) = spec.local {
            let check = PathCheck::Directory;
            return Ok(Plan::HostPath { path: local.path.into(), check, own: true, read_only });
        }
        if let Some(source) = spec.host_path {
            let check = host_path::check(source.type_.as_deref())?;
            return Ok(Plan::HostPath { path: source.path.into(), check, own: false, read_only });
        }
        Err(Error::Invalid(format!(
            "no volume plugin matched: the volume of PVC {name} is neither local nor hostPath, which is all this node serves"
        )))
    }
}
