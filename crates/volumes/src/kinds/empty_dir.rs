//! emptyDir: a directory that lives as long as the pod, on disk or in memory.
//!
//! A sizeLimit bounds a tmpfs at once; on disk it is for eviction to enforce.
//! Upstream: `pkg/volume/emptydir`.

use api::quantity::Quantity;
use api::types::core::v1::EmptyDirVolumeSource;

use crate::{Content, Context, Error, Kind, Medium, Plan};

pub(super) struct EmptyDirKind(pub(super) EmptyDirVolumeSource);

impl Kind for EmptyDirKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/empty-dir"
    }

    fn plan(&self, _context: &Context<'_>, _content: &Content) -> Result<Plan, Error> {
        let medium = match self.0.medium.as_deref() {
            None | Some("") => Medium::Disk,
            Some("Memory") => {
                let size = match &self.0.size_limit {
                    None => None,
                    Some(wire) => {
                        let size: Quantity = wire
                            .0
                            .parse()
                            .map_err(|_| Error::Invalid(format!("sizeLimit {:?} does not parse", wire.0)))?;
                        u64::try_from(size.value()).ok().filter(|size| *size > 0)
                    }
                };
                Medium::Memory { size }
            }
            Some(other) => return Err(Error::Invalid(format!("unknown storage medium {other:?}"))),
        };
        Ok(Plan::Directory { medium, mode: 0o777 })
    }
}
