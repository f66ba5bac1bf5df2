//! hostPath: a path of the node, checked to be what the pod expects.
//! Upstream: `pkg/volume/hostpath`.

use api::types::core::v1::HostPathVolumeSource;

use crate::{Content, Context, Error, Kind, PathCheck, Plan};

pub(super) struct HostPathKind(pub(super) HostPathVolumeSource);

/// The check that `type` asks for.
pub(super) fn check(kind: Option<&str>) -> Result<PathCheck, Error> {
    Ok(match kind.unwrap_or_default() {
        "" => PathCheck::None,
        "DirectoryOrCreate" => PathCheck::DirectoryOrCreate,
        "Directory" => PathCheck::Directory,
        "FileOrCreate" => PathCheck::FileOrCreate,
        "File" => PathCheck::File,
        "Socket" => PathCheck::Socket,
        "CharDevice" => PathCheck::CharDevice,
        "BlockDevice" => PathCheck::BlockDevice,
        other => return Err(Error::Invalid(format!("{other} is an invalid volume type"))),
    })
}

impl Kind for HostPathKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/host-path"
    }

    fn plan(&self, _context: &Context<'_>, _content: &Content) -> Result<Plan, Error> {
        let check = check(self.0.type_.as_deref())?;
        Ok(Plan::HostPath { path: self.0.path.clone().into(), check, own: false, read_only: false })
    }
}
