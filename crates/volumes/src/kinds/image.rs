//! image: the files of an OCI image, mounted by the container runtime.
//!
//! Nothing is made on the node; the container's mount names the image.
//! Upstream: `pkg/volume/image`.

use api::types::core::v1::ImageVolumeSource;

use crate::{Content, Context, Error, Kind, Plan};

pub(super) struct ImageKind(pub(super) ImageVolumeSource);

impl Kind for ImageKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/image"
    }

    fn plan(&self, _context: &Context<'_>, _content: &Content) -> Result<Plan, Error> {
        match self.0.reference.as_deref() {
            None | Some("") => Err(Error::Invalid("the image volume names no image".to_owned())),
            Some(_) => Ok(Plan::Image),
        }
    }
}
